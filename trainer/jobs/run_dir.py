"""A run's folder: one job at a time, and one config from the first step to the last.

RUN/config.yaml    the run as it was resolved, every default written out; a file of that name which is the user's
                   stays, and config.resolved.yaml takes its place
RUN/.lock          held by rank 0 of the job that trains here
"""

import errno
import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .. import config as configs
from ..checkpoint import storage
from ..checkpoint.storage import FOLDER, LATEST, list_checkpoints, manifest_of
from ..distributed import ranks, signals
from ..distributed.watchdog import heartbeat
from ..files import kind_of, write_text
from ..training import profiling
from . import exit_codes, failures, side_files

RESOLVED = "config.yaml"
RESOLVED_BESIDE = "config.resolved.yaml"  # where config.yaml is the user's own
MARK = "# Written by smalti: the run as it was resolved. Its changes are not read.\n"
LOCK_PATIENCE_S = 1800.0
LEFT, WAITING = "asked to leave", "waiting"
IMAGES = "images"
_PREVIEW = re.compile(r"(reconstructions|samples)-\d{8}\.png")


def resolved_config(folder: Path) -> Path:
    """Where a run's folder holds its resolved config; the file need not be there."""
    beside = folder / RESOLVED_BESIDE
    return beside if beside.is_file() else folder / RESOLVED


def claim_run_dir(folder: Path, run: Any, kinds: Any, fresh: bool) -> None:
    """Check a run against what its folder holds of it, and leave its resolved config there. Every rank must call this.

    A folder without a checkpoint binds nobody: what a start that did nothing left there is replaced.

    Args:
        kinds: the dataclasses that a run may be.
        fresh: first remove what the folder holds of a run.

    Raises:
        ValueError: the folder holds a run with another config, or files of somebody else's that a run would write over,
            or rank 0 cannot read or write there.
    """
    problem = ""
    if ranks.rank() == 0:
        try:
            problem = _claimed(folder, run, kinds, fresh)
        except (OSError, ValueError) as error:  # the other ranks wait for rank 0
            problem = str(error)
    problem = ranks.broadcast_object(problem)
    if problem:
        raise ValueError(problem)


def _claimed(folder: Path, run: Any, kinds: Any, fresh: bool) -> str:
    """Do it; what is wrong when it cannot be done, else nothing."""
    if others := _of_others(folder, fresh):
        named = ", ".join(map(str, others[:5])) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        return f"{named} would be written over and was not written by a run; move it away, or choose another folder"
    if fresh:
        _clear(folder)
    elif _has_saved(folder) and resolved_config(folder).is_file():
        try:
            before = _config_before(folder, kinds)
        except ValueError as error:
            return f"{error}\n  restore that file, or choose another folder"
        changes = configs.differences(before, run)
        refused = [change for change in changes if not _may_change_on_resume(change, before, run)]
        if refused:
            return (
                f"{folder} holds a run with another config:\n  " + "\n  ".join(refused) + "\n"
                "go on with the old values, choose another folder (initial_weights names weights to start from), or "
                "start anew with --fresh"
            )
        for change in changes:
            print(f"changed since the run began: {change}", flush=True)
    write_text(_place_of_resolved(folder), MARK + configs.dump(run))
    failures.forget(folder)
    exit_codes.forget(folder)
    return ""


def _config_before(folder: Path, kinds: Any) -> Any:
    """The config that the run was last started with: from its file or, where that is damaged, from a checkpoint.

    Raises:
        ValueError: neither can be read; says what is wrong with the file.
    """
    path = resolved_config(folder)
    try:
        return configs.read(kinds, path, saved=True)
    except ValueError:
        for found in list_checkpoints(folder):
            with suppress(OSError, ValueError, LookupError, TypeError):
                before = configs.from_mapping(kinds, manifest_of(found.folder)["config"], saved=True)
                print(
                    f"{path} cannot be read; the config in the manifest of {found.folder} takes its place", flush=True
                )
                return before
        raise


def _may_change_on_resume(change: str, before: Any, after: Any) -> bool:
    """Whether a run may go on with a difference, as ``config.differences`` words it."""
    path = change.partition(":")[0]
    return any(configs.may_change(config, path) for config in (before, after))


def _has_saved(folder: Path) -> bool:
    return (folder / LATEST).exists() or bool(list_checkpoints(folder))


def _place_of_resolved(folder: Path) -> Path:
    """Where the resolved config goes without replacing a file of the user's."""
    usual = folder / RESOLVED
    if not usual.exists() or _is_ours(usual):
        return usual
    return folder / RESOLVED_BESIDE


def _is_ours(config: Path) -> bool:
    """Whether the config was written by ``claim_run_dir``: it has the mark or, of old runs, all defaults."""
    text = config.read_text(encoding="utf-8", errors="replace")
    if text.startswith(MARK):
        return True
    return _has_saved(config.parent) and not (config.parent / RESOLVED_BESIDE).exists() and "#" not in text


def _of_others(folder: Path, fresh: bool) -> list[Path]:
    """What somebody else has left under names that a run writes to, or removes.

    In a folder in which a run has begun, files of those names are the run's, damaged or not; checkpoints of other
    programs would still be taken for damaged ones of ours.
    """
    found = [folder / name for name in (FOLDER, IMAGES, profiling.FOLDER) if os.path.lexists(folder / name)]
    others = [path for path in found if not path.is_dir()]
    if others or (others := storage.strangers(folder)):
        return others
    begun = any(path.is_file() and _is_ours(path) for path in (folder / RESOLVED, folder / RESOLVED_BESIDE))
    begun = begun or bool(list_checkpoints(folder)) or side_files.is_there(folder / LATEST)
    return ([] if begun else _shown(folder)) + (side_files.taken(folder) if fresh or not begun else [])


def _shown(folder: Path) -> list[Path]:
    """The files with names of previews and profiles."""
    places = ((folder / IMAGES, _PREVIEW), (folder / profiling.FOLDER, profiling.NAME))
    there = ((path, name) for inside, name in places if inside.is_dir() for path in inside.iterdir())
    return sorted(path for path, name in there if name.fullmatch(path.name))


def _clear(folder: Path) -> None:
    """Remove what a run leaves in its folder, by its exact names, and nothing else."""
    checkpoints = [found.folder for found in list_checkpoints(folder)]
    for mark in (storage.SAVING, storage.CORRUPT, storage.OLD):
        checkpoints += storage.leftovers(folder, mark)
    for checkpoint in checkpoints:
        storage.remove(checkpoint)
    for file in _shown(folder):
        file.unlink()
    for inside in (folder / FOLDER, folder / IMAGES, folder / profiling.FOLDER):
        with suppress(OSError):  # it is not there, or holds files of the user's
            inside.rmdir()
    for config in (folder / RESOLVED, folder / RESOLVED_BESIDE):
        if config.is_file() and _is_ours(config):
            config.unlink()
    side_files.remove_all(folder)


@contextmanager
def run_dir_lock(folder: Path) -> Iterator[None]:
    """Rank 0 holds the folder's lock, so that a job that was orphaned and its successor never write into one run.

    The successor waits, and all of its ranks show that they live; the lock falls with the process that held it.

    Raises:
        ValueError: the other job did not leave in time, or rank 0 cannot write there; on every rank.
        StopRequestedError: rank 0 was asked to leave while it waited.
    """
    handle: IO[str] | None = None
    began, answer = time.monotonic(), WAITING
    while answer == WAITING:
        if ranks.rank() == 0:
            try:
                handle = handle or _opened_lock(folder)
                answer = _lock(handle, folder, time.monotonic() - began)
            except (OSError, ValueError) as error:  # the other ranks wait for rank 0
                answer = f"run_dir: {error}"
        answer = ranks.broadcast_object(answer)
        heartbeat()
    if answer == LEFT:
        raise signals.StopRequestedError
    if answer:
        raise ValueError(answer)
    try:
        yield
    finally:
        if handle is not None:
            handle.close()


def _opened_lock(folder: Path) -> IO[str]:
    """The file that is held, in a run's folder, which is made if missing.

    Raises:
        OSError: it cannot be opened.
        ValueError: the folder is none, or the file is somebody else's.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ValueError(f"{folder} is {kind_of(folder)}, not a folder; name another one")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / side_files.LOCK
    if not side_files.is_free(path) and not _has_saved(folder):  # a damaged one of a run is taken over
        raise ValueError(f"{path} was not written by a run; move it away, or choose another folder")
    return path.open("a+", encoding="utf-8", errors="replace")


def _lock(handle: IO[str], folder: Path, waited: float) -> str:
    """Try to get the lock; nothing where it came, ``WAITING`` a second later where it may yet, else what is wrong.

    Args:
        waited: the seconds since the first try.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            _say(
                f"{folder} lies on a file system without locks ({error.strerror}); make sure that no other job "
                "trains in it"
            )
            return ""
        handle.seek(0)
        holder = handle.read().strip()
        if signals.raised():
            return LEFT
        if waited >= LOCK_PATIENCE_S:
            return f"another job is training in {folder} ({holder}); stop it, or choose another folder"
        if waited % 30 < 1:
            _say(f"waiting for another job that trains in {folder} ({holder})")
        time.sleep(1.0)
        return WAITING
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    handle.flush()
    return ""


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
