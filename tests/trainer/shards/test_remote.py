"""Shards on other machines, and their cache."""

import functools
import http.server
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.shards import decoded, encoded, photo, write_images
from fixtures.streams import global_batches, make, same

from smalti.trainer.data.crops import CropConfig
from smalti.trainer.images import seekable_jpeg
from smalti.trainer.images.geometry import Measured
from smalti.trainer.shards.access import requests
from smalti.trainer.shards.cache import ShardCache
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.remote import RemoteConfig
from smalti.trainer.shards.writer import Sample, write_shard

pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")


class WithRanges(http.server.SimpleHTTPRequestHandler):
    """A web server that sends parts of files, counts what it sends, and can be busy for a while."""

    disable_nagle_algorithm = True  # else each body waits 40 ms for word that its headers came

    def do_GET(self) -> None:
        if self.server.busy > 0:
            self.server.busy -= 1
            return self.send_error(503)
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        data, asked = path.read_bytes(), self.headers.get("Range")
        if asked and self.server.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
            data = part
        else:
            self.send_response(200)
        self.server.sent[path.name] += len(data)  # before the client has it, and looks
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("served"), 50)


@pytest.fixture
def server(folder) -> Iterator[http.server.ThreadingHTTPServer]:
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(WithRanges, directory=str(folder)))
    served.ranges, served.busy, served.sent = True, 0, Counter()
    served.url = f"http://127.0.0.1:{served.server_port}/x-{{000000..000006}}.tar"
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(requests, "PAUSES", (0.0, 0.0))


def options(url: str, tmp_path: Path, **config) -> dict:
    return {"shards": (url,), "remote": RemoteConfig(cache=str(tmp_path / "cache"), **config)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_web_server_gives_the_same_stream_as_files(folder, server, tmp_path, workers):
    over_http = global_batches(folder, 4, num_workers=workers, **options(server.url, tmp_path))
    assert same(over_http, global_batches(folder, 4))
    assert not (tmp_path / "cache").exists()
    make(folder).validate_state(make(folder, **options(server.url, tmp_path)).state_dict(4))  # the same data set


def test_a_set_with_an_index_begins_with_one_request(folder, server, tmp_path):
    shards = ShardSet.open([server.url], RemoteConfig(cache=str(tmp_path / "cache")))
    assert set(server.sent) == {"shards.index"} and shards.fingerprint == ShardSet.open([str(folder)]).fingerprint
    assert shards.read(3, 1, "cls") == b"25" and set(server.sent) == {
        "shards.index",
        "x-000003.tar.idx",
        "x-000003.tar",
    }


def test_only_the_needed_bytes_come_over_the_wire(tmp_path, server, folder):
    pixels = photo(2048, 2048)
    data = encoded(pixels, "JPEG", quality=90, subsampling=2, restart_marker_blocks=8)
    layouts = {"jpg": seekable_jpeg.layout_of(data).to_bytes()}
    write_shard(folder / "large" / "large.tar", [Sample("big", {"jpg": data}, Measured(2048, 2048), layouts)], {})
    url = server.url.replace("x-{000000..000006}", "large/large")
    stream = make(folder, crop=CropConfig(size=128), fields=("image",), max_repeats=8, **options(url, tmp_path))
    batch = next(stream.eval_batches(1))
    left, top, right, bottom = batch["box"][0].int().tolist()
    assert (decoded(data)[top:bottom, left:right] == batch["image"][0].permute(1, 2, 0).numpy()).all()
    assert server.sent["large.tar"] < len(data) / 6


@pytest.mark.parametrize("fetch", ["ranges", "shards"])
def test_servers_without_ranges_are_read_through_the_cache(folder, server, tmp_path, fetch):
    server.ranges = fetch == "shards"  # asked for shards, or there is no other way
    asked = options(server.url, tmp_path, fetch=fetch)
    assert same(global_batches(folder, 7, world=2, micro=4, num_workers=1, **asked), global_batches(folder, 7))
    sizes = {path.name: path.stat().st_size for path in folder.glob("x-*.tar")}
    assert all(server.sent[name] < 2 * size + 2**16 for name, size in sizes.items())  # once, whoever asked
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 7


def test_a_full_cache_forgets_what_was_used_longest_ago(folder, server, tmp_path):
    size = max(path.stat().st_size for path in folder.glob("x-*.tar"))
    asked = options(server.url, tmp_path, fetch="shards", cache_gigabytes=2.5 * size / 1e9)
    assert same(global_batches(folder, 7, shuffle_window=1, **asked), global_batches(folder, 7, shuffle_window=1))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= 2.5 * size


@pytest.mark.parametrize(("window", "lanes", "world"), [(0, False, 1), (3, False, 1), (0, True, 2)])
def test_a_window_that_does_not_fit_the_cache_is_refused_before_anything_is_fetched(
    folder, server, tmp_path, window, lanes, world
):
    size = max(path.stat().st_size for path in folder.glob("x-*.tar"))
    asked = options(server.url, tmp_path, fetch="shards", cache_gigabytes=2.5 * size / 1e9)
    stream = make(folder, shuffle_window=window, lanes=lanes, world=world, micro=4, **asked)
    with pytest.raises(ValueError, match=r"only 2 fit .* GB; set shuffle_window to at most 2, or raise"):
        stream.train_batches()
    assert "x-000001.tar" not in server.sent
    make(folder, shuffle_window=2, lanes=lanes, world=world, micro=4, **asked).train_batches()


def test_a_busy_server_is_asked_again(folder, server, tmp_path):
    asked = options(server.url, tmp_path)
    stream = make(folder, **asked).train_batches()
    server.busy = 2
    assert next(stream)[0]["key"] == global_batches(folder, 1)[0]["key"]


def test_a_shard_that_is_gone_or_unreachable_is_a_fault(folder, server, tmp_path):
    stream = make(folder, max_bad_fraction=1.0, **options(server.url, tmp_path))
    (folder / "x-000006.tar").rename(folder / "gone")
    try:
        keys = [key for batch in stream.eval_batches(8) for key in batch["key"]]
    finally:
        (folder / "gone").rename(folder / "x-000006.tar")
    assert len(keys) == 48 and stream.sample_errors == {"missing shard": 2}
    server.busy = 10**6
    assert list(make_again(stream).eval_batches(8)) == []
    assert stream.sample_errors == {"unreachable": 50}


def make_again(stream):
    """The same stream; its indexes are read, its files are not yet."""
    for shards in stream._sets:
        shards.files.clear()
    stream.sample_errors.clear()
    return stream


def test_a_command_gives_a_shard(folder, tmp_path):
    asked = options(f"pipe:cat {folder}/x-{{000000..000006}}.tar", tmp_path)
    assert same(global_batches(folder, 3, num_workers=1, **asked), global_batches(folder, 3))


def test_shards_without_indexes_are_indexed_once(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in folder.glob("x-*.tar"):
        (bare / path.name).write_bytes(path.read_bytes())
    count = tmp_path / "count"
    url = f"pipe:echo x >> {count}; cat {bare}/x-{{000000..000006}}.tar"
    asked = RemoteConfig(cache=str(tmp_path / "cache"))
    shards = ShardSet.open([url], asked)
    assert shards.samples == 50 and shards.read(1, 3, "cls") == b"11"
    asked_before = count.read_text().count("x")
    ShardSet.open([url], asked)
    assert count.read_text().count("x") == asked_before + 8  # only for indexes beside, which are not there


def test_a_cut_download_or_a_damaged_index_in_the_cache_is_made_again_by_the_next_start(folder, tmp_path):
    tar, switch = folder / "x-000000.tar", tmp_path / "cut"
    url = f"pipe:test -e {switch} && head -c 700 {tar} || cat {tar} #.tar"
    asked = RemoteConfig(cache=str(tmp_path / "cache"))
    switch.touch()
    with pytest.raises(ValueError, match=r"cut|end"):
        ShardSet.open([url], asked)
    switch.unlink()
    samples = ShardSet.open([url], asked).samples
    (index,) = (tmp_path / "cache").glob("*.idx")
    index.write_bytes(index.read_bytes()[:100])
    assert ShardSet.open([url], asked).samples == samples == 8


def test_a_failing_command_is_told_with_its_words(tmp_path):
    asked = RemoteConfig(cache=str(tmp_path / "cache"))
    with pytest.raises(OSError, match=r"'echo no such bucket >&2; exit 3' ended with status 3: no such bucket"):
        ShardSet.open(["pipe:echo no such bucket >&2; exit 3"], asked)
    with pytest.raises(FileNotFoundError):
        ShardSet.open(["http://127.0.0.1:9/x.tar".replace("http://127.0.0.1:9", f"file://{tmp_path}")], asked)


def test_a_shard_larger_than_the_cache_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="has 5000 bytes, the cache only 1000; raise cache_gigabytes"):
        ShardCache(tmp_path, 1000).get("u", 5000, lambda file: None)
    with pytest.raises(OSError, match="has 3 bytes, its index says 5"):
        ShardCache(tmp_path, 1000).get("u", 5, lambda file: file.write(b"abc") and None)
    assert not list(tmp_path.glob("*.tar"))


def test_processes_that_want_the_same_shard_download_it_once(tmp_path):
    calls = []

    def slow(file):
        calls.append(os.getpid())
        time.sleep(0.1)
        file.write(b"12345")

    cache = ShardCache(tmp_path, 1000)
    threads = [threading.Thread(target=cache.get, args=("u", 5, slow)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_file_that_was_read_before_a_fork_is_read_after_it(folder, server, tmp_path):
    shards = ShardSet.open([server.url], RemoteConfig(cache=str(tmp_path)))
    assert shards.read(0, 0, "cls") == b"0"
    reading = multiprocessing.get_context("fork").Process(target=read_eleven, args=(shards,))
    reading.start()
    reading.join(20)
    assert reading.exitcode == 0


def read_eleven(shards: ShardSet) -> None:
    shards.read(0, 1, "cls")
    sys.exit(0 if shards.read(1, 3, "cls") == b"11" else 1)


def test_near_stretches_are_asked_for_together():
    assert requests.merged([(0, 10), (100, 10), (10**7, 5)]) == [(0, 110), (10**7, 10**7 + 5)]
