"""``smalti annotate``: edges, labels and depths in folders that ``pack`` takes beside the images."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from fixtures.shards import encoded, photo
from PIL import Image
from torch import Tensor, nn

from smalti.launch import pack
from smalti.launch.annotate.__main__ import main
from smalti.trainer.images.canny import canny, published_edges
from smalti.trainer.shards.reader import ShardSet


class Redness(nn.Module):
    """As deep as it is red."""

    def forward(self, levels: Tensor) -> Tensor:
        return levels[:, 0].float() / 10 - 3


class Strongest(nn.Module):
    """Three labels, that of the strongest channel."""

    def forward(self, levels: Tensor) -> Tensor:
        return levels.float()


class Smaller(nn.Module):
    def forward(self, levels: Tensor) -> Tensor:
        return levels[:, 0, ::2, ::2].float()


class Endless(nn.Module):
    def forward(self, levels: Tensor) -> Tensor:
        return levels[:, 0].float() / 0


def network(path: Path, kind: type[nn.Module]) -> Path:
    torch.jit.script(kind()).save(str(path))
    return path


def images(folder: Path, count: int = 3) -> dict[str, np.ndarray]:
    made = {f"a/p{number}": photo(20 + number, 30, number) for number in range(count)}
    for key, pixels in made.items():
        (folder / "images/a").mkdir(parents=True, exist_ok=True)
        (folder / f"images/{key}.png").write_bytes(encoded(pixels, "PNG"))
    return made


def annotate(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_edges_are_a_map_of_two_labels_that_is_packed_with_its_image(tmp_path, capsys):
    made = images(tmp_path)
    (tmp_path / "images/a/p1.jpg").write_bytes(encoded(photo(9, 9)))  # beside p1.png
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    assert annotate("edges", tmp_path / "images", tmp_path / "maps") == 0
    said = capsys.readouterr()
    assert said.out == "4 made, 0 there already, 1 left out\n" and "broken.png: UnidentifiedImageError" in said.err
    edges = np.asarray(Image.open(tmp_path / "maps/a/p0.png"))
    assert edges.dtype == np.uint8 and np.array_equal(edges, canny(made["a/p0"])) and edges.any()
    assert pack.main([str(tmp_path), str(tmp_path / "shards"), "--processes", "1"]) == 0
    shards = ShardSet.open([str(tmp_path / "shards")])
    assert shards.samples == 4 and shards.has_field("segmentation")


def test_edges_may_be_those_of_the_published_loader(tmp_path, capsys):
    made = images(tmp_path, 1)
    assert annotate("edges", tmp_path / "images", tmp_path / "maps", "--published") == 0
    edges = np.asarray(Image.open(tmp_path / "maps/a/p0.png"))
    assert np.array_equal(edges, published_edges(made["a/p0"])) and edges.any()
    assert annotate("edges", tmp_path / "images", tmp_path / "maps") == 2
    assert "were made otherwise" in capsys.readouterr().err


def test_labels_and_depths_are_those_of_a_network(tmp_path):
    made = images(tmp_path)
    strongest, redness = network(tmp_path / "s.pt", Strongest), network(tmp_path / "r.pt", Redness)
    assert annotate("segmentation", tmp_path / "images", tmp_path / "maps", "--network", strongest) == 0
    assert annotate("depth", tmp_path / "images", tmp_path / "depth", "--network", redness) == 0
    for key, pixels in made.items():
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"maps/{key}.png")), pixels.argmax(2))
        depth = np.load(tmp_path / f"depth/{key}.npy")
        np.testing.assert_allclose(depth, pixels[..., 0] / 10 - 3, rtol=1e-5, atol=1e-6)
    assert pack.main([str(tmp_path), str(tmp_path / "out"), "--processes", "1", "--depth", "min_max"]) == 0
    assert ShardSet.open([str(tmp_path / "out")]).samples == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("depth",), "needs a network: give a TorchScript file with --network"),
        (("edges", "--network", "x.pt"), "edges need no network"),
        (("edges", "--low", 300), "0 <= low <= high"),
        (("depth", "--network", "nowhere.pt"), "there is no TorchScript file nowhere.pt"),
        (("depth", "--network", "images/a/p0.png"), "is no TorchScript file that can be loaded"),
        (("depth", "--network", "small.pt"), "must give (1, 20, 30), a depth for each pixel"),
        (("depth", "--network", "endless.pt"), "gives NaN or infinity"),
        (("segmentation", "--network", "red.pt"), "must give (1, N, 64, 64), a score of each label"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    images(tmp_path, 1)
    for name, kind in (("small", Smaller), ("endless", Endless), ("red", Redness)):
        network(tmp_path / f"{name}.pt", kind)
    kind, *options = arguments
    assert annotate(kind, "images", "made", *options) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("made/**/*.*p*[gy]"))


def test_nobody_s_files_and_no_files_made_otherwise_are_mixed_with_it(tmp_path, capsys):
    images(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/map.png").write_text("mine")
    assert annotate("edges", tmp_path / "images", tmp_path / "mine") == 2
    assert "not by this command" in capsys.readouterr().err
    assert annotate("edges", tmp_path / "images", tmp_path / "maps") == 0
    assert json.loads((tmp_path / "maps/annotations.json").read_text())["high"] == 200
    assert annotate("edges", tmp_path / "images", tmp_path / "maps", "--high", 250) == 2
    assert "were made otherwise" in capsys.readouterr().err
    assert annotate("edges", tmp_path / "images", tmp_path / "maps") == 0
    assert capsys.readouterr().out == "0 made, 3 there already, 0 left out\n"


@pytest.mark.slow
def test_ranks_that_are_killed_go_on_alone_to_the_same_files(tmp_path):
    images(tmp_path, 80)
    arguments = ["edges", str(tmp_path / "images"), str(tmp_path / "maps")]
    job = processes.command("smalti.launch.annotate", arguments, 2, {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "maps").rglob("*.png"))) < 8:
        assert time.monotonic() < deadline and processes.alive(job.leader), job.output()
        time.sleep(0.002)
    for rank in range(2):
        job.signal(signal.SIGKILL, rank)
    job.wait()
    assert annotate(*arguments) == 0 and annotate(*arguments[:2], tmp_path / "whole") == 0
    once = {path.name: path.read_bytes() for path in (tmp_path / "whole").rglob("*.png")}
    assert once == {path.name: path.read_bytes() for path in (tmp_path / "maps").rglob("*.png")} and len(once) == 80
