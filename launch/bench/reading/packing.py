"""How much memory packing takes for each file."""

import os
import tracemalloc
from pathlib import Path

from ....trainer.prepare.find_images import find_samples
from ....trainer.prepare.pack import PackConfig, pack

_FILES = 6000  # and half of them: the difference is what grows with their number
_EACH = 500  # in a shard


def measure(folder: Path, image: bytes) -> float:
    """Bytes of heap for each file at the peak of finding, planning and packing small images."""
    few, many = (_peak(folder / str(files), files, image) for files in (_FILES // 2, _FILES))
    each = (many - few) / (_FILES - _FILES // 2)
    print(f"\nPacking {_FILES} files took {each:.0f} bytes of heap for each at its peak")
    return each


def _peak(folder: Path, files: int, image: bytes) -> int:
    for number in range(files):
        place = folder / "images" / f"class-{number % 10}" / f"photo-{number:08d}.jpg"
        if number < 10:
            place.parent.mkdir(parents=True)
        if not number:
            (folder / "one.jpg").write_bytes(image)
        os.link(folder / "one.jpg", place)
    tracemalloc.start()
    try:
        found = find_samples(folder / "images", "folders")
        pack(found, folder / "shards", PackConfig(shard_samples=_EACH, processes=2), lambda _: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
