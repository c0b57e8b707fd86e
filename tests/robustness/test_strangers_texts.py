"""What strangers have written, in files and in names of files, is data, and nothing of it is run."""

import os
import struct
from pathlib import Path

import pytest
from fixtures.shards import encoded, photo

from smalti.launch import index, pack, train


def images(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(encoded(photo(16, 16, number), "PNG"))
    return folder


def npy(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize(
    "header",
    [
        b"(" * 5000,
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }\n",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000, 10000000), }\n",
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 5), }\n",
        b"__import__('os').system('touch run')\n",
        b" " * 60_000,
    ],
    ids=["nested", "objects", "terabytes", "negative", "a call", "blank"],
)
def test_a_depth_that_is_no_array_of_numbers_is_named_and_left_out(header, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images(Path("in/images"), "good.png", "bad.png")
    Path("in/depth").mkdir()
    Path("in/depth/bad.npy").write_bytes(npy(header))
    Path("in/depth/good.png").write_bytes(encoded(photo(16, 16)[..., 0], "PNG"))
    assert pack.main(["in", "out", "--processes", "1"]) == 0
    said = capsys.readouterr()
    assert "bad" in said.err and "1 samples in 1 shards, 1 left out" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize(
    "name", ["a\x1b[2J\x1b]0;owned\x07.png", "a\nerror: all is lost.png", "a\r100%.png", "a\x9b2J.png"]
)
def test_the_name_of_a_file_does_nothing_to_the_terminal(name, tmp_path, capsys):
    (images(tmp_path / "in", "good.png") / name).write_bytes(b"no image")
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "out"), "--processes", "1"]) == 0
    said = capsys.readouterr().err
    assert said.isprintable() or all(line.isprintable() for line in said.splitlines())
    assert len([line for line in said.splitlines() if line.startswith("error")]) == 0


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['touch run']", "!!python/name:os.system", "!include /etc/passwd", "!!js/f x"],
)
def test_a_tag_in_a_config_makes_nothing(tag, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(f"run_dir: {tag}\n")
    assert train.main(["c.yaml", "--print-config"]) == 2
    assert "tag" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("prefix", ["../up", "/tmp/up", "a/b", ".hidden", ".."])
def test_a_prefix_leads_nowhere_else(prefix, tmp_path, capsys):
    images(tmp_path / "in", "a.png")
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "out"), "--processes", "1", "--prefix", prefix]) == 2
    assert "prefix must begin a file's name" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_tar_that_is_called_like_an_option_or_a_command_is_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pack.main([str(images(tmp_path / "in", "a.png")), "out", "--processes", "1"]) == 0
    for name in ("pipe:touch run #.tar", "$(touch run).tar", "http:x.tar"):
        os.link("out/shard-000000.tar", name)
    assert index.main(["*.tar", "--processes", "1"]) == 0
    assert "3 samples in 3 shards" in capsys.readouterr().out and not Path("run").exists()
