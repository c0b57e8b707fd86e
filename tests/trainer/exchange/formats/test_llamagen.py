"""LlamaGen's priors give the logits of an independent reading of their architecture, also in cached steps."""

import math

import pytest
import torch
from fixtures import pairs
from torch.nn import functional

from smalti.launch import import_weights
from smalti.models.sampling.config import GuidanceConfig, SamplingConfig
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_prior
from smalti.trainer.sampling.codes import sample

CPU = torch.device("cpu")
LAYERS, HEADS, WIDTH, HIDDEN, SIDE, CLASSES = 2, 2, 16, 256, 3, 5
TEXT, CHANNELS = 4, 6


def prior_state(codes, text=False):
    """The tensors of a prior of classes under LlamaGen's names; the last row of its table is that of no class."""
    torch.manual_seed(1)
    state = {
        "cls_embedding.embedding_table.weight": torch.randn(CLASSES + 1, WIDTH),
        "tok_embeddings.weight": torch.randn(codes, WIDTH),
        "norm.weight": torch.randn(WIDTH),
        "output.weight": torch.randn(codes, WIDTH),
    }
    if text:
        del state["cls_embedding.embedding_table.weight"]
        state["cls_embedding.uncond_embedding"] = torch.randn(TEXT, CHANNELS)
        state["cls_embedding.cap_proj.fc1.weight"] = torch.randn(WIDTH, CHANNELS) * 0.5
        state["cls_embedding.cap_proj.fc2.weight"] = torch.randn(WIDTH, WIDTH) * 0.5
    for layer in range(LAYERS):
        state |= {
            f"layers.{layer}.attention.wqkv.weight": torch.randn(3 * WIDTH, WIDTH) * 0.4,
            f"layers.{layer}.attention.wo.weight": torch.randn(WIDTH, WIDTH) * 0.4,
            f"layers.{layer}.feed_forward.w1.weight": torch.randn(HIDDEN, WIDTH) * 0.3,
            f"layers.{layer}.feed_forward.w3.weight": torch.randn(HIDDEN, WIDTH) * 0.3,
            f"layers.{layer}.feed_forward.w2.weight": torch.randn(WIDTH, HIDDEN) * 0.1,
            f"layers.{layer}.attention_norm.weight": torch.randn(WIDTH),
            f"layers.{layer}.ffn_norm.weight": torch.randn(WIDTH),
        }
    return state


def turn(vectors, cells):
    """Two-dimensional rotary positions by complex numbers: neighbors are a pair, the condition is multiplied by 0."""
    channels = vectors.shape[-1]
    rates = [10_000.0 ** (-4 * number / channels) for number in range(channels // 4)]
    factors = torch.tensor(
        [
            [0j] * (channels // 2)
            if cell is None
            else [complex(math.cos(place * rate), math.sin(place * rate)) for place in cell for rate in rates]
            for cell in cells
        ],
        dtype=torch.complex64,
    )
    return torch.view_as_real(torch.view_as_complex(vectors.unflatten(-1, (-1, 2)).contiguous()) * factors).flatten(-2)


def logits(state, prefix, codes, unseen=0):
    """(N, V) logits of the codes of one image after (P, C) tokens of a condition; written with a loop over heads.

    Nobody but themselves sees the first ``unseen`` tokens.
    """
    x = torch.cat((prefix, state["tok_embeddings.weight"][codes[:-1]]))
    cells = [None] * len(prefix) + [divmod(number, SIDE) for number in range(len(codes) - 1)]
    hidden_from = torch.ones(len(x), len(x)).triu(1).bool()
    hidden_from[:, :unseen] = True
    hidden_from.fill_diagonal_(False)

    def norm(name, value):
        return value / (value.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"]

    for layer in range(LAYERS):
        name = f"layers.{layer}"
        parts = norm(f"{name}.attention_norm", x) @ state[f"{name}.attention.wqkv.weight"].T
        query, key, value = parts.split(WIDTH, dim=1)
        outputs = []
        for head in torch.arange(WIDTH).chunk(HEADS):
            scores = turn(query[:, head], cells) @ turn(key[:, head], cells).T / math.sqrt(len(head))
            outputs.append(scores.masked_fill(hidden_from, -math.inf).softmax(1) @ value[:, head])
        x = x + torch.cat(outputs, 1) @ state[f"{name}.attention.wo.weight"].T
        hidden = norm(f"{name}.ffn_norm", x)
        gate, up = (hidden @ state[f"{name}.feed_forward.{part}.weight"].T for part in ("w1", "w3"))
        x = x + (functional.silu(gate) * up) @ state[f"{name}.feed_forward.w2.weight"].T
    return (norm("norm", x) @ state["output.weight"].T)[len(prefix) - 1 :]


@pytest.fixture
def imported(tmp_path):
    """The state of a prior, and its folder here."""
    tokenizer = pairs.write_tokenizer(tmp_path / "tokenizer")
    state = prior_state(pairs.CODES)
    torch.save({"model": state, "optimizer": {}}, tmp_path / "c2i.pt")
    options = ["--tokenizer", str(tokenizer), "--window", f"{SIDE}x{SIDE}", "--heads", str(HEADS)]
    assert import_weights.main([str(tmp_path / "c2i.pt"), str(tmp_path / "prior"), *options]) == 0
    return state, tmp_path / "prior"


def test_a_prior_of_classes_gives_the_same_logits_with_its_class_and_without(imported):
    state, folder = imported
    prior = load_prior(folder, CPU)
    codes, classes = torch.randint(pairs.CODES, (2, SIDE, SIDE)), torch.tensor([0, 4])
    for dropped, rows in ((None, classes), (torch.tensor([False, True]), torch.tensor([0, CLASSES]))):
        with torch.no_grad():
            ours = prior.model(codes, {"cls": classes}, dropped=dropped).logits.flatten(1, 2)
        for number in range(2):
            prefix = state["cls_embedding.embedding_table.weight"][rows[number]][None]
            theirs = logits(state, prefix, codes[number].flatten())
            assert theirs.std() > 1
            torch.testing.assert_close(ours[number], theirs, rtol=1e-4, atol=1e-4)


def test_its_likeliest_codes_are_those_that_are_sampled_here(imported):
    state, folder = imported
    prior = load_prior(folder, CPU)
    config = SamplingConfig(greedy=True, guidance=GuidanceConfig(scale=2.0))
    ours = sample(prior, {"cls": torch.tensor([3])}, config=config)[0].flatten()
    table, theirs = state["cls_embedding.embedding_table.weight"], torch.zeros(SIDE * SIDE, dtype=torch.int64)
    for place in range(SIDE * SIDE):
        known, lost = (logits(state, table[row][None], theirs)[place] for row in (3, CLASSES))
        theirs[place] = (lost + 2.0 * (known - lost)).argmax()
    assert torch.equal(ours, theirs)


def caption(state, text):
    """(P, C) tokens of (P, E) embeddings, with the approximated GELU."""
    hidden = text @ state["cls_embedding.cap_proj.fc1.weight"].T
    hidden = hidden / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    return hidden @ state["cls_embedding.cap_proj.fc2.weight"].T


def test_a_prior_of_texts_gives_the_same_logits_and_likeliest_codes(tmp_path):
    """One text fills its tokens, of another only the last two are used, a third has no words at all."""
    tokenizer = pairs.write_tokenizer(tmp_path / "tokenizer")
    state = prior_state(pairs.CODES, text=True)
    torch.save({"model": state}, tmp_path / "t2i.pt")
    options = ["--tokenizer", str(tokenizer), "--window", f"{SIDE}x{SIDE}", "--heads", str(HEADS)]
    assert import_weights.main([str(tmp_path / "t2i.pt"), str(tmp_path / "prior"), *options]) == 0
    prior = load_prior(tmp_path / "prior", CPU)
    unseen, texts = [0, 2, 4], torch.randn(3, TEXT, CHANNELS)
    for text, none in zip(texts, unseen, strict=True):
        text[:none] = 0
    codes, lost = torch.randint(pairs.CODES, (3, SIDE, SIDE)), torch.tensor([False, True, False])
    with torch.no_grad():
        ours = prior.model(codes, {"text": texts}, dropped=lost).logits.flatten(1, 2)
    nothing = caption(state, state["cls_embedding.uncond_embedding"])
    for number, none in enumerate(unseen):
        prefix = nothing if lost[number] else caption(state, texts[number])
        theirs = logits(state, prefix, codes[number].flatten(), none)
        torch.testing.assert_close(ours[number], theirs, rtol=1e-4, atol=1e-4)
        assert none == 0 or (logits(state, prefix, codes[number].flatten()) - theirs).abs().max() > 0.01

    config = SamplingConfig(greedy=True, guidance=GuidanceConfig(scale=2.0), lanes=4, prefill=2)
    sampled = sample(prior, {"text": texts}, config=config).flatten(1)
    for number, none in enumerate(unseen):
        likely = torch.zeros(SIDE * SIDE, dtype=torch.int64)
        for place in range(SIDE * SIDE):
            known = logits(state, caption(state, texts[number]), likely, none)[place]
            without = logits(state, nothing, likely, none)[place]
            likely[place] = (without + 2.0 * (known - without)).argmax()
        assert torch.equal(sampled[number], likely), number


def test_every_tensor_is_accounted_for_and_the_tokenizer_is_that_which_was_named(imported, tmp_path):
    _, folder = imported
    metadata = model_files.read_metadata(folder)
    assert metadata["tokenizer"] == model_files.read_metadata(tmp_path / "tokenizer")["digest"]
    assert metadata["condition"] == {"kind": "class", "classes": CLASSES} and metadata["model"]["block"] == "llamagen"
    assert metadata["model"]["condition_dropout"] == 0.1  # so that guidance is not refused


REFUSED = {
    "which tokenizer its codes are of": ({}, ["--window", "3x3", "--heads", "2"]),
    "how many codes an image has": ({}, ["--tokenizer", "TOKENIZER", "--heads", "2"]),
    "is of no released size (2 layers of 16 channels)": ({}, ["--tokenizer", "TOKENIZER", "--window", "3x3"]),
    "layers.1.attention.wqkv.weight is (32, 16) and should be (48, 16)": (
        {"layers.1.attention.wqkv.weight": torch.zeros(32, 16)},  # fewer keys than queries
        ["--tokenizer", "TOKENIZER", "--window", "3x3", "--heads", "2"],
    ),
    "output.weight is (99, 16)": (
        {"output.weight": torch.zeros(99, 16)},
        ["--tokenizer", "TOKENIZER", "--window", "3x3", "--heads", "2"],
    ),
    "1 tensors that no part of the network has: layers.0.attention.gate": (
        {"layers.0.attention.gate": torch.zeros(2)},
        ["--tokenizer", "TOKENIZER", "--window", "3x3", "--heads", "2"],
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_not_told_or_of_another_network_is_refused(tmp_path, capsys, sentence):
    changed, options = REFUSED[sentence]
    tokenizer = pairs.write_tokenizer(tmp_path / "tokenizer")
    torch.save({"model": prior_state(pairs.CODES) | changed}, tmp_path / "c2i.pt")
    options = [str(tokenizer) if option == "TOKENIZER" else option for option in options]
    assert import_weights.main([str(tmp_path / "c2i.pt"), str(tmp_path / "prior"), *options]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "prior").exists()
