"""At the published sizes, import, export and import again is the identity too, and every tensor is accounted for."""

import pytest
import torch
from fixtures import published

from smalti.launch import export, import_weights
from smalti.trainer.checkpoint import model_files

VQGAN = published.VQGANConfig(quantizer=published.VQConfig(codebook_size=1024, legacy_beta=True))
MAPS = published.VQGANConfig(num_labels=182, quantizer=published.VQConfig(codebook_size=1024, legacy_beta=True))
PRIOR = published.GPTConfig()  # 24 x 16 x 1024, windows of 16 x 16


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["taming", "diffusers"])
def test_the_f16_vqgan_of_128_channels_comes_back_the_same(tmp_path, format_, capsys):
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VQGAN.build().state_dict().items() if name != "quantize.idle"}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    assert import_weights.main([str(tmp_path / "last.ckpt"), str(tmp_path / "first")]) == 0
    assert "used 343 tensors" in capsys.readouterr().out
    assert export.main([str(tmp_path / "first"), str(tmp_path / "out"), "--format", format_]) == 0
    out = tmp_path / "out" / "model.ckpt" if format_ == "taming" else tmp_path / "out"
    assert import_weights.main([str(out), str(tmp_path / "second")]) == 0
    first, second = (model_files.read_metadata(tmp_path / name) for name in ("first", "second"))
    assert first == second and first["model"]["channels"] == 128


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["taming", "transformers"])
def test_the_prior_of_24_layers_over_maps_comes_back_the_same(tmp_path, format_):
    """305 million parameters in one vocabulary of 1024 codes, with both tokenizers of 128 channels."""
    torch.save({"state_dict": published.net2net_state(VQGAN, MAPS, PRIOR)}, tmp_path / "last.ckpt")
    options = ["--heads", "16"]
    assert import_weights.main([str(tmp_path / "last.ckpt"), str(tmp_path / "first"), *options]) == 0
    (tmp_path / "last.ckpt").unlink()
    stages = ["--tokenizer", str(tmp_path / "first" / "tokenizer")]
    stages += ["--condition-tokenizer", str(tmp_path / "first" / "condition")]
    out = tmp_path / "out"
    assert export.main([str(tmp_path / "first" / "prior"), str(out), "--format", format_, *stages]) == 0
    source = out / "model.ckpt" if format_ == "taming" else out
    assert import_weights.main([str(source), str(tmp_path / "second"), *options]) == 0
    second = tmp_path / "second" / "prior" if format_ == "taming" else tmp_path / "second"
    first = model_files.read_metadata(tmp_path / "first" / "prior")
    assert first == model_files.read_metadata(second)
    assert (first["model"]["layers"], first["model"]["heads"], first["model"]["width"]) == (24, 16, 1024)
    assert first["condition"]["vocab_size"] == 1024
