"""Every file of a user's is read, or it is named and counted; one that is odd costs nothing but itself."""

import io
import tarfile
from pathlib import Path

import pytest
from fixtures.shards import encoded, photo

from smalti.launch import index, pack


def png(number: int = 0) -> bytes:
    return encoded(photo(16, 16, number), "PNG")


def tar_of(path: Path, *files: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def indexed(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = index.main([str(path), "--processes", "1"])
    said = capsys.readouterr()
    return code, said.err + said.out


def test_images_whose_names_differ_behind_a_dot_are_told_to_be_one_sample(tmp_path, capsys):
    tar = tar_of(tmp_path / "t.tar", ("holiday.1.png", png()), ("holiday.2.png", png(1)))
    code, said = indexed(tar, capsys)
    assert code == 0 and "1 of 1 samples have neither an image nor codes, such as holiday with .1.png, .2.png" in said


def test_texts_alone_are_told(tmp_path, capsys):
    tar = tar_of(tmp_path / "t.tar", ("a.png", png()), ("b.txt", b"a landscape"), ("c.json", b"{}"))
    code, said = indexed(tar, capsys)
    assert code == 0 and "2 of 3 samples have neither an image nor codes, such as b with .txt" in said


def test_what_was_appended_behind_the_end_of_a_tar_is_not_passed_over(tmp_path, capsys):
    first, second = tar_of(tmp_path / "a.tar", ("a.png", png())), tar_of(tmp_path / "b.tar", ("b.png", png(1)))
    whole = tmp_path / "whole.tar"
    whole.write_bytes(first.read_bytes() + second.read_bytes())
    code, said = indexed(whole, capsys)
    assert code == 2 and "whole.tar" in said and "data go on at byte" in said


def test_suffixes_in_capitals_are_images(tmp_path, capsys):
    tar = tar_of(tmp_path / "t.tar", ("A.PNG", png()), ("B.JPG", encoded(photo(16, 16))))
    code, said = indexed(tar, capsys)
    assert code == 0 and "2 samples" in said and "note" not in said
    (tmp_path / "in").mkdir()
    for name, data in (("A.PNG", png()), ("B.JPEG", encoded(photo(16, 16))), ("c.Tif", encoded(photo(16, 16), "TIFF"))):
        (tmp_path / "in" / name).write_bytes(data)
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "out"), "--processes", "1"]) == 0
    assert "3 samples in 1 shards, 0 left out" in capsys.readouterr().out


def test_odd_names_of_files_are_packed_or_counted(tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / "folder.png").mkdir(parents=True)
    for name in (
        "a.png",
        "a b'\"$.png",
        "ends in a dot..png",
        "no suffix",
        "tail.png ",
        ".hidden.png",
        "é" * 60 + ".png",
    ):
        (folder / name).write_bytes(png())
    (folder / "empty.png").touch()
    assert pack.main([str(folder), str(tmp_path / "out"), "--processes", "1"]) == 0
    said = capsys.readouterr()
    assert "4 samples in 1 shards, 4 left out" in said.out
    for part in ("1 hidden", "without a suffix", ".png : only", "empty.png"):
        assert part in said.err


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z", b"M"])
def test_entries_of_other_kinds_cost_only_themselves(kind, tmp_path, capsys):
    odd = tarfile.TarInfo("odd.png")
    odd.type = kind
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("a.png", "odd.png", "b.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(png())
            tar.addfile(odd) if name == "odd.png" else tar.addfile(entry, io.BytesIO(png()))
    code, said = indexed(tmp_path / "t.tar", capsys)
    assert code == 0 and "2 samples" in said and "odd.png" in said
