from pathlib import Path

import pytest

from smalti.trainer.patterns import expand, expand_braces


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
