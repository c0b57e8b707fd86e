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
# TIFF 6.0, section 8 and 19
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339
_WHITE_IS_ZERO, _APART, _SIGNED = 0, 2, 2
_LOSSLESS = ("PNG", "TIFF", "GIF", "BMP", "DIB")  # formats of maps: they keep every number


def rgb(image: Image.Image) -> Pixels:
    """(H, W, 3) uint8 RGB of an image of any mode, as a viewer on a white page shows it.

    16-bit gray is scaled to 8 bits and rounded; what is transparent is composed over ``BACKGROUND``.

    Raises:
        ValueError: the numbers have no known range, as of floating point or 32 bits, or the colors are CIE L*a*b*.
    """
    colors = _colors(image)
    if colors.mode == "RGB":
        return np.asarray(colors)
    page = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return np.asarray(Image.alpha_composite(page, colors).convert("RGB"))


def rgba(image: Image.Image) -> Pixels:
    """(H, W, 4) uint8 RGB and alpha of an image of any mode; the colors are not multiplied by alpha.

    Raises:
        ValueError: as of ``rgb``.
    """
    return np.asarray(_colors(image).convert("RGBA"))


def _colors(image: Image.Image) -> Image.Image:
    """An image in RGB or, where it says anything of transparency, in RGBA."""
    if image.mode.startswith("I"):
        return _colors_of_16_bits(image)
    if image.mode == "F":
        raise ValueError("an image of floating-point numbers has no known white; save it with 8 or 16 bits")
    if image.mode == "LAB":
        raise ValueError("an image in CIE L*a*b* is not read; save it as RGB")
    _check_samples(image)
    if _tiff_tag(image, _SAMPLE_FORMAT, 1) == _SIGNED:
        raise ValueError("signed numbers of 8 bits have no known white; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    transparent = image.info.get("transparency")
    if image.mode == "L" and isinstance(transparent, int):  # in the bits of the file, where Pillow scales the pixels
        image.info["transparency"] = transparent * (255 // ((1 << _gray_bits(image)) - 1))
    if "RGB;16B" in _raw_modes(image):  # decoded to 8 bits, in which other colors may be equal to the transparent one
        raise ValueError("a transparent color among colors of 16 bits is not read; save it with alpha, or with 8 bits")
    return image.convert("RGBA")


def _colors_of_16_bits(image: Image.Image) -> Image.Image:
    levels = ((gray_16(image).astype(np.uint32) * 255 + WHITE_16 // 2) // WHITE_16).astype(np.uint8)
    gray = Image.fromarray(levels)
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return gray.convert("RGB")
    alpha = np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)
    return Image.merge("RGBA", (gray, gray, gray, Image.fromarray(alpha)))


def _check_samples(image: Image.Image) -> None:
    """Refuse a TIFF that Pillow would read as another image, without a word."""
    apart = _tiff_tag(image, _PLANES, 1) == _APART and _tiff_tag(image, _BITS, 8) == 16
    if apart and any(tile[0] == "raw" for tile in getattr(image, "tile", ())):
        raise ValueError("a TIFF of 16 bits whose channels lie apart is not read; save it in one plane, or with 8 bits")


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
    numbers = _whole_numbers(image)
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


def _whole_numbers(image: Image.Image) -> Pixels:
    """The numbers of an image of one channel; Pillow takes signed ones of 8 bits and unsigned ones of 32 for others."""
    signed = _tiff_tag(image, _SAMPLE_FORMAT, 1) == _SIGNED
    wide = _tiff_tag(image, _BITS, 8) == 32
    numbers = np.asarray(image)
    if image.mode == "L" and signed:
        return numbers.view(np.int8)
    return numbers.view(np.uint32).astype(np.int64) if image.mode == "I" and wide and not signed else numbers


def depth_numbers(image: Image.Image) -> Pixels:
    """(H, W) numbers of a depth map: uint8 or uint16, whose largest is 1, or float32.

    Raises:
        ValueError: it has several channels or a palette, or whole numbers of 32 bits or with a sign.
    """
    if image.mode.startswith("I"):
        return gray_16(image)
    if image.mode not in ("1", "L", "F"):
        what = "a palette of colors" if image.mode == "P" else image.mode
        raise ValueError(f"a depth map has one channel, this one is {what}")
    if image.mode == "L" and _tiff_tag(image, _SAMPLE_FORMAT, 1) == _SIGNED:
        raise ValueError("depths in signed numbers of 8 bits have no known largest; save them without a sign")
    return np.asarray(image)


def _raw_modes(image: Image.Image) -> set[str]:
    """How the pixels of a PNG lie in the file; known until they are decoded."""
    return {str(tile[3]) for tile in getattr(image, "tile", ())} if image.format == "PNG" else set()


def _gray_bits(image: Image.Image) -> int:
    """Bits of a gray pixel in the file."""
    if image.format == "PNG":
        raw = _raw_modes(image)
        return 2 if "L;2" in raw else 4 if "L;4" in raw else 8
    return _tiff_tag(image, _BITS, 8)


def _tiff_tag(image: Image.Image, tag: int, usual: int) -> int:
    """The first number of a tag of a TIFF; ``usual`` where it has none, or for other formats."""
    value = getattr(image, "tag_v2", {}).get(tag, usual)
    return int(value[0] if isinstance(value, tuple) else value)
