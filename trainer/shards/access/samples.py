"""What the reading of one sample needs of where it lies."""

from collections.abc import Sequence
from typing import Protocol

from ...images.geometry import Measured
from ..errors import Kind, SampleError
from ..index import Member


class Samples(Protocol):
    """Samples that can be read by shard and number: a set of shards with indexes, or the one that is streamed by.

    Whatever is asked of a sample may raise a ``SampleError`` of it.
    """

    def key(self, shard: int, sample: int) -> str:
        """The key of a sample, as in its file names."""
        ...

    def measured(self, shard: int, sample: int) -> Measured:
        """The size of a sample's image; 0 x 0 where only the image tells."""
        ...

    def has(self, shard: int, sample: int, extension: str) -> bool:
        """Whether a sample has a member of this kind."""
        ...

    def member(self, shard: int, sample: int, extension: str) -> Member:
        """Where a member lies."""
        ...

    def read(self, shard: int, sample: int, extension: str) -> bytes:
        """All bytes of a member."""
        ...

    def read_ranges(self, shard: int, sample: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Stretches (offset, size) of the tar that belong to a sample."""
        ...

    def sample_error(self, shard: int, sample: int, kind: Kind, detail: str) -> SampleError:
        """An error of a sample, to be raised."""
        ...
