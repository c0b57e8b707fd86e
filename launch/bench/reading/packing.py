"""How much memory packing takes for each file."""

import os
import tracemalloc
from pathlib import Path

from ....trainer.prepare.find_images import find_samples
from ....trainer.prepare.pack import PackConfig, in_packing_order, plan_shards


def measure(folder: Path, image: bytes, files: int) -> float:
    """Bytes of heap for each file at the peak of finding files and planning their shards, which hold all of them.

    Half as many are found first: the difference is what grows with their number.
    """
    few, many = (_peak(folder / str(count), count, image) for count in (files // 2, files))
    each = (many - few) / (files - files // 2)
    print(f"\nPacking {files} files takes {each:.0f} bytes of heap for each at its peak")
    return each


def _peak(folder: Path, files: int, image: bytes) -> int:
    for number in range(files):
        place = folder / f"class-{number % 10}" / f"photo-{number:08d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        if number < 10:
            place.write_bytes(image)
        else:
            os.link(folder / f"class-{number % 10}" / f"photo-{number % 10:08d}.jpg", place)
    tracemalloc.start()
    try:
        found = find_samples(folder, "folders")
        tasks = plan_shards(folder, in_packing_order(found.sources), PackConfig(shard_samples=1000), {})
        if sum(len(task.sources) for task in tasks) != files:
            raise RuntimeError(f"{files} files became other shards")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
