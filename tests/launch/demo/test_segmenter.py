"""The segmenter of landscapes: it learns from shards with maps, and its file is one that the evaluation takes."""

import re
from pathlib import Path

import pytest
import torch

from smalti.launch.demo import segmenter
from smalti.launch.demo.landscapes import LandscapeSet
from smalti.launch.demo.scene import LABELS
from smalti.launch.pack import main as pack
from smalti.trainer.frozen_networks.segmenters import load_segmenter


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 landscapes to learn from and 4 others."""
    folder = tmp_path_factory.mktemp("landscapes")
    list(LandscapeSet(count=20, height=64, width=80).render(folder / "images"))
    assert pack([str(folder / "images"), str(folder / "shards"), "--val", "4", "--processes", "1"]) == 0
    return folder / "shards"


def test_it_learns_what_pixels_are_and_names_them_in_images_of_any_size(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(segmenter, "CROP", 64)
    monkeypatch.setattr(segmenter, "CHANNELS", (8, 16, 32, 32))
    assert segmenter.main([str(shards), str(tmp_path / "one.pt"), "--steps", "40", "--pasted", "0.2"]) == 0
    said = capsys.readouterr()
    assert "step 40 of 40: cross-entropy" in said.err
    found = re.search(r"not seen (\d+\.\d)% are named as in their maps, mean IoU (0\.\d+).* others \d+\.\d%$", said.out)
    guessing = max(torch.bincount(counts(shards), minlength=len(LABELS))) / counts(shards).numel()
    assert float(found[1]) / 100 > guessing + 0.1
    for side in (33, 64, 200):
        network = load_segmenter(tmp_path / "one.pt", side)
        assert network.labels == len(LABELS)
        images = torch.randint(256, (2, 3, side, side + 30), dtype=torch.uint8)
        assert network.find(images).shape == (2, side, side + 30)


def counts(shards: Path) -> torch.Tensor:
    """The labels of all pixels of the images that nothing was learnt from."""
    data = segmenter.Stream(segmenter.DataConfig((str(shards / "val"),), crop=None), ("image", "segmentation"),
                            global_batch=1, micro_batch=1)  # fmt: skip
    return torch.cat([batch["segmentation"].flatten() for batch in data.eval_batches(1)]).long()


def test_what_is_pasted_into_an_image_has_the_label_that_its_pixels_say():
    labels = torch.randint(len(LABELS), (6, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = (labels * 30)[:, None].repeat(1, 3, 1, 1).byte()
    seen = segmenter.pasted(images, labels, 1.0, step=3)
    assert torch.equal(seen.images, (seen.labels * 30)[:, None].repeat(1, 3, 1, 1).byte())
    assert torch.equal(seen.labels[~seen.pasted], labels[~seen.pasted]) and not torch.equal(seen.labels, labels)
    for number, part in enumerate(seen.pasted):
        pasted, there = seen.labels[number][part].unique(), labels[(number + 1) % 6]
        assert len(pasted) == 1
        moved = [torch.roll(there == pasted, (down, right), (0, 1)) for down in range(32) for right in range(32)]
        assert any(bool((part & ~each).sum() == 0) for each in moved)  # it has the shape that it had there
    assert not torch.equal(seen.labels, segmenter.pasted(images, labels, 1.0, step=4).labels)
    untouched = segmenter.pasted(images, labels, 0.0, step=3)
    assert torch.equal(untouched.labels, labels) and not untouched.pasted.any()


def test_shards_that_are_missing_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert segmenter.main([str(tmp_path / "none"), str(tmp_path / "one.pt")]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not list(tmp_path.iterdir())
