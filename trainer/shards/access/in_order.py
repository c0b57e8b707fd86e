"""Tars read from their beginning to their end by webdataset, as it is."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import webdataset
from webdataset import filters, tariterators

from ...keyed_random import Draws
from ..patterns import is_remote
from ..remote import RemoteConfig
from . import requests
from .tar_headers import DamagedTarError, name_of
from .tar_streams import TarStream, tar_stream

StreamedSample = dict[str, Any]  # "__key__", and the bytes of each file by its extension


def web_dataset(urls: Sequence[str]) -> Any:
    """webdataset's own pipeline over some shards, in order; its stages may be added."""
    return webdataset.WebDataset(list(urls), shardshuffle=False)


def samples_of(name: str, remote: RemoteConfig) -> Iterator[StreamedSample]:
    """The samples of a shard, as webdataset groups its files.

    A remote shard that fails in the middle is read again from its beginning, after pauses that grow, and what was given
    before is passed over.

    Raises:
        FileNotFoundError: there is no such shard.
        OSError: it cannot be reached.
        DamagedTarError: it is damaged or cut off, or a sample has two files of one kind.
    """
    given = 0
    for pause in (*(requests.PAUSES if is_remote(name) else ()), None):
        try:
            for number, sample in enumerate(_once_through(name, remote)):
                if number == given:
                    given += 1
                    yield sample
            return
        except FileNotFoundError:
            raise
        except (OSError, DamagedTarError):
            if pause is None:
                raise
            requests.Repeated.count += 1
            time.sleep(pause)


def _once_through(name: str, remote: RemoteConfig) -> Iterator[StreamedSample]:
    with closing(tar_stream(name, remote)) as tar:
        try:
            yield from tariterators.group_by_keys(_files(tar, name))
        except Exception as error:  # webdataset adds to what it lets through, and has errors of its own
            raise tar.fault or DamagedTarError(f"{name}: {error.args[0] if error.args else error!r}") from error


def _files(tar: TarStream, name: str) -> Iterator[Any]:
    yield from tariterators.tar_file_expander(
        [{"url": name, "stream": tar}], select_files=_is_shown, rename_files=_printable, eof_value=None
    )
    tar.drain()


def _printable(name: str) -> str:
    return name_of(name.encode("utf-8", "surrogateescape"))


def _is_shown(name: str) -> bool:
    """Whether a file is not hidden, as the ``._x`` of macOS are."""
    return not name.rpartition("/")[2].startswith(".")


def shuffled(samples: Iterator[StreamedSample], size: int, key: int) -> Iterator[StreamedSample]:
    """The same samples in another order, by webdataset's buffer of so many; a key is an order."""
    if size < 2:
        return samples
    mixed: Iterator[StreamedSample] = filters._shuffle(samples, size, size, _Chosen(key))
    return mixed


class _Chosen:
    """What webdataset asks for numbers at random."""

    def __init__(self, key: int) -> None:
        self._draws = Draws(key)

    def randint(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + self._draws.below(high - low + 1)
