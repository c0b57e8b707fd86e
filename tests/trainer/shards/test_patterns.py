"""Patterns that name shards."""

from pathlib import Path

import pytest

from smalti.trainer.shards.patterns import expand, expand_braces, is_remote, without_secrets


@pytest.mark.parametrize(
    ("pattern", "stands_for"),
    [
        ("a.tar", ["a.tar"]),
        ("x-{008..011}.tar", ["x-008.tar", "x-009.tar", "x-010.tar", "x-011.tar"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{plain}", ["{plain}"]),
        ("pipe:cat s{1..2}.tar", ["pipe:cat s1.tar", "pipe:cat s2.tar"]),
    ],
)
def test_braces_stand_for_every_choice_in_order(pattern, stands_for):
    assert list(expand_braces(pattern)) == stands_for


def test_folders_and_wildcards_name_their_tars_in_order(tmp_path: Path):
    for name in ("b.tar", "a.tar", "a.tar.idx", "c.txt"):
        (tmp_path / name).touch()
    both = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    assert expand([str(tmp_path)]) == both
    assert expand([str(tmp_path / "*.tar")]) == both
    assert expand([str(tmp_path / "{b,a}.tar")]) == both[::-1]


def test_a_shard_of_which_only_the_index_is_left_is_still_named(tmp_path: Path):
    for name in ("a.tar", "a.tar.idx", "b.tar.idx"):
        (tmp_path / name).touch()
    both = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    assert expand([str(tmp_path)]) == expand([str(tmp_path / "*.tar")]) == both


def test_urls_and_commands_are_left_alone():
    assert expand(["http://host/x[1].tar", "pipe:cat *.tar"]) == ["http://host/x[1].tar", "pipe:cat *.tar"]


def test_naming_nothing_or_something_twice_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no shards at"):
        expand([str(tmp_path)])
    with pytest.raises(ValueError, match="no shards are named"):
        expand([])
    with pytest.raises(ValueError, match=r"more than once: a\.tar"):
        expand(["a.tar", "{a,b}.tar"])


@pytest.mark.parametrize("name", ["pipe:touch I-WAS-RUN #.tar", "pipe:x.tar", "memory::x.tar", "s3::x.tar"])
def test_a_file_that_is_called_like_a_command_or_a_url_is_a_file(name, tmp_path: Path, monkeypatch):
    (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for pattern in ("*.tar", ".", "./*.tar", str(tmp_path)):
        (found,) = expand([pattern])
        assert not is_remote(found)
        assert Path(found).samefile(tmp_path / name)


@pytest.mark.parametrize("folder", ["pipe:x", "http:", "file:"])
def test_a_folder_that_is_called_like_a_command_or_a_url_is_a_folder(folder, tmp_path: Path, monkeypatch):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.tar").touch()
    monkeypatch.chdir(tmp_path)
    for pattern in (f"./{folder}", "*/*.tar", "*//*.tar", f"{tmp_path}/{folder}/*.tar"):
        (found,) = expand([pattern])
        assert not is_remote(found)
        assert Path(found).samefile(tmp_path / folder / "a.tar")


@pytest.mark.parametrize("folder", ["a [1]", "{a,b}", "what?", "*", "[!x]"])
def test_a_path_that_is_there_is_taken_literally(folder, tmp_path: Path):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "b.tar").touch()
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "c.tar").touch()
    tar = str(tmp_path / folder / "b.tar")
    assert expand([tar]) == expand([str(tmp_path / folder)]) == [tar]
    if "{" not in folder:
        assert expand([str(tmp_path / folder / "*.tar")]) == [tar]


def test_a_folder_without_shards_points_to_those_below_it(tmp_path: Path):
    (tmp_path / "both" / "train").mkdir(parents=True)
    (tmp_path / "both" / "train" / "a.tar").touch()
    with pytest.raises(FileNotFoundError, match=r"no shards at \S+both, but in folders below it.*both/train"):
        expand([str(tmp_path / "both")])


@pytest.mark.parametrize("pattern", ["x-{0..99999999999}.tar", "{0..9999999}{0..9999999}", "{0.." + "9" * 5000 + "}"])
def test_a_pattern_that_unfolds_without_end_is_refused(pattern):
    with pytest.raises(ValueError, match="stands for more than"):
        expand([pattern])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host/a.tar", "https://...@host/a.tar"),
        ("cannot reach 's3://key:word@bucket/a.tar'", "cannot reach 's3://...@bucket/a.tar'"),
        ("https://host/a.tar?X-Amz-Signature=0123&x=1 is gone", "https://host/a.tar?... is gone"),
        ("https://host/a.tar?version=2", "https://host/a.tar?version=2"),
    ],
)
def test_passwords_and_signatures_of_urls_are_not_told(url, shown):
    assert without_secrets(url) == shown
