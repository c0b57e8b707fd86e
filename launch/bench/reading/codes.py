"""What a sample of codes costs, read out of packed shards."""

import io
import json
import statistics
import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from ....trainer.data.crops import CodeCropConfig
from ....trainer.data.stream import DataConfig, Stream
from ....trainer.shards.writer import Sample, write_shard

_SIDE = 16  # codes
_SHARDS = 16
_BATCH = 64


def measure(folder: Path, each: int, rounds: int) -> float:
    """Microseconds of CPU for a sample of 16 x 16 codes and its class, in shuffled and checked batches of 64.

    Args:
        each: samples in each of 16 shards.
    """
    for shard in range(_SHARDS):
        codes = np.random.default_rng(shard).integers(0, 1024, (each, _SIDE, _SIDE)).astype(np.uint16)
        samples = [Sample(f"{shard:04d}{number:05d}", _members(grid, number)) for number, grid in enumerate(codes)]
        write_shard(folder / f"codes-{shard:06d}.tar", samples, {"factor": 16}, packed=True)
    config = DataConfig(shards=(str(folder),), crop=CodeCropConfig(window=(_SIDE, _SIDE)))
    stream = Stream(config, ("codes", "cls"), global_batch=_BATCH, micro_batch=_BATCH)
    count = _SHARDS * each // _BATCH
    with closing(stream.train_batches()) as steps:  # type: ignore[type-var]
        times = []
        for _ in range(1 + rounds):
            began = time.process_time()
            read = sum(len(step[0]["key"]) for step in islice(steps, count))
            times.append((time.process_time() - began) / read)
    seconds = statistics.median(times[1:])  # the first round opens shards
    stored = sum(path.stat().st_size for path in folder.glob("*.tar*")) / (_SHARDS * each)
    print(
        f"\nGrids of {_SIDE} x {_SIDE} codes with a class, packed: {1e6 * seconds:.1f} us CPU, {stored:.0f} bytes each"
    )
    return 1e6 * seconds


def _members(grid: np.ndarray, number: int) -> dict[str, bytes]:
    """A sample as ``encode`` gives it to its shard."""
    file = io.BytesIO()
    np.save(file, grid)
    place = {"box": [0.0, 0.0, 256.0, 256.0], "source_size": [375.0, 500.0], "flip": False}
    return {"codes.npy": file.getvalue(), "cls": b"%d" % number, "json": json.dumps(place).encode()}
