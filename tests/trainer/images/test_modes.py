"""Every mode, depth and orientation of an image file, against the arithmetic of docs/data.md in plain numpy."""

import colorsys
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smalti.trainer.images import decode, modes
from smalti.trainer.prepare.check_image import UnusableError, prepare
from smalti.trainer.prepare.find_images import RawSample

H, W = 8, 6
DRAWS = np.random.default_rng(0)
GRAY = DRAWS.integers(0, 256, (H, W), np.uint8)
COLOR = DRAWS.integers(0, 256, (H, W, 3), np.uint8)
ALPHA = DRAWS.integers(0, 256, (H, W), np.uint8)
WIDE = DRAWS.integers(0, 1 << 16, (H, W), np.uint16)
WIDE3 = np.random.default_rng(1).integers(0, 1 << 16, (H, W, 3), np.uint16)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    packed = io.BytesIO()
    image.save(packed, kind, **options)
    return packed.getvalue()


def over_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(np.float64) / 255
    return color * share + 255 * (1 - share)


def gray3(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, 2)


def png(bits: int, color: int, rows: list[bytes], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by the specification, for depths that Pillow does not write."""
    head = struct.pack(">IIBBBBB", W, H, bits, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def tiff(bits: int, photometric: int, data: bytes, sample_format: int = 1) -> bytes:
    """A gray TIFF of one strip, by the specification."""
    tags = [(256, 4, W), (257, 4, H), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1)]
    tags += [(278, 4, H), (279, 4, len(data)), (339, 3, sample_format)]
    table = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHI", tag, kind, 1) + (struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value))
        for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + bytes(4)


def tiff_of_channels(numbers: np.ndarray, extra: tuple[int, ...] = (), apart: bool = False) -> bytes:
    """A TIFF of (H, W, C) colors, by the specification: channels in turn or, if apart, one behind the other."""
    channels = numbers.shape[2]
    data = numbers.transpose(2, 0, 1).tobytes() if apart else numbers.tobytes()
    pieces = channels if apart else 1
    size = len(data) // pieces
    shorts = {258: (8 * numbers.itemsize,) * channels, 259: (1,), 262: (2,), 277: (channels,), 284: (1 + apart,)}
    shorts |= {338: extra} if extra else {}
    longs = {256: (W,), 257: (H,), 273: tuple(8 + piece * size for piece in range(pieces)), 278: (H,),
             279: (size,) * pieces}  # fmt: skip
    rows, behind, place = [], b"", 8 + len(data) + 2 + 12 * (len(shorts) + len(longs)) + 4
    for tag in sorted({**shorts, **longs}):
        values = (shorts | longs)[tag]
        packed = np.array(values, "<u2" if tag in shorts else "<u4").tobytes()
        rows.append(struct.pack("<HHI", tag, 3 if tag in shorts else 4, len(values)))
        if len(packed) <= 4:
            rows.append(packed.ljust(4, b"\0"))
        else:
            rows.append(struct.pack("<I", place + len(behind)))
            behind += packed
    table = struct.pack("<H", len(shorts) + len(longs)) + b"".join(rows) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + behind


def pnm(maxval: int, numbers: np.ndarray) -> bytes:
    """A PGM or PPM whose largest number is white."""
    head = b"P%d %d %d %d\n" % (5 if numbers.ndim == 2 else 6, W, H, maxval)
    return head + numbers.astype(">u2" if maxval > 255 else "u1").tobytes()


def bmp(alpha_mask: int) -> bytes:
    """A BMP of 32 bits with a head of version 5, by the specification."""
    pixels = np.dstack((COLOR[..., ::-1], ALPHA)).tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, W, -H, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    head = (head + struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, alpha_mask)).ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def packed_bits(numbers: np.ndarray, bits: int) -> list[bytes]:
    """Rows of numbers of less than 8, or of 12, bits, the first in the highest."""
    planes = (numbers[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(row.reshape(-1)).tobytes() for row in planes.astype(np.uint8)]


def palette_image(entries: np.ndarray, colors: np.ndarray) -> Image.Image:
    image = Image.fromarray(entries, "P")
    image.putpalette(colors.astype(np.uint8).tobytes())
    return image


COLORS = DRAWS.integers(0, 256, (16, 3), np.uint8)
ENTRIES = DRAWS.integers(0, 16, (H, W), np.uint8)
SOLID = np.where(ENTRIES[..., None] == 3, 255, COLORS[ENTRIES])
BITS = (GRAY > 127).astype(np.uint8)
RGBA = Image.fromarray(np.dstack((COLOR, ALPHA)))
LA = Image.merge("LA", (Image.fromarray(GRAY), Image.fromarray(ALPHA)))
CMYK = DRAWS.integers(0, 256, (H, W, 4), np.uint8)
FROM_CMYK = (255 - CMYK[..., :3].astype(float)) * (255 - CMYK[..., 3:].astype(float)) / 255
PROFILE = b"a color profile" * 9

IMAGES: dict[str, tuple[bytes, np.ndarray, float]] = {  # file, what is right, levels by which it may differ
    "1, PNG": (saved(Image.fromarray(BITS * 255).convert("1"), "PNG"), gray3(BITS * 255), 0),
    "1, TIFF": (saved(Image.fromarray(BITS * 255).convert("1"), "TIFF"), gray3(BITS * 255), 0),
    "1, BMP": (saved(Image.fromarray(BITS * 255).convert("1"), "BMP"), gray3(BITS * 255), 0),
    "1 with white at zero, TIFF": (tiff(1, 0, b"".join(packed_bits(BITS, 1))), gray3((1 - BITS) * 255), 0),
    "gray of 2 bits, PNG": (png(2, 0, packed_bits(GRAY >> 6, 2)), gray3((GRAY >> 6) * 85), 0),
    "gray of 4 bits, PNG": (png(4, 0, packed_bits(GRAY >> 4, 4)), gray3((GRAY >> 4) * 17), 0),
    "L, PNG": (saved(Image.fromarray(GRAY), "PNG"), gray3(GRAY), 0),
    "L, TIFF": (saved(Image.fromarray(GRAY), "TIFF"), gray3(GRAY), 0),
    "L, PGM": (saved(Image.fromarray(GRAY), "PPM"), gray3(GRAY), 0),
    "L with white at zero, TIFF": (tiff(8, 0, GRAY.tobytes()), gray3(255 - GRAY), 0),
    "L with a transparent gray, PNG": (
        saved(Image.fromarray(GRAY), "PNG", transparency=int(GRAY[0, 0])),
        gray3(np.where(GRAY[0, 0] == GRAY, 255, GRAY)),
        0,
    ),
    "LA, PNG": (saved(LA, "PNG"), over_white(gray3(GRAY), ALPHA), 1),
    "P, PNG": (saved(palette_image(ENTRIES, COLORS), "PNG"), COLORS[ENTRIES], 0),
    "P, BMP": (saved(palette_image(ENTRIES, COLORS), "BMP"), COLORS[ENTRIES], 0),
    "P, GIF": (saved(palette_image(ENTRIES, COLORS), "GIF"), COLORS[ENTRIES], 0),
    "P, TIFF": (saved(palette_image(ENTRIES, COLORS), "TIFF"), COLORS[ENTRIES], 0),
    **{
        f"P of {bits} bits, PNG": (
            png(bits, 3, packed_bits(ENTRIES % 2**bits, bits), (b"PLTE", COLORS[: 2**bits].tobytes())),
            COLORS[ENTRIES % 2**bits],
            0,
        )
        for bits in (1, 2, 4)
    },
    "P with a transparent entry, PNG": (saved(palette_image(ENTRIES, COLORS), "PNG", transparency=3), SOLID, 0),
    "P with a transparent entry, GIF": (saved(palette_image(ENTRIES, COLORS), "GIF", transparency=3), SOLID, 0),
    "P with an alpha for each entry, PNG": (
        saved(palette_image(ENTRIES, COLORS), "PNG", transparency=bytes(range(0, 256, 16))),
        over_white(COLORS[ENTRIES], ENTRIES * 16),
        1,
    ),
    "RGB, PNG": (saved(Image.fromarray(COLOR), "PNG"), COLOR, 0),
    "RGB, TIFF": (saved(Image.fromarray(COLOR), "TIFF"), COLOR, 0),
    "RGB, BMP": (saved(Image.fromarray(COLOR), "BMP"), COLOR, 0),
    "RGB, PPM": (saved(Image.fromarray(COLOR), "PPM"), COLOR, 0),
    "RGB, WebP": (saved(Image.fromarray(COLOR), "WEBP", lossless=True), COLOR, 0),
    "RGB with a profile, PNG": (saved(Image.fromarray(COLOR), "PNG", icc_profile=PROFILE), COLOR, 0),
    "RGB with a transparent color, PNG": (
        saved(Image.fromarray(COLOR), "PNG", transparency=tuple(int(c) for c in COLOR[2, 2])),
        np.where((COLOR[2, 2] == COLOR).all(-1, keepdims=True), 255, COLOR),
        0,
    ),
    "RGB of 16 bits, PNG": (
        png(16, 2, [np.dstack((WIDE, WIDE, WIDE))[row].astype(">u2").tobytes() for row in range(H)]),
        gray3(WIDE / 257),
        1,
    ),
    "RGBA, PNG": (saved(RGBA, "PNG"), over_white(COLOR, ALPHA), 1),
    "RGBA, TIFF": (saved(RGBA, "TIFF"), over_white(COLOR, ALPHA), 1),
    "RGBA, WebP": (saved(RGBA, "WEBP", lossless=True, exact=True), over_white(COLOR, ALPHA), 1),
    "RGB and a channel of unknown meaning, TIFF": (tiff_of_channels(np.dstack((COLOR, ALPHA)), (0,)), COLOR, 0),
    "RGBA, premultiplied, TIFF": (
        tiff_of_channels(np.dstack((np.uint8(np.round(COLOR * (ALPHA[..., None] / 255))), ALPHA)), (1,)),
        over_white(COLOR, ALPHA), 2,
    ),
    "RGB in planes, TIFF": (tiff_of_channels(COLOR, apart=True), COLOR, 0),
    "RGB of 16 bits, TIFF": (tiff_of_channels(WIDE3), WIDE3 >> 8, 0),
    "RGBA of 16 bits, PNG": (
        png(16, 6, [np.dstack((WIDE3, WIDE))[row].astype(">u2").tobytes() for row in range(H)]),
        over_white(WIDE3 / 257, WIDE / 257), 2,
    ),
    "LA of 16 bits, PNG": (
        png(16, 4, [np.dstack((WIDE, WIDE3[..., 0]))[row].astype(">u2").tobytes() for row in range(H)]),
        over_white(gray3(WIDE / 257), WIDE3[..., 0] / 257), 2,
    ),
    **{
        f"gray of {bits} bits with a transparent gray, PNG": (
            png(bits, 0, packed_bits(GRAY >> 8 - bits, bits), (b"tRNS", struct.pack(">H", 1))),
            gray3(np.where(GRAY >> 8 - bits == 1, 255, (GRAY >> 8 - bits) * (255 // (2**bits - 1)))), 0,
        )
        for bits in (1, 2, 4, 8)
    },
    **{
        f"gray of up to {white}, PGM": (pnm(white, WIDE % (white + 1)), gray3(WIDE % (white + 1) / white * 255), 1)
        for white in (1, 127, 1000, 4095)
    },
    "RGB of up to 1000, PPM": (pnm(1000, WIDE3 % 1001), WIDE3 % 1001 / 1000 * 255, 1),
    "RGBA, BMP": (bmp(0xFF000000), over_white(COLOR, ALPHA), 1),
    "RGB and a byte that means nothing, BMP": (bmp(0), COLOR, 0),
    "RGB with a gamma, PNG": (
        png(8, 2, [row.tobytes() for row in COLOR], (b"gAMA", struct.pack(">I", 100_000))), COLOR, 0
    ),
    "YCbCr, TIFF": (saved(Image.fromarray(COLOR).convert("YCbCr"), "TIFF"), COLOR, 3),
    "CMYK, TIFF": (saved(Image.fromarray(CMYK, "CMYK"), "TIFF"), FROM_CMYK, 1),
    "I;16, PNG": (saved(Image.fromarray(WIDE), "PNG"), gray3(np.round(WIDE / 257)), 0),
    "I;16, TIFF": (saved(Image.fromarray(WIDE), "TIFF"), gray3(np.round(WIDE / 257)), 0),
    "I;16, PGM": (b"P5 %d %d 65535\n" % (W, H) + WIDE.astype(">u2").tobytes(), gray3(np.round(WIDE / 257)), 0),
    "I;16 with white at zero, TIFF": (
        tiff(16, 0, WIDE.astype("<u2").tobytes()),
        gray3(np.round((65535 - WIDE) / 257)),
        0,
    ),
    "I;16 with a transparent gray, PNG": (
        png(16, 0, [row.astype(">u2").tobytes() for row in WIDE], (b"tRNS", struct.pack(">H", WIDE[1, 1]))),
        gray3(np.where(WIDE[1, 1] == WIDE, 255, np.round(WIDE / 257))),
        0,
    ),
    "I;12, TIFF": (tiff(12, 1, b"".join(packed_bits(WIDE >> 4, 12))), gray3((WIDE >> 4) / 4095 * 255), 1),
    "I;16B, TIFF": (
        b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 9) + b"".join(
            struct.pack(">HHI", tag, kind, 1)
            + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
            for tag, kind, value in [(256, 4, W), (257, 4, H), (258, 3, 16), (259, 3, 1), (262, 3, 1),
                                     (273, 4, 8 + 2 + 9 * 12 + 4), (277, 3, 1), (278, 4, H), (279, 4, WIDE.nbytes)]
        ) + bytes(4) + WIDE.astype(">u2").tobytes(),
        gray3(np.round(WIDE / 257)), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_of_any_mode_is_what_the_table_says(name, tmp_path):
    data, right, slack = IMAGES[name]
    got = decode.decode_image(data)
    assert got.shape == (H, W, 3) and got.dtype == np.uint8
    assert np.abs(got.astype(float) - right).max() <= slack
    file = tmp_path / "image.any"  # and the same once it is packed
    file.write_bytes(data)
    sample = prepare(RawSample("key", {"image": file}), 1)
    (member,) = sample.members.values()
    assert np.array_equal(decode.decode_image(member), got) and sample.measured[:2] == (H, W)


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "PA", "LA", "La", "RGBa", "RGBX"])
def test_modes_that_few_files_have_are_known_too(mode):
    image = LA.convert(mode) if mode in ("LA", "La") else RGBA.convert(mode)
    right: np.ndarray = COLOR
    if mode in ("LA", "La"):
        right = over_white(gray3(GRAY), ALPHA)
    if mode == "RGBa":
        right = over_white(COLOR, ALPHA)
    if mode == "PA":
        right = over_white(np.asarray(image.convert("RGB")), ALPHA)
    numbers = np.asarray(image).astype(float)
    if mode == "HSV":
        right = 255 * np.apply_along_axis(lambda hsv: colorsys.hsv_to_rgb(*hsv), 2, numbers / 255)
    if mode == "YCbCr":  # ITU-R BT.601
        luma, blue, red = numbers[..., 0], numbers[..., 1] - 128, numbers[..., 2] - 128
        green = luma - 0.344136 * blue - 0.714136 * red
        right = np.dstack((luma + 1.402 * red, green, luma + 1.772 * blue)).clip(0, 255)
    slack = 2  # numbers were rounded on the way
    assert np.abs(modes.rgb(image).astype(float) - right).max() <= slack


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (saved(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), "floating-point numbers has no known white"),
        (saved(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), "of 32 bits, here .* have no known white; save"),
        (tiff(16, 1, WIDE.tobytes(), sample_format=2), "of 32 bits"),  # signed: Pillow widens it
        (saved(Image.fromarray(COLOR, "LAB"), "TIFF"), r"L\*a\*b\* is not read; save it as RGB"),
        (tiff(8, 1, GRAY.tobytes(), sample_format=2), "signed numbers of 8 bits have no known white"),
        (tiff(32, 1, WIDE.astype("<u4").tobytes()), "of 32 bits"),
        (tiff(16, 1, WIDE.tobytes(), sample_format=3), "a TIFF that is damaged, or of numbers or channels that are"),
        (tiff_of_channels(WIDE3, apart=True), "of 16 bits whose channels lie apart"),  # Pillow misreads it
        (
            png(16, 2, [row.astype(">u2").tobytes() for row in WIDE3], (b"tRNS", WIDE3[2, 2].astype(">u2").tobytes())),
            "a transparent color among colors of 16 bits is not read",
        ),
    ],
)
def test_numbers_without_a_known_white_are_refused_by_name_and_not_guessed(data, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        decode.decode_image(data)
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(UnusableError, match=said):
        prepare(RawSample("key", {"image": tmp_path / "x.tif"}), 1)


@pytest.mark.parametrize("name", [name for name in IMAGES if "RGB" in name or "transparent" in name or name[0] in "LP"])
def test_colors_and_alpha_compose_to_what_training_sees(name):
    data, right, slack = IMAGES[name]
    pixels = decode.decode_with_alpha(data)
    assert pixels.shape == (H, W, 4)
    assert np.abs(over_white(pixels[..., :3], pixels[..., 3]) - right).max() <= max(slack, 1)


UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "MPO"])
def test_orientations_are_applied_once(kind, orientation, tmp_path):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"WEBP": {"lossless": True}, "MPO": {"save_all": True, "append_images": [Image.fromarray(COLOR[::-1])]}}
    data = saved(Image.fromarray(COLOR), kind, exif=exif, **options.get(kind, {}))
    with Image.open(io.BytesIO(data)) as opened:
        opened.seek(0)
        lossy = np.asarray(opened.convert("RGB"))
    stored = lossy if kind in ("JPEG", "MPO") else COLOR
    right = UPRIGHT[orientation](stored)
    assert np.array_equal(decode.decode_image(data), right)
    assert decode.measure(data)[:2] == right.shape[:2]
    (tmp_path / "x").write_bytes(data)
    sample = prepare(RawSample("key", {"image": tmp_path / "x"}), 1)
    (member,) = sample.members.values()
    assert np.array_equal(decode.decode_image(member), right) and sample.measured[:2] == right.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_maps_and_depths_are_turned_upright_too(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    for numbers, read in ((GRAY, decode.decode_map), (WIDE, decode.decode_map), (WIDE, decode.decode_numbers)):
        got = read(saved(Image.fromarray(numbers), kind, exif=exif))
        assert np.array_equal(got, UPRIGHT[orientation](numbers))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_the_image(kind):
    first, second = palette_image(ENTRIES, COLORS), palette_image(15 - ENTRIES, COLORS)
    options = {"lossless": True} if kind == "WEBP" else {}
    frames = (first, second) if kind == "GIF" else (first.convert("RGB"), second.convert("RGB"))
    data = saved(frames[0], kind, save_all=True, append_images=[frames[1]], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.array_equal(decode.decode_image(data), COLORS[ENTRIES])


def test_a_cmyk_photo_of_adobe_is_not_inverted():
    data = saved(Image.fromarray(np.broadcast_to(np.uint8([0, 255, 255, 0]), (16, 16, 4)).copy(), "CMYK"), "JPEG")
    assert np.abs(decode.decode_image(data).astype(int) - [255, 0, 0]).max() <= 3


MAPS: dict[str, tuple[bytes, np.ndarray]] = {
    "1": (saved(Image.fromarray(BITS * 255).convert("1"), "PNG"), BITS),
    "1, TIFF": (saved(Image.fromarray(BITS * 255).convert("1"), "TIFF"), BITS),
    "1 with white at zero, TIFF": (tiff(1, 0, b"".join(packed_bits(BITS, 1))), BITS),
    "gray of 1 bit": (png(1, 0, packed_bits(BITS, 1)), BITS),
    "gray of 2 bits": (png(2, 0, packed_bits(GRAY >> 6, 2)), GRAY >> 6),
    "gray of 4 bits": (png(4, 0, packed_bits(GRAY >> 4, 4)), GRAY >> 4),
    "gray of 4 bits, TIFF": (tiff(4, 1, b"".join(packed_bits(GRAY >> 4, 4))), GRAY >> 4),
    "gray of 4 bits with white at zero, TIFF": (tiff(4, 0, b"".join(packed_bits(GRAY >> 4, 4))), GRAY >> 4),
    "L": (saved(Image.fromarray(GRAY), "PNG"), GRAY),
    "L with white at zero, TIFF": (tiff(8, 0, GRAY.tobytes()), GRAY),
    "L with a transparent gray": (saved(Image.fromarray(GRAY), "PNG", transparency=3), GRAY),
    "P": (saved(palette_image(ENTRIES, COLORS), "PNG"), ENTRIES),
    "P with a transparent entry": (saved(palette_image(ENTRIES, COLORS), "PNG", transparency=3), ENTRIES),
    "P of 4 bits": (png(4, 3, packed_bits(ENTRIES, 4), (b"PLTE", COLORS.tobytes())), ENTRIES),
    "P, GIF": (saved(palette_image(np.sort(ENTRIES, None).reshape(H, W), COLORS), "GIF", optimize=False),
               np.sort(ENTRIES, None).reshape(H, W)),
    "I;16": (saved(Image.fromarray(WIDE), "PNG"), WIDE),
    "I;16, TIFF": (saved(Image.fromarray(WIDE), "TIFF"), WIDE),
    "I;16 with white at zero, TIFF": (tiff(16, 0, WIDE.astype("<u2").tobytes()), WIDE),
    "I;12, TIFF": (tiff(12, 1, b"".join(packed_bits(WIDE >> 4, 12))), WIDE >> 4),
    "I;16B, TIFF": (IMAGES["I;16B, TIFF"][0], WIDE),
    "signed, 8 bits, TIFF": (tiff(8, 1, GRAY.tobytes(), sample_format=2), GRAY.view(np.int8)),
    "signed, 16 bits, TIFF": (tiff(16, 1, WIDE.tobytes(), sample_format=2), WIDE.view(np.int16)),
    "unsigned, 32 bits, TIFF": (tiff(32, 1, (WIDE.astype("<u4") * 65537).tobytes()), WIDE.astype(np.int64) * 65537),
    "I, TIFF": (saved(Image.fromarray(WIDE.astype(np.int32) * 9), "TIFF"), WIDE.astype(np.int32) * 9),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_labels_are_the_numbers_in_the_file_at_any_depth(name):
    data, right = MAPS[name]
    got = decode.decode_map(data)
    assert got.dtype.kind in "ui" and got.dtype.isnative and np.array_equal(got, right)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(COLOR), "PNG"), (RGBA, "PNG"), (LA, "PNG"), (Image.fromarray(CMYK, "CMYK"), "TIFF"),
        (Image.fromarray(GRAY.astype(np.float32)), "TIFF"), (Image.fromarray(GRAY), "JPEG"),
        (Image.fromarray(GRAY), "WEBP"),
    ],
)  # fmt: skip
def test_maps_of_colors_fractions_or_with_losses_are_refused(image, kind):
    with pytest.raises(ValueError, match=r"a map (has one channel|must be in a format)"):
        decode.decode_map(saved(image, kind))


def npy(numbers: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.save(packed, numbers)
    return packed.getvalue()


FRACTIONS = DRAWS.uniform(0, 1, (H, W))
DEPTHS: dict[str, tuple[bytes, np.ndarray]] = {
    "L": (saved(Image.fromarray(GRAY), "PNG"), GRAY / 255),
    "I;16": (saved(Image.fromarray(WIDE), "PNG"), WIDE / 65535),
    "I;16, TIFF": (saved(Image.fromarray(WIDE), "TIFF"), WIDE / 65535),
    "I;16B, TIFF": (IMAGES["I;16B, TIFF"][0], WIDE / 65535),
    "I;12, TIFF": (tiff(12, 1, b"".join(packed_bits(WIDE >> 4, 12))), (WIDE >> 4) / 4095),
    "F, TIFF": (saved(Image.fromarray(FRACTIONS.astype(np.float32)), "TIFF"), FRACTIONS),
    "float16, npy": (npy(FRACTIONS.astype(np.float16)), FRACTIONS.astype(np.float16)),
    "float64, npy": (npy(FRACTIONS), FRACTIONS),
    "uint8, npy": (npy(GRAY), GRAY / 255),
    "uint16, npy": (npy(WIDE), WIDE / 65535),
    "int32, npy": (npy(WIDE.astype(np.int32)), WIDE / 65535),
    "int64, npy": (npy(WIDE.astype(np.int64)), WIDE / 65535),
    "big-endian uint16, npy": (npy(WIDE.astype(">u2")), WIDE / 65535),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_depths_are_scaled_by_what_their_file_can_hold(name):
    data, right = DEPTHS[name]
    got = decode.decode_depth(data)
    assert got.dtype == np.float32 and np.abs(got - right).max() < 1e-5


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(WIDE.astype(np.int32) + 40_000), "TIFF"),  # 65 536 would have become 0
        npy(WIDE.astype(np.int32) + 40_000),
        npy(WIDE.astype(np.int64) - 1000),
        npy(np.where(GRAY > 9, FRACTIONS, np.nan)),
        npy(np.where(GRAY > 9, FRACTIONS, np.inf).astype(np.float32)),
        saved(Image.fromarray(np.where(GRAY > 9, FRACTIONS, np.nan).astype(np.float32)), "TIFF"),
        npy(FRACTIONS + 1j),
        npy(GRAY.astype(np.int8)),
        tiff(8, 1, GRAY.tobytes(), sample_format=2),
        saved(palette_image(ENTRIES, COLORS), "PNG"),
        npy(np.zeros((H, W, 3))),
        saved(Image.fromarray(COLOR), "PNG"),
    ],
)
def test_depths_without_a_known_range_are_refused(data):
    with pytest.raises(ValueError, match=r"depth|32 bits"):
        decode.decode_depth(data)
