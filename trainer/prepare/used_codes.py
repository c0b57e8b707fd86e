"""Which of a tokenizer's codes some code shards use."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.code_samples import decode_grid
from ..data.region_reader import sample_errors
from ..images.known_values import only
from ..shards.fields import EXTENSIONS
from ..shards.index import SampleLocation
from ..shards.reader import ShardSet


def used_codes(patterns: Sequence[str], metadata: dict[str, Any]) -> list[int]:
    """The numbers of the codes that occur, in order; every grid of every shard is read.

    Args:
        patterns: folders, files, wildcards or brace patterns of code shards.
        metadata: of the tokenizer that made them.

    Raises:
        ValueError: another tokenizer made them.
        SampleError: a grid is missing or damaged, or holds codes that the tokenizer has not.
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
    known = only(range(len(seen)))
    for shard, count in enumerate(shards.counts):
        for sample in range(count):
            place = SampleLocation(shard, sample)
            with sample_errors(shards, place, extension):
                grid = decode_grid(shards.read(*place, extension))
                known(grid)
            seen[grid] = True
    return [int(code) for code in np.flatnonzero(seen)]
