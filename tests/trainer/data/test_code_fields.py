"""What lies beside a grid of codes: a second grid, a small image, numbers of the whole sample."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.priors import npy
from fixtures.shards import encoded, photo

from smalti.trainer.data.crops import CodeCropConfig, CropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.images.geometry import Measured
from smalti.trainer.shards.writer import ShardWriter

WHOLE = ("cls", "text", "object_classes", "object_boxes")


def members(number: int) -> dict[str, bytes]:
    """What holds for the whole sample."""
    boxes = np.full((3, 4), number, np.float64)
    return {
        "cls": b"%d" % number,
        "text.npy": npy(np.full((2, 5), number, np.float16)),
        "object_classes.npy": npy(np.array([number, 1, -1], np.int32)),
        "object_boxes.npy": npy(boxes),
    }


def write(folder: Path, small_side: tuple[int, int] = (12, 18)) -> Path:
    """Grids of 6 x 9 codes; pixel (r, c) of the small image of 2 x 2 pixels a code is [r, c, image]."""
    with ShardWriter(folder, "c", 4, {"factor": 16}) as writer:
        for number in range(8):
            grid = (10 * np.arange(6)[:, None] + np.arange(9)).astype(np.uint16)
            rows, columns = np.indices(small_side)
            small = np.stack([rows, columns, np.full(small_side, number)], -1).astype(np.uint8)
            grids = {"codes.npy": npy(grid), "depth_codes.npy": npy(grid + 7), "low.png": encoded(small, "PNG")}
            writer.write(f"p{number}", grids | members(number))
    return folder


def stream(folder: Path, *fields: str) -> Stream:
    config = DataConfig(shards=(str(folder),), crop=CodeCropConfig(window=(4, 4)))
    return Stream(config, fields, global_batch=4, micro_batch=4)


def test_everything_beside_a_window_of_codes_belongs_to_it(tmp_path):
    batches = stream(write(tmp_path), "codes", "depth_codes", "low", *WHOLE)
    for _, (batch,) in zip(range(12), batches.train_batches(), strict=False):
        assert torch.equal(batch["depth_codes"], batch["codes"] + 7)
        assert batch["low"].shape == (4, 3, 8, 8) and batch["low"].dtype == torch.uint8
        for row, key in enumerate(batch["key"]):
            number = int(key[1:])
            top, left = divmod(int(batch["codes"][row, 0, 0]), 10)
            assert batch["low"][row, :, 0, 0].tolist() == [2 * top, 2 * left, number]
            assert batch["low"][row, :, 7, 7].tolist() == [2 * top + 7, 2 * left + 7, number]
            assert batch["cls"][row] == number
            assert batch["text"][row].tolist() == [[number] * 5] * 2
            assert batch["object_classes"][row].tolist() == [number, 1, -1]
            assert batch["object_boxes"][row, 1].tolist() == [number] * 4
    assert batch["text"].dtype == batch["object_boxes"].dtype == torch.float32
    assert batch["object_classes"].dtype == torch.int64


def test_numbers_of_the_whole_sample_go_with_crops_of_images_too(tmp_path):
    with ShardWriter(tmp_path, "c", 4, {}) as writer:
        for number in range(4):
            image = encoded(photo(32, 32, number), "PNG")
            writer.write(f"p{number}", {"png": image} | members(number), Measured(32, 32))
    config = DataConfig(shards=(str(tmp_path),), crop=CropConfig(size=16))
    (batch,) = next(Stream(config, ("image", *WHOLE), global_batch=4, micro_batch=4).train_batches())
    numbers = [int(key[1:]) for key in batch["key"]]
    assert batch["text"][:, 1, 4].tolist() == numbers == batch["object_classes"][:, 0].tolist()


def test_a_small_image_of_another_shape_than_the_grid_is_a_fault(tmp_path):
    with pytest.raises(RuntimeError, match="no whole number to each code"):
        next(stream(write(tmp_path, (12, 17)), "codes", "low").train_batches())
