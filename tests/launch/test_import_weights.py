"""Checkpoints of other projects become ordinary exports, with every tensor accounted for."""

import json
import os
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from fixtures import published
from safetensors.torch import save_file
from torch.nn import functional

from smalti.launch import import_weights
from smalti.models.priors.orders import OrderConfig
from smalti.models.quantizers import CosineConfig
from smalti.trainer.checkpoint import discriminator_files, model_files
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer

CPU = torch.device("cpu")


def saved(path, state):
    torch.save({"state_dict": state}, path)
    return path


@pytest.mark.parametrize("name", published.VQGANS)
def test_a_published_vqgan_gives_the_same_codes_and_images(tmp_path, name, capsys):
    config = published.VQGANS[name]
    network = published.build(config)
    state = published.vqgan_state(config)
    if name == "segmentation":
        state["colorize"] = torch.randn(3, 9, 1, 1)
    assert import_weights.main([str(saved(tmp_path / "last.ckpt", state)), str(tmp_path / "in")]) == 0
    imported = load_tokenizer(tmp_path / "in", CPU)
    assert imported.metadata["target"] == {"segmentation": "segmentation", "depth": "depth"}.get(name, "image")
    assert imported.metadata["codes"] == config.codebook_size and imported.metadata["factor"] == config.factor
    sides = (2 * config.factor, 3 * config.factor)
    images = torch.randint(9, (1, *sides)) if config.num_labels else torch.randn(1, config.in_channels, *sides)
    with torch.no_grad():
        ours, theirs = imported.model(images), network(images)
    assert torch.equal(ours.quantized.indices, theirs.quantized.indices)
    assert torch.equal(ours.reconstruction, theirs.reconstruction)
    report = json.loads((tmp_path / "in" / "import.json").read_text())
    assert report["used"].keys() | report["dropped"].keys() == state.keys()
    assert f"used {len(report['used'])} tensors" in capsys.readouterr().out


def test_the_released_layout_of_398_tensors_is_used_or_dropped_to_the_last(tmp_path):
    """343 of the network, 33 of LPIPS and 22 of the discriminator, in a container of classes that do not exist here."""
    with torch.device("meta"):
        released = published.VQGANConfig().build().state_dict()
    assert len([name for name in released if name != "quantize.idle"]) == 343
    small = published.VQGANConfig(channels=32, z_channels=16, embed_dim=16)  # as deep as the released one, narrower
    state = published.vqgan_state(small) | published.loss_state()
    assert len(state) == 398
    path = published.lightning(tmp_path / "last.ckpt", state)
    with pytest.raises(ModuleNotFoundError):
        torch.load(path, weights_only=False)
    assert import_weights.main([str(path), str(tmp_path / "in")]) == 0
    report = json.loads((tmp_path / "in" / "import.json").read_text())
    assert len(report["used"]) == 365 and len(report["dropped"]) == 33
    assert set(report["dropped"].values()) == {"LPIPS, a frozen network of the training"}
    assert report["beside"]["optimizer_states"] == "list of 1"
    assert load_tokenizer(tmp_path / "in", CPU).model.config.attention_resolutions == (16,)


class CreatesAFolder:
    """Unpickled in the ordinary way, it creates a folder."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def test_a_container_whose_pickle_would_create_something_imports_nothing_and_creates_nothing(tmp_path, capsys):
    victim = tmp_path / "created"
    container = {"state_dict": published.vqgan_state(published.F8), "callbacks": CreatesAFolder(victim)}
    torch.save(container, tmp_path / "last.ckpt")
    assert import_weights.main([str(tmp_path / "last.ckpt"), str(tmp_path / "in")]) == 2
    assert "its pickle would call posix.mkdir" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert victim.is_dir()  # so the file was a harmful one


def test_a_discriminator_that_came_along_is_kept(tmp_path):
    state = published.vqgan_state(published.F8) | published.loss_state(layers=2)
    assert import_weights.main([str(saved(tmp_path / "last.ckpt", state)), str(tmp_path / "in")]) == 0
    metadata = model_files.read_metadata(tmp_path / "in")
    assert metadata["discriminator"]["model"]["layers"] == 2 and metadata["discriminator"]["model"]["channels"] == 8
    kept = discriminator_files.read(tmp_path / "in", metadata)
    assert kept is not None and torch.equal(kept["main.0.weight"], state["loss.discriminator.main.0.weight"])


def test_a_discriminator_of_another_kind_is_dropped_and_said(tmp_path, capsys):
    state = published.vqgan_state(published.F8) | {"loss.discriminator.main.3.loc": torch.zeros(1, 8, 1, 1)}
    assert import_weights.main([str(saved(tmp_path / "last.ckpt", state)), str(tmp_path / "in")]) == 0
    assert "dropped 1: a discriminator of a kind that is not known here" in capsys.readouterr().out


def published_logits(state, heads, tokens):
    """The published transformer over (B, T) tokens, written once more: (B, T, V) logits."""
    t = {name.removeprefix("transformer."): value for name, value in state.items()}
    x = t["tok_emb.weight"][tokens] + t["pos_emb"][:, : tokens.shape[1]]
    width = x.shape[2]
    for layer in range(published.PRIOR.layers):
        b = f"blocks.{layer}"

        def linear(name, value, b=b):
            return functional.linear(value, t[f"{b}.{name}.weight"], t[f"{b}.{name}.bias"])

        def norm(name, value):
            return functional.layer_norm(value, (width,), t[f"{name}.weight"], t[f"{name}.bias"])

        h = norm(f"{b}.ln1", x)
        q, k, v = (
            rearrange(linear(f"attn.{p}", h), "b t (n d) -> b n t d", n=heads) for p in ("query", "key", "value")
        )
        scores = (q @ k.transpose(2, 3)) * (width // heads) ** -0.5
        scores = scores.masked_fill(t[f"{b}.attn.mask"][:, :, : x.shape[1], : x.shape[1]] == 0, float("-inf"))
        x = x + linear("attn.proj", rearrange(scores.softmax(-1) @ v, "b n t d -> b t (n d)"))
        x = x + linear("mlp.2", functional.gelu(linear("mlp.0", norm(f"{b}.ln2", x))))
    return norm("ln_f", x) @ t["head.weight"].T


@pytest.mark.parametrize(("order", "unmasked"), [("raster", 16), ("taming_spiral_out", 0), ("list", 5)])
def test_a_published_prior_over_maps_gives_the_same_logits(tmp_path, order, unmasked):
    """Codes of the map and of the image come from one vocabulary there, and from tables of their own here."""
    state = published.net2net_state(published.F16, published.SEGMENTATION)
    cells = OrderConfig(order, cells=tuple(range(15, -1, -1)) if order == "list" else ()).build((4, 4))
    if order != "raster":
        state |= {"permuter.forward_shuffle_idx": cells, "permuter.backward_shuffle_idx": cells.argsort()}
    for name in [name for name in state if name.endswith("attn.mask")]:
        state[name][..., :unmasked, :unmasked] = 1
    path = saved(tmp_path / "last.ckpt", state)
    assert import_weights.main([str(path), str(tmp_path / "in"), "--heads", "4"]) == 0
    prior = load_prior(tmp_path / "in" / "prior", CPU)
    image, maps = torch.randint(24, (2, 4, 4)), torch.randint(20, (2, 4, 4))
    tokens = torch.cat((maps.flatten(1), image.flatten(1)[:, cells]), dim=1)
    expected = published_logits(state, 4, tokens[:, :-1])[:, 15:]
    with torch.no_grad():
        logits = prior.model(image, {"segmentation_codes": maps}).logits.flatten(1, 2)[:, cells]
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)
    digests = {part: model_files.read_metadata(tmp_path / "in" / part)["digest"] for part in ("tokenizer", "condition")}
    assert prior.metadata["tokenizer"] == digests["tokenizer"]
    assert prior.metadata["condition_tokenizers"] == {"segmentation": digests["condition"]}


PROJECT = """
model:
  target: taming.models.cond_transformer.Net2NetTransformer
  params:
    transformer_config: {target: taming.modules.transformer.mingpt.GPT, params: {n_head: 4, n_layer: 2}}
    cond_stage_config: %s
"""


def test_the_projects_yaml_says_heads_and_classes_of_a_prior(tmp_path):
    state = published.net2net_state(published.F16, None)
    path = saved(tmp_path / "last.ckpt", state)
    (tmp_path / "p.yaml").write_text(PROJECT % "{target: taming.modules.util.Labelator, params: {n_classes: 5}}")
    assert import_weights.main([str(path), str(tmp_path / "in"), "--config", str(tmp_path / "p.yaml")]) == 0
    prior = load_prior(tmp_path / "in" / "prior", CPU)
    image, classes = torch.randint(24, (2, 4, 4)), torch.tensor([0, 4])
    expected = published_logits(state, 4, torch.cat((classes[:, None], image.flatten(1)), dim=1)[:, :-1])
    with torch.no_grad():
        logits = prior.model(image, {"cls": classes}).logits.flatten(1, 2)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


def test_a_prior_without_a_condition_starts_with_the_token_that_its_yaml_names(tmp_path):
    state = published.net2net_state(published.F16, None)
    path = saved(tmp_path / "last.ckpt", state)
    (tmp_path / "p.yaml").write_text(PROJECT % "{target: taming.modules.util.SOSProvider, params: {sos_token: 3}}")
    assert import_weights.main([str(path), str(tmp_path / "in"), "--config", str(tmp_path / "p.yaml")]) == 0
    prior = load_prior(tmp_path / "in" / "prior", CPU)
    assert torch.equal(prior.model.condition.start, state["transformer.tok_emb.weight"][3])


REFUSED = {
    "lacks decoder.conv_in.weight": lambda state: state.pop("decoder.conv_in.weight"),
    "2 tensors that no part of the network has: encoder.extra.a, encoder.extra.b": lambda state: state.update(
        {"encoder.extra.a": torch.ones(1), "encoder.extra.b": torch.ones(1)}
    ),
    "decoder.conv_in.weight is (128, 7, 3, 3) and should be (128, 32, 3, 3)": lambda state: state.update(
        {"decoder.conv_in.weight": torch.ones(128, 7, 3, 3)}
    ),
    "quant_conv.bias has the type torch.float64": lambda state: state.update(
        {"quant_conv.bias": torch.ones(16, dtype=torch.float64)}
    ),
    "quant_conv.bias holds numbers that are not finite": lambda state: state.update(
        {"quant_conv.bias": torch.full((16,), float("nan"))}
    ),
    "must name each of its 24 codes at most once": lambda state: state.update({"quantize.used": torch.arange(25)}),
    "halves its grids without convolutions": lambda state: [
        state.pop(name) for name in list(state) if ".downsample." in name
    ],
    "has no codebook": lambda state: state.pop("quantize.embedding.weight"),
    "has no convolution encoder.conv_in.weight": lambda state: [state.pop(n) for n in list(state) if "encoder" in n],
    "count [0, 1, 2, 3, 999999999], with gaps": lambda state: state.update({"encoder.down.999999999.x": torch.ones(1)}),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_no_network_of_this_family_is_refused_with_a_sentence(tmp_path, capsys, sentence):
    state = published.vqgan_state(published.F8)
    REFUSED[sentence](state)
    assert import_weights.main([str(saved(tmp_path / "last.ckpt", state)), str(tmp_path / "in")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "in").exists() and [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_half_precision_is_imported_exactly(tmp_path):
    state = {name: tensor.half() for name, tensor in published.vqgan_state(published.F8).items()}
    assert import_weights.main([str(saved(tmp_path / "last.ckpt", state)), str(tmp_path / "in")]) == 0
    weights = load_tokenizer(tmp_path / "in", CPU).model.state_dict()
    assert all(torch.equal(weights[name], tensor.float()) for name, tensor in state.items())


PRIORS_REFUSED = {
    "does not say how many heads": (["--condition", "class:5"], {}),
    "does not say what its prior is conditioned on": (["--heads", "4"], {}),
    "the condition has 99 values, its vocabulary 24": (["--heads", "4", "--condition", "class:99"], {}),
    "width (=32) must be a multiple of heads (=5)": (["--heads", "5", "--condition", "class:5"], {}),
    "does not fill 16 positions": (["--heads", "4", "--condition", "class:5", "--window", "3x6"], {}),
    "neither causal nor so behind a part of the condition": (
        ["--heads", "4", "--condition", "class:5"],
        {"transformer.blocks.0.attn.mask": torch.ones(1, 1, 16, 16)},
    ),
    "is no order of the 4 x 4 codes": (
        ["--heads", "4", "--condition", "class:5"],
        {"permuter.forward_shuffle_idx": torch.arange(16).clamp(max=14)},
    ),
}


@pytest.mark.parametrize("sentence", PRIORS_REFUSED)
def test_a_prior_that_cannot_be_told_or_represented_is_refused(tmp_path, capsys, sentence):
    options, changed = PRIORS_REFUSED[sentence]
    path = saved(tmp_path / "last.ckpt", published.net2net_state(published.F16, None) | changed)
    assert import_weights.main([str(path), str(tmp_path / "in"), *options]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "in").exists()


def test_a_destination_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "mine").touch()
    path = saved(tmp_path / "last.ckpt", published.vqgan_state(published.F8))
    assert import_weights.main([str(path), str(tmp_path / "in")]) == 2
    assert "is there already" in capsys.readouterr().err and [p.name for p in (tmp_path / "in").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["last.ckpt", "weights.safetensors"])
def test_a_flipped_byte_anywhere_is_an_error_with_the_files_name_or_reaches_the_report(tmp_path, name, capsys):
    """Numbers have a checksum in a torch file and none in safetensors, of which only the header can be checked."""
    state = published.vqgan_state(published.F8)
    path = tmp_path / name
    if name == "last.ckpt":
        saved(path, state)
    else:
        save_file({key: values.contiguous().clone() for key, values in state.items()}, path)
    sound = path.read_bytes()
    places = range(100, len(sound), len(sound) // 12) if name == "last.ckpt" else (3, 9, 20, 60)
    for number, place in enumerate(places):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 16]) + sound[place + 1 :])
        if import_weights.main([str(path), str(tmp_path / f"in-{number}")]):
            assert str(path) in capsys.readouterr().err
            assert not (tmp_path / f"in-{number}").exists()
        else:
            assert name == "last.ckpt" and (tmp_path / f"in-{number}" / "import.json").exists()


def llamagen_state(network):
    """The tensors of an autoencoder of three levels under the names that LlamaGen gives them."""
    state = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in (
            *((f"encoder.down.{level}.", f"encoder.conv_blocks.{level}.") for level in range(3)),
            *((f"decoder.up.{level}.", f"decoder.conv_blocks.{2 - level}.") for level in range(3)),
            (".block.", ".res."),
            *((f".mid.{ours}.", f".mid.{place}.") for place, ours in enumerate(("block_1", "attn_1", "block_2"))),
        ):
            name = name.replace(ours, theirs)
        state[name] = tensor
    del state["quantize.idle"]
    return state | {"quantize.codebook_used": torch.zeros(65536)}


def test_a_tokenizer_of_llamagen_gives_the_same_codes_and_images(tmp_path, capsys):
    """Its codes are unit vectors, and only its lowest level has attention."""
    config = replace(
        published.F16,
        channel_multipliers=(1, 2, 2),
        attention_resolutions=(64,),
        quantizer=CosineConfig(codebook_size=24),
    )
    network = published.build(config)
    state = llamagen_state(network)
    assert "decoder.conv_blocks.0.attn.1.q.weight" in state and "encoder.conv_blocks.1.res.0.nin_shortcut.bias" in state
    torch.save({"model": state, "optimizer": {}, "steps": 3}, tmp_path / "vq_ds16_c2i.pt")
    assert import_weights.main([str(tmp_path / "vq_ds16_c2i.pt"), str(tmp_path / "in")]) == 0
    assert "dropped 1: a record of which codes were in use" in capsys.readouterr().out
    imported, images = load_tokenizer(tmp_path / "in", CPU).model, torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        ours, theirs = imported(images), network(images)
    assert torch.equal(ours.quantized.indices, theirs.quantized.indices)
    assert torch.equal(ours.reconstruction, theirs.reconstruction)
