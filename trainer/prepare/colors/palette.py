"""A palette of the colors of a data set, as the tokenizer of a prior over pixels: Chen et al. 2020, section 3.1."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ....models.pixel_range import from_levels
from ....models.vqgan.palette import Palette, PaletteConfig
from ...checkpoint import model_files
from ...config import to_mapping
from ...data.config import DataConfig
from ...data.crops import CropConfig, TamingCropConfig
from ...data.stream import Stream
from ...files import new_folder

BATCH = 32  # images read at a time
MOST_PIXELS = 2**24  # of which torch draws
ROWS = 2**16  # pixels compared with all colors at a time


def write_palette(
    shards: Sequence[str],
    out: Path,
    crop: CropConfig | TamingCropConfig,
    config: PaletteConfig,
    images: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Leave the k-means of the pixels of some crops, drawn as training draws them, as an export of a tokenizer.

    The same shards, settings and seed give the same palette.

    Args:
        images: crops whose pixels count; all samples where there are fewer.

    Raises:
        ValueError: the shards cannot be used, there are too many pixels, or something is at ``out``.
    """
    data = DataConfig(shards=tuple(shards), crop=crop)
    micro = min(BATCH, Stream(data, global_batch=1, micro_batch=1).samples)
    stream = Stream(data, global_batch=micro, micro_batch=micro, seed=seed)
    images = min(images, stream.samples)
    if images * crop.size**2 > MOST_PIXELS:
        raise ValueError(
            f"{images} images of {crop.size} x {crop.size} are more than {MOST_PIXELS} pixels; take "
            f"{MOST_PIXELS // crop.size**2} images at most"
        )
    with new_folder(out) as folder:
        say(f"reading {images} images of {stream.samples}")
        pixels = _pixels(stream, images, micro)
        say(f"finding {config.codebook_size} colors of {len(pixels)} pixels")
        palette = config.build().requires_grad_(False)
        palette.fill(pixels, seed)
        error = 127.5 * _squared_error(palette, pixels) ** 0.5
        metadata = {
            "task": "vqgan",
            "model": to_mapping(config),
            "factor": config.factor,
            "codes": config.codebook_size,
            "palette_of": {"fingerprint": stream.fingerprint, "crop": to_mapping(crop), "images": images, "seed": seed},
        }
        model_files.write(folder, palette.state_dict(), metadata)
    say(f"{out}: {config.codebook_size} colors, {error:.2f} levels of 255 from a pixel's own (root mean square)")


def _pixels(stream: Stream, images: int, micro: int) -> Tensor:
    """(N, 3) float32 in [-1, 1], the pixels of the first images that training would see."""
    batches = (batch for step in stream.train_batches() for batch in step)
    read = [torch.as_tensor(batch["image"]) for batch in islice(batches, -(-images // micro))]
    return rearrange(from_levels(torch.cat(read)[:images]), "b c h w -> (b h w) c")


def _squared_error(palette: Palette, pixels: Tensor) -> float:
    """The mean over (N, 3) pixels and their channels of the squared distance to the color that stands for each."""
    total = 0.0
    for part in torch.split(pixels, ROWS):
        grid = part.T[None, :, None]
        total += float((palette(grid).reconstruction - grid).double().square().sum())
    return total / pixels.numel()
