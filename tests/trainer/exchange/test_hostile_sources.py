"""Files and folders that are damaged, hostile or of something else: a sentence each, and nothing is written."""

import json
import struct

import pytest
import torch
from fixtures import pairs, published
from safetensors.torch import load_file, save_file

from smalti.launch import export, import_weights


def refused(capsys, tmp_path, source, *options) -> str:
    """The one line of an import that is refused without leaving anything."""
    code = import_weights.main([str(source), str(tmp_path / "in"), *options])
    error: str = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ") and error.count("error: ") == 1 and "Traceback" not in error
    assert not (tmp_path / "in").exists() and not list(tmp_path.glob(".in*"))
    return error


def diffusers_folder(tmp_path):
    """What ``smalti export --format diffusers`` leaves."""
    torch.save({"state_dict": published.vqgan_state(published.F8)}, tmp_path / "last.ckpt")
    assert import_weights.main([str(tmp_path / "last.ckpt"), str(tmp_path / "first")]) == 0
    assert export.main([str(tmp_path / "first"), str(tmp_path / "vq"), "--format", "diffusers"]) == 0
    return tmp_path / "vq"


def transformers_folder(tmp_path):
    """What ``smalti export --format transformers`` leaves."""
    prior = pairs.write_prior(tmp_path / "prior", pairs.write_tokenizer(tmp_path / "tokenizer"), "class")
    assert export.main([str(prior), str(tmp_path / "gpt2"), "--format", "transformers"]) == 0
    return tmp_path / "gpt2"


@pytest.mark.parametrize("claimed", [2**40, 2**63, 200_000_000])
def test_a_header_of_safetensors_that_claims_gigabytes(capsys, tmp_path, claimed):
    source = tmp_path / "w.safetensors"
    source.write_bytes(struct.pack("<Q", claimed) + b"{}" + bytes(100))
    assert "cannot be read: " in refused(capsys, tmp_path, source)


def test_tensors_of_safetensors_that_claim_more_than_the_file_has(capsys, tmp_path):
    header = json.dumps({"encoder.x": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}).encode()
    source = tmp_path / "w.safetensors"
    source.write_bytes(struct.pack("<Q", len(header)) + header + bytes(100))
    assert "cannot be read: " in refused(capsys, tmp_path, source)


@pytest.mark.parametrize("name", ["w.safetensors", "w.ckpt", "w"])
@pytest.mark.parametrize("data", [b"", b"not weights at all", bytes(1000)], ids=["empty", "text", "zeros"])
def test_what_is_no_file_of_weights(capsys, tmp_path, name, data):
    source = tmp_path / name
    source.write_bytes(data)
    assert str(source) in refused(capsys, tmp_path, source)


def test_what_is_not_there(capsys, tmp_path):
    assert "there is no " in refused(capsys, tmp_path, tmp_path / "nothing.ckpt")


def test_a_folder_without_weights(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "found 0" in refused(capsys, tmp_path, tmp_path / "empty")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("num_vq_embeddings", 25, "quantize.embedding.weight is (24, 16) and should be (25, 16)"),
        ("latent_channels", 999, "holds another network than its other sizes say"),
        ("latent_channels", 10**12, "latent_channels in its config.json must be a whole number up to 65536"),
        ("latent_channels", "many", "latent_channels in its config.json must be a whole number"),
        ("block_out_channels", [32, 64, 64], "down_block_types must be 3 of"),
        ("block_out_channels", [0, 1, 2, 4], "no list of widths"),
        ("norm_type", "spatial", "norm_type is 'spatial', and only 'group' can be imported"),
        ("_class_name", "AutoencoderKL", "holds a model of class 'AutoencoderKL'"),
        ("layers_per_block", 2, "lacks "),
    ],
)
def test_a_config_of_other_sizes_than_its_tensors(capsys, tmp_path, field, value, reason):
    folder = diffusers_folder(tmp_path)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {field: value}))
    assert reason in refused(capsys, tmp_path, folder)


def test_a_config_that_is_no_json(capsys, tmp_path):
    folder = diffusers_folder(tmp_path)
    (folder / "config.json").write_text("[" * 100_000)
    assert "config.json cannot be read" in refused(capsys, tmp_path, folder)


@pytest.mark.parametrize("change", ["dtype", "extra", "truncated"])
def test_tensors_of_a_folder_that_are_not_as_they_must_be(capsys, tmp_path, change):
    folder = diffusers_folder(tmp_path)
    place = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(place)
    if change == "dtype":
        save_file(weights | {"quant_conv.bias": weights["quant_conv.bias"].double()}, place)
    elif change == "extra":
        save_file(weights | {"quant_conv.lora": torch.ones(1)}, place)
    else:
        place.write_bytes(place.read_bytes()[:-100])
    reasons = {
        "dtype": "has the type torch.float64",
        "extra": "no part of the network has",
        "truncated": "cannot be read",
    }
    assert reasons[change] in refused(capsys, tmp_path, folder)


def test_an_index_that_names_a_file_outside_of_its_folder(capsys, tmp_path):
    folder = diffusers_folder(tmp_path)
    index = {"weight_map": {"encoder.conv_in.weight": "../secret.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert "'../secret.safetensors', which is no file of safetensors in its folder" in refused(capsys, tmp_path, folder)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("n_embd", 32, "n_embd is 32"),
        ("vocab_size", 10**9, "vocab_size is 1000000000"),
        ("activation_function", "gelu_new", "activation_function is 'gelu_new'"),
        ("smalti", None, "the section 'smalti' of its config.json must be an object"),
        ("smalti", {"model": {"kind": "gpt"}}, "lacks 'condition'"),
        ("architectures", ["BertModel"], "holds a model of class ['BertModel']"),
    ],
)
def test_a_prior_of_other_sizes_than_its_tensors(capsys, tmp_path, field, value, reason):
    folder = transformers_folder(tmp_path)
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(said | {field: value}))
    assert reason in refused(capsys, tmp_path, folder)


def test_a_project_yaml_that_builds_objects_builds_none(capsys, tmp_path):
    torch.save({"state_dict": published.net2net_state(published.F16, None)}, tmp_path / "last.ckpt")
    (tmp_path / "p.yaml").write_text(f"model: !!python/object/apply:os.mkdir [{tmp_path / 'created'}]\n")
    refused(capsys, tmp_path, tmp_path / "last.ckpt", "--config", str(tmp_path / "p.yaml"))
    assert not (tmp_path / "created").exists()
