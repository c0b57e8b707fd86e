"""Checkpoints on the disk, which are whole or not there.

A checkpoint is written aside, synced to the disk, checksummed in a manifest written last, and renamed:

    RUN/checkpoints/step-00000100/
        generator/ discriminator/    DeepSpeed's own files, an engine each
        rank-0000.pt ...             what a rank keeps besides its engines
        model.safetensors config.json   the weights for use, averaged and in one piece, and their metadata
        manifest.json                step, position in the data, config, versions; size and sha256 of every file above,
                                     and the sha256 of itself
    RUN/checkpoints/.saving-...      being written, or left by a kill
    RUN/checkpoints/corrupt-...     found damaged or unfinished, set aside; removed after the next good save
    RUN/checkpoints/.old-...        no longer kept; being removed, or left by a kill

The newest one whose every byte is as the manifest says is the one that is restored; others are named and passed over.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..files import sha256, sync
from . import sealed

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
LATEST = "latest.txt"  # in the run's folder: tells a run that never saved from one whose checkpoints are gone
STATES = ".pt"  # the end of the names of files that only a resume reads
SAVING, CORRUPT, OLD = ".saving-", "corrupt-", ".old-"
_NAME = re.compile(r"step-(\d{8})")
_OURS = re.compile(r"manifest\.json|rank-\d{4}\.pt|\.part-\d{4}\.json|\.writing-\d{4}")

Described = tuple[int, str]  # size and SHA-256 of a file


class CheckpointInfo(NamedTuple):
    """A checkpoint on the disk."""

    step: int
    folder: Path


def list_checkpoints(run: Path) -> list[CheckpointInfo]:
    """The checkpoints of a run's folder that have a name, newest first; whether they are whole is another question."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((CheckpointInfo(int(match[1]), path) for match, path in named if match), reverse=True)


def described(path: Path) -> Described:
    """Size and checksum of a file that is on the disk when this returns."""
    sync(path)
    return path.stat().st_size, sha256(path)


def manifest_of(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        OSError, ValueError: it cannot be read, or is not what was written.
    """
    return sealed.opened(folder / MANIFEST).content


def is_sealed(folder: Path) -> bool:
    """Whether a checkpoint's manifest has a checksum of its own; those of earlier versions have none.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    return sealed.opened(folder / MANIFEST).is_sealed


def verify(folder: Path, rank: int = 0, world: int = 1, states: bool = True) -> str | None:
    """What is wrong with a checkpoint, naming the file; None when every byte is as its manifest says.

    Args:
        rank, world: where several share the work, this one's share of the files.
        states: whether the states of training count, by far the most bytes, which only a resume reads.
    """
    try:
        manifest = manifest_of(folder)
        files = sorted(manifest["files"].items())
        files = [(name, about) for name, about in files if states or not name.endswith(STATES)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    named = _NAME.fullmatch(folder.name)
    if named and manifest.get("step") != int(named[1]):
        return f"{MANIFEST} is of step {manifest.get('step')}"
    return next(filter(None, (_difference(folder, name, about) for name, about in files[rank::world])), None)


def _difference(folder: Path, name: str, about: Any) -> str | None:
    """In what a file of a checkpoint differs from what the manifest says; None when in nothing."""
    path = folder / name
    try:
        size, digest = about
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
        if sha256(path) != digest:
            return f"{name} is not what was written (its checksum differs)"
    except (OSError, ValueError, TypeError) as error:
        return f"{name} cannot be read ({error})"
    return None


def latest_valid(run: Path, states: bool = True) -> CheckpointInfo | None:
    """The newest whole checkpoint of a run; damaged ones are named on stderr. None when the run has never saved.

    Args:
        states: as in ``verify``.

    Raises:
        ValueError: there were checkpoints, and none is whole.
    """
    problems: dict[Path, str] = {}
    while untried := [found for found in list_checkpoints(run) if found.folder not in problems]:
        newest = untried[0]
        problem = verify(newest.folder, states=states)
        if problem is None:
            return newest
        if newest.folder.exists():  # else a run that trains meanwhile has removed it for a newer one
            problems[newest.folder] = f"{newest.folder}: {problem}"
            print(f"passing over a damaged checkpoint: {problems[newest.folder]}", file=sys.stderr, flush=True)
    if problems or (run / LATEST).exists():
        raise ValueError(none_is_whole(run, list(problems.values())))
    return None


def none_is_whole(run: Path, problems: Sequence[str]) -> str:
    """The message for a run that cannot go on, and must not start from scratch unasked."""
    found = "".join(f"\n  {problem}" for problem in problems) or f"\n  there is none left in {run / FOLDER}"
    return f"no checkpoint of this run is whole; start anew with --fresh, which removes them:{found}"


def leftovers(run: Path, mark: str) -> list[Path]:
    """The folders of unfinished (``SAVING``), damaged (``CORRUPT``) or abandoned (``OLD``) checkpoints of a run."""
    folder = run / FOLDER
    found = (path for path in folder.glob(f"{mark}*") if _NAME.fullmatch(path.name.removeprefix(mark)))
    return sorted(path for path in found if was_written_by_a_run(path))


def strangers(run: Path) -> list[Path]:
    """What has the name of a checkpoint of a run and was written by somebody else."""
    return [found.folder for found in list_checkpoints(run) if not was_written_by_a_run(found.folder)]


def was_written_by_a_run(folder: Path) -> bool:
    """Whether a folder holds, whole or damaged, what a checkpoint has; or nothing that could be lost."""
    if not folder.is_dir():
        return False
    return any(_OURS.fullmatch(path.name) for path in folder.iterdir()) or not any(
        path.is_file() or path.is_symlink() for path in folder.rglob("*")
    )


def remove(folder: Path) -> None:
    """Remove a checkpoint, which whoever reads the run meanwhile sees whole or not at all.

    Raises:
        OSError: it cannot be removed, or is a link to somewhere else.
    """
    if folder.is_symlink():
        raise OSError(f"{folder} is a link to somewhere else; remove it by hand")
    aside = folder
    if not folder.name.startswith((CORRUPT, OLD)):
        aside = folder.with_name(OLD + folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    shutil.rmtree(aside)


def quarantine(folder: Path) -> None:
    """Rename a checkpoint that is not whole, so that nothing takes it for one."""
    torn = folder.with_name(CORRUPT + folder.name.removeprefix(SAVING))
    if torn.exists():
        remove(torn)
    folder.rename(torn)
