"""Many samples in little memory, and those for validation."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from fixtures.shards import encoded, photo

from smalti.trainer.prepare import pack as packing
from smalti.trainer.prepare.find_images import find_samples
from smalti.trainer.prepare.listing import sample_table
from smalti.trainer.prepare.listing.val_split import FILE
from smalti.trainer.prepare.pack import PackConfig, in_packing_order, pack, plan_shards
from smalti.trainer.shards.folder_walk import walk


def fill(folder: Path, count: int, classes: int = 4) -> Path:
    for number in range(classes):
        (folder / f"class {number}").mkdir(parents=True)
    for number in range(count):
        (folder / f"class {number % classes}" / f"photo-{number:06d}.jpg").touch()
    return folder


def said(lines: list[str]):
    return lines.append


def test_planning_takes_less_than_150_bytes_a_file(tmp_path):
    peaks = []
    for count in (4000, 8000):
        folder = fill(tmp_path / str(count), count)
        tracemalloc.start()
        found = find_samples(folder, "folders")
        tasks = plan_shards(folder, in_packing_order(found.sources), PackConfig(shard_samples=500), {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(len(task.sources) for task in tasks) == count
    assert (peaks[1] - peaks[0]) / 4000 < 150  # 1e6 files in 150 MB


@pytest.mark.parametrize("kind", ["aligned", "labelled by names", "labelled by numbers"])
def test_maps_and_labels_in_a_file_take_as_little(tmp_path, kind):
    peaks, counts = [], (4000, 8000)
    for count in counts:
        source = tmp_path / str(count)
        folder = fill(source / "images" if kind == "aligned" else source, count)
        labels = None
        if kind == "aligned":
            for file in sorted(fill(source / "maps", count).rglob("*.jpg")):
                file.rename(file.with_suffix(".png"))
        else:
            labels = str(tmp_path / f"{count}.csv")
            said = "{}" if kind.endswith("numbers") else "kind {}"
            rows = (f"class {n % 4}/photo-{n:06d}.jpg,{said.format(n % 7)}\n" for n in range(count))
            Path(labels).write_text("".join(rows))
        tracemalloc.start()
        found = find_samples(source, labels)
        tasks = plan_shards(folder, in_packing_order(found.sources), PackConfig(shard_samples=500), {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(len(task.sources) for task in tasks) == count
        assert (len(found.sources[7].files), found.sources[7].label is None) == (
            (2, True) if kind == "aligned" else (1, False)
        )
    # Two files a sample, and joining them; the text of the labels and how it is read.
    assert (peaks[1] - peaks[0]) / 4000 < 2 * 150


def test_a_file_is_looked_at_once_before_it_is_read(tmp_path, monkeypatch):
    folder = fill(tmp_path, 50)
    asked = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, *rest, **more: asked.append(str(path)) or stat(path, *rest, **more))
    found = find_samples(folder)
    plan_shards(tmp_path, in_packing_order(found.sources), PackConfig(), {})
    assert not [path for path in asked if path.endswith(".jpg")]  # their folders' listings say so


def test_a_large_table_holds_what_a_small_one_does(tmp_path, monkeypatch):
    folder = fill(tmp_path, 40)
    for name in ("same.jpg", "same.png", "same_jpg.png", "a.b.jpg", "a_b.jpg"):
        (folder / "class 0" / name).touch()
    small = find_samples(folder, "folders").sources
    monkeypatch.setattr(sample_table, "_SORTED", 0)
    large = find_samples(folder, "folders").sources
    assert [sample.key for sample in small] == sorted(sample.key for sample in small)
    assert {sample.key: sample for sample in small} == {sample.key: sample for sample in large}
    assert len({sample.key for sample in small}) == 45
    assert [sample.key for sample in in_packing_order(small)] == [sample.key for sample in in_packing_order(large)]
    numbers = sample_table.hashes_of(large)
    assert (np.diff(numbers.astype(object)) > 0).all()


def test_a_walk_tells_sizes_and_dates(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"12345")
    (file,) = walk(tmp_path, (".jpg",)).files
    assert file.seen == (5, (tmp_path / "a.jpg").stat().st_mtime_ns) and file == tmp_path / "a.jpg"


def test_what_is_for_validation_is_tried_once_and_remembered(tmp_path, monkeypatch):
    for number in range(12):
        data = b"no image" if number % 4 == 0 else encoded(photo(16, 16, number))
        (tmp_path / "images" / "x").mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / "x" / f"{number}.jpg").write_bytes(data)
    lines: list[str] = []
    config = PackConfig(val=4, processes=1)
    first = pack(find_samples(tmp_path / "images"), tmp_path / "shards", config, said(lines))
    assert (first.val, first.samples) == (4, 5) and any("for validation are tried" in line for line in lines)
    assert any("left" in line for line in lines)
    stored = {path: path.read_bytes() for path in (tmp_path / "shards").rglob("*.tar*")}
    monkeypatch.setattr(packing, "_reason", lambda *_: 1 / 0)  # it is not asked again
    again = pack(find_samples(tmp_path / "images"), tmp_path / "shards", config, said(lines))
    assert again == first and (tmp_path / "shards" / FILE).exists()
    assert stored == {path: path.read_bytes() for path in (tmp_path / "shards").rglob("*.tar*")}


def test_the_choice_is_the_same_however_many_are_tried_at_once(tmp_path):
    for number in range(12):
        (tmp_path / "images").mkdir(exist_ok=True)
        data = b"no image" if number % 3 == 0 else encoded(photo(16, 16, number))
        (tmp_path / "images" / f"{number}.jpg").write_bytes(data)
    found = find_samples(tmp_path / "images")
    for processes in (1, 2):
        pack(found, tmp_path / str(processes), PackConfig(val=3, processes=processes), lambda _: None)
    chosen = [(tmp_path / str(processes) / FILE).read_bytes() for processes in (1, 2)]
    assert chosen[0] == chosen[1]
