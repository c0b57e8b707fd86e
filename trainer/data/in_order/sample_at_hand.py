"""The sample that a stream has come to, for the readers of samples."""

from collections.abc import Sequence

from ...images.geometry import Measured
from ...shards.access.in_order import StreamedSample
from ...shards.errors import Kind, SampleError
from ...shards.index import Member
from ...shards.patterns import without_secrets


class SampleAtHand:
    """One sample in memory, whatever place is asked for.

    Args:
        names: of the shards.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._sample: StreamedSample = {}

    def take(self, sample: StreamedSample) -> None:
        """Goes on to another one."""
        self._sample = sample

    def key(self, shard: int, sample: int) -> str:
        """Its key."""
        key: str = self._sample["__key__"]
        return key

    def measured(self, shard: int, sample: int) -> Measured:
        """Not known before its image is looked at."""
        return Measured(0, 0)

    def has(self, shard: int, sample: int, extension: str) -> bool:
        """Whether it has a file of this kind."""
        return extension in self._sample

    def member(self, shard: int, sample: int, extension: str) -> Member:
        """A file of it."""
        return Member(0, len(self.read(shard, sample, extension)), 0)

    def read(self, shard: int, sample: int, extension: str) -> bytes:
        """The bytes of a file of it."""
        data: bytes = self._sample[extension]
        return data

    def read_ranges(self, shard: int, sample: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Nothing of it lies in a tar that could be read in parts."""
        raise self.sample_error(shard, sample, "unreachable", "it is read in order, and not in parts")

    def sample_error(self, shard: int, sample: int, kind: Kind, detail: str) -> SampleError:
        """An error of it, to be raised."""
        return SampleError(kind, without_secrets(self._names[shard]), self.key(shard, sample), without_secrets(detail))
