"""Writing a checkpoint in a thread of each rank, and keeping the newest ones."""

import json
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.bounds import Count, check_ranges
from .. import bounded_json
from ..distributed import engine as engines
from ..distributed import ranks
from ..files import sync, write_text
from . import model_files, sealed
from .best import KeepBestConfig, values_of
from .storage import (
    CORRUPT,
    LATEST,
    MANIFEST,
    OLD,
    SAVING,
    CheckpointInfo,
    Described,
    described,
    leftovers,
    list_checkpoints,
    manifest_of,
    quarantine,
    remove,
)

GONE_S = 3600.0  # a rank whose part has not come by then is not writing any more
GRACE_S = 5.0  # the same once the job has failed, besides the time that this rank has written itself
HUNG_S = 300.0  # what a job that has failed gives a disk to take what is being written


@dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints stay: the newest ones, every one at a multiple of ``every`` steps, and the best ones."""

    newest: Count
    every: Count | None = None
    best: KeepBestConfig | None = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def old(self, found: Sequence[CheckpointInfo]) -> list[CheckpointInfo]:
        """Those that may go, of checkpoints with the newest first."""
        best = [] if self.best is None else self.best.best(values_of(found, self.best))
        rest = [each for each in found[self.newest :] if each.step not in best]
        return [each for each in rest if self.every is None or each.step % self.every]


class SaveReport(NamedTuple):
    """What a save cost."""

    step: int
    stalled_s: float  # the time in which no step was done
    written_s: float  # from the copy in memory to the renamed folder
    size: int  # bytes of this rank's files


class Copy(NamedTuple):
    """A rank's share of a checkpoint, in the host's memory."""

    files: list[engines.File]
    for_use: tuple[dict[str, Tensor], dict[str, Any]] | None  # on rank 0: the weights and their metadata
    manifest: dict[str, Any]  # but for the files


class SaveThread(threading.Thread):
    """Writes one rank's part; on rank 0, finishes the whole. ``problem`` is empty once that is done, and read back.

    Not a daemon: a process that ended in the middle of torch's writing would end with SIGABRT.
    """

    def __init__(self, run: Path, aside: Path, copy: Copy, keep: RetentionPolicy, began: float) -> None:
        super().__init__(name="save")
        self.aside = aside
        self.place = aside.with_name(aside.name.removeprefix(SAVING))
        self.step: int = copy.manifest["step"]
        self.problem = "the thread that saves has ended early"
        self._run, self._copy, self._keep = run, copy, keep
        self._rank, self._world = ranks.rank(), ranks.world()
        self._size = 0
        self._copied = self._written_at = self._done = time.monotonic()
        self._stalled = self._copied - began
        self._hurried = threading.Event()
        self._given_up = threading.Event()

    def run(self) -> None:
        """Write this rank's files and say so; on rank 0, then finish the whole."""
        try:
            part = {"files": self._written()}
            self._written_at = time.monotonic()
            write_text(self.aside / part_file(self._rank), json.dumps(part))
            if self._rank == 0:
                self._finish()
            self.problem = ""
        except Exception as error:  # whatever it is: torch, safetensors and the system each have errors of their own
            self.problem = f"rank {self._rank} on {socket.gethostname()}: {type(error).__name__}: {error}"
            print(f"saving step {self.step} failed: {self.problem}", file=sys.stderr, flush=True)
            self._tell_problem()
        self._done = time.monotonic()

    def settle(self) -> str:
        """After the job has failed: wait, not for long, for the end of the save; what went wrong with it, or nothing.

        No rank need call this because another one does.
        """
        self._hurried.set()
        try:
            self.join(HUNG_S)
            deadline = time.monotonic() + self._patience()
            while self._rank > 0 and self.aside.exists() and time.monotonic() < deadline:
                time.sleep(0.01)  # a launcher ends rank 0 when this rank has ended
        finally:
            self._given_up.set()
        if self.is_alive():
            return f"the disk has not taken it for {HUNG_S:.0f} s"
        return self.problem

    def _patience(self) -> float:
        return GRACE_S + self._written_at - self._copied if self._hurried.is_set() else GONE_S

    def report(self, waited: float) -> SaveReport:
        """What the save has cost, with the time that the main thread waited for its end."""
        return SaveReport(self.step, self._stalled + waited, self._done - self._copied, self._size)

    def _written(self) -> dict[str, Described]:
        files = {}
        while self._copy.files:
            if self._given_up.is_set():
                raise RuntimeError("the job has failed and could not wait any longer")
            path, content = self._copy.files.pop(0)
            torch.save(content, path)
            del content  # the copy of a network less in memory
            files[str(path.relative_to(self.aside))] = described(path)
        if self._copy.for_use is not None:
            model_files.write(self.aside, *self._copy.for_use)
        self._size = sum(size for size, _ in files.values())
        return files

    def _tell_problem(self) -> None:
        """Tell rank 0, which waits: in words, and where the disk has no room for them, by removing a file."""
        with suppress(Exception):
            write_text(self.aside / part_file(self._rank), json.dumps({"problem": self.problem}))
        with suppress(OSError):
            (self.aside / mark_file(self._rank)).unlink(missing_ok=True)

    def _finish(self) -> None:
        """Put the parts of all ranks together, and the folder in its place."""
        files: dict[str, Described] = {}
        for rank in range(self._world):
            files |= self._part(rank)
        for rank in range(self._world):
            (self.aside / part_file(rank)).unlink()
            (self.aside / mark_file(rank)).unlink(missing_ok=True)
        for path in sorted(self.aside.rglob("*")):  # what no rank has named: the weights for use, DeepSpeed's scripts
            name = str(path.relative_to(self.aside))
            if path.is_file() and name not in files:
                files[name] = described(path)
        for folder in {(self.aside / name).parent for name in files}:
            sync(folder)
        write_text(self.aside / MANIFEST, sealed.sealed(self._copy.manifest | {"files": files}))
        if self.place.exists():
            quarantine(self.place)  # one of the same step, which was passed over; removed with the old ones
        self.aside.rename(self.place)
        sync(self.place.parent)
        self._read_back(files)
        write_text(self._run / LATEST, self.place.name + "\n")
        self._forget_old()

    def _read_back(self, files: Mapping[str, Described]) -> None:
        """Look at what is there, before it is reported as saved.

        Raises:
            OSError, ValueError: it is not what was written.
        """
        try:
            is_same = manifest_of(self.place)["files"] == {name: list(about) for name, about in files.items()}
        except ValueError as error:
            raise ValueError(f"{self.place / MANIFEST} is not what was written ({error})") from error
        if not is_same:
            raise ValueError(f"{self.place / MANIFEST} is not what was written")
        for name, (size, _) in files.items():
            if (self.place / name).stat().st_size != size:
                raise ValueError(f"{self.place / name} is not what was written")

    def _part(self, rank: int) -> dict[str, Described]:
        """What a rank has written, once it has.

        Raises:
            RuntimeError: it could not, or it is gone.
        """
        path = self.aside / part_file(rank)
        while not path.exists():
            has_failed = not (self.aside / mark_file(rank)).exists() and not path.exists()
            if has_failed or self._given_up.is_set() or time.monotonic() > self._written_at + self._patience():
                raise RuntimeError(f"the part of rank {rank} does not come")
            time.sleep(0.01)
        part = bounded_json.read(path)
        if "problem" in part:
            raise RuntimeError(part["problem"])
        files: dict[str, Described] = part["files"]
        return files

    def _forget_old(self) -> None:
        forget_old(self._run, self._keep)
        _remove_all(leftovers(self._run, CORRUPT))


def forget_old(run: Path, keep: RetentionPolicy) -> None:
    """Remove the checkpoints that need not stay, also those that a killed job was about to remove."""
    _remove_all([*(found.folder for found in keep.old(list_checkpoints(run))), *leftovers(run, OLD)])


def _remove_all(folders: Sequence[Path]) -> None:
    """Remove checkpoints; one that cannot be is named."""
    for folder in folders:
        try:
            remove(folder)
        except OSError as error:
            print(f"could not remove the old checkpoint {folder}: {error}", file=sys.stderr, flush=True)


def part_file(rank: int) -> str:
    """The name of the file in which a rank says how its part went."""
    return f".part-{rank:04d}.json"


def mark_file(rank: int) -> str:
    """The name of the file that is there while a rank has neither written its part nor failed."""
    return f".writing-{rank:04d}"
