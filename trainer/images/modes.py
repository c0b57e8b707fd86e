"""What the numbers of an image file mean, for every mode that Pillow opens: docs/data.md has the table.

Shapes: H rows and W columns of the image as Pillow gives it.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[Any]

BACKGROUND = (255, 255, 255)  # what transparent images are composed over
WHITE_16 = (1 << 16) - 1
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8
_LOSSLESS = ("PNG", "TIFF", "GIF", "BMP", "DIB")  # formats of maps: they keep every number


def rgb(image: Image.Image) -> Pixels:
    """(H, W, 3) uint8 RGB of an image of any mode, as a viewer on a white page shows it.

    16-bit gray is scaled to 8 bits and rounded; what is transparent is composed over ``BACKGROUND``.

    Raises:
        ValueError: the numbers have no known range, as of floating point or 32 bits, or the colors are CIE L*a*b*.
    """
    if image.mode.startswith("I"):
        gray = gray_16(image)
        levels = ((gray.astype(np.uint32) * 255 + WHITE_16 // 2) // WHITE_16).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            levels[np.asarray(image) == transparent] = BACKGROUND[0]
        return np.repeat(levels[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("an image of floating-point numbers has no known white; save it with 8 or 16 bits")
    if image.mode == "LAB":
        raise ValueError("an image in CIE L*a*b* is not read; save it as RGB")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    page = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return np.asarray(Image.alpha_composite(page, image.convert("RGBA")).convert("RGB"))


def gray_16(image: Image.Image) -> Pixels:
    """(H, W) uint16 of a gray image of more than 8 bits, 65535 being white.

    Raises:
        ValueError: it has 32 bits, so that nobody knows which number is white.
    """
    numbers = np.asarray(image)
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # these have 16 bits at most
        raise ValueError(
            f"gray values of 32 bits, here {numbers.min()} to {numbers.max()}, have no known white; save it with 8 or "
            "16 bits"
        )
    gray = numbers.astype(np.uint32)
    bits = _tiff_tag(image, _BITS, 16)
    if bits == 12:
        white = (1 << bits) - 1
        gray = (gray * WHITE_16 + white // 2) // white
    if _tiff_tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO:  # Pillow turns those of 8 bits itself
        gray = WHITE_16 - gray
    return gray.astype(np.uint16)


def labels(image: Image.Image) -> Pixels:
    """(H, W) whole numbers of a map as they are in the file; of a palette image, the numbers of its entries.

    Pillow scales gray of 1, 2 and 4 bits to 8, and turns around what has white at zero; here that is undone.

    Raises:
        ValueError: it has several channels or fractions, or its format loses some of the numbers.
    """
    form = image.format
    if form not in _LOSSLESS:
        raise ValueError(f"a map must be in a format that keeps every number ({', '.join(_LOSSLESS)}), this is {form}")
    bits = _gray_bits(image)
    numbers = np.asarray(image)
    if numbers.ndim != 2 or numbers.dtype.kind not in "uib":
        raise ValueError(f"a map has one channel of whole numbers, this one is {image.mode} of {numbers.dtype}")
    if numbers.dtype.kind == "b":
        numbers = numbers.astype(np.uint8)
        highest = 1
    else:
        numbers = numbers.astype(numbers.dtype.newbyteorder("="))
        highest = 255
    if image.mode in ("1", "L") and _tiff_tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO:
        numbers = highest - numbers
    return numbers // (255 // ((1 << bits) - 1)) if image.mode == "L" and bits in (2, 4) else numbers


def depth_numbers(image: Image.Image) -> Pixels:
    """(H, W) numbers of a depth map: uint8 or uint16, whose largest is 1, or float32.

    Raises:
        ValueError: it has several channels, or whole numbers of 32 bits.
    """
    if image.mode.startswith("I"):
        return gray_16(image)
    numbers = np.asarray(image)
    if numbers.ndim != 2:
        raise ValueError(f"a depth map has one channel, this one is {image.mode}")
    return numbers


def _gray_bits(image: Image.Image) -> int:
    """Bits of a gray pixel in the file."""
    if image.format == "PNG":
        raw = {str(tile[3]) for tile in getattr(image, "tile", ())}  # there until the pixels are decoded
        return 2 if "L;2" in raw else 4 if "L;4" in raw else 8
    return _tiff_tag(image, _BITS, 8)


def _tiff_tag(image: Image.Image, tag: int, usual: int) -> int:
    """The first number of a tag of a TIFF; ``usual`` where it has none, or for other formats."""
    value = getattr(image, "tag_v2", {}).get(tag, usual)
    return int(value[0] if isinstance(value, tuple) else value)
