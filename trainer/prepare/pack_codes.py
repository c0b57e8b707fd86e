"""Code shards of a file each grid to packed ones: the same samples in the same order, written anew."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..files import only_command_in
from ..shards import set_index
from ..shards.patterns import is_remote
from ..shards.reader import ShardSet
from ..shards.writer import Sample, finished, own_shard, remove_unfinished, write_shard
from .process_pool import spread


class Packed(NamedTuple):
    """What lies in the folder in the end."""

    samples: int
    shards: int
    as_files: int  # shards whose samples do not fit columns, and have a file each as before


class _Task(NamedTuple):
    """One shard to write, as a worker gets it."""

    source: Path
    path: Path


def pack_codes(shards: ShardSet, folder: Path, processes: int, progress: Callable[[str], None]) -> Packed:
    """Writes the samples of local code shards as rows of arrays into shards of the same names in another folder.

    Order, keys and provenance stay, so that a run goes on with the new shards. Called again after a kill it writes
    only what is missing.

    Args:
        shards: of codes, as ``encode`` makes them.
        processes: at once; 0 for one a core.

    Raises:
        ValueError: the shards are remote, hold no codes, have equal names, or lie in the folder themselves; or the
            folder holds other shards, or another command writes there.
    """
    far = next((name for name in shards.names if is_remote(name)), None)
    if far is not None or not shards.has_field("codes"):
        raise ValueError(f"{far or shards.names[0]} is no local shard of codes; only those are written anew")
    sources = [Path(name) for name in shards.names]
    tasks = [_Task(source, folder / source.name) for source in sources]
    if len({task.path for task in tasks}) < len(tasks):
        raise ValueError("two shards have the same file name; write their folders into different ones")
    if any(task.source.resolve().parent == folder.resolve() for task in tasks):
        raise ValueError(f"{folder} holds the shards themselves; name another folder")
    with only_command_in(folder):
        planned = {task.path for task in tasks}
        other = next((path for path in sorted(folder.glob("*.tar")) if path not in planned), None)
        if other is not None:
            raise ValueError(f"{other} belongs to none of these shards; remove it, or name another folder")
        todo = [task for task in tasks if not _is_done(task)]
        for number, (task, _) in enumerate(spread(_write, todo, processes), 1):
            progress(f"{len(tasks) - len(todo) + number} of {len(tasks)} shards, {task.path}")
        remove_unfinished(planned)
        set_index.write(folder)
    indexes = [index for index in map(finished, sorted(planned)) if index is not None]
    as_files = sum(index.samples > 0 and not index.packed for index in indexes)
    return Packed(sum(index.samples for index in indexes), len(indexes), as_files)


def _is_done(task: _Task) -> bool:
    """Whether a shard was written from this source already.

    Raises:
        ValueError: something else has its name.
    """
    there, source = own_shard(task.path), finished(task.source)
    if there is not None and (source is None or there.notes.get("packed_from") != source.digest):
        raise ValueError(f"{task.path} was made of other codes than {task.source} holds now; name another folder")
    return there is not None


def _write(task: _Task) -> None:
    """Writes one shard."""
    index = finished(task.source)
    if index is None:
        raise ValueError(f"{task.source} has no index that fits it; make one with: smalti index {task.source}")
    files = ShardSet.open([str(task.source)])
    samples = (
        Sample(
            files.key(0, sample),
            {name: files.read(0, sample, name) for name in index.extensions if index.has(sample, name)},
        )
        for sample in range(index.samples)
    )
    write_shard(task.path, samples, index.provenance, index.notes | {"packed_from": index.digest}, packed=True)
