"""A hundred SIGKILLs at random moments of commands that write: the same command again ends as if nothing had been.

Equal results byte for byte, and no stale process, lock, port or temporary file.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import processes
import pytest
from fixtures.pairs import write_pair
from fixtures.runs import lines, write_prior
from fixtures.shards import encoded, photo, write_images

from smalti.trainer.checkpoint import model_files, storage

KILLS = 20
GRACE_S = 20.0


class Command(NamedTuple):
    """A command, the folder that it fills, and what that holds when all went well."""

    module: str
    arguments: list[object]
    out: Path
    result: Callable[[Path], object]


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trained(run: Path) -> object:
    """The weights that are left, the history, and every file's name."""
    found = storage.latest_valid(run)
    assert found is not None
    return model_files.read_metadata(found.folder)["digest"], lines(run), names(run)


def _train(folder: Path) -> Command:
    config = write_prior(folder)
    return Command("smalti.launch.train", [config], config.with_suffix(""), trained)


def _pack(folder: Path) -> Command:
    source = folder / "images"
    source.mkdir()
    for number in range(24):
        (source / f"p{number:03d}.jpg").write_bytes(encoded(photo(300, 400, number)))
    options = ["--shard-count", 4, "--processes", 2, "--val", 4]
    return Command("smalti.launch.pack", [source, folder / "out", *map(str, options)], folder / "out", contents)


def _encode(folder: Path) -> Command:
    tokenizer = write_pair(folder / "pair")[1]
    shards = write_images(folder / "shards", 24, per_shard=4)
    arguments = [tokenizer, shards, folder / "out", "--size", "16", "--num-workers", "1"]
    return Command("smalti.launch.encode", arguments, folder / "out", contents)


def _export(folder: Path) -> Command:
    tokenizer = write_pair(folder / "pair")[1]
    return Command("smalti.launch.export", [tokenizer, folder / "out"], folder / "out", contents)


def _sample(folder: Path) -> Command:
    prior, tokenizer = write_pair(folder / "pair")
    options = ["--size", "96x96", "--count", "2", "--save-every", "0.2", "--preview", "0.3"]
    return Command(
        "smalti.launch.sample", [prior, tokenizer, "--out", folder / "out", *options], folder / "out", contents
    )


def nobody_left(session: int) -> bool:
    """Whether every process of a job is gone, its workers too."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state != "Z":
            return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("made", [_train, _pack, _encode, _export, _sample])
def test_a_command_killed_at_a_random_moment_ends_as_if_it_had_not_been(
    made: Callable[[Path], Command], tmp_path: Path
):
    command = made(tmp_path)
    began = time.monotonic()
    ended = processes.command(command.module, command.arguments).wait()
    seconds = time.monotonic() - began
    assert ended.codes == [0], ended.log
    undisturbed = command.result(command.out)
    draws, kills = random.Random(made.__name__), 0
    for _ in range(20 * KILLS):
        if kills == KILLS:
            break
        shutil.rmtree(command.out, ignore_errors=True)
        job = processes.command(command.module, command.arguments)
        time.sleep(draws.uniform(0.0, seconds))
        job.signal(signal.SIGKILL, rank=0)
        kills += job.wait().codes == [-signal.SIGKILL]
        deadline = time.monotonic() + GRACE_S
        while not nobody_left(job.leader):
            assert time.monotonic() < deadline, f"a process of {command.module} outlives it"
            time.sleep(0.05)
        ended = processes.command(command.module, command.arguments).wait()
        assert ended.codes == [0], ended.log
        assert command.result(command.out) == undisturbed
    assert kills == KILLS
