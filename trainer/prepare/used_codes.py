"""Which of a tokenizer's codes some code shards use."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.region_reader import sample_errors
from ..shards.fields import EXTENSIONS
from ..shards.index import SampleLocation
from ..shards.reader import ShardSet


def used_codes(patterns: Sequence[str], metadata: dict[str, Any]) -> list[int]:
    """The numbers of the codes that occur, in order; every grid of every shard is read.

    Args:
        patterns: folders, files, wildcards or brace patterns of code shards.
        metadata: of the tokenizer that made them.

    Raises:
        ValueError: another tokenizer made them, or they hold codes that it has not.
        SampleError: a grid is missing or damaged.
    """
    shards = ShardSet.open(patterns)
    made_by = shards.provenance.get("tokenizer")
    if made_by != metadata["digest"]:
        raise ValueError(
            f"the codes in {', '.join(patterns)} were made by the tokenizer {str(made_by)[:12]}, and this one is "
            f"{metadata['digest'][:12]}; encode images with this one"
        )
    (extension,) = EXTENSIONS["codes"]
    seen = np.zeros(metadata["codes"], dtype=bool)
    for shard, count in enumerate(shards.counts):
        for sample in range(count):
            place = SampleLocation(shard, sample)
            with sample_errors(shards, place, extension):
                grid = np.load(io.BytesIO(shards.read(*place, extension)), allow_pickle=False)
                if grid.size and not 0 <= grid.min() <= grid.max() < len(seen):
                    raise ValueError(f"its codes are {grid.min()} to {grid.max()}, of {len(seen)}")
            seen[grid] = True
    return [int(code) for code in np.flatnonzero(seen)]
