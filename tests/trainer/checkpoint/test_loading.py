"""Networks come back from an export or a run as they were trained, and an export is a copy that is checked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.priors import write_tokenizer

from smalti.models.conditions import UnconditionalConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.trainer.checkpoint import loading, model_files, storage
from smalti.trainer.config import to_mapping

CPU = torch.device("cpu")


def write_run(run: Path, export: Path) -> Path:
    """A run's folder with one whole checkpoint, which holds the pair of an export."""
    folder = run / "checkpoints" / "step-00000010"
    shutil.copytree(export, folder)
    files = {name: storage.described(folder / name) for name in (model_files.WEIGHTS, model_files.METADATA)}
    (folder / storage.MANIFEST).write_text(json.dumps({"step": 10, "files": files}))
    return run


def test_a_tokenizer_comes_back_from_its_export(tmp_path: Path):
    metadata = write_tokenizer(tmp_path / "export")
    model, read = loading.load_tokenizer(tmp_path / "export", CPU)
    assert read == metadata and not model.training
    assert model_files.digest(model.state_dict()) == metadata["digest"]
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_prior_comes_back_from_its_export(tmp_path: Path):
    config, condition = GPTConfig(layers=1, heads=1, width=4, window=(2, 2)), UnconditionalConfig()
    prior = config.build(8, condition)
    metadata = {"task": "prior", "model": to_mapping(config), "condition": to_mapping(condition), "codes": 8}
    model_files.write(tmp_path, prior.state_dict(), metadata)
    model, read = loading.load_prior(tmp_path, CPU)
    assert model_files.digest(model.state_dict()) == read["digest"] == model_files.digest(prior.state_dict())


def test_a_run_gives_its_newest_whole_checkpoint(tmp_path: Path):
    metadata = write_tokenizer(tmp_path / "export")
    run = write_run(tmp_path / "run", tmp_path / "export")
    assert loading.resolve_weights(run) == run / "checkpoints" / "step-00000010"
    assert loading.load_tokenizer(run, CPU).metadata == metadata


def test_who_reads_weights_alone_does_not_read_the_states_of_training(tmp_path: Path):
    write_tokenizer(tmp_path / "export")
    run = write_run(tmp_path / "run", tmp_path / "export")
    manifest = run / "checkpoints" / "step-00000010" / storage.MANIFEST
    said = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(said | {"files": said["files"] | {"rank-0000.pt": [1 << 40, ""]}}))  # which is gone
    assert loading.resolve_weights(run) == manifest.parent
    with pytest.raises(ValueError, match=r"rank-0000\.pt is missing"):
        storage.latest_valid(run)


def test_a_checkpoint_that_a_training_run_removes_while_it_is_read_costs_another_look(tmp_path: Path):
    metadata = write_tokenizer(tmp_path / "export")
    run = write_run(tmp_path / "run", tmp_path / "export")
    first = run / "checkpoints" / "step-00000010"
    seen = []

    def read(folder: Path) -> dict[str, Any]:
        seen.append(folder.name)
        if folder == first:
            shutil.copytree(first, newer := run / "checkpoints" / "step-00000020")
            manifest = newer / storage.MANIFEST
            manifest.write_text(manifest.read_text().replace(": 10,", ": 20,"))
            storage.remove(first)
        return model_files.read_metadata(folder)

    assert loading.of_newest(run, read) == metadata
    assert seen == ["step-00000010", "step-00000020"]


def test_an_export_is_the_same_pair(tmp_path: Path):
    metadata = write_tokenizer(tmp_path / "made")
    run = write_run(tmp_path / "run", tmp_path / "made")
    assert loading.export(run, tmp_path / "out") == metadata
    for name in (model_files.WEIGHTS, model_files.METADATA):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "made" / name).read_bytes()
    assert loading.load_tokenizer(tmp_path / "out", CPU).metadata == metadata


def test_nothing_is_exported_of_a_damaged_run(tmp_path: Path):
    write_tokenizer(tmp_path / "made")
    run = write_run(tmp_path / "run", tmp_path / "made")
    file = run / "checkpoints" / "step-00000010" / model_files.WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="checksum"):
        loading.export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_weights_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=f"{tmp_path} is neither an export .* nor a run"):
        loading.resolve_weights(tmp_path)
