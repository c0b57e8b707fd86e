"""Images and label maps as bytes and as arrays."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..files import check_regular, head
from .geometry import Measured, Region
from .modes import Pixels as Pixels
from .modes import depth_numbers, labels, rgb, rgba

try:
    import simplejpeg
except ImportError:  # an extra of the package: the same pixels, more slowly
    simplejpeg = None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM")
LARGEST = 1 << 32  # bytes of a file
MAX_PIXELS = 1 << 30  # decoded at once; 4 GiB inside Pillow
_LARGE = 1 << 28  # pixels above which a file's own size must be in some proportion to them
_PIXELS_PER_BYTE = 1 << 14  # twice what deflate can do with one bit a pixel
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how one begins
_NUMPY = b"\x93NUMPY"  # how a .npy file begins
Image.MAX_IMAGE_PIXELS = None  # 179 megapixels are less than a panorama, and than we sample: open_image has a limit

_ORIENTATION = ExifTags.Base.Orientation
_TURNS = {  # EXIF orientation: (rows and columns exchanged first, then upside down, then mirrored)
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def open_image(source: bytes | Path, header_only: bool = False) -> Image.Image:
    """An image, not yet decoded. All image files are opened here.

    Only the decoders of ``FORMATS`` see the bytes, whatever the file is called: some others of Pillow start programs
    (PostScript goes to Ghostscript).

    Args:
        source: the bytes of a file, or its path.
        header_only: the image will not be decoded, so that it may be of any size.

    Raises:
        OSError: the file cannot be read, or is no image of these formats.
        ValueError: the image has too many pixels to be decoded, or is a TIFF of a kind that is not read.
    """
    try:
        if not isinstance(source, bytes):
            check_regular(source)  # Pillow would wait for the writer of a named pipe
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError:  # whose text has an address in memory
        first = source[:4] if isinstance(source, bytes) else head(source)[:4]
        if first in _TIFF:
            raise ValueError(
                "a TIFF that is damaged, or of numbers or channels that are not read; save it with 8 or 16 bits"
            ) from None
        raise UnidentifiedImageError(f"not an image of a format that is read ({', '.join(FORMATS)})") from None
    if not header_only:
        try:
            _check_pixels(*image.size, len(source) if isinstance(source, bytes) else source.stat().st_size)
        except ValueError:
            image.close()
            raise
    return image


def _check_pixels(width: int, height: int, file_bytes: int) -> None:
    """Refuses, before it is decoded, an image that would take all memory."""
    pixels = width * height
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"{width} x {height} pixels are more than the {MAX_PIXELS} that are decoded at once; cut or scale it first"
        )
    if pixels > _LARGE and pixels > file_bytes * _PIXELS_PER_BYTE:
        raise ValueError(
            f"{width} x {height} pixels cannot be in a file of {file_bytes} bytes: it is damaged or a bomb"
        )


def measure(data: bytes) -> Measured:
    """The size of an image, from its header alone.

    Raises:
        OSError: these are not the bytes of an image.
        ValueError: it is a PNG of too many pixels; Pillow decodes one to look for EXIF behind its pixels.
    """
    with open_image(data, header_only=not data.startswith(b"\x89PNG")) as image:
        turned_by_pillow = image.format == "TIFF"  # in its size at once, in its pixels when they are decoded
        orientation = 1 if turned_by_pillow else int(image.getexif().get(_ORIENTATION, 1))
        width, height = image.size
    orientation = orientation if orientation in _TURNS else 1
    if _TURNS[orientation][0]:
        width, height = height, width
    return Measured(height, width, orientation)


def decode_image(data: bytes) -> Pixels:
    """(H, W, 3) uint8 RGB of an image, upright, of any mode that ``modes.rgb`` knows.

    Raises:
        OSError, ValueError, SyntaxError: the bytes are damaged or not an image.
    """
    return oriented(decode_stored(data), measure(data).orientation)


def decode_with_alpha(data: bytes) -> Pixels:
    """(H, W, 4) uint8 RGB and alpha of an image, upright, of any mode that ``modes.rgb`` knows.

    Raises:
        OSError, ValueError, SyntaxError: the bytes are damaged or not an image.
    """
    with open_image(data) as image:
        return oriented(rgba(image), measure(data).orientation)


def decode_stored(data: bytes, strict: bool = True, shrink: int = 1) -> Pixels:
    """(H, W, 3) uint8 RGB of an image as it is stored, before any EXIF orientation.

    JPEGs go through simplejpeg where it is installed, which takes half the time for the same pixels.

    Args:
        data: of the file.
        strict: False overlooks bytes that follow the last row.
        shrink: 2, 4 or 8 decodes a JPEG to ceil(H / shrink) x ceil(W / shrink), from its low frequencies.

    Raises:
        OSError, ValueError, SyntaxError: the bytes are damaged or not an image.
    """
    if simplejpeg is not None and data[:2] == b"\xff\xd8":
        with suppress(ValueError):  # four channels, or damage: Pillow decides
            return _decode_fast(data, strict, shrink)
    with open_image(data) as image:
        if shrink > 1:
            image.draft("RGB", (image.width // shrink, image.height // shrink))
        return rgb(image)


def _decode_fast(data: bytes, strict: bool, shrink: int) -> Pixels:
    height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=strict)
    _check_pixels(width // shrink, height // shrink, len(data))
    if shrink == 1:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", strict=strict))
    smallest = -(-height // shrink), -(-width // shrink)  # it takes the strongest reduction that is not below
    return np.asarray(simplejpeg.decode_jpeg(data, "RGB", False, False, *smallest, strict=strict))


def oriented(pixels: Pixels, orientation: int) -> Pixels:
    """Pixels as they are to be seen, from pixels as they are stored, for an EXIF orientation."""
    transposed, upside_down, mirrored = _TURNS[orientation]
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def stored_region(region: Region, height: int, width: int, orientation: int) -> Region:
    """Where a region of the upright image of ``height`` x ``width`` lies in the image as it is stored."""
    transposed, upside_down, mirrored = _TURNS[orientation]
    left, top, right, bottom = region
    if upside_down:
        top, bottom = height - bottom, height - top
    if mirrored:
        left, right = width - right, width - left
    return Region(top, left, bottom, right) if transposed else Region(left, top, right, bottom)


def upright_region(stored: Region, height: int, width: int, orientation: int) -> Region:
    """Where a region of the image as it is stored lies in the upright one of ``height`` x ``width``."""
    transposed, upside_down, mirrored = _TURNS[orientation]
    left, top, right, bottom = (stored.top, stored.left, stored.bottom, stored.right) if transposed else stored
    if upside_down:
        top, bottom = height - bottom, height - top
    if mirrored:
        left, right = width - right, width - left
    return Region(left, top, right, bottom)


def decode_map(data: bytes) -> Pixels:
    """(H, W) labels of a map, upright: the numbers in the file, for a palette image those of the palette's entries.

    Raises:
        OSError, SyntaxError: the bytes are damaged or not an image.
        ValueError: the image has several channels, or a format that does not keep numbers.
    """
    with open_image(data) as image:
        return oriented(labels(image), measure(data).orientation)


def decode_depth(data: bytes) -> Pixels:
    """(H, W) float32 depth: whole numbers are scaled to [0, 1] by their type's largest, others taken as they are.

    Raises:
        OSError, SyntaxError: the bytes are damaged or not an image.
        ValueError: there are several channels.
    """
    return scaled_depth(decode_numbers(data))


def decode_numbers(data: bytes) -> Pixels:
    """(H, W) numbers of a depth map, upright: uint8 or uint16, whose largest is 1, or floating point."""
    if not data.startswith(_NUMPY):
        with open_image(data) as image:
            depth = oriented(depth_numbers(image), measure(data).orientation)
    else:
        depth = np.load(io.BytesIO(data), allow_pickle=False)
        if depth.ndim != 2 or depth.dtype.kind not in "uifb":
            raise ValueError(
                f"a depth map is a matrix of numbers, this one is {depth.dtype} of the shape {depth.shape}"
            )
        if depth.dtype.kind in "ui" and depth.dtype not in (np.uint8, np.uint16):
            depth = _as_16_bits(depth)
    if depth.dtype.kind == "f" and not np.isfinite(depth).all():
        raise ValueError("a depth map has numbers that are not finite; write 0 or another depth there")
    return np.asarray(depth)


def decode_float_png(data: bytes) -> Pixels:
    """(H, W) float32 numbers of an RGBA PNG whose four bytes a pixel are the bits of one, as taming-transformers reads.

    Raises:
        OSError, SyntaxError: the bytes are damaged or not an image.
        ValueError: the image is no RGBA PNG, or holds a number that is not finite.
    """
    with open_image(data) as image:
        if image.format != "PNG" or image.mode != "RGBA":
            raise ValueError(f"depth in the bits of colors is an RGBA PNG, this is {image.format} of {image.mode}")
        bits = oriented(np.asarray(image), measure(data).orientation)
    depth = np.ascontiguousarray(bits).view("<f4")[..., 0]
    if not np.isfinite(depth).all():
        raise ValueError("the colors are not the bits of finite numbers; is this an ordinary image?")
    return np.asarray(depth)


def min_max_normalized(depth: Pixels) -> Pixels:
    """(H, W) float32 depth from 0, the smallest of the numbers, to 1, the largest; all 0 where they are equal."""
    numbers = depth.astype(np.float32)
    return np.asarray((numbers - numbers.min()) / max(numbers.max() - numbers.min(), np.float32(1e-8)), np.float32)


def _as_16_bits(depth: Pixels) -> Pixels:
    if depth.size and (depth.dtype.itemsize == 1 or not 0 <= depth.min() <= depth.max() < 1 << 16):
        raise ValueError(
            f"depths from {depth.min()} to {depth.max()} in {depth.dtype} have no known largest; save them as uint16, "
            "or as floating-point numbers between 0 and 1"
        )
    return depth.astype(np.uint16)


def size_of_numbers(data: bytes) -> tuple[int, int]:
    """(H, W) of a map or depth, upright.

    Raises:
        OSError, ValueError: the bytes are damaged, or no matrix.
    """
    if not data.startswith(_NUMPY):
        return measure(data)[:2]
    height, width = np.load(io.BytesIO(data), allow_pickle=False).shape
    return height, width


def scaled_depth(depth: Pixels) -> Pixels:
    """Numbers of a depth map as float32."""
    scale = float(np.iinfo(depth.dtype).max) if depth.dtype.kind in "ui" else 1.0
    return np.asarray(depth / scale, dtype=np.float32)
