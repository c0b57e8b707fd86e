"""Saving a task and bringing it back, on any number of ranks.

A save holds the steps up only while every rank copies its state into the host's memory; a thread of each rank then
writes the copy (``save_thread``).
"""

import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..distributed import engine as engines
from ..distributed import ranks
from . import resharding
from .best import FIGURES, values_of
from .save_error import SaveError, needed, way_out
from .storage import (
    FOLDER,
    LATEST,
    SAVING,
    CheckpointInfo,
    is_sealed,
    leftovers,
    list_checkpoints,
    manifest_of,
    none_is_whole,
    quarantine,
    verify,
)
from .writer import Copy, RetentionPolicy, SaveReport, SaveThread, forget_old, mark_file

__all__ = ["Checkpointable", "Checkpointer", "RetentionPolicy", "SaveError", "SaveReport"]


class Checkpointable(Protocol):
    """What a checkpoint needs of a task."""

    @property
    def engines(self) -> Mapping[str, Any]:
        """Every engine by its name, which is its folder's name here."""

    def state_dict(self) -> dict[str, Any]:
        """This rank's state besides its engines: tensors, numbers and strings in plain containers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""

    def resharded(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What ``state`` would have given here, from what it gave on each of the ranks of another job."""

    def weights(self) -> dict[str, Tensor]:
        """The weights for use, whole, on every rank. Every rank must call this."""

    def metadata(self) -> dict[str, Any]:
        """What these weights are: all that it takes to build the network around them."""


class DataPosition(Protocol):
    """What a checkpoint needs of the data."""

    def state_dict(self, step: int) -> dict[str, object]: ...

    def validate_state(self, state: dict[str, object]) -> None: ...


class Stateful(Protocol):
    """What a checkpoint needs of the metrics."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpointer:
    """The checkpoints of one run. Every rank makes one and calls the same methods.

    Args:
        run: the run's folder.
        keep: which ones stay.
        data: the training stream, whose position is kept and checked.
        metrics: whose sums are kept, so that the next line is that of an undisturbed run.
        record: what else the manifest is to say: config, versions, the run's number in wandb.
    """

    def __init__(
        self, run: Path, keep: RetentionPolicy, data: DataPosition, metrics: Stateful, record: Mapping[str, Any]
    ) -> None:
        self.run = run
        self.keep = keep
        self._data = data
        self._metrics = metrics
        self._record = record
        self._writing: SaveThread | None = None
        self._figures: tuple[int, dict[str, float]] = -1, {}  # of the last evaluation, and its step
        self._values: dict[int, float] = {}  # of the metric by which checkpoints stay, at the steps that have one

    def restore(self, task: Checkpointable) -> int:
        """Bring the task to its newest whole checkpoint and return the step to go on with; 0 when there is none.

        Every rank must call this. What is not whole is named on stderr and set aside.

        Raises:
            ValueError: none is whole, or its data are not those of this run.
        """
        found = self._choose()
        if found is None:
            return 0
        if self.keep.best is not None:
            kept = values_of(list_checkpoints(self.run), self.keep.best) if ranks.rank() == 0 else {}
            self._values = {step: value for step, value in ranks.broadcast_object(kept).items() if step <= found.step}
        manifest = manifest_of(found.folder)
        self._data.validate_state(manifest["data"])
        saved_on: int = manifest["ranks"]
        here = {name: engine.zero_optimization_stage() for name, engine in task.engines.items()}
        alike = saved_on == ranks.world() and manifest["zero"] == here
        if ranks.rank() == 0:
            changed = "" if alike else f", which {saved_on} rank(s) saved at ZeRO {manifest['zero']}"
            print(f"going on at step {found.step} from {found.folder}{changed}", flush=True)
            if not is_sealed(found.folder):
                _say("its manifest is of an earlier version, which has no checksum of its own")
        if alike:
            for name, engine in task.engines.items():
                engines.load(engine, found.folder / name)
            state = _on_device(_read_state(found.folder, ranks.rank()))
            task.load_state_dict(state["task"])
            self._metrics.load_state_dict(state["metrics"])
            return found.step
        for name, engine in task.engines.items():
            resharding.load(engine, found.folder / name, manifest["zero"][name], saved_on)
        states = [_read_state(found.folder, rank, mmap=True) for rank in range(saved_on)]
        task.load_state_dict(_on_device(task.resharded([state["task"] for state in states])))
        self._metrics.load_state_dict(_on_device(states[0]["metrics"]))
        return found.step

    def _choose(self) -> CheckpointInfo | None:
        """The newest whole checkpoint; each rank reads its share of every file's bytes."""
        damaged: list[Path] = []
        problems: list[str] = []
        chosen = None
        for found in ranks.broadcast_object(list_checkpoints(self.run)):
            problem = next(
                filter(None, ranks.all_gather_object(verify(found.folder, ranks.rank(), ranks.world()))), None
            )
            if problem is None:
                chosen = found
                break
            damaged.append(found.folder)
            problems.append(f"{found.folder}: {problem}")
        vanished = ranks.broadcast_object((self.run / LATEST).exists())
        if chosen is None and (problems or vanished):
            raise ValueError(none_is_whole(self.run, problems))
        if ranks.rank() == 0:
            for folder, problem in zip(damaged, problems, strict=True):
                _say(f"passing over a damaged checkpoint: {problem}")
                _quarantine(folder)
            for folder in leftovers(self.run, SAVING):
                _say(f"passing over a save that was interrupted: {folder}")
                _quarantine(folder)
            if chosen is not None:
                forget_old(self.run, self.keep)
        ranks.barrier()
        return chosen

    def evaluated(self, step: int, figures: Mapping[str, float]) -> bool:
        """Note the figures of an evaluation, which are alike on all ranks; whether its step is to be saved as a best.

        Raises:
            ValueError: they have no metric as ``keep_best`` names it.
        """
        self._figures = step, dict(figures)
        if self.keep.best is None:
            return False
        value = self.keep.best.value(figures)
        return step > 0 and step in self.keep.best.best(self._values | {step: value})

    def save(self, task: Checkpointable, step: int) -> SaveReport | None:
        """Begin to write the task's checkpoint of a step; what the one before has cost is returned.

        Every rank must call this. It waits for the save before, and for the copy into the host's memory.

        Raises:
            SaveError: the one before could not be written.
        """
        began = time.monotonic()
        before = self.wait()
        aside = self.run / FOLDER / f"{SAVING}step-{step:08d}"
        self._begin(aside, step, list(task.engines))
        with needed(self._name(step), self.run):
            files = [file for name, engine in task.engines.items() for file in engines.save(engine, aside / name)]
        state = engines.snapshot({"task": task.state_dict(), "metrics": self._metrics.state_dict()})
        files.append(engines.File(aside / _state_file(ranks.rank()), state))
        for_use = task.weights()
        manifest = {
            "step": step,
            "ranks": ranks.world(),
            "zero": {name: engine.zero_optimization_stage() for name, engine in task.engines.items()},
            "data": self._data.state_dict(step),
            **self._record,
        }
        evaluated, figures = self._figures
        if evaluated == step:
            manifest[FIGURES] = figures
            if self.keep.best is not None:
                self._values[step] = self.keep.best.value(figures)
        copy = Copy(files, (for_use, task.metadata()) if ranks.rank() == 0 else None, manifest)
        self._writing = SaveThread(self.run, aside, copy, self.keep, began)
        self._writing.start()
        return before

    def _begin(self, aside: Path, step: int, engine_names: Sequence[str]) -> None:
        """Make the folders to write in. Every rank must call this.

        Raises:
            SaveError: some rank cannot; on every rank.
        """
        self._agree(step, self._try(lambda: _emptied(aside)) if ranks.rank() == 0 else "")

        def make() -> None:
            for name in engine_names:
                (aside / name).mkdir(exist_ok=True)
            (aside / mark_file(ranks.rank())).touch()

        self._agree(step, self._try(make))

    @staticmethod
    def _try(make: Callable[[], None]) -> str:
        try:
            make()
        except OSError as error:
            return f"rank {ranks.rank()} on {socket.gethostname()}: {type(error).__name__}: {error}"
        return ""

    def _agree(self, step: int, problem: str) -> None:
        """Raise on every rank what any of them has met. Every rank must call this."""
        first = next(filter(None, ranks.all_gather_object(problem)), None)
        if first:
            raise SaveError(
                f"{self._name(step)} could not be written: {first}; the ones before it are as they were; "
                f"{way_out(self.run)}"
            )

    @staticmethod
    def _name(step: int) -> str:
        return f"the checkpoint of step {step}"

    def completed(self) -> SaveReport | None:
        """What the save that was begun has cost, if all ranks are through with it by now. Every rank must call this.

        Raises:
            SaveError: some rank could not write its part.
        """
        if self._writing is None or any(ranks.all_gather_object(self._writing.is_alive())):
            return None
        return self.wait()

    def wait(self) -> SaveReport | None:
        """Wait until the save that was begun is whole on the disk; what it has cost. Every rank must call this.

        Raises:
            SaveError: some rank could not write its part.
        """
        writing = self._writing
        if writing is None:
            return None
        waited = time.monotonic()
        writing.join()
        problems = ranks.all_gather_object(writing.problem)
        self._writing = None
        if any(problems) and ranks.rank() == 0:
            shutil.rmtree(writing.aside, ignore_errors=True)
        self._agree(writing.step, next(filter(None, problems), ""))
        return writing.report(time.monotonic() - waited)

    def settle(self) -> None:
        """After a failure: let the save that was begun come to its end, so that its step is not lost, and say how.

        Only the rank that failed need call this; it waits for the others' parts, though not for long.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        name = self._name(writing.step)
        if writing.is_alive() and ranks.rank() == 0:
            _say(f"waiting for {name}, which is being written")
        problem = writing.settle()
        if problem and ranks.rank() == 0:
            shutil.rmtree(writing.aside, ignore_errors=True)
        if ranks.rank() == 0:
            _say(f"{name} could not be written: {problem}" if problem else f"step {writing.step} is saved")


def _emptied(folder: Path) -> None:
    """An empty folder in place of what an interrupted save has left there."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _state_file(rank: int) -> str:
    return f"rank-{rank:04d}.pt"


def _read_state(folder: Path, rank: int, mmap: bool = False) -> dict[str, Any]:
    """A rank's state on the host; mapped, only what is looked at is read."""
    state: dict[str, Any] = torch.load(folder / _state_file(rank), "cpu", weights_only=True, mmap=mmap)
    return state


def _on_device(value: Any) -> Any:
    """A state with its tensors on this rank's device."""
    if isinstance(value, Tensor):
        return value.to(ranks.device())
    if isinstance(value, dict):
        return {key: _on_device(part) for key, part in value.items()}
    return [_on_device(part) for part in value] if isinstance(value, list) else value


def _quarantine(folder: Path) -> None:
    """Rename what is not whole; where that cannot be, the next start passes over it again."""
    try:
        quarantine(folder)
    except OSError as error:
        _say(f"{folder} could not be renamed: {error}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
