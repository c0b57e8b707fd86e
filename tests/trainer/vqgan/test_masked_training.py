"""Stage 1 with masks: the step of one process, whatever the ranks; and the same masks when a run goes on."""

from pathlib import Path

import processes
import pytest
import torch
from fixtures.games import TINY, TOTAL, game, images
from fixtures.runs import write_vqgan

from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.config import ConfigError, read
from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.jobs.run import train
from smalti.trainer.vqgan.config import VQGANRun
from smalti.trainer.vqgan.task import VQGANTask

STEPS = 2


def masked_game(zero: int, micro: int) -> VQGANRun:
    model = TINY | {"quantizer": {"kind": "vq", "codebook_size": 16}, "mask_aware": True}
    extra = {"model": model, "masks": {"largest": 0.5, "grow": 1}}
    return game(micro=micro, generator_zero=zero, adaptive=False, disc_weight=0.1, extra=extra)


def play(cases: list[list[int]]) -> list[dict[str, torch.Tensor]]:
    """On a rank: the generator's weights after some steps with masks, for every stage and micro-batch."""
    left = []
    for zero, micro in cases:
        run = masked_game(zero, micro)
        torch.manual_seed(run.seed)
        task = VQGANTask(run, TOTAL // micro // ranks.world())
        for step in range(STEPS):
            parts = images(step).split(micro)
            mine = range(ranks.rank(), len(parts), ranks.world())
            task.step([{"image": parts[n], "segmentation": parts[n][:, 0] // 64,
                        "key": [f"{n * micro + i}" for i in range(micro)]} for n in mine], step)  # fmt: skip
        left.append(sharded_parameters.full_state_dict(task.model))
    return left


def test_two_ranks_train_what_one_process_trains_also_where_weights_are_partitioned():
    cases = [[3, 4]]
    (alone,), (together, _) = processes.run(play, 1, [[1, 4]]), processes.run(play, 2, cases)
    torch.manual_seed(masked_game(1, 4).seed)
    before = masked_game(1, 4).model.build().state_dict()
    for (zero, _), weights in zip(cases, together, strict=True):
        for name, expected in alone[0].items():
            torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-6, msg=f"{zero} {name}")
    assert (alone[0]["encoder.conv_in.weight"] - before["encoder.conv_in.weight"]).abs().sum() > 0.1


def carry_on(place: str) -> list[int]:
    """On a rank: a run to the end, and the same in two parts."""
    config = Path(place) / "whole.yaml"
    write_vqgan(Path(place), name="whole", masks={"grow": 1}, model__mask_aware=True, loop__max_steps=4,
                generator_training__optimizer={"learning_rate": 1e-3})  # fmt: skip
    train(read(VQGANRun, config), fresh=False)
    for steps in (2, 4):
        train(read(VQGANRun, config, [f"run_dir={place}/parts", f"loop.max_steps={steps}"]), fresh=False)
    whole, parts = (load_tokenizer(Path(place) / name, "cpu").model for name in ("whole", "parts"))
    return [int((a != b).sum()) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True)]


def test_a_run_that_goes_on_draws_the_same_masks_and_ends_with_the_same_bits(tmp_path: Path):
    differences = processes.run(carry_on, 1, tmp_path)[0]
    assert len(differences) > 10 and not any(differences)


def test_masks_and_a_network_that_knows_them_go_together():
    with pytest.raises(ConfigError, match="go together"):
        game(extra={"masks": {}})
