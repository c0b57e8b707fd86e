"""At the published sizes, import, export and import again is the identity too, and every tensor is accounted for."""

import pytest
import torch
from fixtures import published

from smalti.launch import export, import_weights
from smalti.trainer.checkpoint import model_files

VQGAN = published.VQGANConfig(quantizer=published.VQConfig(codebook_size=1024, legacy_beta=True))


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
