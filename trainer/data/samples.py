"""One sample: its members read, decoded and cut, with its box in the coordinates of the whole image.

Shapes: S the side of a crop in pixels, (h, w) a window of codes.
"""

import io
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

import numpy as np

from ..images.decode import Pixels
from ..images.geometry import Crop
from ..images.known_values import Check
from ..shards.access import requests
from ..shards.access.samples import Samples
from ..shards.errors import SampleError
from ..shards.fields import EXTENSIONS
from ..shards.index import SampleLocation
from ..shards.reader import ShardSet
from .collate import Batch, LoadedSample
from .crops import AnyCropConfig, TooSmallError
from .region_reader import sample_errors

_AGAIN = 2  # times that wrong bytes of a remote shard are asked for again
TRIED = 32  # samples that are looked at before training
CHANCE = 0.25  # by how much their share of errors may exceed the limit, if they are not all samples
Choose = Callable[[str, int, int], list[Crop]]  # (key, height, width) -> the crops to make of a sample
ChooseAt = Callable[[int, str, int, int], Crop]  # (number in a batch, key, height, width) -> the crop of that sample
S = TypeVar("S", bound=Samples)


class SampleReader(ABC, Generic[S]):
    """Makes the rows of batches out of the samples of one set of shards; each kind of data has a reader of its own.

    Args:
        shards: where the samples lie. What concerns all of them needs a set with indexes.
        fields: what a row has besides its key, box, source size and flip.
        crop: how its parts are chosen; None takes whole images.
        members: extensions to read fields from where they are not the usual ones.
        checks: of the numbers in fields, beyond which the model has no tables.
    """

    def __init__(
        self,
        shards: S,
        fields: Sequence[str],
        crop: AnyCropConfig | None,
        members: Mapping[str, str],
        checks: Mapping[str, Check],
    ) -> None:
        self.shards = shards
        self._fields = tuple(fields)
        self._crop = crop
        self._extensions = {
            field: (members[field],) if field in members else EXTENSIONS[field] for field in self._fields
        }
        self._checks = dict(checks)

    def check_fields(self: "SampleReader[ShardSet]") -> None:
        """Looks into the first shard that is not empty for every field.

        Raises:
            ValueError: there is none, or it has a field in none of its samples.
        """
        filled = next((shard for shard, count in enumerate(self.shards.counts) if count), None)
        if filled is None:
            raise ValueError(f"no sample is in {', '.join(self.shards.names)}")
        self.check_extensions(self.shards.names[filled], self.shards.index(filled).extensions)

    def check_extensions(self, name: str, there: Sequence[str]) -> None:
        """Makes sure that every field is among the extensions of a shard's members.

        Raises:
            ValueError: one is not.
        """
        for field, extensions in self._extensions.items():
            if not set(extensions) & set(there):
                raise ValueError(
                    f"field {field!r} needs members named {' or '.join('.' + e for e in extensions)}, but {name} has "
                    f"only {', '.join('.' + e for e in there)}; pack it, or name the right one in extensions"
                )

    # Grids of codes have no sides to check: an index has no sizes of them.
    def check_sides(self: "SampleReader[ShardSet]") -> None:
        """Makes sure that no sample is too small for the crops, as far as indexes tell.

        Raises:
            ValueError: some are.
        """

    def check_values(self: "SampleReader[ShardSet]", limit: float) -> None:
        """Looks at some samples from all over the set, for numbers that the model does not know in many of them.

        Args:
            limit: the share of samples that may be unusable.

        Raises:
            ValueError: there are too many; in training each would be an error of its sample alone.
        """
        counts = self.shards.counts
        ends = np.cumsum(counts)
        spread = np.linspace(0, int(ends[-1]) - 1, TRIED).astype(int) if self._checks and ends[-1] else ()
        tried = sorted({int(number) for number in spread})
        wrong: list[SampleError | None] = []
        for number in tried:
            shard = int(np.searchsorted(ends, number, side="right"))
            wrong.append(self.out_of_range(SampleLocation(shard, number - int(ends[shard]) + counts[shard])))
        # A sample of a set may be worse than the set.
        refuse_out_of_range(wrong, limit + (CHANCE if len(tried) < ends[-1] else 0.0))

    def out_of_range(self, place: SampleLocation) -> SampleError | None:
        """What is wrong with the numbers in a sample, if they were to be checked and are not right."""
        try:
            if self._checks:
                self.read(place, self._middle)
        except SampleError as error:
            return error if error.kind == "out of range" else None
        return None

    @abstractmethod
    def read(self, place: SampleLocation, choose: Choose) -> list[LoadedSample]:
        """One row for each crop that ``choose`` wants; the members are read and decoded once.

        Raises:
            SampleError: a member is missing, damaged or cannot be decoded.
        """

    def read_batch(self, places: Sequence[SampleLocation], choose: ChooseAt) -> Batch | None:
        """A batch of one crop of each sample, made at once; None where samples must be read one by one.

        Raises:
            SampleError: one of them cannot be used.
        """
        return None

    def read_surely(self: "SampleReader[ShardSet]", place: SampleLocation, choose: Choose) -> list[LoadedSample]:
        """As ``read``; of a remote shard of which wrong bytes came, asks for them once more.

        Raises:
            SampleError: it cannot be used.
        """
        for pause in requests.PAUSES[:_AGAIN]:
            try:
                return self.read(place, choose)
            except SampleError as error:
                if not self.shards.may_be_better(error, place.shard):
                    raise
            requests.Repeated.count += 1
            self.shards.files.renew(place.shard)
            time.sleep(pause)
        return self.read(place, choose)

    def gather(self: "SampleReader[ShardSet]", wanted: Sequence[tuple[SampleLocation, Choose]]) -> None:
        """Fetches what the samples will need of remote shards in one go; what cannot be had is left to reading them."""
        if not self.shards.files.are_asked:
            return
        self.shards.look_ahead(place.shard for place, _ in wanted)
        ranges: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for place, choose in wanted:
            with suppress(SampleError, TooSmallError, ValueError):
                ranges[place.shard] += self._stretches(place, choose)
        self.shards.files.gather(ranges)

    def _stretches(self: "SampleReader[ShardSet]", place: SampleLocation, choose: Choose) -> list[tuple[int, int]]:
        """(offset, size) of what a sample will need of its tar."""
        return [each for field in self._fields for each in self.shards.stretches(*place, self._extension(place, field))]

    def _middle(self, key: str, height: int, width: int) -> list[Crop]:
        return [Crop(0, 0, width, height) if self._crop is None else self._crop.center(height, width)]

    def _check(self, field: str, numbers: Pixels) -> None:
        if field in self._checks:
            self._checks[field](numbers)

    def _array(self, place: SampleLocation, field: str) -> Pixels:
        """Numbers of the whole sample: float32, or int64 where they are whole."""
        extension = self._extension(place, field)
        with sample_errors(self.shards, place, extension):
            array: Pixels = np.load(io.BytesIO(self.shards.read(*place, extension)), allow_pickle=False)
            self._check(field, array)
        return np.asarray(array, np.float32 if array.dtype.kind == "f" else np.int64)

    def _chosen(self, place: SampleLocation, choose: Choose, height: int, width: int) -> list[Crop]:
        try:
            return choose(self.shards.key(*place), height, width)
        except TooSmallError as error:
            raise self.shards.sample_error(*place, "too small", str(error)) from error

    def _label(self, place: SampleLocation) -> int:
        extension = self._extension(place, "cls")
        with sample_errors(self.shards, place, extension):
            label = int(self.shards.read(*place, extension))
            self._check("cls", np.array(label))
            return label

    def _extension(self, place: SampleLocation, field: str) -> str:
        extensions = self._extensions[field]
        found = next((e for e in extensions if self.shards.has(*place, e)), None)
        if found is None:
            detail = f"{field!r} needs {' or '.join('.' + e for e in extensions)}"
            raise self.shards.sample_error(*place, "missing field", detail)
        return found


def sample_row(key: str, crop: Crop, source: tuple[int, int]) -> LoadedSample:
    return {
        "key": key,
        "box": np.array(crop[:4], np.float32),
        "source_size": np.array(source, np.float32),
        "flip": np.bool_(crop.flip),
    }


def refuse_out_of_range(tried: Sequence[SampleError | None], limit: float) -> None:
    """Ends a start where too many of the samples that were tried hold numbers that the model does not know.

    Args:
        tried: what is wrong with each of them.
        limit: the share that may be wrong.

    Raises:
        ValueError: it is exceeded.
    """
    wrong = [error for error in tried if error is not None]
    if len(wrong) > limit * len(tried):
        raise ValueError(
            f"{len(wrong)} of {len(tried)} samples that were tried hold numbers that the model does not know, the "
            f"first is {wrong[0]}; make the model's table as large as the data need, or leave such samples out"
        )
