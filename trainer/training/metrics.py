"""Numbers and images of a run: added on the device, written once by rank 0 to the console, files and wandb.

RUN/metrics.jsonl            a line each time something is written: {"step": 100, "seconds": 12.3, "train/rec_loss": 1}
RUN/ranks.json             {"step": 100, "data_wait": [0.1, ...], "gpu_memory": [...]}: of every rank, at the last line
RUN/arrays.jsonl             small arrays of an evaluation
RUN/images/NAME-STEP.png   image grids
"""

import json
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...models.pixel_range import to_levels
from .. import files
from ..checkpoint.save_error import needed
from ..checkpoint.storage import FOLDER as CHECKPOINTS
from ..checkpoint.writer import SaveReport
from ..distributed import ranks
from . import arrays, json_lines, tensorboard_logger
from .alerts import PREFIX, RunAlerts
from .tensorboard_logger import TensorBoardRun
from .throughput import Throughput, Workload, own_peak
from .wandb_logger import WandbConfig, WandbRun

T = TypeVar("T")
FILE = "metrics.jsonl"
RANKS = "ranks.json"
BAR = "{percentage:3.0f}% |{bar}| step {n_fmt}/{total_fmt}, left {remaining}{postfix}"  # of tqdm


class Metrics:
    """The metrics of one run. Every rank makes one and calls the same methods; rank 0 writes.

    Args:
        run: the run's folder.
        steps: of the whole run, for the progress.
        wandb: None: no wandb.
        settings: the resolved config as a mapping, for wandb.
        work: of a step, for images or tokens per second.
        tensorboard: whether TensorBoard's files are written too.

    Raises:
        ValueError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        wandb: WandbConfig | None,
        settings: Mapping[str, Any],
        work: Workload | None = None,
        tensorboard: bool = False,
    ) -> None:
        if tensorboard:
            tensorboard_logger.check_installed()
        self.run = run
        self.steps = steps
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._noted: dict[str, float] = {}
        self._began = time.monotonic()
        self._throughput = Throughput(work, peak=own_peak())
        self._last_step = 0
        self._bar: Any = None
        self._watched = wandb, settings, tensorboard
        self._watchers: list[WandbRun | TensorBoardRun] = []  # once it is known where the run goes on
        self._alerts = RunAlerts(ranks.all_gather_object(socket.gethostname()))
        self.identity: str | None = None  # of the run in wandb
        if ranks.rank() == 0:
            run.mkdir(parents=True, exist_ok=True)
            if sys.stderr.isatty():
                self._bar = tqdm(total=steps, unit="step", dynamic_ncols=True, bar_format=BAR)
            if wandb is not None:
                self.identity = _identity(run)

    def rewind(self, step: int) -> None:
        """Forget what was written after a step, here and in wandb: the run goes on from there and would say it twice.

        At step 0 nothing is kept, not even the evaluation of its beginning, which will be made again.
        """
        self._last_step = step
        self._throughput.resume()
        path = self.run / FILE
        if ranks.rank() != 0:
            return
        if self._bar is not None:
            self._bar.n = self._bar.initial = step
            self._bar.unpause()
        with needed(FILE, self.run):
            json_lines.rewind(path, step)
            json_lines.rewind(self.run / arrays.FILE, step)
        wandb, settings, tensorboard = self._watched
        lines = history(self.run) if path.exists() else []
        if wandb is not None and self.identity is not None:
            self._watchers.append(WandbRun(self.run, wandb, settings, self.identity, step, lines))
        if tensorboard:
            self._watchers.append(TensorBoardRun(self.run, lines))

    def state_dict(self) -> dict[str, Any]:
        """What this rank has added since the last line."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave, so that the next line is that of an undisturbed run."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def note(self, saved: SaveReport | None) -> None:
        """Say what a save has cost, on the console now and with the next line; nothing was saved where it is None."""
        if saved is None or ranks.rank() != 0:
            return
        pace = saved.size / max(saved.written_s, 1e-6)
        self._noted = {"checkpoint/stalled_seconds": saved.stalled_s, "checkpoint/bytes_per_second": pace}
        self._say(
            f"step {saved.step} is saved: {saved.size / 1e6:.1f} MB a rank in {saved.written_s:.2f} s, "
            f"steps stalled for {saved.stalled_s:.2f} s"
        )
        for watcher in self._watchers:
            watcher.saved(saved.step, self.run / CHECKPOINTS / f"step-{saved.step:08d}")

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time spent waiting for them becomes ``data_wait``."""
        return self._throughput.timed(batches)

    def add(self, scalars: Mapping[str, Tensor]) -> None:
        """Take in one step's scalars; nothing waits for the device."""
        for name, value in scalars.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        self._throughput.step_done()
        if self._bar is not None:
            self._bar.update()

    def write(self, step: int, state: Mapping[str, float]) -> None:
        """Write the mean, over steps and ranks, of what was added since the last time. Every rank must call this.

        Args:
            state: what holds at this step alone, such as learning rates; the same on all ranks.
        """
        values = ranks.all_reduce_metrics({name: total / self._counts[name] for name, total in self._sums.items()})
        self._sums.clear()
        self._counts.clear()
        values |= {**state, **self._throughput.read(step - self._last_step)}
        self._last_step = step
        columns = self._write_ranks(step)
        if ranks.rank() != 0:
            return
        own = self._alerts.found(values, columns["data_wait"])
        begun, over = self._alerts.changes(own, values)
        values |= {f"{PREFIX}{name}": 1.0 for name in own}
        self._emit(step, {f"train/{name}": value for name, value in values.items()} | self._noted)
        self._noted = {}
        for name, said in begun.items():
            if name in own:  # those of the monitors have been said
                self._say(f"ALERT at step {step}: {said} ({name}); see docs/training.md", sys.stderr)
            for watcher in self._watchers:
                watcher.alert(step, name, f"{said}, in {self.run}")
        for name in over:
            self._say(f"step {step}: {name} is over", sys.stderr)

    def _write_ranks(self, step: int) -> dict[str, list[float]]:
        """What differs between ranks, for who looks at a run that is slow. Every rank must call this."""
        own = self._throughput.own
        names = ("data_wait", "gpu_memory")
        mine = torch.tensor([[own.get(name, 0.0) for name in names]], device=ranks.device())
        table = ranks.all_gather(mine)
        if ranks.rank() != 0:
            return {}
        columns = {name: [round(value, 4) for value in table[:, i].tolist()] for i, name in enumerate(names)}
        with needed(RANKS, self.run):
            files.write_text(self.run / RANKS, json.dumps({"step": step, **columns}) + "\n")
        return columns

    def write_val(self, step: int, values: Mapping[str, float]) -> None:
        """Write what an evaluation found; the values are already agreed by the ranks."""
        self._throughput.resume()
        self._emit(step, {f"val/{name}": value for name, value in values.items()})

    def write_arrays(self, step: int, described: Mapping[str, Tensor]) -> None:
        """Write small arrays that describe the run at an evaluation; the same on all ranks."""
        if ranks.rank() != 0 or not described:
            return
        on_host = {name: array.detach().cpu() for name, array in described.items()}
        with needed(f"a line of {arrays.FILE}", self.run):
            with (self.run / arrays.FILE).open("a", encoding="utf-8") as file:
                file.write(arrays.lines(step, on_host))
            for watcher in self._watchers:
                watcher.describe(step, on_host)

    def write_images(self, step: int, images: Mapping[str, Tensor]) -> None:
        """Write image grids, uint8 (H, W, 3)."""
        self._throughput.resume()
        if ranks.rank() != 0:
            return
        folder = self.run / "images"
        with needed("a preview", self.run):
            folder.mkdir(exist_ok=True)
            for name, image in images.items():
                Image.fromarray(image.cpu().numpy()).save(folder / f"{name}-{step:08d}.png")
            for watcher in self._watchers:
                watcher.show(step, images)

    def close(self) -> None:
        """Finish the bar and the files of wandb and TensorBoard."""
        if self._bar is not None:
            self._bar.close()
        for watcher in self._watchers:
            watcher.finish()

    def _emit(self, step: int, values: dict[str, float]) -> None:
        if ranks.rank() != 0:
            return
        seconds = time.monotonic() - self._began
        with needed(f"a line of {FILE}", self.run):
            with (self.run / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "seconds": round(seconds, 3), **values}) + "\n")
            for watcher in self._watchers:
                watcher.log(step, values)
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str(_short(values) or self._bar.postfix or "", refresh=False)
        if self._bar is None or not sys.stdout.isatty() or not _short(values):  # the bar has it on a terminal
            self._say(_line(step, self.steps, values))

    def _say(self, line: str, stream: TextIO | None = None) -> None:
        """A line on the console, above the bar if there is one.

        Args:
            stream: None: standard output.
        """
        if self._bar is None:
            print(line, file=stream, flush=True)
            return
        self._bar.write(line, file=stream)
        self._bar.refresh()


def _line(step: int, steps: int, values: Mapping[str, float]) -> str:
    pace = values.get("train/seconds_per_step")
    left = "" if pace is None else f"  left {clock(pace * (steps - step))}"
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    return f"step {step:>{len(str(steps))}}/{steps}  {numbers}{left}"


def _short(values: Mapping[str, float]) -> str:
    """The pace and the loss of a line about training, for a bar; nothing of others."""
    pace = [name for name in values if re.fullmatch(r"train/(images|tokens)_per_second", name)]
    losses = [name for name in values if re.fullmatch(r"train/.*(loss|nll)", name)]
    shown = [f"{values[name]:.4g} {name.removeprefix('train/').partition('_')[0]}/s" for name in pace]
    shown += [f"{name.removeprefix('train/')} {values[name]:.4g}" for name in losses[-1:]]
    return ", ".join(shown)


def clock(seconds: float) -> str:
    """A time as M:SS or H:MM:SS."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def history(run: Path) -> list[dict[str, float]]:
    """Every line of a run's metrics, oldest first; a line that a kill cut short or that is damaged is left out."""
    return json_lines.read(run / FILE)


def _identity(run: Path) -> str:
    """The number under which wandb knows the run, the same one after every restart; a new one where it is damaged."""
    place = run / "wandb-id.txt"
    with suppress(OSError, ValueError):
        known = place.read_text(encoding="utf-8").strip()
        if re.fullmatch(r"[0-9a-f]{8}", known):
            return known
    made = secrets.token_hex(4)
    files.write_text(place, made)
    return made


def grid(rows: list[Tensor]) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], a row each, as one uint8 image (rows * H, B * W, 3)."""
    image = torch.cat([torch.cat(list(row.float().unbind()), dim=2) for row in rows], dim=1)
    return to_levels(image).byte().permute(1, 2, 0)
