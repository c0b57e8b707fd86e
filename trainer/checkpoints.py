"""Checkpoints that are whole or not there.

A checkpoint is written aside, synced to the disk, checksummed in a manifest written last, and renamed:

    RUN/checkpoints/step-00000100/
        generator/ discriminator/    DeepSpeed's own files, an engine each
        rank-0000.pt ...             what a rank keeps besides its engines
        model.safetensors config.json   the weights for use, averaged and in one piece, and their card
        manifest.json                step, ranks, size and sha256 of every file above

The newest one whose every byte is as the manifest says is the one that is restored; others are named and passed over.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from . import engine as engines
from . import ranks, weights

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8})")


class Kept(Protocol):
    """What a checkpoint needs of a task."""

    @property
    def engines(self) -> Mapping[str, Any]:
        """Every engine by its name, which is its folder's name here."""

    def state(self) -> dict[str, Any]:
        """This rank's state besides its engines: tensors, numbers and strings in plain containers."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""

    def weights(self) -> dict[str, Tensor]:
        """The weights for use, whole, on every rank. Every rank must call this."""

    def card(self) -> dict[str, Any]:
        """What these weights are: all that it takes to build the network around them."""


class Found(NamedTuple):
    """A checkpoint on the disk."""

    step: int
    folder: Path


def sha256(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Make sure a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all, and on the disk when this returns."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def on_disk(run: Path) -> list[Found]:
    """The checkpoints of a run's folder that have a name, newest first; whether they are whole is another question."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((Found(int(match[1]), path) for match, path in named if match), reverse=True)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, naming the file; None when every byte is as its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, list[Any]] = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if sha256(path) != digest:
            return f"{name} is not what was written (its checksum differs)"
    return None


def newest(run: Path) -> Found | None:
    """The newest whole checkpoint of a run; damaged ones are named on stderr. None when there is no checkpoint at all.

    Raises:
        ValueError: there are checkpoints, and none is whole.
    """
    found = on_disk(run)
    problems = []
    for checkpoint in found:
        problem = damage(checkpoint.folder)
        if problem is None:
            return checkpoint
        problems.append(f"{checkpoint.folder}: {problem}")
        print(f"passing over a damaged checkpoint: {problems[-1]}", file=sys.stderr, flush=True)
    if problems:
        raise ValueError(
            "no checkpoint of this run is whole; start anew with --fresh, which removes them:"
            + "".join(f"\n  {problem}" for problem in problems)
        )
    return None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: the run's folder.
        keep: how many of the newest stay.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self.run = run
        self.keep = keep

    def restore(self, task: Kept) -> int:
        """Bring the task to its newest whole checkpoint and return the step to go on with; 0 when there is none.

        Every rank must call this; rank 0 chooses.

        Raises:
            ValueError: none is whole, or it was saved on another number of ranks.
        """
        chosen, problem = ranks.from_first(self._choose() if ranks.rank() == 0 else None)
        if problem:
            raise ValueError(problem)
        if chosen is None:
            return 0
        step, folder = chosen
        saved_on = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["ranks"]
        if saved_on != ranks.world():
            raise ValueError(
                f"{folder} was saved on {saved_on} rank(s) and this job has {ranks.world()}; launch on {saved_on}"
            )
        for name, engine in task.engines.items():
            engines.load(engine, folder / name)
        task.load_state(torch.load(folder / _rank_file(), map_location=ranks.device(), weights_only=True))
        return step

    def _choose(self) -> tuple[Found | None, str]:
        """The checkpoint to restore, and what is wrong when there should be one."""
        try:
            return newest(self.run), ""
        except ValueError as error:
            return None, str(error)

    def save(self, task: Kept, step: int) -> None:
        """Write the task's checkpoint of a step, then remove the oldest ones. Every rank must call this."""
        place = self.run / FOLDER / f"step-{step:08d}"
        aside = place.with_name(f".saving-{place.name}")
        if ranks.rank() == 0:
            for path in (aside, place):
                shutil.rmtree(path, ignore_errors=True)
            aside.mkdir(parents=True)
        ranks.barrier()
        for name, engine in task.engines.items():
            for file in engines.save(engine, aside / name):
                torch.save(file.content, file.path)
        torch.save(task.state(), aside / _rank_file())
        for_use = task.weights()
        if ranks.rank() == 0:
            weights.write(aside, for_use, task.card())
        ranks.barrier()
        files = _described(aside)
        if ranks.rank() == 0:
            manifest = {"step": step, "ranks": ranks.world(), "files": files}
            write_text(aside / MANIFEST, json.dumps(manifest, indent=1))
            aside.rename(place)
            sync(place.parent)
            self._forget_old()
        ranks.barrier()

    def _forget_old(self) -> None:
        for old in on_disk(self.run)[self.keep :]:
            try:
                shutil.rmtree(old.folder)
            except OSError as error:
                print(f"could not remove the old checkpoint {old.folder}: {error}", file=sys.stderr, flush=True)


def _rank_file() -> str:
    return f"rank-{ranks.rank():04d}.pt"


def _described(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and checksum of every file below, synced to the disk; the ranks share the work."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    mine = {}
    for name in names[ranks.rank() :: ranks.world()]:
        sync(folder / name)
        mine[name] = ((folder / name).stat().st_size, sha256(folder / name))
    if ranks.world() == 1:
        return mine
    parts: list[dict[str, tuple[int, str]]] = [{} for _ in range(ranks.world())]
    dist.all_gather_object(parts, mine)
    return {name: described for part in parts for name, described in part.items()}
