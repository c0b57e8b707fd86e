"""A sealed file carries a checksum of its own bytes: one flipped bit is found, and files of before are read."""

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from smalti.trainer import bounded_json
from smalti.trainer.checkpoint import model_files, sealed, storage

CONTENT = {"step": 3, "zero": {"generator": 1}, "rate": 1e-05, "name": "caf\u00e9", "zeros": "0" * 64}


def flips(data: bytes) -> Iterator[bytes]:
    """The bytes with each of their bits flipped, one at a time."""
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_the_checksum_is_that_of_the_text_with_zeros_in_its_place(tmp_path: Path):
    text = sealed.sealed(CONTENT)
    claimed = json.loads(text)["sha256"]
    assert hashlib.sha256(text.replace(claimed, "0" * 64, 1).encode()).hexdigest() == claimed
    (tmp_path / "a.json").write_text(text)
    assert sealed.opened(tmp_path / "a.json") == (CONTENT | {"format": 2}, True)


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_a_sealed_file_is_found(every: int, tmp_path: Path):
    place = tmp_path / "a.json"
    for flipped in itertools.islice(flips(sealed.sealed(CONTENT).encode()), 0, None, every):
        place.write_bytes(flipped)
        with pytest.raises(ValueError):
            sealed.opened(place)


@pytest.mark.parametrize(
    "text",
    [
        sealed.sealed(CONTENT)[:-1], sealed.sealed(CONTENT) + " ", sealed.sealed(CONTENT).replace("e-05", "E-05"),
        '{"format": 2, "step": 3}', '{"sha256": "0"}', '{"format": 1, "sha256": "0"}', '{"format": 2, "sha256": ""}',
        "[]",
    ],
)  # fmt: skip
def test_what_was_changed_without_changing_its_meaning_is_found_too(text: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError):
        sealed.opened(tmp_path / "a.json")


@pytest.mark.parametrize("text", ['{"step": 3}', '{"format": 1, "step": 3}'])
def test_a_file_of_before_is_read_and_said_not_to_be_sealed(text: str, tmp_path: Path):
    (tmp_path / "a.json").write_text(text)
    assert sealed.opened(tmp_path / "a.json") == (json.loads(text), False)


def write_checkpoint(run: Path, step: int) -> Path:
    """A sealed checkpoint of weights and their metadata."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    model_files.write(folder, {"w": torch.ones(2)}, {"task": "vqgan", "factor": 2, "model": {"norm_groups": 2}})
    files = {name: storage.described(folder / name) for name in (model_files.WEIGHTS, model_files.METADATA)}
    manifest = {"step": step, "ranks": 1, "zero": {"generator": 1}, "data": {"window": 0}, "files": files}
    (folder / storage.MANIFEST).write_text(sealed.sealed(manifest))
    return folder


@pytest.mark.slow
def test_every_flipped_bit_of_a_manifest_and_a_metadata_makes_restore_fall_back(tmp_path: Path):
    before, newest = write_checkpoint(tmp_path, 1), write_checkpoint(tmp_path, 2)
    assert storage.latest_valid(tmp_path) == (2, newest)
    for name in (storage.MANIFEST, model_files.METADATA):
        whole = (newest / name).read_bytes()
        for flipped in flips(whole):
            (newest / name).write_bytes(flipped)
            assert storage.latest_valid(tmp_path) == (1, before)
        (newest / name).write_bytes(whole)


@pytest.mark.slow
def test_every_flipped_bit_of_an_exports_metadata_is_refused_by_its_name(tmp_path: Path):
    model_files.write(tmp_path, {"w": torch.ones(2)}, {"task": "vqgan", "factor": 2, "model": {"norm_groups": 2}})
    metadata = tmp_path / model_files.METADATA
    for flipped in flips(metadata.read_bytes()):
        metadata.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"config\.json"):
            model_files.read_metadata(tmp_path)


@pytest.mark.parametrize("change", [('"factor": 2', '"factor": 6'), ('"norm_groups": 2', '"norm_groups": 1')])
def test_a_metadata_that_was_edited_is_refused_with_a_way_out(change: tuple[str, str], tmp_path: Path):
    metadata = write_checkpoint(tmp_path, 1) / model_files.METADATA
    metadata.write_text(metadata.read_text().replace(*change))
    with pytest.raises(ValueError, match=r"config\.json cannot be read: .*checksum.*export the run again"):
        model_files.read_metadata(metadata.parent)


def test_a_folder_that_was_renamed_is_not_the_checkpoint_of_its_name(tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1)
    assert storage.verify(folder.rename(folder.with_name("step-00000009"))) == "manifest.json is of step 1"


def test_a_file_that_the_disk_cannot_give_back_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before, newest = write_checkpoint(tmp_path, 1), write_checkpoint(tmp_path, 2)
    real = storage.sha256

    def worn(path: Path) -> str:
        if path.parent == newest:
            raise OSError(5, "Input/output error", str(path))
        return real(path)

    monkeypatch.setattr(storage, "sha256", worn)
    assert "cannot be read ([Errno 5]" in str(storage.verify(newest))
    assert storage.latest_valid(tmp_path) == (1, before)


@pytest.mark.parametrize("files", [{"a": 1}, {"a": [1]}, {"a\0b": [1, "x"]}, [], {"checkpoints": ["x", 1]}])
def test_an_unsealed_manifest_that_makes_no_sense_is_damage(files: object, tmp_path: Path):
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / storage.MANIFEST).write_text(json.dumps({"step": 1, "files": files}))
    assert storage.verify(folder) or files == []


UNREADABLE = {
    "endless": "[" * 100_000, "lists": "[" * 65 + "]" * 65, "objects": '{"a":' * 70 + "1" + "}" * 70,
    "digits": "1" * 5000, "zero": "\x00", "large": "{" + " " * 16_000_000 + "}",
}  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_json_that_is_too_deep_or_too_large_is_a_value_error(text: str):
    with pytest.raises(ValueError):
        bounded_json.parsed(text)


def test_json_of_usual_size_is_read_and_an_endless_file_is_not(tmp_path: Path):
    assert bounded_json.parsed("[" * 64 + "]" * 64) is not None
    assert bounded_json.parsed(json.dumps([{"a": [1]}] * 100)) == [{"a": [1]}] * 100
    with (tmp_path / "large").open("wb") as file:
        file.truncate(bounded_json.MOST_BYTES + 1)
    with pytest.raises(ValueError, match="more than the"):
        bounded_json.read(tmp_path / "large")
    with pytest.raises(OSError, match="not a regular file but a device"):
        bounded_json.read(Path("/dev/zero"))
