"""Validation has the losses of training, LPIPS and the discriminator's word, the same on any number of ranks."""

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from fixtures.feature_networks import frechet, write_network
from fixtures.games import TOTAL, game, images, micro_batches

from smalti.models.losses.adversarial import discriminator_loss
from smalti.trainer.distributed import ranks
from smalti.trainer.vqgan.task import VQGANTask

PERCEPTUAL = {"loss": {"perceptual": {"trunk": "random", "weight": 0.5}, "adversarial": {"disc_weight": 0.8}}}


def evaluated(zero: int, network: str) -> dict[str, Any]:
    """On a rank: the figures of a fresh task on the images of a step, and what plain calls say of all of them."""
    extra = PERCEPTUAL | {"val_features": {"network": network}}
    run = game(generator_zero=zero, discriminator_zero=zero, norm="batch", extra=extra)
    torch.manual_seed(run.seed)
    task = VQGANTask(run, TOTAL // run.batch.micro_batch_size // ranks.world())
    mode = task.discriminator_trainer.engine.module.training
    figures = dict(task.evaluate(micro_batches(0, 2, ranks.rank(), ranks.world())))
    assert task.discriminator_trainer.engine.module.training == mode  # as it was before
    torch.manual_seed(run.seed)
    generator, discriminator = run.model.build().eval(), run.discriminator.build(3).eval()
    real = images(0).float() / 127.5 - 1
    with torch.no_grad():
        out = generator(real)
        logits = discriminator(real), discriminator(out.reconstruction)
        l1 = (out.reconstruction - real).abs().mean()
        lpips = task.reconstruction_loss.lpips(real, out.reconstruction).mean()
        features = torch.jit.load(network)
        sets = [((each.clamp(-1, 1) + 1) * 127.5).round().byte() for each in (real, out.reconstruction)]
        one, other = (features(levels)[0].double().numpy() for levels in sets)
    plain = {
        "rec_loss": l1, "lpips_loss": lpips, "nll_loss": l1 + 0.5 * lpips, "quantizer_loss": out.quantized.loss,
        "logits_real": logits[0].mean(), "logits_fake": logits[1].mean(),
        "logits_gap": logits[0].mean() - logits[1].mean(), "d_loss": discriminator_loss("hinge", *logits),
        "discriminator_accuracy": torch.cat([logits[0], -logits[1]]).gt(0).float().mean(),
    }  # fmt: skip
    found = {name: float(value) for name, value in plain.items()} | {"rfid": frechet(one, other)}
    return {"figures": figures, "plain": found}


@pytest.mark.parametrize(("world", "zero"), [(1, 1), (2, 3)])
def test_validation_losses_are_those_of_plain_networks_on_all_images(world: int, zero: int, tmp_path: Path) -> None:
    network = str(write_network(tmp_path / "net.pt"))
    for rank in processes.run(evaluated, world, zero, network):
        figures, plain = rank["figures"], rank["plain"]
        assert {name: figures[name] for name in plain} == pytest.approx(plain, rel=1e-4, abs=1e-5)
        assert {"psnr", "l1", "sfid", "codebook/usage", "codebook/perplexity"} <= figures.keys()
        assert plain["rfid"] > 0.01
