"""Water that mirrors the sky: an editor learns it where its guide tells it to look, and not from neighbors alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from smalti.models.conditions import CodeMapConfig
from smalti.models.priors.editor import Editor, EditorConfig

CODES, BLOCKS, IMAGES, STEPS = 8, 8, 32, 160
SHAPE = {"encoder_layers": 1, "decoder_layers": 2, "heads": 2, "width": 64, "blocks": (BLOCKS, BLOCKS), "norm": "pre"}


def mirrored(side: int, images: int, draws: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Codes (B, side, side) of random skies above their mirror images, and the fields of an edit of all water."""
    sky = torch.randint(CODES, (images, side // 2, side), generator=draws)
    water = torch.zeros(images, side, side, dtype=torch.bool)
    water[:, side // 2 :] = True
    return torch.cat((sky, sky.flip(1)), 1), {"segmentation_codes": water.long(), "masked": water}


def fresh(side: int, **settings: Any) -> Editor:
    torch.manual_seed(1)
    return EditorConfig(**SHAPE, window=(side, side), **settings).build(CODES, CodeMapConfig(vocab_size=2))


def learnt(model: Editor, guide: Editor | None) -> float:
    """The share of water that it predicts right, after so many steps."""
    draws, side = torch.Generator().manual_seed(0), model.window[0]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    right = 0.0
    for step in range(STEPS + 1):
        codes, fields = mirrored(side, IMAGES, draws)
        if guide is not None:  # which sees another image: where the mirror image lies does not depend on its codes
            small, of_small = mirrored(guide.window[0], IMAGES, draws)
            fields |= guide.affinities(small, of_small)
        if step == STEPS:
            with torch.no_grad():
                right = (model(codes, fields).logits.argmax(-1) == codes)[fields["masked"]].float().mean().item()
            break
        loss = model(codes, fields, targets=codes).loss.sum() / fields["masked"].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 20) * (1 - step / STEPS) ** 0.5
        optimizer.step()
    return right


@pytest.mark.slow
def test_a_mirror_image_is_learnt_with_a_guide_and_not_from_neighbors_at_the_same_number_of_steps():
    guide = fresh(BLOCKS)  # one code a block
    assert learnt(guide, None) > 0.95
    guided = learnt(fresh(2 * BLOCKS, attention="guided", picks=1), guide)
    local = learnt(fresh(2 * BLOCKS, attention="static", picks=0), None)
    assert guided > 0.9, guided
    assert local < 0.6, local
