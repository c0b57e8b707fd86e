"""An export is the weights and the metadata of a run's newest whole checkpoint, or nothing."""

import pytest
import torch
from fixtures import pairs

from smalti.launch import export
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return pairs.write_tokenizer(tmp_path / "tokenizer")


def test_what_is_exported_decodes_the_same_bits(capsys, tmp_path, tokenizer):
    assert export.main([str(tokenizer), str(tmp_path / "copy")]) == 0
    digest = model_files.read_metadata(tokenizer)["digest"]
    assert capsys.readouterr().out == f"{tmp_path / 'copy'}: vqgan, weights {digest[:12]}\n"
    codes = torch.arange(12).view(1, 3, 4)
    first, second = (load_tokenizer(folder, torch.device("cpu")).model for folder in (tokenizer, tmp_path / "copy"))
    assert torch.equal(first.decode_codes(codes), second.decode_codes(codes))
    assert not second.training and not any(parameter.requires_grad for parameter in second.parameters())


def test_a_folder_without_weights_is_refused(capsys, tmp_path):
    assert export.main([str(tmp_path), str(tmp_path / "copy")]) == 2
    assert "neither an export (no config.json) nor a run with a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_weights_that_are_not_their_metadatas_are_refused(capsys, tmp_path, tokenizer):
    place = tokenizer / model_files.WEIGHTS
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(bytes(data))
    assert export.main([str(tokenizer), str(tmp_path / "copy")]) == 2
    assert "the file is damaged or was exchanged" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()
