"""A handful of samples on more ranks than samples: training and evaluation work, and it is said what was chosen."""

import math
from pathlib import Path
from typing import Any

import processes
import pytest
from fixtures.priors import grids, npy, write_code_shards, write_tokenizer
from fixtures.runs import lines, write_prior, write_vqgan
from fixtures.shards import write_images

from smalti.trainer.shards.reader import ShardSet

TRAIN = "smalti.launch.train"
SHORT = {"max_steps": 2, "log_every": 1, "preview_every": 1, "eval_every": 1, "save_every": 2}


def damage(folder: Path, sample: int) -> None:
    """Turns a bit of a sample's image around."""
    shards = ShardSet.open([str(folder)])
    member = shards.member(0, sample, "png")
    path = Path(shards.names[0])
    data = bytearray(path.read_bytes())
    data[member.offset + member.size // 2] ^= 1
    path.write_bytes(data)


def of_images(folder: Path, **settings: Any) -> dict[str, Any]:
    return {"shards": [str(folder)], "crop": {"size": 16}, **settings}


@pytest.mark.parametrize(("count", "damaged"), [(1, None), (2, 1), (2, 0), (3, None)])
def test_a_rank_without_a_validation_image_goes_along(tmp_path: Path, count: int, damaged: int | None):
    write_images(tmp_path / "images", 3)
    write_images(tmp_path / "val", count)
    if damaged is not None:
        damage(tmp_path / "val", damaged)
    val = of_images(tmp_path / "val", max_bad_fraction=0.9)
    config = write_vqgan(tmp_path, zero=2, val_data=val, train_data=of_images(tmp_path / "images"), loop=SHORT)
    ended = processes.command(TRAIN, [config], 2).wait()
    assert ended.codes == [0, 0], ended.log
    found = [line["val/psnr"] for line in lines(tmp_path / "run") if "val/psnr" in line]
    assert len(found) == 3 and all(math.isfinite(psnr) for psnr in found)
    assert ended.log.count("max_repeats = 3 was chosen") == 1  # 8 of a batch, 3 images


def test_validation_that_is_all_damaged_ends_both_ranks_with_the_reason(tmp_path: Path):
    write_images(tmp_path / "images", 3)
    write_images(tmp_path / "val", 1)
    damage(tmp_path / "val", 0)
    val = of_images(tmp_path / "val", max_bad_fraction=1.0)
    config = write_vqgan(tmp_path, val_data=val, train_data=of_images(tmp_path / "images"), loop=SHORT)
    ended = processes.command(TRAIN, [config], 2).wait()
    assert 0 not in ended.codes and "no validation sample can be used" in ended.log


def test_a_prior_of_partitioned_weights_is_evaluated_on_one_grid(tmp_path: Path):
    metadata = write_tokenizer(tmp_path / "tokenizer")
    for name, count in (("codes", 3), ("val", 1)):
        write_code_shards(tmp_path / name, metadata, [{"codes.npy": npy(grid)} for grid in grids(count, (4, 4))])
    val = {"shards": [str(tmp_path / "val")], "crop": {"kind": "codes", "window": [4, 4]}}
    config = write_prior(tmp_path, zero=3, val_data=val, loop=SHORT)
    ended = processes.command(TRAIN, [config], 2).wait()
    assert ended.codes == [0, 0], ended.log
    assert all(math.isfinite(line["val/nll"]) for line in lines(tmp_path / "run") if "val/nll" in line)
