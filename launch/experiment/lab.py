"""The steps of an experiment: every one is a command of this package, and none that is done is done again."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...trainer import bounded_json
from ...trainer import config as configs
from ...trainer.checkpoint.loading import tokenizer_ref
from ...trainer.files import write_whole
from ...trainer.jobs.networks import trained_networks
from ...trainer.jobs.run import Run
from ...trainer.planning.costs import step_flops
from ...trainer.reporting.runs import curve
from ...trainer.training.metrics import history
from .. import __main__ as commands
from ..demo import landscapes
from . import features
from .recipes import Config
from .sizes import Size

RANKS = frozenset({"train", "encode", "evaluate"})  # commands that a launcher starts on several ranks


class TrainedRun(NamedTuple):
    """A run that has come to its end."""

    folder: Path
    parameters: int
    flops: float  # of an optimizer step
    hours: float  # of training, evaluations within it included
    lines: list[dict[str, float]]  # of its metrics

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """The (step, value) pairs of a metric."""
        return curve(self.lines, metric)

    def seconds_at(self, step: float) -> float:
        """Seconds of training steps up to a step, evaluations left out."""
        seconds, before = 0.0, 0.0
        for line in self.lines:
            if "train/seconds_per_step" in line and line["step"] <= step:
                seconds += line["train/seconds_per_step"] * (line["step"] - before)
                before = line["step"]
        return seconds


class Lab:
    """A folder in which the steps of an experiment are done, each once.

    Args:
        out: the folder.
        size: of everything.
        data: shards in train/ and val/; None renders landscapes.
        launcher: what starts several ranks, such as "deepspeed --hostfile hosts"; None trains in this process.
        say: takes a line about the progress.
    """

    def __init__(self, out: Path, size: Size, data: Path | None, launcher: str | None, say: Callable[[str], None]):
        if data is None and not size.images:
            raise ValueError(
                "this size has no data of its own; name packed images with --data FOLDER (train/ and val/)"
            )
        self.out, self.size, self.say = out, size, say
        self.launcher = shlex.split(launcher or "")
        self._record = out / "steps.json"
        self._steps: dict[str, Any] = bounded_json.read(self._record) if self._record.exists() else {}
        self.images = data or self._landscapes()

    def do(self, name: str, command: str, *arguments: object) -> None:
        """Do a step, unless it is done.

        Args:
            name: of the step in this folder.
            command: of ``smalti``, or "landscapes".

        Raises:
            StepError: the command failed.
        """
        words = [command, *map(str, arguments)]
        before = self._steps.get(name, {})
        if before.get("done") and before.get("words") == words:
            return
        self.say(f"== {name}: {' '.join(words)}")
        seconds = before.get("seconds", 0.0) if before.get("words") == words else 0.0
        began, code = time.monotonic(), -1
        try:
            code = self._run(command, words[1:])
        finally:
            seconds += time.monotonic() - began
            self._steps[name] = {"words": words, "seconds": round(seconds, 2), "done": code == 0}
            write_whole(self._record, json.dumps(self._steps, indent=1).encode())
        if code:
            raise StepError(f"the step {name} ended with {code}; the same command goes on there", code)

    @property
    def seconds(self) -> float:
        """What all steps took."""
        return sum(float(step["seconds"]) for step in self._steps.values())

    def train(self, name: str, config: Config) -> TrainedRun:
        """A run in this folder, trained to its end."""
        folder, file = self.out / name, self.out / "configs" / f"{name}.yaml"
        text = json.dumps({**config, "run_dir": str(folder)}, indent=1).replace("Infinity", ".inf")  # JSON is YAML
        write_whole(file, text.encode())
        self.do(name, "train", file)
        (network, *_) = trained_networks(configs.read(Run, file), self._codes(config))
        hours = float(self._steps[name]["seconds"]) / 3600
        return TrainedRun(folder, network.parameters, self.step_flops(config), hours, history(folder))

    def step_flops(self, config: Config) -> float:
        """The operations of an optimizer step of a config."""
        run = configs.from_mapping(Run, {**config, "run_dir": str(self.out)}, "an experiment's config")
        return step_flops(run, self._codes(config))

    def encode(self, tokenizer: Path, name: str, side: int) -> Path:
        """The codes of the largest squares of all images, in train/ and val/ of a folder."""
        codes = self.out / name
        cut = ("--size", f"{side}x{side}", "--scale", "inf", "inf")
        for part, flip, crops in (("train", 0.5, self.size.crops), ("val", 0, 1)):
            more = ("--flip", flip, "--crops", crops)
            self.do(f"{name}-{part}", "encode", tokenizer, self.images / part, codes / part, *cut, *more)
        return codes

    def evaluate(self, name: str, run: Path, shards: Path, *more: object) -> dict[str, float]:
        """The figures of a run over some shards."""
        file = self.out / "figures" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        self.do(f"evaluate-{name}", "evaluate", run, shards, "--out", file, *more)
        figures: dict[str, float] = bounded_json.read(file)["figures"]
        return figures

    def judges(self, lpips: bool = True) -> tuple[str, ...]:
        """The options of ``evaluate`` that name the networks which compare images."""
        trunk = self.size.trunk if lpips else "none"
        if self.size.features == "inception":
            return "--features", "inception", "--lpips", trunk
        file = self.out / "features.pt"
        if not file.exists():
            features.write_random(file)
        return "--features", str(file), "--lpips", trunk

    def _codes(self, config: Config) -> int:
        if config["task"] == "vqgan":
            return self.size.codes
        codes: int = tokenizer_ref(Path(config["tokenizer"])).metadata["codes"]
        return codes

    def _run(self, command: str, words: Sequence[str]) -> int:
        if command == "landscapes":
            return landscapes.main(list(words))
        if command == "train" or (self.launcher and command in RANKS):
            # A training has a process of its own without a launcher too: what it holds ends with it.
            start = [*self.launcher, "--module"] if self.launcher else [sys.executable, "-m"]
            return subprocess.run([*start, commands.module_of(command), *words]).returncode
        return commands.main([command, *words])

    def _landscapes(self) -> Path:
        size, images, shards = self.size, self.out / "landscapes", self.out / "shards"
        height, width = size.rendered
        self.do("landscapes", "landscapes", images, "--count", size.images, "--size", f"{height}x{width}")
        self.do("pack", "pack", images, shards, "--val", size.val, "--shard-count", 160)
        return shards


class StepError(RuntimeError):
    """A step of an experiment failed; what it had to say has been said."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
