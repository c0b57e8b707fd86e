"""The share of pixels that a segmenter names as their map does, of every image and of all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from smalti.launch.demo import accuracy


class RedIsOne(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        red = (images[:, 0] > 127).float()
        return torch.stack((1 - red, red), dim=1)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two maps of 4 x 8 pixels, and images of which 4 and 16 of 32 pixels are named otherwise."""
    for name in ("maps", "images"):
        (tmp_path / name).mkdir()
    torch.jit.script(RedIsOne()).save(str(tmp_path / "red.pt"))
    labels = np.tile(np.array([0, 1], np.uint8), (4, 4))
    for name, image, wrong in (("a", "a-seed-3-0000", 4), ("a-b", "a-b", 16)):
        Image.fromarray(labels).save(tmp_path / "maps" / f"{name}.png")
        shown = labels.copy().reshape(-1)
        shown[:wrong] ^= 1
        pixels = np.stack([shown.reshape(4, 8) * 255] * 3, axis=-1)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{image}.png")
    return tmp_path


def words(place: Path) -> list[str]:
    return [str(place / name) for name in ("red.pt", "maps", "images")]


def test_shares_are_of_the_map_whose_name_an_image_begins_with(place: Path, capsys: pytest.CaptureFixture[str]):
    assert accuracy.main(words(place)) == 0
    assert capsys.readouterr().out.endswith("images: 68.8% of the pixels are what the maps say (50.0%, 87.5%)\n")


def test_a_map_is_stretched_to_its_image(place: Path, capsys: pytest.CaptureFixture[str]):
    for path in (place / "maps").iterdir():
        with Image.open(path) as labels:
            labels.resize((24, 4), Image.Resampling.NEAREST).save(path)
    assert accuracy.main(words(place)) == 0
    assert capsys.readouterr().out.endswith("(50.0%, 87.5%)\n")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda place: (place / "maps" / "a-b.png").rename(place / "maps" / "c.png"), None),
        (lambda place: (place / "images" / "a-b.png").rename(place / "images" / "d.png"), "has no map whose name"),
        (lambda place: [path.unlink() for path in (place / "images").iterdir()], "holds no PNGs"),
        (lambda place: (place / "images" / "a-b.png").write_text("no image"), "a-b.png"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(place: Path, harm, said: str | None, capsys: pytest.CaptureFixture[str]):
    harm(place)
    assert accuracy.main(words(place)) == (0 if said is None else 2)
    assert said is None or said in capsys.readouterr().err
