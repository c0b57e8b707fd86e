"""Figures of priors: likelihood of codes, and images sampled under the conditions of a data set."""

import json
import math

import numpy as np
import processes
import pytest
import torch
import torch.nn.functional as F
from fixtures import feature_networks, pairs
from fixtures.feature_networks import write_network, write_segmenter
from fixtures.priors import grids, npy, write_code_shards
from fixtures.shards import write_images
from fixtures.tokenizers import CODES, FACTOR, write_tokenizer

from smalti.launch.evaluate import __main__ as evaluate
from smalti.models.pixel_range import from_levels
from smalti.models.sampling import GridRequest, SamplingConfig, sample
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer
from smalti.trainer.data.config import DataConfig
from smalti.trainer.data.crops import CropConfig
from smalti.trainer.data.stream import Stream
from smalti.trainer.keyed_random import text_key

WINDOW = (3, 3)
SIDE = WINDOW[0] * FACTOR
SAMPLES = 13


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    write_tokenizer(folder / "tokenizer")
    for condition in ("none", "class", "segmentation"):
        pairs.write_prior(folder / condition, folder / "tokenizer", condition, window=WINDOW)
    metadata = model_files.read_metadata(folder / "tokenizer")
    codes = grids(SAMPLES, (5, 4), CODES)
    members = [{"codes.npy": npy(grid), "cls": b"%d" % (number % 5)} for number, grid in enumerate(codes)]
    write_code_shards(folder / "codes", metadata, members)
    write_images(folder / "images", SAMPLES, classes=5, labels=7)
    write_network(folder / "net.pt")
    write_segmenter(folder / "segmenter.pt", labels=7)
    return folder


def evaluated(out, *arguments):
    assert evaluate.main([*map(str, arguments), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def refused(capsys, *arguments):
    assert evaluate.main([*map(str, arguments)]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def of_images(place, condition, *more):
    tokenizer, network = place / "tokenizer", place / "net.pt"
    return [place / condition, place / "images", "--tokenizer", tokenizer, "--features", network, "--batch", 4, *more]


def windows(grid):
    """The windows that cover a grid, flush with its end."""
    rows, columns = ([*range(0, length - 3, 3), length - 3] for length in grid.shape)
    return [grid[row : row + 3, column : column + 3] for row in rows for column in columns]


def test_the_likelihood_is_that_of_every_window_in_plain_numpy(place, tmp_path):
    found = evaluated(tmp_path / "out.json", place / "class", place / "codes", "--batch", 4)
    prior = load_prior(place / "class").model
    nats, ranked = [], []
    for number, grid in enumerate(grids(SAMPLES, (5, 4), CODES)):
        for window in windows(grid.astype(np.int64)):
            codes = torch.from_numpy(window)[None]
            logits = prior(codes, {"cls": torch.tensor([number % 5])}).logits[0].double()
            shares = logits.log_softmax(2)
            nats.append(-shares.gather(2, codes[0][..., None])[..., 0].numpy())
            order = logits.argsort(dim=2, descending=True)
            ranked.append((order == codes[0][..., None]).double().argmax(2).numpy())
    figures, nats, ranked = found["figures"], np.array(nats), np.array(ranked)
    assert figures["nll"] == pytest.approx(nats.mean(), rel=1e-6)
    assert figures["bits_per_code"] == pytest.approx(nats.mean() / math.log(2), rel=1e-6)
    assert figures["bits_per_pixel"] == pytest.approx(nats.mean() / math.log(2) / FACTOR**2, rel=1e-6)
    assert figures["perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-5)
    assert figures["top1"] == pytest.approx((ranked < 1).mean()) and figures["top5"] == pytest.approx(
        (ranked < 5).mean()
    )
    assert np.allclose(found["details"]["nll_by_position"], nats.mean(0), rtol=1e-5)
    assert found["protocol"]["samples"] == SAMPLES and found["details"]["windows"] == len(nats) == SAMPLES * 4


def test_likelihoods_of_codes_and_generation_are_the_same_on_one_and_two_ranks(place, tmp_path):
    for name, arguments in (
        ("codes", [place / "none", place / "codes", "--batch", 4]),
        ("images", of_images(place, "segmentation", "--segmenter", place / "segmenter.pt", "--top-k", 8)),
    ):
        alone = evaluated(tmp_path / f"{name}-1.json", *arguments)
        shared = [*map(str, arguments), "--out", str(tmp_path / f"{name}-2.json")]
        ended = processes.command("smalti.launch.evaluate", shared, 2, {"OMP_NUM_THREADS": "1"}).wait()
        assert not any(ended.codes), ended.log
        found = json.loads((tmp_path / f"{name}-2.json").read_text())
        assert found["protocol"] == alone["protocol"]
        assert found["figures"] == pytest.approx(alone["figures"], rel=1e-9)
        assert np.allclose(found["details"]["nll_by_position"], alone["details"]["nll_by_position"], rtol=1e-9)


def test_known_codes_are_judged_under_what_sampling_draws_from(place, tmp_path):
    """By numpy from the logits with and without the condition: guided, tempered, and cut where it may not be drawn."""
    common = [place / "class", place / "codes", "--batch", 4]
    plain = evaluated(tmp_path / "plain.json", *common)["figures"]
    assert (plain["drawn_nll"], plain["drawn_kept"]) == (pytest.approx(plain["nll"], rel=1e-6), 1.0)
    prior = load_prior(place / "class").model
    nats, steady, ranked = [], [], []
    for number, grid in enumerate(grids(SAMPLES, (5, 4), CODES)):
        for window in windows(grid.astype(np.int64)):
            codes, given = torch.from_numpy(window)[None], {"cls": torch.tensor([number % 5])}
            one, absent = (
                prior(codes, given, dropped=torch.tensor([gone])).logits[0].double() for gone in (False, True)
            )
            grown = (1 + 2 * torch.arange(9) / 8).view(3, 3, 1)  # of the linear schedule, in raster order
            for found, scale in ((nats, 3.0), (steady, grown)):
                shares = ((absent + scale * (one - absent)) / 2).log_softmax(2)
                found.append(-shares.gather(2, codes[0][..., None]).numpy())
            ranked.append((one > one.gather(2, codes[0][..., None])).sum(2).numpy())
    guided = evaluated(tmp_path / "guided.json", *common, "--temperature", 2, "--guidance", 3)
    assert guided["figures"]["drawn_nll"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert guided["figures"]["nll"] == plain["nll"] and guided["figures"]["drawn_kept"] == 1
    assert guided["protocol"]["sampling"] == "temperature 2.0, greedy False, guidance 3 constant"
    linear = ["--temperature", 2, "--guidance", 3, "--guidance-schedule", "linear"]
    grown = evaluated(tmp_path / "grown.json", *common, *linear)["figures"]
    assert grown["drawn_nll"] == pytest.approx(np.mean(steady), rel=1e-5)
    cut = evaluated(tmp_path / "cut.json", *common, "--top-k", 8)["figures"]
    assert cut["drawn_nll"] == math.inf and cut["drawn_kept"] == pytest.approx((np.array(ranked) < 8).mean())
    assert "drawn_nll" not in evaluated(tmp_path / "greedy.json", *common, "--greedy")["figures"]


def batches_of(place, *fields):
    crop = CropConfig(size=SIDE, scale=(math.inf, math.inf))
    return Stream(DataConfig(shards=(str(place / "images"),), crop=crop), fields, global_batch=4, micro_batch=4)


def test_an_image_is_sampled_under_the_class_of_each_sample(place, tmp_path):
    """The features that count are those of images that the sampler gives for the same labels and numbers."""
    found = evaluated(tmp_path / "out.json", *of_images(place, "class", "--seed", 7, "--top-k", 8))
    prior, tokenizer = load_prior(place / "class"), load_tokenizer(place / "tokenizer")
    network = torch.jit.load(str(place / "net.pt"))
    real, made, scores = [], [], []
    for batch in batches_of(place, "image", "cls").eval_batches(4):
        numbers = [text_key(key) >> 1 for key in batch["key"]]
        config = SamplingConfig(top_k=8, lanes=len(numbers), prefill=len(numbers))
        request = GridRequest(prior.model, {"cls": batch["cls"]}, WINDOW, numbers, 7, config)
        images = ((tokenizer.decode(sample(request).codes) + 1) * 127.5).round().byte()
        with torch.no_grad():
            real.append(network(batch["image"])[0].double())
            features, logits, _ = network(images)
        made.append(features.double())
        scores.append(logits.double().softmax(1))
    one, other, shares = torch.cat(real).numpy(), torch.cat(made).numpy(), torch.cat(scores).numpy()
    figures = found["figures"]
    divergences = (shares * np.log(shares / shares.mean(0))).sum(1)
    assert figures["inception_score"] == pytest.approx(np.exp(divergences.mean()), rel=1e-5)

    def share(samples, members):
        radii = [sorted(np.linalg.norm(members - member, axis=1))[3] for member in members]
        return np.mean([any(np.linalg.norm(members - each, axis=1) <= radii) for each in samples])

    assert (figures["precision"], figures["recall"]) == (share(other, one), share(one, other))
    assert figures["fid"] > 0 and figures["sfid"] > 0
    codes = torch.cat(
        [tokenizer.encode(from_levels(batch["image"])) for batch in batches_of(place, "image").eval_batches(4)]
    )
    labels = torch.cat([batch["cls"] for batch in batches_of(place, "image", "cls").eval_batches(4)])
    nats = F.cross_entropy(prior.model(codes, {"cls": labels}).logits.flatten(0, 2), codes.flatten())
    assert figures["nll"] == pytest.approx(nats.item(), rel=1e-5)
    assert "seed 7" in found["protocol"]["sampling"] and "top_k 8" in found["protocol"]["sampling"]
    assert found["protocol"]["condition"] == "cls"


def test_sampled_maps_are_scored_by_a_segmenter(place, tmp_path):
    found = evaluated(tmp_path / "a.json", *of_images(place, "segmentation", "--segmenter", place / "segmenter.pt"))
    assert 0 < found["figures"]["pixel_accuracy"] < 1 and 0 < found["figures"]["mean_iou"] < 1
    assert found["protocol"]["segmenter"] == "segmenter.pt, 7 labels"
    without = evaluated(tmp_path / "b.json", *of_images(place, "segmentation"))
    assert "mean_iou" not in without["figures"] and without["figures"]["fid"] == found["figures"]["fid"]


def test_seeds_and_settings_of_sampling_change_what_is_measured(place, tmp_path):
    one, other, greedy = (
        evaluated(tmp_path / f"{number}.json", *of_images(place, "none", *more))["figures"]
        for number, more in enumerate((("--seed", 1), ("--seed", 2), ("--greedy",)))
    )
    assert len({one["fid"], other["fid"], greedy["fid"]}) == 3
    assert one["nll"] == other["nll"] == greedy["nll"]


def test_without_features_images_are_encoded_for_their_likelihood(place, tmp_path):
    found = evaluated(tmp_path / "out.json", *of_images(place, "none"), "--features", "none")
    assert "nll" in found["figures"] and "fid" not in found["figures"]
    assert found["protocol"]["codes"] == "encoded from the crops"


def test_three_samples_have_no_precision_and_too_few_for_a_distance_which_is_said(place, tmp_path):
    write_images(tmp_path / "few", 3)
    arguments = of_images(place, "none")
    found = evaluated(tmp_path / "out.json", arguments[0], tmp_path / "few", *arguments[2:])
    assert "fid" in found["figures"] and "precision" not in found["figures"]
    first, second = found["warnings"]
    assert first.startswith("fid is of 3 samples in 6 dimensions, too few")
    assert second == "precision and recall need more than 3 samples, and there are 3: left out"


def test_saved_statistics_of_images_serve_tokenizers_and_priors(place, tmp_path):
    saved = tmp_path / "real.npz"
    tokenizer = [place / "tokenizer", place / "images", "--size", f"{SIDE}x{SIDE}", "--features", place / "net.pt"]
    evaluated(tmp_path / "a.json", *tokenizer, "--lpips", "none", "--batch", 4, "--save-statistics", saved)
    own = evaluated(tmp_path / "b.json", *of_images(place, "none"))
    beside = evaluated(tmp_path / "c.json", *of_images(place, "none", "--reference", saved))
    assert beside["figures"]["fid"] == pytest.approx(own["figures"]["fid"], rel=1e-9)


def test_what_does_not_go_together_is_told_in_a_line(place, tmp_path, capsys):
    write_tokenizer(tmp_path / "other", seed=1)
    said = refused(capsys, *of_images(place, "none"), "--tokenizer", tmp_path / "other")
    assert "the prior learnt the codes of the tokenizer" in said
    write_code_shards(
        tmp_path / "codes", model_files.read_metadata(tmp_path / "other"), [{"codes.npy": npy(grids(1, WINDOW)[0])}]
    )
    assert "encode the images again with that one" in refused(capsys, place / "none", tmp_path / "codes")
    assert f"give --size {SIDE}x{SIDE}" in refused(capsys, *of_images(place, "none", "--size", "16x16"))
    assert "name them with --tokenizer" in refused(capsys, place / "none", place / "images", "--features", "none")
    unpooled = write_network(tmp_path / "unpooled.pt", feature_networks.Pooled)
    said = refused(capsys, *of_images(place, "segmentation", "--segmenter", unpooled))
    assert "a score of each label for each pixel" in said
    assert "guidance" in refused(capsys, *of_images(place, "none", "--guidance", "-1"))
