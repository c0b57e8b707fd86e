"""Import, export and import again is the identity, bit for bit; what a format cannot hold is refused with a reason."""

from dataclasses import replace

import pytest
import torch
from fixtures import pairs, published

from smalti.launch import export, import_weights
from smalti.models.conditions import ClassConfig, CoordinatesConfig, TextConfig, UnconditionalConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.models.priors.orders import AnnealingConfig, OrderConfig
from smalti.models.quantizers import CosineConfig
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer
from smalti.trainer.checkpoint.pretrained import from_pretrained
from smalti.trainer.config import to_mapping

CPU = torch.device("cpu")


def imported(path, folder, *options):
    assert import_weights.main([str(path), str(folder), *options]) == 0
    return folder


def exported(source, folder, *options):
    assert export.main([str(source), str(folder), *options]) == 0
    return folder


def weights(folder):
    return model_files.read(folder, model_files.read_metadata(folder))


def same(first, second):
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def released(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "released.ckpt")
    return tmp_path / "released.ckpt"


@pytest.mark.parametrize("name", published.VQGANS)
@pytest.mark.parametrize("format_", ["taming", "diffusers"])
def test_a_vqgan_comes_back_the_same(tmp_path, name, format_, capsys):
    first = imported(released(tmp_path, published.vqgan_state(published.VQGANS[name])), tmp_path / "first")
    if (format_, name) == ("diffusers", "gumbel"):
        assert export.main([str(first), str(tmp_path / "out"), "--format", format_]) == 2
        assert "this quantizer is of kind gumbel" in capsys.readouterr().err and not (tmp_path / "out").exists()
        return
    out = exported(first, tmp_path / "out", "--format", format_)
    second = imported(out / "model.ckpt" if format_ == "taming" else out, tmp_path / "second")
    assert same(first, second)
    metadata = [model_files.read_metadata(folder) for folder in (first, second)]
    assert metadata[0] == metadata[1]


def test_a_published_state_goes_out_as_it_came_in(tmp_path):
    """The keys and tensors of a checkpoint of the published code, which loads it with strict=True."""
    state = published.net2net_state(published.F16, published.SEGMENTATION)
    options = ["--heads", "4"]
    first = imported(released(tmp_path, state), tmp_path / "first", *options)
    tokenizers = ["--tokenizer", str(first / "tokenizer"), "--condition-tokenizer", str(first / "condition")]
    out = exported(first / "prior", tmp_path / "out", "--format", "taming", *tokenizers)
    back = torch.load(out / "model.ckpt")["state_dict"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state if name != "cond_stage_model.colorize")


@pytest.mark.parametrize("condition", ["class:5", "none", "coordinates:9", "map"])
@pytest.mark.parametrize("format_", ["taming", "transformers"])
def test_a_prior_comes_back_the_same(tmp_path, condition, format_):
    maps = published.SEGMENTATION if condition == "map" else None
    state = published.net2net_state(published.F16, maps)
    if condition == "coordinates:9":
        state["transformer.pos_emb"] = torch.randn(1, 32, 32)
        for layer in range(2):
            state[f"transformer.blocks.{layer}.attn.mask"] = torch.ones(1, 1, 32, 32).tril()
    options = ["--heads", "4"] if maps else ["--heads", "4", "--condition", condition]
    first = imported(released(tmp_path, state), tmp_path / "first", *options)
    tokenizers = ["--tokenizer", str(first / "tokenizer")]
    if maps:
        tokenizers += ["--condition-tokenizer", str(first / "condition")]
    out = exported(first / "prior", tmp_path / "out", "--format", format_, *tokenizers)
    second = imported(out / "model.ckpt" if format_ == "taming" else out, tmp_path / "second", *options)
    second = second / "prior" if format_ == "taming" else second
    assert same(first / "prior", second)
    assert model_files.read_metadata(first / "prior") == model_files.read_metadata(second)


def trained_prior(folder, config, condition, codes=24):
    """A prior as training here leaves one: the condition has vectors of its own."""
    torch.manual_seed(5)
    network = config.build(codes, condition)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder.mkdir()
    metadata = {"task": "prior", "model": to_mapping(config), "condition": to_mapping(condition), "codes": codes}
    model_files.write(folder, network.state_dict(), metadata | {"factor": 4, "tokenizer": "0" * 64})
    return folder


PRIOR = GPTConfig(layers=2, heads=2, width=16, window=(3, 4), condition_dropout=0.1)


@pytest.mark.parametrize(
    "condition", [UnconditionalConfig(), ClassConfig(classes=5), CoordinatesConfig(vocab_size=6)], ids=lambda c: c.kind
)
@pytest.mark.parametrize("order", ["raster", "z_curve"])
def test_a_prior_that_was_trained_here_comes_back_from_transformers(tmp_path, condition, order):
    first = trained_prior(tmp_path / "first", replace(PRIOR, order=OrderConfig(kind=order)), condition)
    second = imported(exported(first, tmp_path / "out", "--format", "transformers"), tmp_path / "second")
    assert same(first, second)
    assert load_prior(second, CPU).model.config == load_prior(first, CPU).model.config


PRIORS = {
    "block 'llama' turns its keys": (replace(PRIOR, block="llama"), ClassConfig(classes=5)),
    "does not see which cell comes next": (replace(PRIOR, annealing=AnnealingConfig()), ClassConfig(classes=5)),
    "condition of kind text has none": (PRIOR, TextConfig(tokens=2, channels=4)),
}


@pytest.mark.parametrize("reason", PRIORS)
def test_a_prior_that_gpt2_cannot_be_is_refused_with_the_reason_and_the_nearest_format(tmp_path, capsys, reason):
    source = trained_prior(tmp_path / "prior", *PRIORS[reason])
    assert export.main([str(source), str(tmp_path / "out"), "--format", "transformers"]) == 2
    error = capsys.readouterr().err
    assert reason in error and "the nearest format that holds it is" in error and not (tmp_path / "out").exists()


def test_a_prior_with_a_table_of_its_own_is_refused_for_the_published_code(tmp_path, capsys):
    tokenizer = pairs.write_tokenizer(tmp_path / "tokenizer")
    prior = pairs.write_prior(tmp_path / "prior", tokenizer, "class")
    options = ["--format", "taming", "--tokenizer", str(tokenizer)]
    assert export.main([str(prior), str(tmp_path / "out"), *options]) == 2
    assert "cannot drop its condition, and this one has learnt to" in capsys.readouterr().err


VQGANS = {
    ("diffusers", "has norms in every block"): {"norm_groups": 0},
    ("diffusers", "takes the code that is nearest"): {"quantizer": CosineConfig(codebook_size=24)},
    ("diffusers", "first level is as wide"): {"channel_multipliers": (2, 2)},
    ("diffusers", "sees zeros beyond a border"): {"padding": "replicate"},
    ("taming", "see zeros beyond a border"): {"padding": "replicate"},
    ("taming", "norms of 32 groups, and this one 16"): {"norm_groups": 16},
    ("taming", "attention in the middle"): {"mid_attention": False},
    ("taming", "this one is of kind cosine"): {"quantizer": CosineConfig(codebook_size=24)},
}


@pytest.mark.parametrize(("format_", "reason"), VQGANS)
def test_a_vqgan_that_a_format_cannot_hold_is_refused_with_the_reason(tmp_path, capsys, format_, reason):
    config = replace(published.F8, channel_multipliers=(1, 2), attention_resolutions=())
    config = replace(config, **VQGANS[format_, reason])
    source = tmp_path / "vqgan"
    source.mkdir()
    metadata = {"task": "vqgan", "model": to_mapping(config), "factor": config.factor, "codes": 24, "target": "image"}
    model_files.write(source, config.build().state_dict(), metadata)
    assert export.main([str(source), str(tmp_path / "out"), "--format", format_]) == 2
    error = capsys.readouterr().err
    assert reason in error and "nearest format" in error and not (tmp_path / "out").exists()


def test_shards_bf16_and_the_card_of_an_export(tmp_path):
    first = imported(released(tmp_path, published.vqgan_state(published.F8)), tmp_path / "first")
    out = exported(first, tmp_path / "out", "--dtype", "bf16", "--shard-bytes", "100000")
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2 and not (out / "model.safetensors").exists()
    loaded, original = from_pretrained(out), load_tokenizer(first, CPU)
    for name, tensor in original.model.state_dict().items():
        rounded = tensor.bfloat16().float() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded.model.state_dict()[name], rounded)
    card = (out / "README.md").read_text()
    assert loaded.metadata["digest"] in card and "license:" in card and '"channels": 32' in card
    again = exported(out, tmp_path / "again")
    assert from_pretrained(again).metadata["digest"] == loaded.metadata["digest"]


def test_a_discriminator_goes_along_with_an_export(tmp_path):
    state = published.vqgan_state(published.F8) | published.loss_state()
    first = imported(released(tmp_path, state), tmp_path / "first")
    out = exported(first, tmp_path / "out")
    assert (out / "discriminator.safetensors").read_bytes() == (first / "discriminator.safetensors").read_bytes()
