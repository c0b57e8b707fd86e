"""Any GPT-2 folder is a prior over a tokenizer's codes, with the logits of an independent reading of GPT-2."""

import json
import math

import pytest
import torch
from fixtures import pairs
from safetensors.torch import save_file

from smalti.launch import export, import_weights
from smalti.models.sampling.config import SamplingConfig
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_prior
from smalti.trainer.sampling.codes import sample

LAYERS, HEADS, WIDTH, POSITIONS = 2, 2, 8, 9
TOKENS = pairs.CODES + 3
CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": TOKENS,
    "n_positions": POSITIONS,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "activation_function": "gelu_new",
    "bos_token_id": TOKENS - 1,
}


def state(prefix="transformer."):
    """The tensors of a tied GPT-2 as transformers names them, with the mask that old files hold."""
    torch.manual_seed(2)
    flat = {
        "wte.weight": (TOKENS, WIDTH),
        "wpe.weight": (POSITIONS, WIDTH),
        "ln_f.weight": (WIDTH,),
        "ln_f.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        for name, shape in {
            "ln_1.weight": (WIDTH,),
            "ln_1.bias": (WIDTH,),
            "attn.c_attn.weight": (WIDTH, 3 * WIDTH),
            "attn.c_attn.bias": (3 * WIDTH,),
            "attn.c_proj.weight": (WIDTH, WIDTH),
            "attn.c_proj.bias": (WIDTH,),
            "ln_2.weight": (WIDTH,),
            "ln_2.bias": (WIDTH,),
            "mlp.c_fc.weight": (WIDTH, 4 * WIDTH),
            "mlp.c_fc.bias": (4 * WIDTH,),
            "mlp.c_proj.weight": (4 * WIDTH, WIDTH),
            "mlp.c_proj.bias": (WIDTH,),
        }.items():
            flat[f"h.{layer}.{name}"] = shape
    tensors = {prefix + name: torch.randn(shape) * 0.7 for name, shape in flat.items()}
    return tensors | {f"{prefix}h.0.attn.bias": torch.ones(1, 1, POSITIONS, POSITIONS).tril()}


def logits(tensors, tokens, head="wte.weight", tanh=True):
    """(T, V) logits of GPT-2 on (T,) tokens, with loops over heads and its two forms of GELU written out."""
    t = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    x = t["wte.weight"][tokens] + t["wpe.weight"][: len(tokens)]

    def norm(name, value):
        centered = value - value.mean(-1, keepdim=True)
        return (
            centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * t[f"{name}.weight"]
            + t[f"{name}.bias"]
        )

    def layer(name, value):
        return value @ t[f"{name}.weight"] + t[f"{name}.bias"]

    def gelu(value):
        if tanh:
            return value / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))
        return value / 2 * (1 + torch.erf(value / math.sqrt(2)))

    for number in range(LAYERS):
        name = f"h.{number}"
        query, key, value = layer(f"{name}.attn.c_attn", norm(f"{name}.ln_1", x)).split(WIDTH, dim=1)
        outputs = []
        for part in torch.arange(WIDTH).chunk(HEADS):
            scores = query[:, part] @ key[:, part].T / math.sqrt(len(part))
            hidden = torch.ones_like(scores).triu(1).bool()
            outputs.append(scores.masked_fill(hidden, -math.inf).softmax(1) @ value[:, part])
        x = x + layer(f"{name}.attn.c_proj", torch.cat(outputs, 1))
        x = x + layer(f"{name}.mlp.c_proj", gelu(layer(f"{name}.mlp.c_fc", norm(f"{name}.ln_2", x))))
    return norm("ln_f", x) @ t[head].T


def folder(tmp_path, tensors, config):
    (tmp_path / "gpt2").mkdir()
    save_file(tensors, tmp_path / "gpt2" / "model.safetensors", {"format": "pt"})
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(config))
    return tmp_path / "gpt2"


def imported(tmp_path, source, *options):
    tokenizer = pairs.write_tokenizer(tmp_path / "tokenizer")
    arguments = [str(source), str(tmp_path / "in"), "--tokenizer", str(tokenizer), *options]
    assert import_weights.main(arguments) == 0
    return load_prior(tmp_path / "in", torch.device("cpu"))


@pytest.mark.parametrize("prefix", ["transformer.", ""])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_a_foreign_gpt2_gives_the_same_logits(tmp_path, prefix, activation):
    tensors = state(prefix)
    config = CONFIG | {"activation_function": activation}
    prior = imported(tmp_path, folder(tmp_path, tensors, config)).model
    codes = torch.randint(pairs.CODES, (3, 3))
    tokens = torch.cat((torch.tensor([TOKENS - 1]), codes.flatten()[:-1]))
    expected = logits(tensors, tokens, tanh=activation == "gelu_new")
    with torch.no_grad():
        ours = prior(codes[None], {}).logits.flatten(1, 2)[0]
    torch.testing.assert_close(ours, expected[:, : pairs.CODES], rtol=2e-5, atol=2e-5)
    other = logits(tensors, tokens, tanh=activation == "gelu")
    assert (other - expected).abs().max() > 1e-4  # so that the wrong form would be seen


def test_its_likeliest_codes_are_sampled_from_an_untied_head_in_a_smaller_window(tmp_path):
    tensors = state() | {"lm_head.weight": torch.randn(TOKENS, WIDTH)}
    source = folder(tmp_path, tensors, CONFIG | {"tie_word_embeddings": False, "bos_token_id": None})
    prior = imported(tmp_path, source, "--window", "2x4", "--start", "5")
    ours = sample(prior, config=SamplingConfig(greedy=True))[0].flatten()
    tokens = torch.tensor([5])
    for _ in range(8):
        likely = logits(tensors, tokens, "lm_head.weight")[-1, : pairs.CODES].argmax()
        tokens = torch.cat((tokens, likely[None]))
    assert torch.equal(ours, tokens[1:])


def test_it_comes_back_from_transformers_the_same(tmp_path):
    """Exported, it has a vocabulary of codes and two tokens more, and says so; imported again, the same weights."""
    imported(tmp_path, folder(tmp_path, state(), CONFIG))
    assert export.main([str(tmp_path / "in"), str(tmp_path / "out"), "--format", "transformers"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["activation_function"] == "gelu_new"
    assert import_weights.main([str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    metadata = [model_files.read_metadata(tmp_path / name) for name in ("in", "again")]
    assert metadata[0] == metadata[1] and metadata[0]["model"]["activation"] == "gelu_tanh"


REFUSED = {
    "layer_norm_epsilon is 1e-12": {"layer_norm_epsilon": 1e-12},
    "scale_attn_by_inverse_layer_idx is True": {"scale_attn_by_inverse_layer_idx": True},
    "n_inner is 16": {"n_inner": 16},
    "activation_function is 'relu'": {"activation_function": "relu"},
    "with which token a sequence begins (bos_token_id is None)": {"bos_token_id": None},
    "too few for the 32 codes": {"vocab_size": 20, "bos_token_id": 1},
    "8 positions are no square window": {"n_positions": 8},
    "n_layer in its config.json must be a whole number": {"n_layer": "two"},
    "lacks transformer.h.2.ln_1.weight": {"n_layer": 60_000},
    "transformer.wpe.weight is (9, 8) and should be (16, 8)": {"n_positions": 16},
    "lacks lm_head.weight": {"tie_word_embeddings": False},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_no_prior_here_is_or_its_config_contradicts_is_refused(tmp_path, capsys, sentence):
    source = folder(tmp_path, state(), CONFIG | REFUSED[sentence])
    tokenizer = pairs.write_tokenizer(tmp_path / "tokenizer")
    assert import_weights.main([str(source), str(tmp_path / "in"), "--tokenizer", str(tokenizer)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and not (tmp_path / "in").exists()
