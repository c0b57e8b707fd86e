"""Writing shards, and kills in its middle."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import Sample, ShardWriter, finished, write_shard

WRITES_100 = """
import sys, time
from smalti.trainer.shards.writer import ShardWriter
with ShardWriter(sys.argv[1], "c", 7, {"n": 1}) as writer:
    for number in range(writer.samples_done, 100):
        writer.write(f"k{number}", {"codes.npy": b"%d" % number * 50})
        time.sleep(0.002)
"""


def keys(folder: Path) -> list[str]:
    shards = ShardSet.open([str(folder)])
    return [shards.key(shard, sample) for shard, count in enumerate(shards.counts) for sample in range(count)]


def test_a_writer_killed_at_any_moment_goes_on_where_it_was(tmp_path):
    kills = 0
    for wait in (0.25, 0.35, 0.45, 0.3, 0.4, None):
        process = subprocess.Popen([sys.executable, "-c", WRITES_100, str(tmp_path)])
        if wait is None:
            assert process.wait() == 0
        else:
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
    assert kills
    assert keys(tmp_path) == [f"k{number}" for number in range(100)]
    assert ShardSet.open([str(tmp_path)]).counts == (7,) * 14 + (2,)


def test_a_tar_without_its_index_is_somebody_elses_and_stays(tmp_path):
    with ShardWriter(tmp_path, "c", 2, {}) as writer:
        for number in range(4):
            writer.write(f"k{number}", {"cls": b"0"})
    path = tmp_path / "c-000001.tar"
    assert finished(path) is not None
    (tmp_path / "c-000001.tar.idx").unlink()
    assert finished(path) is None
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"c-000001\.tar is there and has no index"):
        ShardWriter(tmp_path, "c", 2, {})
    assert path.read_bytes() == before
    path.unlink()
    assert ShardWriter(tmp_path, "c", 2, {}).samples_done == 2


def test_an_index_of_a_killed_writer_is_written_anew_with_its_tar(tmp_path):
    write_shard(tmp_path / "c.tar", [Sample("a", {"cls": b"0"})], {})
    (tmp_path / "c.tar").unlink()
    assert finished(tmp_path / "c.tar") is None
    write_shard(tmp_path / "c.tar", [Sample("b", {"cls": b"1"})], {})
    index = finished(tmp_path / "c.tar")
    assert index is not None and index.key(0) == "b"


def test_a_failing_writer_leaves_no_half_shard(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "c", 10, {}) as writer:
        writer.write("k0", {"cls": b"0"})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_more_samples_can_follow_a_short_last_shard(tmp_path):
    for count in (3, 5):
        with ShardWriter(tmp_path, "c", 2, {}) as writer:
            for number in range(writer.samples_done, count):
                writer.write(f"k{number}", {"cls": b"0"})
    assert keys(tmp_path) == [f"k{number}" for number in range(5)]


def test_shards_of_another_making_are_not_mixed_in(tmp_path):
    with ShardWriter(tmp_path, "c", 2, {"tokenizer": "a"}) as writer:
        writer.write("k0", {"cls": b"0"})
    with pytest.raises(ValueError, match=r"made as .*'a'.*not as .*'b'"):
        ShardWriter(tmp_path, "c", 2, {"tokenizer": "b"})


def test_equal_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have the key 'k'"), ShardWriter(tmp_path, "c", 2, {}) as writer:
        writer.write("k", {"cls": b"0"})
        writer.write("k", {"cls": b"1"})


def test_equal_samples_give_equal_bytes(tmp_path):
    for folder in ("a", "b"):
        with ShardWriter(tmp_path / folder, "c", 2, {"x": 1}) as writer:
            writer.write("a/very/long/key/" + 100 * "x", {"cls": b"0"})
        time.sleep(0.01)
    names = ["c-000000.tar", "c-000000.tar.idx"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
