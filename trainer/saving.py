"""Saving a task and bringing it back, on any number of ranks.

A save holds the steps up only while every rank copies its state into the host's memory. A thread of each rank then
writes the copy and says so in a small file of its own beside it; when rank 0's thread has seen that of every rank, it
writes the manifest, and renames the folder. No collective is called outside the main thread.
"""

import json
import shutil
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from . import engine as engines
from . import ranks, resharding, weights
from .checkpoints import (
    FOLDER,
    LATEST,
    MANIFEST,
    SAVING,
    TORN,
    Described,
    Found,
    damage,
    described,
    leftovers,
    manifest_of,
    none_is_whole,
    on_disk,
    set_aside,
    sync,
    write_text,
)

GONE_S = 3600.0  # a rank whose part has not come by then is not writing any more


class Kept(Protocol):
    """What a checkpoint needs of a task."""

    @property
    def engines(self) -> Mapping[str, Any]:
        """Every engine by its name, which is its folder's name here."""

    def state(self) -> dict[str, Any]:
        """This rank's state besides its engines: tensors, numbers and strings in plain containers."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""

    def resharded(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What ``state`` would have given here, from what it gave on each of the ranks of another job."""

    def weights(self) -> dict[str, Tensor]:
        """The weights for use, whole, on every rank. Every rank must call this."""

    def card(self) -> dict[str, Any]:
        """What these weights are: all that it takes to build the network around them."""


class Position(Protocol):
    """What a checkpoint needs of the data."""

    def state(self, step: int) -> dict[str, object]: ...

    def check(self, state: dict[str, object]) -> None: ...


class Sums(Protocol):
    """What a checkpoint needs of the metrics."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


class SaveError(RuntimeError):
    """A checkpoint could not be written; the ones before it are as they were."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest ones, and every one at a multiple of ``every`` steps."""

    newest: int
    every: int | None = None

    def old(self, found: Sequence[Found]) -> list[Found]:
        """Those that may go, of checkpoints with the newest first."""
        return [each for each in found[self.newest :] if self.every is None or each.step % self.every]


class Report(NamedTuple):
    """What a save cost."""

    step: int
    stalled_s: float  # the time in which no step was done
    written_s: float  # from the copy in memory to the renamed folder
    size: int  # bytes of this rank's files


class Checkpoints:
    """The checkpoints of one run. Every rank makes one and calls the same methods.

    Args:
        run: the run's folder.
        keep: which ones stay.
        data: the training stream, whose position is kept and checked.
        metrics: whose sums are kept, so that the next line is that of an undisturbed run.
        record: what else the manifest is to say: config, versions, the run's number in wandb.
    """

    def __init__(self, run: Path, keep: Keep, data: Position, metrics: Sums, record: Mapping[str, Any]) -> None:
        self.run = run
        self.keep = keep
        self._data = data
        self._metrics = metrics
        self._record = record
        self._writing: _Writing | None = None

    def restore(self, task: Kept) -> int:
        """Bring the task to its newest whole checkpoint and return the step to go on with; 0 when there is none.

        Every rank must call this. What is not whole is named on stderr and set aside.

        Raises:
            ValueError: none is whole, or its data are not those of this run.
        """
        found = self._choose()
        if found is None:
            return 0
        manifest = manifest_of(found.folder)
        self._data.check(manifest["data"])
        saved_on: int = manifest["ranks"]
        here = {name: engine.zero_optimization_stage() for name, engine in task.engines.items()}
        alike = saved_on == ranks.world() and manifest["zero"] == here
        if ranks.rank() == 0:
            changed = "" if alike else f", which {saved_on} rank(s) saved at ZeRO {manifest['zero']}"
            print(f"going on at step {found.step} from {found.folder}{changed}", flush=True)
        if alike:
            for name, engine in task.engines.items():
                engines.load(engine, found.folder / name)
            state = _read_state(found.folder, ranks.rank())
            task.load_state(state["task"])
            self._metrics.load_state(state["metrics"])
            return found.step
        for name, engine in task.engines.items():
            resharding.load(engine, found.folder / name, manifest["zero"][name], saved_on)
        states = [_read_state(found.folder, rank) for rank in range(saved_on)]
        task.load_state(task.resharded([state["task"] for state in states]))
        self._metrics.load_state(states[0]["metrics"])
        return found.step

    def _choose(self) -> Found | None:
        """The newest whole checkpoint; each rank reads its share of every file's bytes."""
        damaged: list[Path] = []
        problems: list[str] = []
        chosen = None
        for found in ranks.from_first(on_disk(self.run)):
            problem = next(filter(None, ranks.listed(damage(found.folder, ranks.rank(), ranks.world()))), None)
            if problem is None:
                chosen = found
                break
            damaged.append(found.folder)
            problems.append(f"{found.folder}: {problem}")
        vanished = ranks.from_first((self.run / LATEST).exists())
        if chosen is None and (problems or vanished):
            raise ValueError(none_is_whole(self.run, problems))
        if ranks.rank() == 0:
            for folder, problem in zip(damaged, problems, strict=True):
                print(f"passing over a damaged checkpoint: {problem}", file=sys.stderr, flush=True)
                set_aside(folder)
            for folder in leftovers(self.run, SAVING):
                print(f"passing over a save that was interrupted: {folder}", file=sys.stderr, flush=True)
                set_aside(folder)
        ranks.barrier()
        return chosen

    def save(self, task: Kept, step: int) -> Report | None:
        """Begin to write the task's checkpoint of a step; what the one before has cost is returned.

        Every rank must call this. It waits for the save before, and for the copy into the host's memory.

        Raises:
            SaveError: the one before could not be written.
        """
        began = time.monotonic()
        before = self.wait()
        place = self.run / FOLDER / f"step-{step:08d}"
        aside = place.with_name(SAVING + place.name)
        if ranks.rank() == 0:
            for path in (aside, place):
                shutil.rmtree(path, ignore_errors=True)
            aside.mkdir(parents=True)
        ranks.barrier()
        files = [file for name, engine in task.engines.items() for file in engines.save(engine, aside / name)]
        state = engines.snapshot({"task": task.state(), "metrics": self._metrics.state()})
        files.append(engines.File(aside / _state_file(ranks.rank()), state))
        for_use = task.weights()
        manifest = {
            "step": step,
            "ranks": ranks.world(),
            "zero": {name: engine.zero_optimization_stage() for name, engine in task.engines.items()},
            "data": self._data.state(step),
            **self._record,
        }
        copy = _Copy(files, (for_use, task.card()) if ranks.rank() == 0 else None, manifest)
        self._writing = _Writing(self.run, aside, copy, self.keep, began)
        self._writing.start()
        return before

    @property
    def busy(self) -> bool:
        """Whether this rank is still writing a save."""
        return self._writing is not None and self._writing.is_alive()

    def wait(self) -> Report | None:
        """Wait until the save that was begun is whole on the disk; what it has cost. Every rank must call this.

        Raises:
            SaveError: some rank could not write its part.
        """
        if self._writing is None:
            return None
        writing, self._writing = self._writing, None
        waited = time.monotonic()
        writing.join()
        problem = next(filter(None, ranks.listed(writing.problem)), None)
        if problem:
            if ranks.rank() == 0:
                shutil.rmtree(writing.aside, ignore_errors=True)
            raise SaveError(
                f"the checkpoint of step {writing.step} could not be written: {problem}; the ones before it are as "
                f"they were; make room (there are {shutil.disk_usage(self.run).free / 1e9:.2f} GB) and run the same "
                "command again"
            )
        return writing.report(time.monotonic() - waited)


class _Copy(NamedTuple):
    """A rank's share of a checkpoint, in the host's memory."""

    files: list[engines.File]
    for_use: tuple[dict[str, Tensor], dict[str, Any]] | None  # on rank 0: the weights and their card
    manifest: dict[str, Any]  # but for the files


class _Writing(threading.Thread):
    """One rank's part of a save, written beside the training. ``problem`` says what went wrong, else nothing."""

    def __init__(self, run: Path, aside: Path, copy: _Copy, keep: Keep, began: float) -> None:
        super().__init__(name="save", daemon=True)  # a job that fails does not wait for it
        self.aside = aside
        self.step: int = copy.manifest["step"]
        self.problem = ""
        self._run, self._copy, self._keep = run, copy, keep
        self._rank, self._world = ranks.rank(), ranks.world()
        self._size = 0
        self._copied = self._done = time.monotonic()
        self._stalled = self._copied - began

    def run(self) -> None:
        """Write this rank's files and say so; on rank 0, then finish the whole."""
        try:
            self._say({"files": self._written()})
            if self._rank == 0:
                self._finish()
        except (OSError, RuntimeError, ValueError) as error:  # torch raises a RuntimeError where a disk is full
            self.problem = f"rank {self._rank} on {socket.gethostname()}: {type(error).__name__}: {error}"
            print(f"saving step {self.step} failed: {self.problem}", file=sys.stderr, flush=True)
            self._say({"problem": self.problem})
        self._done = time.monotonic()

    def report(self, waited: float) -> Report:
        """What the save has cost, with the time that the main thread waited for its end."""
        return Report(self.step, self._stalled + waited, self._done - self._copied, self._size)

    def _written(self) -> dict[str, Described]:
        files = {}
        while self._copy.files:
            path, content = self._copy.files.pop(0)
            torch.save(content, path)
            del content  # the copy of a network less in memory
            files[str(path.relative_to(self.aside))] = described(path)
        if self._copy.for_use is not None:
            weights.write(self.aside, *self._copy.for_use)
        self._size = sum(size for size, _ in files.values())
        return files

    def _say(self, what: Mapping[str, Any]) -> None:
        try:
            write_text(self.aside / _part_file(self._rank), json.dumps(what))
        except OSError:  # the disk is as full as before
            (self.aside / _failed_file(self._rank)).touch()

    def _finish(self) -> None:
        """Put the parts of all ranks together, and the folder in its place."""
        files: dict[str, Described] = {}
        for rank in range(self._world):
            files |= self._part(rank)
        for rank in range(self._world):
            (self.aside / _part_file(rank)).unlink()
        for path in sorted(self.aside.rglob("*")):  # what no rank has named: the weights for use, DeepSpeed's scripts
            name = str(path.relative_to(self.aside))
            if path.is_file() and name not in files:
                files[name] = described(path)
        for folder in {(self.aside / name).parent for name in files}:
            sync(folder)
        write_text(self.aside / MANIFEST, json.dumps(self._copy.manifest | {"files": files}, indent=1))
        place = self.aside.with_name(self.aside.name.removeprefix(SAVING))
        self.aside.rename(place)
        sync(place.parent)
        write_text(self._run / LATEST, place.name + "\n")
        self._forget_old()

    def _part(self, rank: int) -> dict[str, Described]:
        """What a rank has written, once it has.

        Raises:
            RuntimeError: it could not, or it is gone.
        """
        deadline = time.monotonic() + GONE_S
        path = self.aside / _part_file(rank)
        while not path.exists():
            if (self.aside / _failed_file(rank)).exists() or time.monotonic() > deadline:
                raise RuntimeError(f"the part of rank {rank} does not come")
            time.sleep(0.01)
        part = json.loads(path.read_text(encoding="utf-8"))
        if "problem" in part:
            raise RuntimeError(part["problem"])
        files: dict[str, Described] = part["files"]
        return files

    def _forget_old(self) -> None:
        for old in [*(found.folder for found in self._keep.old(on_disk(self._run))), *leftovers(self._run, TORN)]:
            try:
                shutil.rmtree(old)
            except OSError as error:
                print(f"could not remove the old checkpoint {old}: {error}", file=sys.stderr, flush=True)


def _state_file(rank: int) -> str:
    return f"rank-{rank:04d}.pt"


def _part_file(rank: int) -> str:
    return f".part-{rank:04d}.json"


def _failed_file(rank: int) -> str:
    return f".failed-{rank:04d}"


def _read_state(folder: Path, rank: int) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / _state_file(rank), map_location=ranks.device(), weights_only=True)
    return state
