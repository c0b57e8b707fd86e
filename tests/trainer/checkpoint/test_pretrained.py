"""An export is loaded by one call from its folder, or from a repository of the Hub, for which a folder stands here."""

import shutil
import sys
import types
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from fixtures import pairs

from smalti.launch import export
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.pretrained import from_pretrained


class Hub:
    """What stands for the package huggingface_hub: repositories are folders, and downloads are copies."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.asked: list[tuple[str, str | None]] = []

    def snapshot_download(self, name: str, revision: str | None, allow_patterns: list[str]) -> str:
        """A copy of the wanted files of a repository."""
        self.asked.append((name, revision))
        if not (self.place / name).is_dir():
            raise FileNotFoundError(f"404: no repository {name}")
        copy = self.place / "cache" / name
        copy.mkdir(parents=True)
        for file in (self.place / name).iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, copy)
        return str(copy)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with a tokenizer in shards and a prior, each with a file that nobody should load."""
    tokenizer = pairs.write_tokenizer(tmp_path / "tokenizer")
    prior = pairs.write_prior(tmp_path / "prior", tokenizer, "class")
    for name, source in (("vqgan", tokenizer), ("prior", prior)):
        out = tmp_path / "hub" / "someone" / name
        assert export.main([str(source), str(out), "--shard-bytes", "4000"]) == 0
        (out / "pytorch_model.bin").write_bytes(b"a pickle")
    made = Hub(tmp_path / "hub")
    package = types.ModuleType("huggingface_hub")
    package.snapshot_download = made.snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", package)
    return made


def test_a_tokenizer_and_a_prior_are_loaded_from_the_hub_as_from_their_folders(hub, tmp_path):
    codes = torch.arange(12).view(1, 3, 4)
    found, local = from_pretrained("someone/vqgan", revision="v2"), from_pretrained(tmp_path / "tokenizer")
    assert (
        torch.equal(found.decode(codes), local.decode(codes)) and found.metadata["digest"] == local.metadata["digest"]
    )
    prior = from_pretrained("someone/prior")
    assert prior.metadata["tokenizer"] == found.metadata["digest"]
    assert hub.asked == [("someone/vqgan", "v2"), ("someone/prior", None)]
    downloaded = [file.name for file in (hub.place / "cache" / "someone" / "vqgan").iterdir()]
    assert len([name for name in downloaded if name.endswith(".safetensors")]) > 1
    assert {"config.json", "README.md"} < set(downloaded) and "pytorch_model.bin" not in downloaded


def test_what_is_nowhere_is_an_error_with_its_name(hub):
    with pytest.raises(ValueError, match=r"someone/else is no folder here, and cannot be had from the Hub: 404"):
        from_pretrained("someone/else")


def test_a_repository_of_something_else_is_refused(hub):
    (hub.place / "someone" / "vqgan" / model_files.METADATA).write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match=r"config.json is not metadata of this format"):
        from_pretrained("someone/vqgan")


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'smalti\[hub\]'"):
        from_pretrained("someone/vqgan")
