"""Figures of a tokenizer are the same on any number of ranks, say their protocol, and bad input ends in a line."""

import json
import math

import numpy as np
import processes
import pytest
import torch
from fixtures import feature_networks, runs
from fixtures.feature_networks import frechet, write_network
from fixtures.shards import encoded, photo, write_images
from fixtures.tokenizers import CODES, write_tokenizer

from smalti.launch.evaluate import __main__ as evaluate
from smalti.models.metrics.similarity import ssim
from smalti.models.pixel_range import from_levels, to_levels
from smalti.trainer.checkpoint.best import best_checkpoint
from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.data.config import DataConfig
from smalti.trainer.data.crops import CropConfig
from smalti.trainer.data.stream import Stream
from smalti.trainer.images.geometry import Measured
from smalti.trainer.shards.writer import ShardWriter
from smalti.trainer.vqgan.frozen_losses import PerceptualConfig, load_lpips


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    write_tokenizer(folder / "tokenizer")
    write_images(folder / "images", 21)
    write_network(folder / "net.pt")
    return folder


def words(place, *more, size="16x16", lpips="none"):
    run, images, features = place / "tokenizer", place / "images", place / "net.pt"
    common = [run, images, "--size", size, "--features", features, "--lpips", lpips, "--batch", 4]
    return [str(word) for word in (*common, *more)]


def evaluated(place, out, *more, **options):
    assert evaluate.main(words(place, "--out", out, *more, **options)) == 0
    return json.loads(out.read_text())


def refused(capsys, *arguments):
    assert evaluate.main([*arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: ")
    return said[-1]


def stream_of(place):
    crop = CropConfig(size=16, scale=(math.inf, math.inf))
    return Stream(DataConfig(shards=(str(place / "images"),), crop=crop), global_batch=4, micro_batch=4)


def test_figures_are_those_of_the_whole_set_in_plain_numpy(place, tmp_path):
    found = evaluated(place, tmp_path / "out.json")
    stream, tokenizer = stream_of(place), load_tokenizer(place / "tokenizer")
    levels = [batch["image"] for batch in stream.eval_batches(4)]
    grids = [tokenizer.encode(from_levels(images)) for images in levels]
    real, codes = torch.cat(levels).double(), torch.cat(grids)
    rebuilt = torch.cat([to_levels(tokenizer.decode(grid)) for grid in grids]).double()
    figures = found["figures"]
    errors = (real - rebuilt).square().mean((1, 2, 3)).numpy()
    assert figures["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), rel=1e-9)
    assert figures["ssim"] == pytest.approx(ssim(real, rebuilt).mean().item(), rel=1e-9)
    shares = np.bincount(codes.flatten().numpy(), minlength=CODES) / codes.numel()
    entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum()
    assert figures["codebook_usage"] == pytest.approx((shares > 0).mean())
    assert figures["effective_bits_per_code"] == pytest.approx(entropy, rel=1e-5)
    assert figures["codebook_perplexity"] == pytest.approx(2**entropy, rel=1e-5)
    assert figures["bits_per_pixel"] == math.log2(CODES) / 16
    assert figures["effective_bits_per_pixel"] == pytest.approx(entropy / 16, rel=1e-5)
    network = torch.jit.load(str(place / "net.pt"))
    parts = [network(each.byte()) for each in (real, rebuilt)]
    for name, number in (("rfid", 0), ("sfid", 2)):
        one, other = (part[number].detach().double().numpy() for part in parts)
        assert figures[name] == pytest.approx(frechet(one, other), rel=1e-4)


def test_one_two_and_four_ranks_find_the_same(place, tmp_path, capsys):
    alone = evaluated(place, tmp_path / "1.json")
    for world in (2, 4):
        shared = words(place, "--out", tmp_path / f"{world}.json")
        ended = processes.command("smalti.launch.evaluate", shared, world, {"OMP_NUM_THREADS": "1"}).wait()
        assert not any(ended.codes), ended.log
        assert "rfid" in ended.outputs[0] and "rfid" not in ended.outputs[1]
        found = json.loads((tmp_path / f"{world}.json").read_text())
        assert found["protocol"] == alone["protocol"] and found["protocol"]["samples"] == 21
        assert found["figures"] == pytest.approx(alone["figures"], rel=1e-9)
    assert {"rfid", "sfid", "psnr", "ssim"} < alone["figures"].keys()


def test_lpips_is_the_mean_over_images_at_8_bits_and_its_trunk_is_said(place, tmp_path):
    found = evaluated(place, tmp_path / "out.json", lpips="random")
    network = load_lpips(PerceptualConfig(trunk="random"))
    stream, tokenizer = stream_of(place), load_tokenizer(place / "tokenizer")
    each = []
    for batch in stream.eval_batches(4):
        real = from_levels(batch["image"])
        each.append(network(real, from_levels(to_levels(tokenizer.decode(tokenizer.encode(real))))))
    assert found["figures"]["lpips"] == pytest.approx(torch.cat(each).double().mean().item(), rel=1e-6)
    assert found["protocol"]["lpips"] == "trunk random, heads of lpips 0.1"


def test_what_is_printed_says_the_protocol(place, tmp_path, capsys):
    found = evaluated(place, tmp_path / "out.json")
    *table, under = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == list(found["figures"]) and table[-1].split()[1]
    protocol = found["protocol"]
    for said in (
        f"weights: {protocol['weights'][:12]};", f"fingerprint: {protocol['fingerprint']}", "samples: 21",
        "crop: the middle 16x16, the largest square", "resize filter: Lanczos, antialiased", "rounding: 8 bits",
        f"features sha256: {protocol['features_sha256'][:12]};", "reference: the real images of the same samples",
    ):  # fmt: skip
        assert said in under
    tokenizer = load_tokenizer(place / "tokenizer")
    assert protocol["weights"] == tokenizer.metadata["digest"]


def test_saved_statistics_are_a_reference_of_the_same_protocol_alone(place, tmp_path, capsys):
    first = evaluated(place, tmp_path / "a.json", "--save-statistics", tmp_path / "s.npz")
    again = evaluated(place, tmp_path / "b.json", "--reference", tmp_path / "s.npz")
    assert again["figures"] == pytest.approx(first["figures"], rel=1e-12)
    assert again["protocol"]["reference_fingerprint"] == again["protocol"]["fingerprint"]
    said = refused(capsys, *words(place, "--reference", tmp_path / "s.npz", "--resize", "20"))
    assert "another protocol" in said and "resize filter was 'Lanczos, antialiased' and is 'bilinear" in said
    said = refused(capsys, *words(place, "--reference", tmp_path / "s.npz", size="20x20"))
    assert "crop was 'the middle 16x16" in said
    other = write_network(tmp_path / "other.pt", seed=1)
    said = refused(capsys, *words(place, "--reference", tmp_path / "s.npz", "--features", other))
    assert "features sha256 was" in said
    plain = write_network(tmp_path / "plain.pt", feature_networks.Pooled)
    np.savez(tmp_path / "adm.npz", mu=np.zeros(9), sigma=np.eye(9))
    said = refused(capsys, *words(place, "--reference", tmp_path / "adm.npz", "--features", plain))
    assert "statistics of 9 features and plain.pt gives 6" in said


def test_a_reference_that_says_nothing_is_used_and_that_is_said(place, tmp_path):
    np.savez(tmp_path / "adm.npz", mu=np.zeros(6), sigma=np.eye(6), mu_s=np.zeros(8), sigma_s=np.eye(8))
    found = evaluated(place, tmp_path / "out.json", "--reference", tmp_path / "adm.npz")
    assert found["protocol"]["reference_protocol"] == "not said by the file"


def test_too_few_samples_for_a_distance_are_said_loudly(place, tmp_path, capsys):
    write_images(tmp_path / "few", 5)
    found = evaluated(place, tmp_path / "out.json")
    assert found["warnings"] == []
    arguments = words(place, "--out", tmp_path / "few.json")
    arguments[1] = str(tmp_path / "few")
    assert evaluate.main(arguments) == 0
    assert "WARNING: rfid is of 5 samples in 6 dimensions" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "few.json").read_text())["warnings"]) == 1
    assert evaluate.main([*arguments, "--save-statistics", str(tmp_path / "few.npz")]) == 0
    against_few = evaluated(place, tmp_path / "out.json", "--reference", tmp_path / "few.npz")
    assert [line[:40] for line in against_few["warnings"]] == ["the reference is of 5 samples in 6 dimen"]


def test_a_run_is_evaluated_on_the_crops_that_it_validates_on(tmp_path, capsys):
    network = write_network(tmp_path / "net.pt")
    best = {"val_features": {"network": str(network)}, "keep_best": {"metric": "rfid"}}
    images = [str(tmp_path / "images")]
    config = runs.write_vqgan(tmp_path, loop__max_steps=2, loop__eval_every=2, val_data__shards=images, **best)
    ended = processes.command("smalti.launch.train", [config]).wait()
    assert ended.codes == [0], ended.log
    out = tmp_path / "out.json"
    common = [str(tmp_path / "run"), str(tmp_path / "images"), "--lpips", "none"]
    assert evaluate.main([*common, "--features", str(network), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["protocol"]["crop"] == "the middle 16x16, 1 to 1 source pixels a pixel"
    validated = runs.lines(tmp_path / "run")[-1]
    for name in ("psnr", "rfid", "sfid"):
        assert found["figures"][name] == pytest.approx(validated[f"val/{name}"], rel=1e-3), name
    assert best_checkpoint(tmp_path / "run").name == "step-00000002"
    assert evaluate.main([*common, "--features", "none", "--out", str(out)]) == 0
    bare = json.loads(out.read_text())
    assert "rfid" not in bare["figures"] and "reference" not in bare["protocol"]


def test_tokenizers_of_maps_are_judged_by_their_labels(tmp_path):
    write_tokenizer(tmp_path / "tokenizer", labels=255)
    write_images(tmp_path / "images", 9)
    common = [
        tmp_path / "tokenizer",
        tmp_path / "images",
        "--size",
        "16x16",
        "--batch",
        4,
        "--out",
        tmp_path / "o.json",
    ]
    assert evaluate.main([str(word) for word in common]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    assert {"mean_iou", "accuracy", "cross_entropy"} < found["figures"].keys()
    assert 0 <= found["figures"]["mean_iou"] <= found["figures"]["accuracy"] * 255
    assert found["protocol"]["task"] == "reconstruction of each segmentation"


def write_pngs(folder, keys, prefix="x", side=24):
    with ShardWriter(folder, prefix, 8, {}) as writer:
        for number, key in enumerate(keys):
            writer.write(key, {"png": encoded(photo(side, side, number), "PNG")}, Measured(side, side))
    return folder


def test_bad_data_are_told_in_a_line(place, tmp_path, capsys):
    arguments = words(place)
    (tmp_path / "empty").mkdir()
    write_pngs(tmp_path / "twice", ["a", "b"])
    write_pngs(tmp_path / "twice", ["c", "a"], prefix="y")
    write_pngs(tmp_path / "one", ["a"])
    write_pngs(tmp_path / "small", ["a", "b"], side=8)
    for folder, said in (
        ("nothing", "nothing"),
        ("empty", "empty"),
        ("twice", "two samples have the key 'a', in "),
        ("one", "1 of 1 samples can be used, and a covariance of features needs 2"),
        ("small", "too small for crops of 16"),
    ):
        assert said in refused(capsys, arguments[0], str(tmp_path / folder), *arguments[2:])


def test_bad_networks_and_sizes_are_told_in_a_line(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = write_network(tmp_path / "nan.pt", feature_networks.NotFinite)
    assert "nan.pt gives NaN or infinity for the image p000" in refused(capsys, *words(place, "--features", network))
    assert "must be multiples of the factor 4, got 18 x 18" in refused(capsys, *words(place, size="18x18"))
    bare = [str(place / "tokenizer"), str(place / "images"), "--features", "none", "--lpips", "none"]
    assert "does not say how images are cut; give --size" in refused(capsys, *bare)
    assert "--resize needs --size" in refused(capsys, *bare, "--resize", "20")
    assert "neither an export" in refused(capsys, str(tmp_path), *bare[1:], "--size", "16")


def test_a_fault_of_one_rank_ends_all_with_one_line(place, tmp_path):
    network = write_network(tmp_path / "nan.pt", feature_networks.NotFinite)
    shared = words(place, "--features", network)
    ended = processes.command("smalti.launch.evaluate", shared, 2, {"OMP_NUM_THREADS": "1"}).wait()
    assert ended.codes == [2, 2], ended.log
    assert "".join(ended.outputs).count("error: ") == 1 and "gives NaN or infinity for the image" in ended.outputs[0]


def test_samples_that_cannot_be_used_are_left_out_counted_and_limited(place, tmp_path, capsys):
    folder = write_pngs(tmp_path / "images", [f"p{number}" for number in range(6)])
    with ShardWriter(folder, "y", 8, {}) as writer:
        writer.write("bad", {"png": b"no image"}, Measured(24, 24))
    arguments = words(place, "--max-bad-fraction", "0.5", "--out", tmp_path / "out.json")
    arguments[1] = str(folder)
    assert evaluate.main(arguments) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["protocol"]["samples"], found["protocol"]["left_out"]) == (6, 1)
    assert "left out: 1 undecodable" in found["warnings"]
    assert "could not be used" in refused(capsys, arguments[0], str(folder), *words(place)[2:])


def test_no_file_of_the_users_is_replaced(place, tmp_path, capsys):
    for option in ("--out", "--save-statistics"):
        notes = tmp_path / "notes"
        notes.write_text("years of notes")
        assert "move it away" in refused(capsys, *words(place, option, notes))
        assert notes.read_text() == "years of notes"
    evaluated(place, tmp_path / "out.json")
    evaluated(place, tmp_path / "out.json")
