"""Weights for use are known by their content, and what is not what it says is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smalti.trainer.checkpoint import model_files


def some() -> dict[str, Tensor]:
    return {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2])}


def test_the_digest_is_that_of_names_types_shapes_and_bytes_in_order():
    by_hand = hashlib.sha256()
    by_hand.update(b"a torch.int64 (2,)\n" + torch.tensor([1, 2]).numpy().tobytes())
    by_hand.update(b"b torch.float32 (2, 3)\n" + torch.arange(6.0).numpy().tobytes())
    assert model_files.digest(some()) == by_hand.hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        {"b": torch.arange(6.0).reshape(3, 2)},
        {"b": torch.arange(6.0).reshape(2, 3).double()},
        {"b": torch.arange(6.0).reshape(2, 3) + 1e-7},
        {"c": torch.zeros(0)},
    ],
)
def test_every_change_changes_the_digest(changed: dict[str, Tensor]):
    assert model_files.digest({**some(), **changed}) != model_files.digest(some())


def test_the_digest_does_not_depend_on_memory():
    strided = torch.arange(6.0).reshape(3, 2).t().contiguous().t().t()
    assert model_files.digest({"x": strided}) == model_files.digest({"x": strided.contiguous()})


def test_what_is_written_is_read(tmp_path: Path):
    model_files.write(tmp_path, some(), {"task": "vqgan"})
    metadata = model_files.read_metadata(tmp_path, "vqgan")
    assert metadata == {"format": 2, "task": "vqgan", "digest": model_files.digest(some())}
    read = model_files.read(tmp_path, metadata)
    assert all(torch.equal(read[name], value) for name, value in some().items())


def test_a_metadata_of_another_task_is_refused(tmp_path: Path):
    model_files.write(tmp_path, some(), {"task": "vqgan"})
    with pytest.raises(ValueError, match="describes a 'vqgan', not a 'prior'"):
        model_files.read_metadata(tmp_path, "prior")


def test_exchanged_weights_are_refused(tmp_path: Path):
    model_files.write(tmp_path, some(), {"task": "vqgan"})
    metadata = model_files.read_metadata(tmp_path)
    model_files.write(tmp_path, {"b": torch.zeros(1)}, {"task": "vqgan"})
    with pytest.raises(ValueError, match="damaged or was exchanged"):
        model_files.read(tmp_path, metadata)


@pytest.mark.parametrize("text", ["", "{", json.dumps({"task": "vqgan"}), json.dumps({"format": 3, "digest": "x"})])
def test_a_broken_metadata_is_refused_by_name(text: str, tmp_path: Path):
    (tmp_path / model_files.METADATA).write_text(text)
    with pytest.raises(ValueError, match=str(tmp_path / model_files.METADATA)):
        model_files.read_metadata(tmp_path)


def test_a_cut_file_is_refused_by_name(tmp_path: Path):
    model_files.write(tmp_path, some(), {})
    file = tmp_path / model_files.WEIGHTS
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ValueError, match=str(file)):
        model_files.read(tmp_path, model_files.read_metadata(tmp_path))
