"""One sample as it goes into a shard: read, checked to the last pixel, re-encoded only where it is to be smaller."""

import io
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..images import seekable_jpeg, tiled_tiff
from ..images.decode import (
    LARGEST,
    Pixels,
    decode_float_png,
    decode_map,
    decode_numbers,
    decode_stored,
    measure,
    min_max_normalized,
    open_image,
    oriented,
)
from ..images.geometry import Measured
from ..images.modes import gray_16, rgb
from ..images.resize import antialiased
from ..images.shortest_side import reduced_depth, reduced_labels, reduced_size, scaled_size
from ..shards.folder_walk import escaped
from ..shards.writer import Sample
from .find_images import RawSample
from .source_file import SourceFile, read_file

DepthForm = Literal["stored", "min_max", "float_png"]
_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # other formats become PNG
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # what PNG holds without a loss
_QUALITY = 95  # of JPEGs that are made smaller, with color at every pixel
_LARGE = 3 * 500_000  # numbers of an image, of three channels, from which on its parts can be read alone


class UnusableError(Exception):
    """A sample cannot be packed; the text says why."""


class Stored(NamedTuple):
    """A file as it goes into a tar."""

    extension: str
    data: bytes
    layout: bytes = b""  # where its parts lie, if they can be read alone


class _Image(NamedTuple):
    """An image as it goes into a tar."""

    source: Measured  # as it was
    measured: Measured  # as it is stored
    stored: Stored


def prepare(source: RawSample, minimum_side: int, depth: DepthForm = "stored", side: int = 0) -> Sample:
    """The members of a sample.

    Args:
        source: its files.
        minimum_side: images with a shorter side are refused, in pixels.
        depth: what becomes of its depth map: "stored" keeps the file, "min_max" brings its numbers to [0, 1] by the
            smallest and the largest of them, "float_png" does so with an RGBA PNG of float32 bits.
        side: the shortest side to which larger images are brought, with what belongs to them; 0 leaves them alone.

    Raises:
        UnusableError: a file cannot be read or decoded, is too small, or does not fit the others.
    """
    image = source.files["image"]
    data = _bytes_of(image)
    made = _image(_of_array(data) if image.suffix == ".npy" else data, minimum_side, side)
    stored = [made.stored]
    for field, path in source.files.items():
        if field != "image":
            stored.append(_aligned(field, path, _bytes_of(path), made, depth, source.map_shift))
    if source.label is not None:
        stored.append(Stored("cls", str(source.label).encode()))
    members = {member.extension: member.data for member in stored}
    if source.objects is not None:
        try:
            members |= source.objects.members(made.source, made.measured)
        except ValueError as error:
            raise UnusableError(str(error)) from None
    return Sample(source.key, members, made.measured, {member.extension: member.layout for member in stored})


def is_whole(sample: Sample) -> bool:
    """Whether a sample holds a large JPEG whose parts cannot be decoded alone."""
    pixels = sample.measured.height * sample.measured.width * 3
    return pixels >= _LARGE and "jpg" in sample.members and not sample.layouts.get("jpg")


def is_reduced(sample: Sample, side: int) -> bool:
    """Whether a sample's image may have been made smaller: it has the shortest side that was asked for."""
    return bool(side) and min(sample.measured[:2]) == side


def _image(data: bytes, minimum_side: int, side: int) -> _Image:
    try:
        measured = measure(data)
        if min(measured.height, measured.width) < minimum_side:
            raise UnusableError(f"its sides of {measured.width} x {measured.height} must be at least {minimum_side}")
        pixels = decode_stored(data)  # a damaged file may have a sound header
    except UnusableError:
        raise
    except UnidentifiedImageError:
        raise UnusableError("is not an image") from None
    except Exception as error:  # decoders raise whatever the damage leads them to
        raise UnusableError(f"cannot be decoded: {type(error).__name__}: {error}") from error
    with open_image(data, header_only=True) as opened:
        extension = _KEPT.get(opened.format or "")
    size = reduced_size(measured.height, measured.width, side)
    if size != measured[:2]:
        return _Image(measured, Measured(*size), _reduced(extension, oriented(pixels, measured.orientation), size))
    if extension is None:
        return _Image(measured, measured, Stored("png", _png(data)))
    if extension == "jpg" and pixels.size >= _LARGE:
        return _Image(measured, measured, _seekable(data, pixels, measured.orientation))
    return _Image(measured, measured, Stored(extension, data))


def _reduced(extension: str | None, pixels: Pixels, size: tuple[int, int]) -> Stored:
    """A smaller image by Lanczos, upright: a JPEG of a JPEG, else a PNG."""
    smaller = antialiased(np.ascontiguousarray(pixels), size)
    if extension != "jpg":
        return Stored("png", _saved(Image.fromarray(smaller)))
    packed = io.BytesIO()
    Image.fromarray(smaller).save(packed, "JPEG", quality=_QUALITY, subsampling=0)
    data = packed.getvalue()
    return _seekable(data, decode_stored(data), 1) if smaller.size >= _LARGE else Stored("jpg", data)


def _seekable(data: bytes, pixels: Pixels, orientation: int) -> Stored:
    """A JPEG whose parts can be decoded alone, of the same pixels; the original where that cannot be had."""
    rewritten = seekable_jpeg.seekable(data)
    if rewritten is None or not np.array_equal(decode_stored(rewritten), pixels):
        return Stored("jpg", data)
    if orientation != 1:
        rewritten = seekable_jpeg.with_orientation(rewritten, orientation)
    layout = seekable_jpeg.layout_of(rewritten)
    return Stored("jpg", rewritten, layout.to_bytes()) if layout else Stored("jpg", data)


def _aligned(field: str, path: SourceFile, data: bytes, image: _Image, depth: DepthForm, map_shift: int) -> Stored:
    """A map or depth of an image, of the same proportions; a large one in tiles."""
    measured, reduced = image.source, image.measured[:2] != image.source[:2]
    shifted = field == "segmentation" and map_shift != 0
    normalized = field == "depth" and depth != "stored"
    try:
        if field == "segmentation":
            numbers = _shifted(decode_map(data), map_shift) if shifted else decode_map(data)
        else:
            numbers = decode_float_png(data) if depth == "float_png" else decode_numbers(data)
        height, width = numbers.shape
        numbers = _scaled(field, numbers, image) if reduced else numbers
        numbers = min_max_normalized(numbers) if normalized else numbers
    except Exception as error:  # decoders raise whatever the damage leads them to
        raise UnusableError(f"its {field} cannot be used: {type(error).__name__}: {error}") from error
    if abs(height * measured.width - width * measured.height) > max(measured.height, measured.width):
        raise UnusableError(
            f"its {field} of {width} x {height} has other proportions than its image of "
            f"{measured.width} x {measured.height}"
        )
    if numbers.size * 3 >= _LARGE and numbers.dtype.newbyteorder("<").str in tiled_tiff.TYPES:
        packed, layout = tiled_tiff.tiled(numbers)
        return Stored(f"{field}.tif", packed, layout.to_bytes())
    if normalized or (reduced and numbers.dtype.kind == "f"):
        return Stored(f"{field}.npy", _npy(numbers))
    if shifted or reduced:
        return Stored(f"{field}.png", _saved(Image.fromarray(numbers)))
    return Stored(f"{field}{path.suffix.lower().replace('.tiff', '.tif')}", data)


def _scaled(field: str, numbers: Pixels, image: _Image) -> Pixels:
    """A map or depth as much smaller as its image has become."""
    height, width = numbers.shape
    size = scaled_size((height, width), image.source[:2], image.measured[:2])
    if field == "depth":
        return reduced_depth(numbers, size)
    smaller = reduced_labels(numbers, size)
    if smaller.dtype not in (np.uint8, np.uint16):
        if smaller.min() < 0 or smaller.max() >= 1 << 16:
            raise ValueError(f"labels from {smaller.min()} to {smaller.max()} have no PNG to be stored smaller in")
        smaller = smaller.astype(np.uint16)
    return smaller


def _npy(numbers: Pixels) -> bytes:
    packed = io.BytesIO()
    np.save(packed, numbers, allow_pickle=False)
    return packed.getvalue()


def _png(data: bytes) -> bytes:
    """The same pixels as PNG, for formats that WebDataset's decoders do not know."""
    with open_image(data) as image:
        packed = io.BytesIO()
        if image.mode.startswith("I"):
            Image.fromarray(gray_16(image)).save(packed, "PNG")
        elif image.mode in _PNG_MODES:
            image.save(packed, "PNG")
        else:  # CMYK and others, as they would become when they are read
            Image.fromarray(rgb(image)).save(packed, "PNG")
    return packed.getvalue()


def _shifted(labels: Pixels, shift: int) -> Pixels:
    """8-bit labels plus a number, modulo 256: with 1, the 255 of places without a label becomes 0."""
    if labels.dtype != np.uint8:
        raise ValueError(f"labels that are shifted have 8 bits, these are {labels.dtype}")
    return np.asarray(labels + np.uint8(shift % 256))


def _of_array(data: bytes) -> bytes:
    """A PNG of the pixels in a ``.npy`` file, (3, H, W) or (1, 3, H, W) uint8, as CelebA-HQ's are."""
    try:
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # damage leads numpy to all sorts of errors
        raise UnusableError(f"cannot be decoded: {type(error).__name__}: {error}") from error
    pixels = pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels
    if pixels.ndim != 3 or len(pixels) != 3 or pixels.dtype != np.uint8:
        raise UnusableError(f"an image as an array is uint8 (3, H, W), this is {pixels.dtype} {pixels.shape}")
    return _saved(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))


def _saved(image: Image.Image) -> bytes:
    packed = io.BytesIO()
    image.save(packed, "PNG")
    return packed.getvalue()


def _bytes_of(path: SourceFile) -> bytes:
    try:
        return read_file(path, LARGEST)
    except OSError as error:
        raise UnusableError(f"cannot be read: {escaped(str(error))}") from error
