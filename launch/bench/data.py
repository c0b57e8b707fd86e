"""Measures the data layer against what it replaces, side by side on this machine.

Every figure is a ratio of medians over interleaved rounds. Reading is compared by CPU time a sample, which a busy
machine disturbs least; resuming by the wall clock.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ...trainer.data.crops import CropConfig
from ...trainer.data.sampler import Schedule
from ...trainer.data.stream import DataConfig, Stream
from ...trainer.images import seekable_jpeg
from ...trainer.images.decode import LARGEST, open_image
from ...trainer.images.geometry import Measured
from ...trainer.prepare.find_images import find_samples
from ...trainer.prepare.pack import PackConfig, pack
from ...trainer.prepare.source_file import read_file
from ...trainer.shards import set_index
from ...trainer.shards.access.in_order import web_dataset
from ...trainer.shards.index import Member, Row, index_bytes
from ...trainer.shards.reader import ShardSet
from ...trainer.shards.writer import ShardWriter
from ..command import count, positive
from .reading import cached, codes, packing, photos, remote

_CROP = 256
_BATCH = 32
_QUALITY = 97  # of made-up photos of ImageNet's size, which take its 110 KB then
_ASPECT = 4 / 3
_IN_A_SHARD = 1000  # samples
_LINKS = 10_000  # names of one file; some file systems allow 65 000
_MOSAIC = "mosaicml-streaming, bytes shuffled"

Pixels = npt.NDArray[np.uint8]


class Cost(NamedTuple):
    """What a sample costs."""

    cpu: float  # seconds
    wall: float  # seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--samples", type=count, default=4000, metavar="N", help="small images to read (default 4000)")
    parser.add_argument("--photos", type=count, default=3, metavar="N", help="large photos to cut (default 3)")
    parser.add_argument("--megapixels", type=positive, default=16, metavar="M", help="of a large photo (default 16)")
    parser.add_argument("--shards", type=count, default=10_000, metavar="N", help="of 1000 samples, to start (10000)")
    parser.add_argument("--rounds", type=count, default=5, metavar="N", help="of each measurement (default 5)")
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="photos to build the material from (default: made-up ones)"
    )
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="on the disk to measure (default: temporary)")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Prints the tables and gives the figures.

    stream_vs_webdataset: our shuffled stream against plain sequential webdataset, CPU time a sample; the smallest of
        four ratios: reading bytes alone, crops of small images, and of photos of 500 x 375 by the rule of taming and
        by Lanczos, which stand alone as stream_vs_webdataset_taming and _lanczos.
    taming_per_s: crops by the rule of taming that a core makes of such photos in a second.
    resume_vs_cold: wall time to the first batch at half an epoch, over that at the beginning.
    crop_vs_pillow_16mp, crop_vs_pillow_16mp_unpacked: crops of megapixel photos against decoding and cutting with
        Pillow, from shards that ``pack`` made and from such that hold the photos as they were.
    remote_ms_20: milliseconds by the clock for a decoded sample from a web server that answers after 20 ms.
    pack_bytes_per_file: heap that packing takes for each file at its peak.
    codes_us: microseconds of CPU for a sample of codes and its class out of packed shards.
    start_s_10k_shards: CPU seconds until a stream over 10 000 shards of 1000 samples is there.
    cache_over_limit: the most bytes that the cache of whole shards took, with removed ones still open, over its limit.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = _small_images(Path(folder), arguments)
        figures |= _large_images(Path(folder), arguments)
        images = [_jpeg(_photo(photos.HEIGHT, photos.WIDTH, n, arguments.images), _QUALITY) for n in range(16)]
        print(f"\nPhotos of 500 x 375, {len(images[0]) / 1e3:.0f} KB each; one process, caches warm")
        figures |= _photos(Path(folder) / "photographs", images, arguments, figures)
        figures["remote_ms_20"] = remote.measure(Path(folder) / "small", Path(folder) / "remote", _BATCH, _CROP)
        figures["pack_bytes_per_file"] = packing.measure(Path(folder) / "files", images[0], 5 * arguments.samples)
        figures["codes_us"] = codes.measure(Path(folder) / "codes", min(arguments.samples, 1000), arguments.rounds)
        figures |= _starting(Path(folder) / "many", arguments)
        figures["cache_over_limit"] = cached.measure(Path(folder) / "cached")
    for name, value in figures.items():
        print(f"{name:32} {value:8.2f}")
    return figures


def _small_images(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Reading and resuming."""
    shards = folder / "small"
    images = [_jpeg(_photo(_CROP, _CROP, number, options.images)) for number in range(min(options.samples, 64))]
    with ShardWriter(shards, "small", max(options.samples // 8, _BATCH), {}) as writer:
        for number in range(options.samples):
            data = images[number % len(images)]
            writer.write(f"{number:06d}", {"jpg": data, "cls": b"%d" % (number % 10)}, Measured(_CROP, _CROP))
    kilobytes = sum(map(len, images)) / len(images) / 1e3
    print(f"\n{options.samples} images of {_CROP} x {_CROP}, {kilobytes:.0f} KB each; one process, caches warm")
    contestants: dict[str, Callable[[], int]] = {
        "webdataset, bytes in order": lambda: sum(1 for _ in _webdataset(shards)),
        "stream, bytes shuffled, checked": lambda: _read_shuffled(shards),
        "webdataset, batches in order": lambda: _webdataset_batches(shards),
        "stream, batches shuffled, checked": lambda: _stream_batches(shards, options.samples),
    }
    mosaic = _mosaic_reader(folder / "mds", images, options.samples)
    if mosaic is not None:
        contestants[_MOSAIC] = mosaic
    costs = _measured(contestants, options.rounds)
    if mosaic is None:
        print(f"  {_MOSAIC:36} not installed")
    bytes_in_order, bytes_shuffled, batches_in_order, batches_shuffled = list(costs.values())[:4]
    reading = bytes_in_order.cpu / bytes_shuffled.cpu
    batching = batches_in_order.cpu / batches_shuffled.cpu
    return {"stream_vs_webdataset": min(reading, batching), "resume_vs_cold": _resuming(shards, options)}


def _photos(
    folder: Path, images: list[bytes], options: argparse.Namespace, figures: dict[str, float]
) -> dict[str, float]:
    """Shortest sides brought to that of the crop, as training on ImageNet has it."""
    made = photos.contestants(folder, images, min(options.samples, 256), _CROP, _BATCH)
    costs = list(_measured(made, options.rounds).values())
    taming, lanczos = costs[0].cpu / costs[1].cpu, costs[2].cpu / costs[3].cpu
    return {
        "stream_vs_webdataset": min(figures["stream_vs_webdataset"], taming, lanczos),
        "stream_vs_webdataset_taming": taming,
        "stream_vs_webdataset_lanczos": lanczos,
        "taming_per_s": 1 / costs[1].cpu,
    }


def _resuming(shards: Path, options: argparse.Namespace) -> float:
    half = options.samples // _BATCH // 2

    def first_batch(step: int) -> float:
        begin = time.perf_counter()
        with closing(_stream(shards, workers=2).train_batches(step)) as steps:  # type: ignore[type-var]
            next(steps)
            return time.perf_counter() - begin

    def replayed() -> float:
        begin = time.perf_counter()
        for _ in islice(_webdataset(shards), options.samples // 2):
            pass
        return time.perf_counter() - begin

    first_batch(0)
    rounds = [(first_batch(0), first_batch(half), replayed()) for _ in range(options.rounds)]
    cold, resumed, replay = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"\nTime to the first batch, 2 workers: {cold:.3f} s cold, {resumed:.3f} s resumed at half an epoch")
    print(f"webdataset must read the first half again, which takes {replay:.3f} s here and grows with the epoch")
    return float(resumed / cold)


def _large_images(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Cutting megapixel photos."""
    height = round((options.megapixels * 1e6 / _ASPECT) ** 0.5)
    width = round(height * _ASPECT) // 16 * 16  # as cameras have it
    photos = folder / "photos"
    photos.mkdir()
    for number in range(options.photos):
        (photos / f"{number}.jpg").write_bytes(_jpeg(_photo(height, width, number, options.images)))
    files = [path.read_bytes() for path in sorted(photos.iterdir())]
    with ShardWriter(folder / "unpacked", "photos", len(files), {}) as writer:
        for number, data in enumerate(files):
            writer.write(str(number), {"jpg": data}, Measured(height, width))
    report = pack(find_samples(photos), folder / "packed", PackConfig(), lambda _: None)
    way = (
        f"rewritten by {seekable_jpeg.library()}" if not report.whole_jpegs else "not rewritten, for want of a libjpeg"
    )
    print(f"\nPacked photos were {way}")
    size = f"{width} x {height}, {len(files[0]) / 1e6:.1f} MB each"
    print(f"\n{_CROP}-crops of {options.photos} photos of {size}; one process, caches warm")
    contestants = {
        "Pillow, decode and cut": lambda: _cut_with_pillow(files, 2 * len(files)),
        "stream, photos as they were": lambda: _stream_batches(folder / "unpacked", 2 * _BATCH),
        "stream, packed photos": lambda: _stream_batches(folder / "packed", 8 * _BATCH),
    }
    pillow, unpacked, packed = _measured(contestants, options.rounds).values()
    return {
        "crop_vs_pillow_16mp": pillow.cpu / packed.cpu,
        "crop_vs_pillow_16mp_unpacked": pillow.cpu / unpacked.cpu,
    }


def _starting(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Opening a set of many shards: one shard under many names, with an index each and one of all."""
    rows = [
        Row(f"{number:09d}", {"jpg": Member(102_912 * number + 512, 102_400 - number, number)}, Measured(375, 500))
        for number in range(_IN_A_SHARD)
    ]
    tar_bytes = 102_912 * _IN_A_SHARD + 1024
    index = index_bytes(rows, tar_bytes, {"kind": "images", "classes": []}, {})
    folder.mkdir()
    for number in range(options.shards):
        for suffix, data in ((".tar", b""), (".tar.idx", index)):
            path = folder / f"shard-{number:06d}{suffix}"
            if number % _LINKS:
                os.link(folder / f"shard-{number // _LINKS * _LINKS:06d}{suffix}", path)
            else:
                path.write_bytes(data)
                os.truncate(path, len(data) or tar_bytes)
    set_index.write(folder)
    config = DataConfig(shards=(str(folder),), crop=CropConfig(size=_CROP))

    def start() -> float:
        began = time.process_time()
        Stream(config, ("image",), global_batch=_BATCH, micro_batch=_BATCH).state_dict(0)
        return time.process_time() - began

    seconds = statistics.median(start() for _ in range(options.rounds))
    each = (folder / set_index.NAME).stat().st_size / options.shards
    print(f"\nStarting from {options.shards} shards of {_IN_A_SHARD}: {seconds:.3f} s CPU, {each:.0f} bytes a shard")
    return {"start_s_10k_shards": seconds}


def _measured(contestants: dict[str, Callable[[], int]], rounds: int) -> dict[str, Cost]:
    """The median cost of a sample to each contestant; they take turns. Prints a line for each."""
    times: dict[str, list[Cost]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, read in contestants.items():
            cpu, wall = time.process_time(), time.perf_counter()
            count = read()
            times[name].append(Cost((time.process_time() - cpu) / count, (time.perf_counter() - wall) / count))
    costs = {name: Cost(*map(statistics.median, zip(*found, strict=True))) for name, found in times.items()}
    for name, cost in costs.items():
        print(f"  {name:36} {1 / cost.wall:9.0f} /s {1e3 * cost.cpu:9.3f} ms CPU each")
    return costs


def _stream(shards: Path, workers: int = 0) -> Stream:
    config = DataConfig(shards=(str(shards),), crop=CropConfig(size=_CROP), num_workers=workers, max_repeats=_BATCH)
    return Stream(config, ("image",), global_batch=_BATCH, micro_batch=_BATCH)


def _stream_batches(shards: Path, samples: int) -> int:
    return sum(len(step[0]["key"]) for step in islice(_stream(shards).train_batches(), samples // _BATCH))


def _read_shuffled(folder: Path) -> int:
    """Every sample once in a keyed order, its files checked against their checksums."""
    shards = ShardSet.open([str(folder)])
    schedule = Schedule([shards.counts], [1.0], seed=0, window=0)
    for number in range(shards.samples):
        place = schedule.visit(number).place
        shards.read(*place, "jpg")
        shards.read(*place, "cls")
    return shards.samples


def _webdataset(folder: Path) -> Iterator[dict[str, Any]]:
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    yield from web_dataset(urls)


def _webdataset_batches(folder: Path) -> int:
    """The same batches as ours: cut, flipped, planes first."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    draws = np.random.default_rng(0)

    def crop(image: Pixels) -> Pixels:
        top, left = (int(draws.integers(length - _CROP + 1)) for length in image.shape[:2])
        part = image[top : top + _CROP, left : left + _CROP]
        return np.ascontiguousarray((part[:, ::-1] if draws.random() < 0.5 else part).transpose(2, 0, 1))

    pipeline = web_dataset(urls).decode("rgb8").to_tuple("jpg").map_tuple(crop)
    return sum(len(torch.from_numpy(images)) for (images,) in pipeline.batched(_BATCH))


def _mosaic_reader(folder: Path, images: Sequence[bytes], samples: int) -> Callable[[], int] | None:
    """Reads the same files through mosaicml-streaming, if that is installed."""
    try:
        streaming = import_module("streaming")
    except ImportError:
        return None
    with streaming.MDSWriter(out=str(folder), columns={"jpg": "bytes", "cls": "int"}) as writer:
        for number in range(samples):
            writer.write({"jpg": images[number % len(images)], "cls": number % 10})

    def read() -> int:
        return sum(1 for _ in streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=_BATCH))

    return read


def _cut_with_pillow(files: Sequence[bytes], crops: int) -> int:
    """As torchvision's and webdataset's loaders do it."""
    draws = np.random.default_rng(0)
    for number in range(crops):
        with Image.open(io.BytesIO(files[number % len(files)])) as photo:
            left, top = (int(draws.integers(length - _CROP + 1)) for length in photo.size)
            np.asarray(photo.convert("RGB").crop((left, top, left + _CROP, top + _CROP)))
    return crops


def _photo(height: int, width: int, seed: int, folder: Path | None) -> Pixels:
    """A photo: a mosaic of real ones at their own resolution, or shapes and grain at every scale."""
    if folder is not None:
        return _mosaic(height, width, seed, folder)
    draws = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3), np.float32)
    cell = 512
    while cell >= 1:
        coarse = draws.normal(size=(height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        layers = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        canvas += np.stack([np.asarray(layer) for layer in layers], 2) * cell**0.3
        cell //= 4
    canvas *= 40 / canvas.std()
    return np.clip(canvas + 128, 0, 255).astype(np.uint8)


def _mosaic(height: int, width: int, seed: int, folder: Path) -> Pixels:
    draws = np.random.default_rng(seed)
    files = [source.files["image"] for source in find_samples(folder).sources]
    canvas = np.zeros((height, width, 3), np.uint8)
    top = 0
    while top < height:
        left, row_height = 0, height - top
        while left < width:
            with open_image(read_file(files[int(draws.integers(len(files)))], LARGEST)) as opened:
                tile = np.asarray(opened.convert("RGB"))[: height - top, : width - left]
            canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            left += tile.shape[1]
            row_height = min(row_height, tile.shape[0])
        top += row_height
    return canvas


def _jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG", quality=quality, subsampling=2)
    return packed.getvalue()
