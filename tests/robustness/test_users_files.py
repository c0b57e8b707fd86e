"""No command replaces or removes a file that it did not write: it is named, or it stays."""

import json
from pathlib import Path

import pytest
from fixtures.pairs import write_pair
from fixtures.shards import encoded, photo, write_images
from PIL import Image

from smalti.launch import encode, export, index, pack, plan, sample
from smalti.trainer.shards.cache import ShardCache

NOTES = "years of notes"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


def images(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"p{number}.png").write_bytes(encoded(photo(16, 16, number), "PNG"))
    return folder


def notes(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NOTES)
    return path


def refused(capsys: pytest.CaptureFixture[str], code: int, file: Path) -> None:
    assert code == 2
    said = capsys.readouterr()
    assert str(file) in said.err + said.out and "move it away" in said.err + said.out
    assert file.read_text() == NOTES


@pytest.mark.parametrize("name", ["report.json", "shard-000000.tar", "shard-000000.tar.idx"])
def test_packing_replaces_no_file_of_the_users(name, tmp_path, capsys):
    mine = notes(tmp_path / "shards" / name)
    code = pack.main([str(images(tmp_path / "images")), str(tmp_path / "shards"), "--processes", "1"])
    refused(capsys, code, mine)
    assert [path.name for path in mine.parent.iterdir()] == [name]


def test_packing_leaves_files_that_only_look_unfinished(tmp_path):
    mine = [
        notes(tmp_path / "shards" / name) for name in (".notes.part", ".shard-99.tar.part", ".report.json.old.part")
    ]
    assert pack.main([str(images(tmp_path / "images")), str(tmp_path / "shards"), "--processes", "1"]) == 0
    assert [path.read_text() for path in mine] == [NOTES] * 3


def test_a_report_of_an_earlier_packing_may_be_replaced(tmp_path):
    source = images(tmp_path / "images")
    for _ in range(2):
        assert pack.main([str(source), str(tmp_path / "shards"), "--processes", "1"]) == 0
    assert json.loads((tmp_path / "shards" / "report.json").read_text())["samples"] == 3


@pytest.mark.parametrize("name", ["report.json", "x-000000.tar", "x-000000.tar.idx"])
def test_encoding_replaces_no_file_of_the_users(name, pair, tmp_path, capsys):
    mine = notes(tmp_path / "codes" / name)
    shards = write_images(tmp_path / "shards", 3)
    refused(capsys, encode.main([str(pair[1]), str(shards), str(tmp_path / "codes"), "--size", "16"]), mine)
    assert [path.name for path in mine.parent.iterdir()] == [name]


def test_indexing_replaces_no_index_of_another_program_and_does_the_other_shards(tmp_path, capsys):
    shards = write_images(tmp_path / "shards", 6, per_shard=3)
    first, second = sorted(shards.glob("*.tar"))
    before = second.with_name(second.name + ".idx").read_bytes()
    mine = notes(first.with_name(first.name + ".idx"))
    second.with_name(second.name + ".idx").write_bytes(before[:40])  # a damaged one of ours
    refused(capsys, index.main([str(shards), "--processes", "1"]), mine)
    assert second.with_name(second.name + ".idx").read_bytes() != before[:40]


def test_exporting_replaces_no_folder_of_the_users(pair, tmp_path, capsys):
    mine = notes(tmp_path / "out" / "config.json")
    assert export.main([str(pair[1]), str(tmp_path / "out")]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
    assert mine.read_text() == NOTES and [path.name for path in mine.parent.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seed-0-0000.png", []),
        ("seed-0-grid.png", ["--grid"]),
        ("seed-0-0000.preview.png", ["--preview", "0"]),
    ],
)
def test_sampling_replaces_no_file_of_the_users(name, options, pair, tmp_path, capsys):
    mine = notes(tmp_path / "out" / name)
    common = [*map(str, pair), "--size", "16x16", "--out", str(tmp_path / "out"), *options]
    refused(capsys, sample.main(common), mine)
    assert [path.name for path in mine.parent.iterdir()] == [name]


def test_an_image_of_the_users_that_is_called_like_a_preview_stays(pair, tmp_path):
    mine = tmp_path / "out" / "seed-0-0000.preview.png"
    mine.parent.mkdir()
    Image.fromarray(photo(8, 8)).save(mine)
    before = mine.read_bytes()
    part = notes(tmp_path / "out" / ".notes-of-seed-0-0000.txt.part")
    assert sample.main([*map(str, pair), "--size", "16x16", "--out", str(tmp_path / "out")]) == 0
    assert mine.read_bytes() == before and part.read_text() == NOTES


def test_a_grid_of_the_same_command_is_made_again(pair, tmp_path):
    common = [*map(str, pair), "--size", "16x16", "--out", str(tmp_path / "out"), "--grid"]
    assert [sample.main(common) for _ in range(2)] == [0, 0]


def test_a_job_script_of_the_users_that_trains_with_smalti_stays(tmp_path):
    mine = tmp_path / "job.sbatch"
    mine.write_text("#!/bin/bash\n#SBATCH --partition=mine\nsrun python -m smalti.launch.train my.yaml\n")
    before = mine.read_text()
    with pytest.raises(ValueError, match="move it away"):
        plan._write_script(mine, ["my.yaml"], nodes=1, gpus=1)
    assert mine.read_text() == before
    for _ in range(2):  # one of its own is replaced
        plan._write_script(tmp_path / "ours.sbatch", ["my.yaml"], nodes=1, gpus=1)


def test_a_lock_file_of_the_users_in_the_cache_keeps_its_bytes(tmp_path):
    mine = notes(tmp_path / "room.lock")
    for name in "ab":
        ShardCache(tmp_path, 5).get(name, 4, lambda file: file.write(b"1234"))
    assert mine.read_text() == NOTES
