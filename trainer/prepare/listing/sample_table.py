"""Many samples in little memory: what a walk found, as columns, and samples made of them when they are asked for."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from ...keyed_random import text_key
from ...shards.file_table import FileTable
from .raw_sample import Facts, RawSample, facts_of, keyed, plain_key

_SORTED = 2000  # samples that stand in the order of their keys; more stand in that in which they are packed

Numbers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class SampleTable(Sequence[RawSample]):
    """Samples of one image each, by the files below a folder, and of what lies beside it; some 80 bytes a file.

    Args:
        files: that a walk found.
        folder: below which they lie, and from where their keys count.
    """

    def __init__(self, files: FileTable, folder: Path) -> None:
        self._files = files
        self._folder = folder
        self._above = len(str(folder).rstrip("/")) + 1
        self._keys: dict[int, str] = {}  # of files that would share one
        self._labels: Numbers | None = None
        self._beside: dict[str, tuple[FileTable, Numbers]] = {}  # by field: its files, and which belongs to each image
        plain = array("Q", (text_key(self._plain_key(number)) for number in range(len(files))))
        self._hashes = np.frombuffer(plain, np.uint64).copy() if len(files) else np.zeros(0, np.uint64)
        self._tell_apart()
        self._order = np.argsort(self._hashes, kind="stable")
        if len(files) <= _SORTED:
            self._order = np.array(sorted(range(len(files)), key=self._key), np.int64)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, number: int) -> RawSample: ...
    @overload
    def __getitem__(self, number: slice) -> "Selection": ...
    def __getitem__(self, number: int | slice) -> "RawSample | Selection":
        if isinstance(number, slice):
            return Selection(self, np.arange(len(self))[number])
        file = int(self._order[number])
        others = {field: files[int(which[file])] for field, (files, which) in self._beside.items()}
        return RawSample(self._key(file), {"image": self._files[file], **others}, self._label(file))

    def facts(self, number: int) -> Facts:
        """What decides where a sample is packed."""
        file = int(self._order[number])
        others = {field: files.seen(int(which[file])) for field, (files, which) in self._beside.items()}
        return Facts(self._key(file), self._label(file), {"image": self._files.seen(file), **others})

    def key(self, number: int) -> str:
        """The key of a sample."""
        return self._key(int(self._order[number]))

    def hashes(self) -> Hashes:
        """(N,) the number of each key, by which samples are ordered when they are packed."""
        return self._hashes[self._order]

    def labelled(self, labels: Numbers) -> "SampleTable":
        """The samples with a class, those without one left out.

        Args:
            labels: (N,) of each sample; below 0 for none.
        """
        kept = self._with(self._order[labels >= 0])
        kept._labels = np.zeros(len(self._files), np.int64)
        kept._labels[self._order] = labels
        return kept

    def beside(self, others: Mapping[str, "SampleTable"]) -> "SampleTable":
        """The samples with a file of the same key in every other table, by field; those without one left out."""
        which = {field: self._same_keys(other) for field, other in others.items()}
        there = np.all([numbers >= 0 for numbers in which.values()], axis=0)
        kept = self._with(self._order[there[self._order]])
        kept._beside = {field: (other._files, which[field]) for field, other in others.items()}
        return kept

    def without(self, others: Iterable["SampleTable"]) -> list[tuple[str, Path]]:
        """The keys and the files for which some other table has no file of the same key."""
        missing = np.zeros(len(self._files), bool)
        for other in others:
            missing |= self._same_keys(other) < 0
        return [(self._key(file), self._files[file]) for file in np.flatnonzero(missing).tolist()]

    def _same_keys(self, other: "SampleTable") -> Numbers:
        """(N,) for each file, which one of another table has its key; -1 for none."""
        order = np.argsort(other._hashes, kind="stable")
        at = found_in(other._hashes[order], self._hashes)
        return np.asarray(np.append(order, -1)[at])

    def _with(self, order: Numbers) -> "SampleTable":
        """The same table with some of its samples."""
        kept = SampleTable.__new__(SampleTable)
        kept.__dict__.update(self.__dict__)
        kept._order = order
        return kept

    def _label(self, file: int) -> int | None:
        return None if self._labels is None else int(self._labels[file])

    def _plain_key(self, file: int) -> str:
        return plain_key(self._files.name(file)[self._above :])

    def _key(self, file: int) -> str:
        return self._keys.get(file) or self._plain_key(file)

    def _tell_apart(self) -> None:
        """Gives keys of their own to files that would share one, or would once others have got theirs."""
        while len(shared := self._shared()) > len(self._keys):
            named = keyed((self._files[file].relative_to(self._folder), file) for file in shared)
            self._keys = {file: key for key, file in named}
            for file, key in self._keys.items():
                self._hashes[file] = text_key(key)

    def _shared(self) -> list[int]:
        """The files whose keys have differed already, and those that share one with another file."""
        order = np.argsort(self._hashes, kind="stable")
        equal = self._hashes[order][1:] == self._hashes[order][:-1]
        twice = order[np.concatenate([equal, [False]]) | np.concatenate([[False], equal])] if len(order) else order
        return sorted({*self._keys, *twice.tolist()})


class Selection(Sequence[RawSample]):
    """Some samples of a sequence, in an order of their own; goes to other processes as the samples themselves."""

    def __init__(self, samples: Sequence[RawSample], numbers: Numbers) -> None:
        self._samples = samples
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, number: int) -> RawSample: ...
    @overload
    def __getitem__(self, number: slice) -> "Selection": ...
    def __getitem__(self, number: int | slice) -> "RawSample | Selection":
        if isinstance(number, slice):
            return Selection(self._samples, self._numbers[number])
        return self._samples[int(self._numbers[number])]

    def __iter__(self) -> Iterator[RawSample]:
        return (self._samples[number] for number in self._numbers.tolist())

    def facts(self, number: int) -> Facts:
        """What decides where a sample is packed."""
        return facts(self._samples, int(self._numbers[number]))

    def __reduce__(self) -> tuple[type[list[RawSample]], tuple[list[RawSample]]]:
        return list, (list(self),)


def found_in(ordered: Hashes, wanted: Hashes) -> Numbers:
    """(N,) where each number stands last among ordered ones; -1 where it does not."""
    at = np.searchsorted(ordered, wanted, side="right") - 1
    there = at >= 0
    there[there] = ordered[at[there]] == wanted[there]
    return np.asarray(np.where(there, at, -1))


def facts(samples: Sequence[RawSample], number: int) -> Facts:
    """What decides where a sample of a sequence is packed."""
    return samples.facts(number) if isinstance(samples, SampleTable | Selection) else facts_of(samples[number])


def hashes_of(samples: Sequence[RawSample]) -> Hashes:
    """(N,) the number of each sample's key."""
    if isinstance(samples, SampleTable):
        return samples.hashes()
    return np.array([text_key(sample.key) for sample in samples], np.uint64)
