"""Small pictures and shards for the tests of the data layer."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smalti.trainer.index import Measured
from smalti.trainer.shard_writer import ShardWriter


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with large shapes and a little grain, as photos have."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + draws.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, kind, **options)
    return packed.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 by Pillow alone, as stored."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def write_pictures(folder: Path, count: int, per_shard: int = 8, side: int = 24, prefix: str = "x") -> Path:
    """Shards of tiny PNG pictures ``p000``, ``p001``, ... whose every pixel has the number of the picture in red."""
    with ShardWriter(folder, prefix, per_shard, {"made by": "the tests"}) as writer:
        for number in range(count):
            pixels = np.full((side, side + number % 3, 3), number, np.uint8)
            pixels[..., 1:] = photo(side, side + number % 3, number)[..., 1:]
            members = {"png": encoded(pixels, "PNG"), "map.png": encoded(pixels[..., 1], "PNG"), "cls": b"%d" % number}
            writer.write(f"p{number:03d}", members, Measured(*pixels.shape[:2]))
    return folder
