"""Every quantizer, discriminator and loss trains in the task; what does not go together is refused at once."""

import math
from typing import Any, get_args

import processes
import pytest
import torch
from fixtures.games import SIDE, TOTAL, game, micro_batches

from smalti.models.discriminators import DiscriminatorConfig
from smalti.models.losses.adversarial import AdversarialLoss
from smalti.models.losses.reconstruction import PixelLoss
from smalti.models.quantizers import QuantizerConfig
from smalti.trainer.data.inputs import target
from smalti.trainer.training.color_maps import color_coded
from smalti.trainer.training.evaluation import MetricSums
from smalti.trainer.vqgan.figures import add_figures, side_by_side
from smalti.trainer.vqgan.task import VQGANTask

QUANTIZERS = {config.kind: config for config in get_args(QuantizerConfig)}
DISCRIMINATORS = {
    "patchgan": {"channels": 16, "layers": 1},
    "blur_patchgan": {"channels": 32, "stages": 1},
    "stylegan": {"resolution": SIDE, "capacity": 64, "widest": 16},
}
OPTIMIZER = {"optimizer": {"learning_rate": 1e-3}}


def quantizer(kind: str) -> dict[str, Any]:
    return {"kind": kind} | {"fsq": {"levels": [5, 5, 5, 5]}, "lfq": {"bits": 4}}.get(kind, {})


def cases() -> dict[str, dict[str, Any]]:
    """Settings of a game by what they show."""
    found = {f"quantizer {kind}": {"quantizer": quantizer(kind)} for kind in QUANTIZERS}
    found |= {f"discriminator {kind}": {"extra": {"discriminator": {"kind": kind, **size}}}
              for kind, size in DISCRIMINATORS.items()}  # fmt: skip
    found |= {f"adversarial {kind}": {"kind": kind} for kind in get_args(AdversarialLoss)}
    found |= {
        f"pixel {kind}": {"extra": {"loss": {"pixel_loss": kind, "perceptual": None}}} for kind in get_args(PixelLoss)
    }
    return found


def play() -> dict[str, Any]:
    """On a rank: two steps of every case; the last scalars, and whether each network moved."""
    results = {}
    for name, settings in cases().items():
        run = game(micro=TOTAL, **settings)
        torch.manual_seed(run.seed)
        task = VQGANTask(run, 1)
        before = {n: [p.detach().clone() for p in e.module.parameters()] for n, e in task.engines.items()}
        for step in range(2):
            scalars = task.step(micro_batches(step, TOTAL, 0, 1), step)
        moved = {n: any(not torch.equal(p, q) for p, q in zip(e.module.parameters(), before[n], strict=True))
                 for n, e in task.engines.items()}  # fmt: skip
        results[name] = {"scalars": {key: float(value) for key, value in scalars.items()}, "moved": moved}
    return results


def test_every_kind_trains_both_networks() -> None:
    assert set(DISCRIMINATORS) == {config.kind for config in get_args(DiscriminatorConfig)}
    for name, result in processes.run(play, 1)[0].items():
        assert result["moved"] == {"generator": True, "discriminator": True}, name
        assert all(map(math.isfinite, result["scalars"].values())), name
        assert 0 < result["scalars"]["codebook/rolling_usage"] <= 1, name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r1_gamma": 10.0, "discriminator_zero": 3}, "r1_gamma needs discriminator_training.engine.zero_stage 0, 1"),
        ({"extra": {"discriminator_training": None}}, "discriminator_training is missing"),
        (
            {"extra": {"target": "segmentation"}},
            "target: segmentation and model.num_labels go together, got segmentation and None",
        ),
        ({"extra": {"target": "segmentation", "model": {"num_labels": 7}}}, "loss.adversarial is for images"),
        ({"extra": {"target": "depth"}}, "must be 1 for target: depth, got 3 and 3"),
        ({"quantizer": {"kind": "fsq", "levels": [5, 5, 5, 5]}, "monitors": {"on_codebook_collapse": "replace"}},
         "replace needs a quantizer whose codes can be moved"),
        (
            {"extra": {"discriminator": {"kind": "stylegan", "resolution": 64}}},
            "must be train_data.crop.size 16, got 64",
        ),
        ({"extra": {"generator_training": OPTIMIZER | {"engine": {"precision": "fp16"}}}}, "fp16, whose gradients"),
        (
            {"r1_gamma": 10.0,
             "extra": {"discriminator_training": OPTIMIZER | {"engine": {"compile_backend": "inductor"}}}},
            "no second derivative",
        ),
        (
            {"extra": {
                "discriminator_training": OPTIMIZER | {"engine": {"compile_backend": "inductor", "zero_stage": 3}}
            }},
            "at zero_stage 3",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        game(**settings)


def test_targets_are_read_as_the_network_takes_them() -> None:
    batch: dict[str, Any] = {
        "image": torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2),
        "depth": torch.tensor([[[0.0, 0.25]]]),
        "segmentation": torch.tensor([[[3, 255]]], dtype=torch.uint8),
    }
    assert target(batch, "image")[0, 0].tolist() == [[-1.0, 1.0]]
    assert target(batch, "depth").tolist() == [[[[-1.0, -0.5]]]]
    assert target(batch, "segmentation").tolist() == [[[3, 255]]]


def test_figures_of_maps_leave_out_what_has_no_label() -> None:
    logits = torch.tensor([[2.0, 0.0, 5.0], [0.0, 2.0, 0.0]]).view(1, 2, 1, 3)
    sums = MetricSums()
    add_figures(sums, "segmentation", torch.tensor([[[0, 0, 255]]]), logits)
    means = sums.means()
    assert means["accuracy"] == 0.5
    assert means["cross_entropy"] == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2)


def test_labels_have_colours_of_their_own_and_depths_are_grey() -> None:
    colors = color_coded(torch.arange(256).view(1, 16, 16))
    assert colors.shape == (1, 3, 16, 16) and colors.abs().max() <= 1
    assert len(set(map(tuple, colors[0].flatten(1).t().tolist()))) == 256
    assert side_by_side("depth", torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))[1].shape == (1, 3, 2, 2)


def test_labels_beyond_all_classes_are_shown_like_the_mark_of_no_label():
    marks = torch.tensor([[[255, 256, 65535]]])
    assert torch.equal(color_coded(marks), color_coded(torch.full_like(marks, 255)))
