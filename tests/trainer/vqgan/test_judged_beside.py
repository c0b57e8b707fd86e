"""The conditional discriminator: real and rebuilt images are judged beside the map or depth of their sample."""

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from fixtures.games import TOTAL, Plain, game, images
from fixtures.runs import lines, write_vqgan
from torch import Tensor, nn

from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.config import ConfigError, read
from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.jobs.run import train
from smalti.trainer.vqgan.config import VQGANRun
from smalti.trainer.vqgan.judged_beside import JudgedBesideConfig
from smalti.trainer.vqgan.task import VQGANTask

STEPS, LABELS = 2, 3
CASES: dict[str, dict[str, Any]] = {
    "same_forward": {"r1_gamma": 0.5},
    "updated_generator": {"discriminator_fakes": "updated_generator"},
    "partitioned": {"generator_zero": 3, "discriminator_zero": 3},
    "depth": {},
}


def conditional(case: str) -> VQGANRun:
    beside = {} if case == "depth" else {"field": "segmentation", "num_labels": LABELS}
    return game(micro=TOTAL // 2, **CASES[case], extra={"judged_beside": beside})


def maps(step: int) -> Tensor:
    """(B, H, W) labels, one of them beyond those that are known, and some places without one."""
    return torch.where(images(step)[:, 1] > 240, 255, images(step)[:, 0] // 64).byte()


def play(case: str) -> list[dict[str, Tensor]]:
    """On a rank: the weights of both networks after some steps."""
    run = conditional(case)
    torch.manual_seed(run.seed)
    micro = run.batch.micro_batch_size
    task = VQGANTask(run, TOTAL // micro // ranks.world())
    for step in range(STEPS):
        parts = [each.split(micro) for each in (images(step), maps(step), images(step)[:, 2].float() / 255)]
        mine = range(ranks.rank(), TOTAL // micro, ranks.world())
        task.step([{"image": parts[0][n], "segmentation": parts[1][n], "depth": parts[2][n],
                    "key": [f"{n * micro + i}" for i in range(micro)]} for n in mine], step)  # fmt: skip
    return [sharded_parameters.full_state_dict(engine.module) for engine in task.engines.values()]


class Judged(nn.Module):
    """A discriminator that gets what lies beside the images from elsewhere."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.beside = inner, torch.zeros(0)

    def forward(self, seen: Tensor) -> Tensor:
        return self.inner(torch.cat((seen, self.beside), 1))


class PlainBeside(Plain):
    """The game in plain torch, the discriminator seeing channels of the labels, or the depth."""

    def __init__(self, run: VQGANRun, depth: bool) -> None:
        super().__init__(run, 1)
        torch.manual_seed(run.seed)
        self.depth, self.generator = depth, run.model.build()
        self.discriminator = Judged(run.discriminator.build(3 + (1 if depth else LABELS)))
        networks = (self.generator, self.discriminator)
        self.adams = [torch.optim.Adam(network.parameters(), 2e-3, (0.5, 0.9), 1e-3) for network in networks]

    def _generator_backward(self, real: Tensor, out: Any, step: int) -> None:
        self.discriminator.beside = torch.stack([maps(step) == label for label in range(LABELS)], 1).float()
        if self.depth:
            self.discriminator.beside = images(step)[:, 2:].float() / 255 * 2 - 1
        super()._generator_backward(real, out, step)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_what_one_plain_process_trains(case: str) -> None:
    plain = PlainBeside(conditional(case), case == "depth")
    plain.play(STEPS)
    for weights in processes.run(play, 2, case):
        for found, network in zip(weights, (plain.generator, plain.discriminator.inner), strict=True):
            for name, expected in network.named_parameters():
                torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6, msg=name)


def carry_on(place: str) -> list[int]:
    """On a rank: a run to the end, and the same in two parts."""
    config = write_vqgan(
        Path(place), name="whole", judged_beside={"field": "segmentation", "num_labels": 256}, loop__max_steps=4
    )
    train(read(VQGANRun, config), fresh=False)
    for steps in (2, 4):
        train(read(VQGANRun, config, [f"run_dir={place}/parts", f"loop.max_steps={steps}"]), fresh=False)
    whole, parts = (load_tokenizer(Path(place) / name, "cpu").model for name in ("whole", "parts"))
    return [int((a != b).sum()) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True)]


def test_a_run_reads_the_field_validates_with_it_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    differences = processes.run(carry_on, 1, tmp_path)[0]
    assert len(differences) > 10 and not any(differences)
    logged = {name for line in lines(tmp_path / "whole") for name in line}
    assert {"train/d_loss", "val/d_loss"} <= logged


def test_places_without_a_label_have_no_channel() -> None:
    labels = torch.tensor([[[0, 2], [1, 255]]])
    seen = JudgedBesideConfig("segmentation", 2).of({"segmentation": labels})
    assert seen.tolist() == [[[[1, 0], [0, 0]], [[0, 0], [1, 0]]]]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"judged_beside": {"field": "depth", "num_labels": 3}}, "go together"),
        ({"judged_beside": {"field": "segmentation"}}, "say how many labels"),
        ({"judged_beside": {}, "loss": {"perceptual": None, "adversarial": None}}, "for the discrim"),
    ],
)
def test_what_cannot_be_judged_is_refused(extra: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        game(extra=extra)
