"""Crops of photos of ImageNet's size, beside webdataset with Pillow making the same."""

import io
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ....trainer.data.crops import CropConfig, TamingCropConfig
from ....trainer.data.stream import DataConfig, Stream
from ....trainer.images.geometry import Measured
from ....trainer.shards.access.in_order import web_dataset
from ....trainer.shards.writer import ShardWriter

HEIGHT, WIDTH = 375, 500

Contestants = dict[str, Callable[[], int]]


def contestants(folder: Path, images: list[bytes], samples: int, side: int, batch: int) -> Contestants:
    """Four readers of the same photos; the first of each pair is webdataset with Pillow, which takes them in order.

    The shortest side is brought to that of the crop, and a square is cut anywhere: by the rule of taming-transformers,
    for which torchvision's way is bilinear, and by Lanczos in both.
    """
    with ShardWriter(folder, "photo", samples // 4, {}) as writer:
        for number in range(samples):
            members = {"jpg": images[number % len(images)], "cls": b"%d" % number}
            writer.write(f"{number:06d}", members, Measured(HEIGHT, WIDTH))
    taming = TamingCropConfig(size=side, flip=0.5)
    square = CropConfig(size=side, scale=(math.inf, math.inf))
    return {
        "webdataset, shortest side, bilinear": lambda: _with_pillow(folder, side, batch, Image.Resampling.BILINEAR),
        "stream, taming, shuffled, checked": lambda: _stream(folder, taming, samples, batch),
        "webdataset, shortest side, Lanczos": lambda: _with_pillow(folder, side, batch, Image.Resampling.LANCZOS),
        "stream, shortest side, Lanczos": lambda: _stream(folder, square, samples, batch),
    }


def _stream(folder: Path, crop: Any, samples: int, batch: int) -> int:
    stream = Stream(DataConfig(shards=(str(folder),), crop=crop), global_batch=batch, micro_batch=batch)
    return sum(len(step[0]["key"]) for step in islice(stream.train_batches(), samples // batch))


def _with_pillow(folder: Path, side: int, batch: int, by: Image.Resampling) -> int:
    draws = np.random.default_rng(0)

    def crop(data: bytes) -> Any:
        with Image.open(io.BytesIO(data)) as opened:
            image = opened.convert("RGB")
        scale = side / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), by)
        left, top = (int(draws.integers(length - side + 1)) for length in image.size)
        part = np.asarray(image.crop((left, top, left + side, top + side)))
        return np.ascontiguousarray((part[:, ::-1] if draws.random() < 0.5 else part).transpose(2, 0, 1))

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    pipeline = web_dataset(urls).to_tuple("jpg").map_tuple(crop)
    return sum(len(torch.from_numpy(images)) for (images,) in pipeline.batched(batch))
