"""The prior equals an independent reading of the published model, is causal bit by bit, and remembers exactly."""

import math

import pytest
import torch
import torch.nn.functional as F

from smalti.models.conditions import ClassConfig, CodeMapConfig, UnconditionalConfig
from smalti.models.losses.chunked_cross_entropy import IGNORED
from smalti.models.priors.gpt import GPTConfig
from smalti.models.priors.orders import AnnealingConfig, OrderConfig

WINDOW = (3, 4)
KINDS = ["raster", "spiral_in", "spiral_out", "z_curve", "subsample", "alternate", "random"]


def tiny(block="gpt2", condition=None, seed=0, **settings):
    """A prior with weights large enough that every one of them matters."""
    torch.manual_seed(seed)
    config = GPTConfig(layers=2, heads=2, width=16, window=WINDOW, block=block, **settings)
    prior = config.build(11, condition or CodeMapConfig(vocab_size=5)).eval()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return prior


def batch(size=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(11, (size, *WINDOW), generator=generator)
    return indices, {"segmentation_codes": torch.randint(5, (size, *WINDOW), generator=generator)}


def published(state, tokens, positions, heads):
    """minGPT of the reference on (T, C) embedded tokens of one sample, written with loops and an explicit mask."""
    x = tokens + positions
    layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))

    def linear(name, value):
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, value):
        centerd = value - value.mean(-1, keepdim=True)
        scaled = centerd / torch.sqrt(centerd.square().mean(-1, keepdim=True) + 1e-5)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    for layer in range(layers):
        name = f"blocks.{layer}"
        normed = norm(f"{name}.ln1", x)
        query, key, value = (linear(f"{name}.attn.{part}", normed) for part in ("query", "key", "value"))
        outputs = []
        for head in torch.arange(x.shape[1]).chunk(heads):
            weights = query[:, head] @ key[:, head].T / math.sqrt(len(head))
            weights = weights.masked_fill(torch.ones_like(weights).triu(1).bool(), -math.inf)
            outputs.append(weights.exp() / weights.exp().sum(1, keepdim=True) @ value[:, head])
        x = x + linear(f"{name}.attn.proj", torch.cat(outputs, 1))
        hidden = linear(f"{name}.mlp.0", norm(f"{name}.ln2", x))
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        x = x + linear(f"{name}.mlp.2", hidden)
    return norm("ln_f", x) @ state["head.weight"].T


def test_logits_are_those_of_the_published_model():
    prior = tiny()
    indices, fields = batch()
    state = prior.state_dict()
    logits = prior(indices, fields).logits
    for sample in range(2):
        condition = state["condition.table.weight"][fields["segmentation_codes"][sample].flatten()]
        codes = state["tok_emb.weight"][indices[sample].flatten()]
        tokens = torch.cat((condition, codes[:-1]))
        expected = published(state, tokens, state["pos_emb"][0, : len(tokens)], heads=2)[-12:]
        torch.testing.assert_close(logits[sample].view(12, 11), expected, rtol=1e-5, atol=1e-5)


def published_mask(length, unmasked):
    mask = torch.ones(length, length).tril()
    mask[:unmasked, :unmasked] = 1
    return mask


def test_a_part_of_the_condition_sees_itself_in_both_directions_as_with_n_unmasked():
    prior = tiny(bidirectional_prefix=7)
    indices, fields = batch(1)
    with torch.no_grad():
        x = prior._embed(indices.flatten(1)[:, :-1], prior.condition(fields, 1, None), prior.cells[None])
        for block in prior.blocks:
            x = block(x, None, published_mask(23, 7).bool())
        expected = prior.head(prior.ln_f(x[:, 11:]))
        torch.testing.assert_close(prior(indices, fields).logits.flatten(1, 2), expected)
        assert not torch.allclose(tiny()(indices, fields).logits.flatten(1, 2), expected, atol=1e-2)
    with pytest.raises(ValueError, match="bidirectional_prefix must be at most the 12 tokens of the condition, got 13"):
        tiny(bidirectional_prefix=13)


@pytest.mark.parametrize("block", ["gpt2", "llama", "llamagen"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_code_leaves_the_logits_of_its_past_bitwise_untouched(block, kind):
    prior = tiny(block, order=OrderConfig(kind))
    indices, fields = batch(1)
    before = prior(indices, fields).logits.flatten(1, 2)[0]
    for step, cell in enumerate(prior.cells.tolist()):
        changed = indices.clone().view(-1)
        changed[cell] = (changed[cell] + 1) % 11
        after = prior(changed.view_as(indices), fields).logits.flatten(1, 2)[0]
        past, future = prior.cells[: step + 1], prior.cells[step + 1 :]
        assert torch.equal(after[past], before[past])
        assert (after[future] != before[future]).any(1).all()


@pytest.mark.parametrize("block", ["gpt2", "llama", "llamagen"])
def test_the_loss_is_the_cross_entropy_of_the_logits(block):
    prior = tiny(block, loss_chunk=5)
    indices, fields = batch()
    targets = indices.clone()
    targets[0, 1, 2] = IGNORED
    loss = prior(indices, fields, targets).loss
    logits = prior(indices, fields).logits
    assert loss.shape == indices.shape and loss[0, 1, 2] == 0
    expected = F.cross_entropy(logits.permute(0, 3, 1, 2), targets, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", ["gpt2", "llama", "llamagen"])
@pytest.mark.parametrize(("kind", "both_ways"), [("raster", 0), ("spiral_in", 0), ("raster", 12), ("raster", 5)])
def test_cached_steps_give_the_logits_of_the_whole_window(block, kind, both_ways):
    prior = tiny(block, order=OrderConfig(kind), annealing=AnnealingConfig(), bidirectional_prefix=both_ways)
    indices, fields = batch(2)
    with torch.no_grad():
        whole = prior(indices, fields).logits.flatten(1, 2)[:, prior.cells]
        codes = indices.flatten(1)[:, prior.cells]
        cache, lanes = prior.cache(2, prior.step_weights()), torch.arange(2)
        kept = torch.zeros(2, dtype=torch.bool)
        held = torch.full((2,), 3)
        logits = [prior.prefill(codes[:, :5], held, fields, kept, cache, lanes)]  # the last two do not count
        logits += [prior.step(codes[:, step], cache, ~kept) for step in range(3, 11)]
    torch.testing.assert_close(torch.stack(logits, 1), whole[:, 3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", ["gpt2", "llama", "llamagen"])
def test_an_order_of_its_own_for_every_sample_equals_priors_with_that_fixed_order(block):
    annealed = tiny(block, annealing=AnnealingConfig())
    indices, fields = batch(2)
    orders = torch.stack([OrderConfig("random", seed).build(WINDOW) for seed in (1, 2)])
    mixed = annealed(indices, fields, order=orders).logits
    for sample, seed in enumerate((1, 2)):
        fixed = tiny(block, annealing=AnnealingConfig(), order=OrderConfig("random", seed))
        own = {name: value[sample : sample + 1] for name, value in fields.items()}
        torch.testing.assert_close(fixed(indices[sample : sample + 1], own).logits[0], mixed[sample])


def test_rotary_positions_see_differences_alone():
    from smalti.models.transformer.rope import apply_rope, rope_tables

    query, key = torch.randn(2, 8)
    scores = []
    for shift in ((0, 0), (5, 0), (0, 7), (3, 4)):
        cells = torch.tensor([[2, 3], [1, 6]]) + torch.tensor(shift)
        turned = apply_rope(torch.stack((query, key)), rope_tables(cells, 8))
        scores.append(turned[0] @ turned[1])
    torch.testing.assert_close(torch.stack(scores), scores[0].expand(4), rtol=1e-5, atol=1e-5)
    unrelated = apply_rope(torch.stack((query, key)), rope_tables(torch.tensor([[2, 3], [1, 5]]), 8))
    assert (unrelated[0] @ unrelated[1] - scores[0]).abs() > 1e-3


def test_activation_checkpointing_changes_nothing():
    indices, fields = batch()
    grads = []
    for checkpointed in (False, True):
        prior = tiny(activation_checkpointing=checkpointed).train()
        prior(indices, fields, indices).loss.mean().backward()
        grads.append([parameter.grad for parameter in prior.parameters() if parameter.grad is not None])
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_the_reference_size_has_the_reference_parameters():
    with torch.device("meta"):
        prior = GPTConfig(window=(16, 16)).build(1024, CodeMapConfig(vocab_size=1024))
    own = sum(p.numel() for name, p in prior.named_parameters() if not name.startswith("condition."))
    assert own == 304_932_864  # 304.93 M: taming-transformers' GPT, 1024 codes, block size 512
    assert prior.pos_emb.shape == (1, 512, 1024)


def test_fresh_weights_follow_the_reference():
    torch.manual_seed(0)
    prior = GPTConfig(layers=1, heads=2, width=64, window=(4, 4)).build(500, UnconditionalConfig())
    assert (prior.pos_emb == 0).all()
    block = prior.blocks[0]
    for weight in (prior.tok_emb.weight, prior.head.weight, block.attn.proj.weight, block.mlp[2].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05) and abs(weight.mean().item()) < 1e-3
    assert (block.mlp[0].bias == 0).all() and (block.ln1.weight == 1).all() and prior.head.bias is None


def test_a_draw_depends_on_the_samples_own_seed_alone():
    prior = tiny(token_keep_prob=0.5, condition_dropout=0.5, annealing=AnnealingConfig())
    indices, _ = batch(3)
    together = prior.draw(indices, [7, 40, 9])
    alone = prior.draw(indices[1:2], [40])
    assert all(torch.equal(one[0], many[1]) for one, many in zip(alone, together, strict=True))
    assert not torch.equal(prior.draw(indices, [1, 2, 3]).inputs, together.inputs)


def test_draws_keep_and_drop_as_often_as_asked():
    prior = tiny(token_keep_prob=0.7, condition_dropout=0.25, annealing=AnnealingConfig(0.0, 1.0))
    draw = prior.draw(torch.zeros(2000, *WINDOW, dtype=torch.int64), range(2000), progress=0.4)
    kept = 0.7 + 0.3 / 11  # a replaced code is the same one in 1 of 11 cases
    assert (draw.inputs == 0).float().mean().item() == pytest.approx(kept, abs=0.01)
    assert draw.dropped.float().mean().item() == pytest.approx(0.25, abs=0.03)
    shuffled = (draw.order != prior.cells).any(1).float().mean().item()
    assert shuffled == pytest.approx(0.6, abs=0.04)


def test_a_prior_that_keeps_no_code_reads_noise_alone():
    prior = tiny(token_keep_prob=0.0)
    one, other = (prior.draw(torch.full((500, *WINDOW), code), range(500)).inputs for code in (0, 7))
    assert torch.equal(one, other)
    shares = one.flatten().bincount(minlength=11) / one.numel()
    assert shares.tolist() == pytest.approx([1 / 11] * 11, abs=0.02)


def test_a_dropped_condition_is_not_seen():
    prior = tiny(condition=ClassConfig(classes=4))
    indices, _ = batch(2)
    dropped = torch.tensor([True, False])
    one, other = (prior(indices, {"cls": torch.tensor(labels)}, dropped=dropped).logits for labels in ([0, 1], [2, 3]))
    assert torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


@pytest.mark.parametrize("block", ["gpt2", "llama", "llamagen"])
def test_a_tiny_set_is_learned_by_heart(block):
    torch.manual_seed(0)
    prior = GPTConfig(layers=2, heads=2, width=32, window=WINDOW, block=block).build(11, ClassConfig(classes=4))
    indices, _ = batch(4)
    fields = {"cls": torch.arange(4)}
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    for _ in range(60):
        loss = prior(indices, fields, indices).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


def test_grids_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"windows of \(3, 4\) codes, got \(4, 4\)"):
        tiny()(torch.zeros(1, 4, 4, dtype=torch.int64), {})


def test_a_bad_config_names_every_problem():
    with pytest.raises(
        ValueError, match=r"token_keep_prob must be .* got 2; width \(=10\) must be a multiple of heads \(=4\)"
    ):
        GPTConfig(width=10, heads=4, token_keep_prob=2)
    with pytest.raises(ValueError, match="multiple of 4 for the block 'llama'"):
        GPTConfig(width=12, heads=2, block="llama")
