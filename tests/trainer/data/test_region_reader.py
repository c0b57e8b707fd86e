"""Regions of images, decoded at a reduced size where a crop shrinks them."""

import io

import numpy as np
import pytest
import torch
from fixtures.shards import encoded, photo
from PIL import Image, ImageOps

from smalti.trainer.data.crops import CropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.images import decode, seekable_jpeg
from smalti.trainer.images.geometry import Measured
from smalti.trainer.images.resize import decoder_shrink
from smalti.trainer.shards.writer import Sample, write_shard

HEIGHT, WIDTH = 301, 417  # no multiple of anything


def shard_of(folder, data: bytes, measured: Measured, is_seekable: bool):
    layout = seekable_jpeg.layout_of(data)
    layouts = {"jpg": layout.to_bytes()} if is_seekable else {}
    write_shard(folder / "s.tar", [Sample("a", {"jpg": data}, measured, layouts)], {})
    return folder


def crops_of(folder, scale: tuple[float, float], crops_per_image=4):
    config = DataConfig(
        shards=(str(folder),), crop=CropConfig(size=16, scale=scale), max_repeats=9, crops_per_image=crops_per_image
    )
    stream = Stream(config, global_batch=4, micro_batch=4)
    return [step[0] for _, step in zip(range(4), stream.train_batches(), strict=False)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [(1.0, 3.9), (4.0, 7.9), (8.0, 15.9), (3.0, 99.0)])
def test_decoders_may_reduce_what_is_reduced_further(tmp_path, orientation, scale):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(HEIGHT, WIDTH), "JPEG", quality=92, subsampling=2, restart_marker_blocks=1, exif=exif)
    measured = decode.measure(data)
    with Image.open(io.BytesIO(data)) as opened:
        upright = ImageOps.exif_transpose(opened)
    seekable = crops_of(shard_of(tmp_path / "seekable", data, measured, True), scale)
    plain = crops_of(shard_of(tmp_path / "plain", data, measured, False), scale)
    errors = []
    for ours, other in zip(seekable, plain, strict=True):
        for row in range(4):
            box = ours["box"][row].int().tolist()
            exact = np.asarray(upright.crop(box).resize((16, 16), Image.Resampling.LANCZOS), np.int16)
            exact = exact[:, ::-1] if ours["flip"][row] else exact
            error = ours["image"][row].permute(1, 2, 0).numpy() - exact
            if scale[1] < 4:
                assert not error.any()
            errors.append(np.square(error, dtype=np.float64).mean())
            assert torch.equal(ours["image"][row], other["image"][row])
    assert 10 * np.log10(255**2 / max(np.mean(errors), 1e-9)) > 36  # decibels


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("has_simplejpeg", [True, False])
def test_both_decoders_reduce_alike(shrink, has_simplejpeg, monkeypatch):
    data = encoded(photo(HEIGHT, WIDTH), "JPEG", quality=90, subsampling=2)
    if has_simplejpeg:
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setattr(decode, "simplejpeg", None)
    small = decode.decode_stored(data, shrink=shrink)
    assert small.shape == (-(-HEIGHT // shrink), -(-WIDTH // shrink), 3)
    box = photo(HEIGHT, WIDTH)[: HEIGHT // 8 * 8, : WIDTH // 8 * 8].astype(float)
    means = box.reshape(HEIGHT // 8 * 8 // shrink, shrink, WIDTH // 8 * 8 // shrink, shrink, 3).mean((1, 3))
    assert np.abs(small[: means.shape[0], : means.shape[1]] - means).mean() < 3


@pytest.mark.parametrize(("scale", "shrink"), [(0.7, 1), (3.99, 1), (4, 2), (7.9, 2), (8, 4), (16, 8), (500, 8)])
def test_at_least_half_of_the_reduction_is_left_to_the_filter(scale, shrink):
    assert decoder_shrink(scale) == shrink
