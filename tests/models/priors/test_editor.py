"""The editor: nothing leaks, every size of grid, guided by another editor, and cached decoding is teacher forcing."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.launch.bench.editing import peak_bytes
from smalti.models.conditions import CodeMapConfig, UnconditionalConfig
from smalti.models.conditions.edit import BEFORE, GUIDE
from smalti.models.priors.decoders.edit_decoder import EditDecoder
from smalti.models.priors.decoding import DecodingRequest, Schedule
from smalti.models.priors.editor import Editor, EditorConfig
from smalti.models.sampling import (
    UNFILLED,
    GridRequest,
    GuidanceConfig,
    SamplingConfig,
    SamplingState,
    sample,
    sample_steps,
)

CODES, LABELS = 20, 5
KINDS = ["dense", "static", "guided"]
SIZES = [(6, 9), (3, 6), (9, 6)]
IN_LANES = SamplingConfig(lanes=4)
GUIDED = SamplingConfig(lanes=4, greedy=True, guidance=GuidanceConfig(1000.0))


def editor(attention: str = "static", **settings: Any) -> Editor:
    """With no parameter left at an innocent 0 or 1, in float64."""
    shape = {"encoder_layers": 2, "decoder_layers": 2, "heads": 2, "width": 16, "window": (6, 9), "blocks": (3, 3),
             "picks": 1}  # fmt: skip
    torch.manual_seed(0)
    model = EditorConfig(**{**shape, "attention": attention, **settings}).build(CODES, CodeMapConfig(vocab_size=LABELS))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


def edit(size: tuple[int, int], images: int = 1, attention: str = "static", mask: str = "middle") -> tuple[Tensor, Any]:
    """Codes (B, h, w) and the fields of an edit; all images have the same known codes, and guides of their own."""
    draws = torch.Generator().manual_seed(3)
    rows = size[0]
    masked = torch.zeros(1, *size, dtype=torch.bool)
    if mask == "middle":
        masked[:, rows // 3 : rows // 3 + 2, 1:-1] = True
    elif mask == "all":
        masked[:] = True
    elif mask != "none":
        masked.view(-1)[{"first": 0, "last": -1}[mask]] = True
    whole = torch.randint(CODES, (images, *size), generator=draws)
    codes = torch.where(masked, whole, whole[:1])
    labels = torch.randint(LABELS, (1, *size), generator=draws)
    fields = {
        "segmentation_codes": labels.expand(images, -1, -1),
        BEFORE: torch.where(masked, (labels + 1) % LABELS, labels).expand(images, -1, -1),
        "masked": masked.expand(images, -1, -1),
    }
    if attention == "guided":
        fields |= editor("dense").affinities(whole, fields)
        fields["guide_encoder"] = fields["guide_encoder"][:1].expand(images, -1, -1, -1, -1)
    return codes, fields


def sampled(
    model: Editor, codes: Tensor, fields: Any, ids: list[int], seed: int = 0, config: SamplingConfig = IN_LANES
) -> SamplingState:
    known = codes.masked_fill(fields["masked"], UNFILLED)
    size = (codes.shape[1], codes.shape[2])
    return sample(GridRequest(model, fields, size, ids, seed, config, known))


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("attention", KINDS)
def test_no_logit_depends_on_its_own_code_or_on_any_later_masked_one(attention: str, norm: str):
    model = editor(attention, norm=norm)
    for size in SIZES:
        codes, fields = edit(size, attention=attention, mask="all")
        with torch.no_grad():
            before = model(codes, fields).logits
            order = model.grid(codes).to_blocks(torch.arange(codes[0].numel()).view(1, *size)).flatten()
            for step in range(0, len(order), 2):
                later = codes.clone()
                later.view(-1)[order[step:]] = torch.randint(CODES, (len(order) - step,))
                after = model(later, fields).logits.view(-1, CODES)[order]
                assert torch.equal(after[: step + 1], before.view(-1, CODES)[order][: step + 1])
                if step + 1 < len(order):
                    assert not torch.equal(after, before.view(-1, CODES)[order])


def test_masked_codes_do_not_reach_the_encoder_and_known_ones_have_no_loss():
    model = editor()
    codes, fields = edit((6, 9))
    other = torch.where(fields["masked"], (codes + 7) % CODES, codes)
    grid = model.grid(codes)
    looks = model.choice.looks(fields, grid.cells, codes.device)
    one, two = (model.encode(each, fields, None, grid, looks) for each in (codes, other))
    assert torch.equal(one.codes, two.codes) and torch.equal(one.places, two.places)
    loss = model(codes, fields, targets=codes).loss
    expected = torch.nn.functional.cross_entropy(model(codes, fields).logits.movedim(-1, 1), codes, reduction="none")
    torch.testing.assert_close(loss, expected * fields["masked"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mask", ["middle", "all", "first", "last"])
def test_decoding_with_caches_is_teacher_forcing_and_leaves_known_codes(
    attention: str, size: tuple[int, int], mask: str
):
    model = editor(attention)
    codes, fields = edit(size, 3, attention, mask)
    state = sampled(model, codes, fields, [0, 1, 2])
    assert torch.equal(state.codes[~fields["masked"]], codes[~fields["masked"]])
    assert state.cells == int(fields["masked"][0].sum())
    request = DecodingRequest(fields, size, (0, 1, 2), GUIDED)
    decoder = EditDecoder(model, request)
    forced = torch.stack(
        [model(state.codes, fields, dropped=torch.full((3,), dropped)).logits for dropped in (False, True)]
    )
    drawn = fields["masked"].numpy()
    cells = [cell for cell in decoder.order if drawn[0, cell.row, cell.column]]
    flat = F.pad(state.codes.flatten(), (0, 1))
    found = torch.zeros(2, len(flat), CODES, dtype=forced.dtype)

    def keep(logits: torch.Tensor, places: torch.Tensor) -> None:
        found[:, places] = logits

    with torch.no_grad():
        for _ in decoder.run(flat, Schedule([np.array([cell]) for cell in cells], ~drawn[0], drawn), keep):
            pass
    found = found[:, :-1].view_as(forced)[:, fields["masked"]]
    torch.testing.assert_close(found, forced[:, fields["masked"]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("attention", KINDS)
def test_guidance_leads_away_from_what_is_likely_by_the_map_before(attention: str, images: int):
    model = editor(attention)
    codes, fields = edit((6, 9), images, attention)
    state = sampled(model, codes, fields, list(range(images)), config=GUIDED)
    after, before = (
        model(state.codes, fields | {"segmentation_codes": fields[name]}).logits
        for name in ("segmentation_codes", BEFORE)
    )
    masked, expected = fields["masked"], (before + 1000 * (after - before)).argmax(dim=-1)
    assert torch.equal(state.codes[masked], expected[masked])
    assert not torch.equal(expected[masked], after.argmax(dim=-1)[masked])
    same = fields | {BEFORE: fields["segmentation_codes"]}
    plain = sampled(model, codes, same, list(range(images)), config=SamplingConfig(lanes=4, greedy=True))
    assert torch.equal(sampled(model, codes, same, list(range(images)), config=GUIDED).codes, plain.codes)
    with pytest.raises(ValueError, match="needs the map before the edit"):
        sampled(model, codes, {name: fields[name] for name in fields if name != BEFORE}, [0] * images, config=GUIDED)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("attention", KINDS)
def test_a_candidate_has_the_same_bits_whatever_is_sampled_beside_it(attention: str, guidance: float):
    model, config = editor(attention), SamplingConfig(lanes=4, guidance=GuidanceConfig(guidance))
    codes, fields = edit((6, 9), 6, attention)
    together = sampled(model, codes, fields, list(range(6)), config=config)
    assert len(torch.unique(together.codes.flatten(1), dim=0)) == 6
    for image in range(6):
        own = {name: field[image : image + 1] for name, field in fields.items()}
        alone = sampled(model, codes[image : image + 1], own, [image], config=config)
        assert torch.equal(alone.codes[0], together.codes[image])
        assert torch.equal(alone.scores[0], together.scores[image])


def test_edits_of_different_masks_are_sampled_together_with_the_bits_that_they_have_alone():
    model, (codes, fields) = editor(), edit((6, 9), 3)
    fields["masked"] = torch.stack((fields["masked"][0], ~fields["masked"][0], fields["masked"][0].flip(0)))
    together = sampled(model, codes, fields, [0, 1, 2])
    for image in range(3):
        own = {name: field[image : image + 1] for name, field in fields.items()}
        alone = sampled(model, codes[image : image + 1], own, [image])
        assert torch.equal(alone.codes[0], together.codes[image])
        assert torch.equal(alone.scores[0], together.scores[image])


def test_the_seed_decides_and_a_sample_that_was_stopped_goes_on_with_the_same_bits():
    model = editor()
    codes, fields = edit((6, 9), 2)
    whole = sampled(model, codes, fields, [0, 1])
    assert not torch.equal(whole.codes, sampled(model, codes, fields, [0, 1], seed=1).codes)
    known = codes.masked_fill(fields["masked"], UNFILLED)
    request = GridRequest(model, fields, (6, 9), [0, 1], 0, SamplingConfig(lanes=4), known)
    for stop in (1, 5, 11):
        state = next(itertools.islice(sample_steps(request), stop, None))
        left = SamplingState(state.codes.clone(), state.scores.clone(), 0, 0)
        again = sample(request, resume_from=left)
        assert torch.equal(again.codes, whole.codes) and torch.equal(again.scores, whole.scores)


def test_a_step_copies_no_rows_that_candidates_share():
    model, size, lanes = editor(), (24, 36), 4
    codes, fields = edit(size, lanes)
    known = codes.masked_fill(fields["masked"], UNFILLED)
    steps = sample_steps(GridRequest(model, fields, size, range(lanes), 0, IN_LANES, known))
    for _ in range(3):  # what is known is read before
        next(steps)
    rows = lanes * (codes[0].numel() + 9) * model.config.width * 8  # bytes of a vector for each row of 9 blocks
    assert peak_bytes(lambda: next(steps), codes.device) < rows / 2


@pytest.mark.parametrize(("config", "read"), [(IN_LANES, 1), (GUIDED, 2)])
def test_candidates_share_what_the_encoder_read_of_them_once_for_each_map(config: SamplingConfig, read: int):
    model, size = editor(), (6, 9)
    codes, fields = edit(size, 4)
    decoder = EditDecoder(model, DecodingRequest(fields, size, tuple(range(4)), config))
    drawn = fields["masked"].numpy()
    with torch.no_grad():
        next(decoder.run(F.pad(codes.flatten(), (0, 1)), Schedule([], drawn[0], drawn), lambda logits, places: None))
    (group,) = decoder.groups
    assert len(group.places) == read
    assert all(len(part) == read for cache in group.caches for part in cache.memory)


def test_nothing_to_do_gives_the_input_back():
    codes, fields = edit((6, 9), mask="none")
    assert torch.equal(sampled(editor(), codes, fields, [0]).codes, codes)


def test_an_editor_that_looks_at_all_blocks_has_its_guides_logits():
    guide = editor("dense")
    codes, fields = edit((6, 9), 2)
    fields |= guide.affinities(codes, fields)
    for attention in ("static", "guided"):
        whole = editor(attention, picks=9)
        whole.load_state_dict(guide.state_dict())
        torch.testing.assert_close(whole(codes, fields).logits, guide(codes, fields).logits, rtol=0, atol=1e-12)


def test_what_a_guide_looks_at_is_the_mean_over_the_pairs_of_codes_and_decides_the_blocks():
    guide = editor("dense")
    codes, fields = edit((6, 9), 2)
    seen = guide.affinities(codes, fields)
    assert {name: tuple(found.shape) for name, found in seen.items()} == dict.fromkeys(GUIDE, (2, 2, 2, 9, 9))
    torch.testing.assert_close(seen["guide_encoder"].sum(-1), torch.full((2, 2, 2, 9), 1 / 6).double())
    torch.testing.assert_close(seen["guide_cross"].sum(-1), torch.full((2, 2, 2, 9), 1 / 6).double())
    assert torch.equal(seen["guide_decoder"], seen["guide_decoder"].tril())
    model = editor("guided")
    first = model(codes, fields | seen).logits
    turned = {name: found.flip(-1).contiguous() for name, found in seen.items()}
    assert not torch.equal(first, model(codes, fields | turned).logits)
    with pytest.raises(KeyError, match="guide_encoder"):
        model(codes, fields)
    with pytest.raises(ValueError, match="layers, heads and blocks"):
        model(codes, fields | {name: found[:, :1] for name, found in seen.items()})
    with pytest.raises(ValueError, match="attention: dense"):
        model.affinities(codes, fields | seen)


@pytest.mark.parametrize("blocks", [(8, 8), (16, 4)])
def test_a_grid_of_any_blocks_learns_one_image_by_heart(blocks: tuple[int, int]):
    config = EditorConfig(encoder_layers=1, decoder_layers=1, heads=2, width=32, blocks=blocks, norm="pre")
    torch.manual_seed(0)
    model = config.build(CODES, CodeMapConfig(vocab_size=LABELS))
    codes, fields = edit((16, 16), mask="all")
    adam = torch.optim.Adam(model.parameters(), 6e-3)
    for _ in range(250):
        loss = model(codes, fields, targets=codes).loss.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        if loss < 0.01:
            break
    assert loss < 0.01


def test_checkpoints_change_no_gradient_and_every_parameter_learns():
    codes, fields = edit((6, 9), 2, "guided")
    del fields[BEFORE]  # which no training has
    gradients = []
    for checkpointing in (False, True):
        model = editor("guided", activation_checkpointing=checkpointing)
        model(codes, fields, targets=codes, dropped=torch.tensor([True, False])).loss.sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_fresh_position_generator_adds_nothing_from_the_side():
    model = EditorConfig(encoder_layers=1, decoder_layers=1, heads=1, width=8, blocks=(2, 2)).build(
        CODES, CodeMapConfig(vocab_size=LABELS)
    )
    for generator in (*model.positions, model.decoder_position):
        assert int((generator.conv.weight != 0).sum()) == 8  # the middle tap of each channel


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="label map"):
        EditorConfig().build(CODES, UnconditionalConfig())
    with pytest.raises(ValueError, match="multiple of blocks"):
        EditorConfig(window=(16, 20))
    with pytest.raises(ValueError, match="cannot be cut"):
        editor()(*edit((6, 10)))
    codes, fields = edit((6, 9), 2)
    request = DecodingRequest(fields, (6, 9), (0, 1), SamplingConfig())
    with pytest.raises(ValueError, match="must be given"):
        nothing, masked = torch.full((codes.numel() + 1,), UNFILLED), fields["masked"].numpy()
        schedule = Schedule([], np.zeros((6, 9), dtype=bool), masked)
        list(EditDecoder(editor(), request).run(nothing, schedule, lambda logits, places: None))
