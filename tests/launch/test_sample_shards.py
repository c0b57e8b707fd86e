"""``smalti sample --shards``: an image for every sample of a set, on any number of ranks, whatever is killed."""

import signal
import time

import numpy as np
import processes
import pytest
import torch
from fixtures import pairs
from fixtures.shards import encoded, photo
from PIL import Image

from smalti.launch import encode, sample
from smalti.trainer.images.geometry import Measured
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter

SAMPLES = 5


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A prior of maps, and a set of images with maps in two folders of classes, as images and as codes."""
    folder = tmp_path_factory.mktemp("set")
    tokenizer = pairs.write_tokenizer(folder / "tokenizer")
    pairs.write_prior(folder / "prior", tokenizer, "segmentation")
    write_set(folder / "images", range(SAMPLES))
    assert encode.main([str(folder / name) for name in ("tokenizer", "images", "codes")]) == 0
    return folder


def write_set(folder, most):
    """Maps whose labels are below 1 + ``most``'s number, at most 7."""
    with ShardWriter(folder, "x", 2, {}) as writer:
        for number, largest in enumerate(most):
            labels = np.random.default_rng(number).integers(0, largest + 1, (20, 28)).astype(np.uint8)
            labels[:4, :4] = largest  # the commonest label of a cell
            members = {"png": encoded(photo(20, 28, number), "PNG"), "segmentation.png": encoded(labels, "PNG")}
            writer.write(f"{number % 2}/p{number}", members, Measured(20, 28))


def asked(place, shards, out, *more):
    return [str(part) for part in (place / "prior", place / "tokenizer", "--shards", shards, "--out", out, *more)]


def keys(shards):
    there = ShardSet.open([str(shards)])
    return [there.key(shard, number) for shard, count in enumerate(there.counts) for number in range(count)]


def pixels(out):
    return {str(path.relative_to(out)): np.asarray(Image.open(path)) for path in sorted(out.rglob("*.png"))}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_images_and_their_codes_ask_for_the_same_images_in_every_batch(place, tmp_path, capsys):
    assert sample.main(asked(place, place / "images", tmp_path / "images")) == 0
    assert "5 images of 5 samples, 0 samples left out" in capsys.readouterr().out
    found = pixels(tmp_path / "images")
    assert list(found) == ["0/p0.png", "0/p2.png", "0/p4.png", "1/p1.png", "1/p3.png"]
    assert all(image.shape == (20, 28, 3) for image in found.values())
    assert sample.main(asked(place, place / "codes", tmp_path / "codes", "--batch", 3, "--npz")) == 0
    assert same(found, pixels(tmp_path / "codes"))
    with np.load(tmp_path / "codes" / "seed-0.npz") as held:
        order = [f"{key}.png" for key in keys(place / "codes")]
        assert np.array_equal(held["arr_0"], np.stack([found[name] for name in order]))
    twice = asked(place, place / "codes", tmp_path / "twice", "--batch", 4, "--count", 2)
    assert sample.main(twice) == 0
    more = pixels(tmp_path / "twice")
    assert len(more) == 10 and all(np.array_equal(more[name[:-4] + "-0000.png"], found[name]) for name in found)
    assert not np.array_equal(more["0/p0-0000.png"], more["0/p0-0001.png"])


class Reds(torch.nn.Module):
    """The redder an image is, the larger the number of its class."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0].mean(dim=(1, 2))[:, None] * torch.arange(3)


def test_a_classifier_keeps_the_best_candidates_of_every_sample_on_any_number_of_ranks(place, tmp_path, capsys):
    prior = pairs.write_prior(tmp_path / "prior", place / "tokenizer", "class")
    torch.jit.script(Reds()).save(str(tmp_path / "reds.pt"))
    with ShardWriter(tmp_path / "set", "x", 2, {}) as writer:
        for number in range(3):
            writer.write(f"p{number}", {"png": encoded(photo(16, 16), "PNG"), "cls": b"%d" % number})
    common = [str(part) for part in (prior, place / "tokenizer", "--shards", tmp_path / "set", "--size", "16x16")]
    choice = ["--classifier", str(tmp_path / "reds.pt"), "--keep-share", "0.5", "--npz"]
    assert sample.main([*common, "--count", "6", "--out", str(tmp_path / "all")]) == 0
    assert sample.main([*common, "--count", "3", "--out", str(tmp_path / "best"), *choice]) == 0
    every, best = pixels(tmp_path / "all"), pixels(tmp_path / "best")
    assert len(every) == 18 and len(best) == 9
    for number in range(3):
        logits = {name: (image[..., 0] / 127.5 - 1).mean() * np.arange(3) for name, image in every.items()}
        sure = {n: np.exp(each[number]) / np.exp(each).sum() for n, each in logits.items() if n[:2] == f"p{number}"}
        kept = [name for name in best if name[:2] == f"p{number}"]
        assert len(kept) == 3 and min(sure[n] for n in kept) >= max(sure[n] for n in sure if n not in kept) - 1e-6
        assert all(np.array_equal(best[name], every[name]) for name in kept)
    with np.load(tmp_path / "best" / "seed-0.npz") as held:
        assert len(held["arr_0"]) == 9
    arguments = [*common, "--count", "3", "--out", str(tmp_path / "ranks"), *choice]
    job = processes.command("smalti.launch.sample", arguments, 2, {"OMP_NUM_THREADS": "1"})
    job.wait()
    assert same(best, pixels(tmp_path / "ranks")), job.output()
    assert sample.main(asked(place, place / "images", tmp_path / "none", *choice)) == 2
    assert "this prior reads none; omit --classifier" in capsys.readouterr().err


def test_ranks_that_are_killed_go_on_alone_to_the_same_images(place, tmp_path):
    assert sample.main(asked(place, place / "codes", tmp_path / "whole", "--count", 8)) == 0
    arguments = asked(place, place / "codes", tmp_path / "killed", "--count", 8, "--save-every", 0)
    job = processes.command("smalti.launch.sample", arguments, 2, {"OMP_NUM_THREADS": "1"})
    begun = [tmp_path / "killed" / "0" / f"p0-000{again}.png" for again in range(2)]  # the first of each rank
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in begun):
        assert time.monotonic() < deadline and processes.alive(job.leader), job.output()
        time.sleep(0.01)
    for rank in range(2):
        job.signal(signal.SIGKILL, rank)
    job.wait()
    assert sample.main(arguments) == 0
    assert same(pixels(tmp_path / "whole"), pixels(tmp_path / "killed"))
    assert not list((tmp_path / "killed").rglob(".*"))


def test_samples_that_cannot_be_used_are_named_and_left_out(place, tmp_path, capsys):
    write_set(tmp_path / "wild", (2, 7, 3))
    assert sample.main(asked(place, tmp_path / "wild", tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "left out: out of range: 1/p1 in" in said.out and "1 of 3 samples were left out" in said.err
    assert sorted(pixels(tmp_path / "out")) == ["0/p0.png", "0/p2.png"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--class", "1"], "omit --class"),
        (["--segmentation", "map.png", "--grid"], "omit --segmentation, --grid"),
        (["--size", "20x28", "24x28"], "one size at a time"),
        (["--size", "20x28"], "omit --size"),
    ],
)
def test_what_a_set_says_itself_is_not_asked_for_beside_it(place, tmp_path, capsys, more, said):
    assert sample.main(asked(place, place / "codes", tmp_path / "out", *more)) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
