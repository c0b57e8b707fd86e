"""Windows of grids of codes, and where they lie in their images."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.trainer.data.crops import CodeCropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.shards.writer import ShardWriter


def npy(grid: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.save(packed, grid)
    return packed.getvalue()


def write_codes(folder: Path, count: int = 12, **said) -> Path:
    """Grids of 6 x 9 codes whose code is 100 x image + 10 x row + column; those of the condition are 1 more."""
    with ShardWriter(folder, "c", 5, {"factor": 16, "tokenizer": "abc"}) as writer:
        for number in range(count):
            grid = (100 * number + 10 * np.arange(6)[:, None] + np.arange(9)).astype(np.uint16)
            members = {"codes.npy": npy(grid), "segmentation_codes.npy": npy(grid + 1)}
            if said:
                members["json"] = json.dumps(said).encode()
            writer.write(f"p{number}", members)
    return folder


def make(folder: Path, window=(4, 4), fields=("codes", "segmentation_codes")) -> Stream:
    config = DataConfig(shards=(str(folder),), crop=CodeCropConfig(window=window))
    return Stream(config, fields, global_batch=4, micro_batch=4)


def test_windows_of_both_grids_are_cut_alike_and_know_their_box(tmp_path):
    stream = make(write_codes(tmp_path))
    assert stream.provenance["tokenizer"] == "abc"
    starts = set()
    for _, step in zip(range(80), stream.train_batches(), strict=False):
        batch = step[0]
        assert batch["codes"].dtype == torch.int64 and batch["codes"].shape == (4, 4, 4)
        assert torch.equal(batch["segmentation_codes"], batch["codes"] + 1)
        for row in range(4):
            number, corner = divmod(int(batch["codes"][row, 0, 0]), 100)
            top, left = divmod(corner, 10)
            assert batch["key"][row] == f"p{number}"
            assert batch["codes"][row, 3, 2] == batch["codes"][row, 0, 0] + 32
            assert batch["box"][row].tolist() == [16 * left, 16 * top, 16 * (left + 4), 16 * (top + 4)]
            assert batch["source_size"][row].tolist() == [96, 144] and not batch["flip"][row]
            starts.add((top, left))
    assert starts == {(top, left) for top in range(3) for left in range(6)}


def test_a_grid_of_a_part_of_an_image_says_where_that_lies(tmp_path):
    # The grid shows [100, 50, 388, 242]: 288 x 192 pixels of an image of 400 x 500, so 32 pixels a code.
    batch = next(make(write_codes(tmp_path, box=[100, 50, 388, 242], source_size=[400, 500])).train_batches())[0]
    top, left = divmod(int(batch["codes"][0, 0, 0]) % 100, 10)
    expected = [100 + 32 * left, 50 + 32 * top, 100 + 32 * (left + 4), 50 + 32 * (top + 4)]
    assert batch["box"][0].tolist() == expected
    assert batch["source_size"][0].tolist() == [400, 500]


def test_a_mirrored_grid_counts_its_columns_from_the_right(tmp_path):
    folder = write_codes(tmp_path, box=[0, 0, 144, 96], source_size=[96, 144], flip=True)
    batch = next(make(folder).train_batches())[0]
    left = int(batch["codes"][0, 0, 0]) % 10
    assert batch["flip"].all()
    assert batch["box"][0, [0, 2]].tolist() == [16 * (9 - left - 4), 16 * (9 - left)]


def test_whole_grids_and_grids_of_windows(tmp_path):
    folder = write_codes(tmp_path)
    assert next(make(folder, window=(0, 0)).train_batches())[0]["codes"].shape == (4, 6, 9)
    windows = [batch["codes"] for batch in make(folder).eval_batches(5, "grid")]
    assert len(torch.cat(windows)) == 12 * 2 * 3
    assert len(torch.cat(windows).unique()) == 12 * 6 * 9
    assert next(make(folder).eval_batches(1, "center"))["codes"][0, 0, 0] == 12  # the middle


def test_grids_smaller_than_the_window_are_faults(tmp_path):
    stream = make(write_codes(tmp_path), window=(8, 8))
    with pytest.raises(RuntimeError, match=r"6 x 9 codes is smaller than the window \(8, 8\)"):
        next(stream.train_batches())
