"""Remote shards from a server that is slow, breaks off, lies or changes: asked again, counted, never a wrong byte."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.hostile_server import Server, serving
from fixtures.shards import write_images
from fixtures.streams import global_batches, make, same

from smalti.trainer.shards import remote
from smalti.trainer.shards.access import requests, shard_files
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.remote import RemoteConfig, bring

pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")

FAULTS = ["drop", "error", "hang", "slow", "cut", "short", "ignore", "shift", "change", "lie"]
HARMLESS = {  # what needs no second request of ours: aiohttp itself asks again on a connection that was closed
    "ranges": ["slow", "lie", "drop"],
    "shards": ["slow", "lie", "drop", "hang", "short", "ignore", "shift"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("served"), 50)


@pytest.fixture
def server(folder) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(requests, "PAUSES", (0.0, 0.01, 0.02))


def options(server: Server, tmp_path: Path, **config) -> dict:
    remote = RemoteConfig(**{"cache": str(tmp_path / "cache"), "timeout": 0.2, **config})
    return {"shards": (f"{server.url}/x-{{000000..000006}}.tar",), "remote": remote, "max_bad_fraction": 1.0}


@pytest.mark.parametrize("fetch", ["ranges", "shards"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_changes_no_byte_and_is_counted(folder, server, tmp_path, fault, fetch):
    stream = make(folder, **options(server, tmp_path, fetch=fetch))
    steps = stream.train_batches()
    batches = [next(steps)[0]]
    server.misbehave(fault, 2)
    batches += [next(steps)[0] for _ in range(6)]
    steps.close()
    assert same(batches, global_batches(folder, 7)) and not stream.sample_errors
    assert stream.repeated_requests > 0 or fault in HARMLESS[fetch]
    copies = list((tmp_path / "cache").glob("*.tar"))
    sizes = {path.stat().st_size for path in folder.glob("*.tar")}
    assert bool(copies) == (fetch == "shards") and {path.stat().st_size for path in copies} <= sizes


@pytest.mark.parametrize("fault", ["drop", "error", "cut", "short", "shift", "change"])
def test_a_fault_that_stays_is_a_bad_sample_and_never_a_wrong_one(folder, server, tmp_path, fault):
    stream = make(folder, **options(server, tmp_path) | {"shards": (f"{server.url}/x-000001.tar",)})
    server.misbehave(fault)
    right = {key: image for batch in make(folder).eval_batches(8) for key, image in rows(batch)}
    read = {key: image for batch in stream.eval_batches(8) for key, image in rows(batch)}
    assert len(read) + sum(stream.sample_errors.values()) == 8 and len(read) < 8
    assert all((right[key] == image).all() for key, image in read.items())
    assert set(stream.sample_errors) <= {"unreachable", "truncated shard", "damaged member"}


def rows(batch):
    """The key and the image of each row."""
    return zip(batch["key"], batch["image"], strict=True)


def test_a_copy_whose_bytes_are_wrong_is_fetched_again(folder, server, tmp_path):
    asked = options(server, tmp_path, fetch="shards")
    shards = ShardSet.open(asked["shards"], asked["remote"])
    shards.read(0, 0, "cls")
    (copy,) = (tmp_path / "cache").glob("*.tar")
    copy.write_bytes(bytes(copy.stat().st_size))
    stream = make(folder, **asked)
    batches = list(stream.eval_batches(8))
    assert sum(len(batch["key"]) for batch in batches) == 50 and not stream.sample_errors
    assert stream.repeated_requests >= 1


def test_all_of_a_batch_is_asked_for_at_once(folder, server, tmp_path):
    stream = make(folder, fields=("image", "segmentation", "cls"), **options(server, tmp_path, timeout=60))
    steps = stream.train_batches()
    next(steps)
    before = sum(count for name, count in server.asked.items() if name.endswith(".tar"))
    together = []

    def counted(system, stretches, seconds, fetch=requests.fetch):
        together.append(len(stretches))
        return fetch(system, stretches, seconds)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shard_files, "fetch", counted)
        patched.setattr(remote, "fetch", lambda *_: pytest.fail("a sample was asked for alone"))
        keys = [key for _ in range(5) for key in next(steps)[0]["key"]]
    asked = sum(count for name, count in server.asked.items() if name.endswith(".tar")) - before
    assert len(keys) == 40 and asked == sum(together) <= 40  # three members of a sample are one request, or less
    assert len([count for count in together if count]) == 5


FETCH = """
import sys
from smalti.trainer.shards.remote import RemoteConfig, bring
bring(sys.argv[1], int(sys.argv[2]), RemoteConfig(cache=sys.argv[3], fetch="shards"))
"""


def test_a_download_that_is_killed_leaves_nothing_that_is_read_and_the_next_one_is_whole(folder, server, tmp_path):
    size = (folder / "x-000000.tar").stat().st_size
    server.hanging = 10.0
    server.misbehave("hang", 1)
    url = f"{server.url}/x-000000.tar"
    child = subprocess.Popen([sys.executable, "-c", FETCH, url, str(size), str(tmp_path / "cache")])
    while not server.asked["x-000000.tar"]:
        assert child.poll() is None
        time.sleep(0.01)
    assert list((tmp_path / "cache").glob(".*.part"))
    child.kill()
    child.wait()
    assert not list((tmp_path / "cache").glob("*.tar"))
    copy = bring(url, size, RemoteConfig(cache=str(tmp_path / "cache"), fetch="shards"))
    assert copy.read_bytes() == (folder / "x-000000.tar").read_bytes()
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_the_shards_of_the_next_window_come_before_they_are_asked_for(folder, server, tmp_path):
    size = max(path.stat().st_size for path in folder.glob("x-*.tar"))
    asked = options(server, tmp_path, fetch="shards", cache_gigabytes=4.5 * size / 1e9)
    stream = make(folder, shuffle_window=2, **asked)
    steps = stream.train_batches()
    next(steps)
    order = stream._schedule._orders[0]
    now, then = order.now_and_next(order.window_at(0), range(8))
    deadline = time.monotonic() + 20
    wanted = {f"x-{shard:06d}.tar" for shard in (*now, *then)}
    while not wanted <= server.asked.keys() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert wanted <= server.asked.keys() and len(wanted) == 4
    rest = [next(steps)[0] for _ in range(6)]
    assert same(rest, global_batches(folder, 7, shuffle_window=2)[1:])
    steps.close()
    held = sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar"))
    assert held <= 4.5 * size


def test_a_large_index_of_a_set_is_fetched_once_for_all_processes_of_a_machine(folder, server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_HEAD", 64)
    asked = options(server, tmp_path)
    names = [ShardSet.open(asked["shards"], asked["remote"]).names for _ in range(3)]
    whole = (folder / "shards.index").stat().st_size
    assert len(set(names)) == 1 and server.sent["shards.index"] == whole + 3 * 64
    changed = (folder / "shards.index").read_bytes()
    try:
        (folder / "shards.index").write_bytes(changed.replace(b"index 1 ", b"index 1 0"))
        with pytest.raises(ValueError, match="is damaged"):
            ShardSet.open(asked["shards"], asked["remote"])
    finally:
        (folder / "shards.index").write_bytes(changed)
