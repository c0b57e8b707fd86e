"""``smalti reconstruct``: originals beside reconstructions, equal on any number of ranks, whatever is killed."""

import io
import signal
import subprocess
import time

import numpy as np
import processes
import pytest
import torch
from fixtures.priors import npy, write_code_shards
from fixtures.shards import write_images
from fixtures.tokenizers import write_tokenizer
from PIL import Image

from smalti.launch import encode, index
from smalti.launch.reconstruct import __main__ as reconstruct
from smalti.launch.reconstruct import decode
from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.checkpoint.model_files import read_metadata
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter

COUNT = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reconstruct")
    write_tokenizer(folder / "tokenizer")
    write_images(folder / "images", COUNT, per_shard=5)  # of 24 x 24, 24 x 25 and 24 x 26 pixels
    assert encode.main([str(folder / name) for name in ("tokenizer", "images", "codes")]) == 0
    return folder


def asked(place, shards, out, *more):
    return [str(part) for part in (place / "tokenizer", shards, "--out", out, *more)]


def pixels(folder):
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def packed(place):
    """The images as they were packed, by key."""
    shards = ShardSet.open([str(place / "images")])
    places = [(shard, number) for shard, count in enumerate(shards.counts) for number in range(count)]
    return {shards.key(*each): np.asarray(Image.open(io.BytesIO(shards.read(*each, "png")))) for each in places}


def rebuilt(place, image):
    """What the tokenizer makes of an image, seen whole."""
    tokenizer = load_tokenizer(place / "tokenizer", "cpu")
    seen = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    levels = (tokenizer.decode(tokenizer.encode(seen))[0] + 1) * 127.5
    return levels.round().byte().permute(1, 2, 0).numpy()


def test_originals_stand_beside_what_the_tokenizer_makes_of_them(place, tmp_path, capsys):
    assert reconstruct.main(asked(place, place / "images", tmp_path, "--batch", 4)) == 0
    assert "12 images, 0 samples left out" in capsys.readouterr().out
    found, sources = pixels(tmp_path), packed(place)
    assert len(found) == 2 * COUNT
    for key, image in sources.items():
        whole = image[:24, :24]  # as far as codes of 4 pixels go
        assert np.array_equal(found[f"originals/{key}.png"], whole)
        assert np.abs(found[f"reconstructions/{key}.png"].astype(int) - rebuilt(place, whole)).max() <= 1
    assert reconstruct.main(asked(place, place / "images", tmp_path / "crops", "--size", 16)) == 0
    crops = pixels(tmp_path / "crops")
    assert np.array_equal(crops["originals/p000.png"], sources["p000"][4:20, 4:20])  # the middle
    assert (
        np.abs(crops["reconstructions/p000.png"].astype(int) - rebuilt(place, sources["p000"][4:20, 4:20])).max() <= 1
    )


def test_code_shards_are_decoded_to_the_same_images(place, tmp_path):
    assert reconstruct.main(asked(place, place / "images", tmp_path / "pairs")) == 0
    assert decode.main(asked(place, place / "codes", tmp_path / "decoded")) == 0
    pairs, decoded = pixels(tmp_path / "pairs" / "reconstructions"), pixels(tmp_path / "decoded")
    assert pairs.keys() == decoded.keys() and len(decoded) == COUNT
    assert all(np.array_equal(pairs[name], decoded[name]) for name in pairs)


def test_ranks_that_are_killed_go_on_alone_to_the_same_bytes(place, tmp_path):
    def files(folder):
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}

    write_images(tmp_path / "many", 120, per_shard=50)
    assert reconstruct.main(asked(place, tmp_path / "many", tmp_path / "whole", "--batch", 3)) == 0
    arguments = asked(place, tmp_path / "many", tmp_path / "killed", "--batch", 3)
    job = processes.command("smalti.launch.reconstruct", arguments, 2, {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed").rglob("*.png"))) < 20:
        assert time.monotonic() < deadline and processes.alive(job.leader), job.output()
        time.sleep(0.002)
    for rank in range(2):
        job.signal(signal.SIGKILL, rank)
    job.wait()
    assert len(list((tmp_path / "killed").rglob("*.png"))) < 240
    assert reconstruct.main(arguments) == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole") and len(files(tmp_path / "whole")) == 240


def test_samples_of_a_tar_of_a_whole_folder_are_called_by_their_files(place, tmp_path, capsys):
    for name in ("a", "b"):
        Image.new("RGB", (24, 24), (9, 200, 30)).save(tmp_path / f"{name}.png")
    (tmp_path / "shards").mkdir()
    subprocess.run(["tar", "-cf", "shards/x.tar", "./a.png", "./b.png"], cwd=tmp_path, check=True)
    assert index.main([str(tmp_path / "shards"), "--processes", "1"]) == 0
    assert reconstruct.main(asked(place, tmp_path / "shards", tmp_path / "out")) == 0
    assert "2 images, 0 samples left out" in capsys.readouterr().out
    names = [f"{kind}/{name}.png" for kind in ("originals", "reconstructions") for name in "ab"]
    assert sorted(pixels(tmp_path / "out")) == names


def test_a_code_that_the_tokenizer_has_not_costs_its_image_alone(place, tmp_path, capsys):
    metadata = read_metadata(place / "tokenizer")
    codes = np.arange(9).reshape(3, 3) % metadata["codes"]
    write_code_shards(
        tmp_path / "codes", metadata, [{"codes.npy": npy(grid)} for grid in (codes, codes + metadata["codes"], -codes)]
    )
    assert decode.main(asked(place, tmp_path / "codes", tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "left out: out of range: p001 in" in said.out and "2 of 3 samples were left out" in said.err
    assert sorted(pixels(tmp_path / "out")) == ["p000.png"]


def test_what_cannot_be_rebuilt_is_refused(place, tmp_path, capsys):
    write_tokenizer(tmp_path / "maps", labels=7)
    write_tokenizer(tmp_path / "other", seed=1)
    for arguments, said in (
        ([tmp_path / "maps", place / "images"], "must be one of images"),
        ([place / "tokenizer", place / "codes"], "holds codes; smalti decode shows them"),
    ):
        assert reconstruct.main([str(part) for part in (*arguments, "--out", tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
    for arguments, said in (
        ([tmp_path / "other", place / "codes"], "were made by the tokenizer"),
        ([place / "tokenizer", place / "images"], "holds images; smalti reconstruct"),
    ):
        assert decode.main([str(part) for part in (*arguments, "--out", tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "out" / "originals").mkdir(parents=True)
    Image.new("RGB", (3, 3)).save(tmp_path / "out" / "originals" / "p000.png")
    assert reconstruct.main(asked(place, place / "images", tmp_path / "out")) == 2
    assert "p000.png is there and was made otherwise" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_named_and_left_out(place, tmp_path, capsys):
    with ShardWriter(tmp_path / "some", "x", 4, {}) as writer:
        for key in ("a", "b"):
            buffer = io.BytesIO()
            Image.new("RGB", (24, 24), (9, 200, 30)).save(buffer, "PNG")
            writer.write(key, {"png": buffer.getvalue() if key == "a" else b"no image"})
    assert reconstruct.main(asked(place, tmp_path / "some", tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "left out: undecodable: b in" in said.out and "1 of 2 samples were left out" in said.err
    assert sorted(pixels(tmp_path / "out")) == ["originals/a.png", "reconstructions/a.png"]
