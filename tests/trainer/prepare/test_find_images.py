"""Samples found in folders and lists."""

import json
import os
from pathlib import Path

import pytest

from smalti.trainer.prepare.find_images import find_samples


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def keys(gathered) -> list[str]:
    return [source.key for source in gathered.sources]


def test_a_folder_is_searched_to_its_end(tmp_path):
    touch(tmp_path, "b.JPG", "a/deep/c.png", "a/d.webp", "notes.txt", ".hidden.jpg", ".git/e.jpg", "a/._d.jpg")
    assert keys(find_samples(tmp_path)) == ["a/d", "a/deep/c", "b"]


def test_keys_have_no_dots_and_differ(tmp_path):
    touch(tmp_path, "v1.0/photo.final.jpg", "x.jpg", "x.png")
    gathered = find_samples(tmp_path)
    assert keys(gathered) == ["v1_0/photo_final", "x_jpg", "x_png"]
    assert gathered.sources[2].files["image"].name == "x.png"


def test_aligned_folders_are_joined_by_name_and_gaps_are_told(tmp_path):
    touch(tmp_path, "images/a/1.jpg", "images/2.jpg", "images/4.jpg", "maps/a/1.png", "maps/2.png", "maps/3.png")
    gathered = find_samples(tmp_path)
    assert keys(gathered) == ["2", "a/1"]
    assert gathered.sources[1].files == {
        "image": tmp_path / "images/a/1.jpg",
        "segmentation": tmp_path / "maps/a/1.png",
    }
    reasons = [(left.key, left.reason) for left in gathered.skipped]
    assert reasons == [("3", "has no counterpart in images"), ("4", "has no counterpart in maps")]


def test_depth_may_stand_beside_maps_or_alone(tmp_path):
    touch(tmp_path / "both", "images/1.jpg", "maps/1.png", "depth/1.npy")
    assert set(find_samples(tmp_path / "both").sources[0].files) == {"image", "segmentation", "depth"}
    touch(tmp_path / "depth only", "images/1.jpg", "depth/1.png")
    assert set(find_samples(tmp_path / "depth only").sources[0].files) == {"image", "depth"}


def test_a_list_names_its_images(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/b.jpg", "p/c.jpg")
    (tmp_path / "some.txt").write_text("# two of three\np/c.jpg\n\np/a.jpg\n")
    assert keys(find_samples(tmp_path / "some.txt")) == ["p/a", "p/c"]


def test_the_first_folder_is_the_class(tmp_path):
    touch(tmp_path, "dog/1.jpg", "cat/2.jpg", "cat/in/3.jpg", "4.jpg")
    gathered = find_samples(tmp_path, labels="folders")
    assert gathered.classes == ["cat", "dog"]
    assert [(source.key, source.label) for source in gathered.sources] == [("cat/2", 0), ("cat/in/3", 0), ("dog/1", 1)]
    assert [(left.key, left.reason) for left in gathered.skipped] == [("4", "has no label")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "file,label\n1.jpg,7\nin/2,3\n"),
        ("l.csv", '"1.jpg",7\n"in/2.jpg",3\n'),
        ("l.json", json.dumps({"1.jpg": 7, "in/2.jpg": 3})),
    ],
)
def test_labels_come_from_files(tmp_path, name, text):
    touch(tmp_path / "p", "1.jpg", "in/2.jpg")
    (tmp_path / name).write_text(text)
    gathered = find_samples(tmp_path / "p", labels=str(tmp_path / name))
    assert [(source.key, source.label) for source in gathered.sources] == [("1", 7), ("in/2", 3)]
    assert gathered.classes == []


def test_labels_in_words_are_numbered(tmp_path):
    touch(tmp_path / "p", "1.jpg", "2.jpg")
    (tmp_path / "l.csv").write_text("1.jpg,zebra\n2.jpg,ant\n")
    gathered = find_samples(tmp_path / "p", labels=str(tmp_path / "l.csv"))
    assert gathered.classes == ["ant", "zebra"] and [source.label for source in gathered.sources] == [1, 0]


def test_nothing_to_gather_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no image; looked for"):
        find_samples(touch(tmp_path, "notes.txt"))
    with pytest.raises(FileNotFoundError, match="there is no"):
        find_samples(tmp_path / "nowhere")
    touch(tmp_path, "1.jpg")
    with pytest.raises(FileNotFoundError, match="labels is 'folders' or a CSV or JSON file"):
        find_samples(tmp_path, labels="nowhere.csv")
    (tmp_path / "l.csv").write_text("1.jpg\n")
    with pytest.raises(ValueError, match="two columns"):
        find_samples(tmp_path, labels=str(tmp_path / "l.csv"))


def reasons(gathered) -> dict[str, str]:
    return {left.key: left.reason for left in gathered.skipped}


def test_folders_that_are_linked_in_circles_are_read_once(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / "again").symlink_to(".")
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")
    gathered = find_samples(tmp_path)
    assert keys(gathered) == ["a/1", "b/2"]
    assert set(reasons(gathered)) == {"again", "a/b", "b/a"}
    assert all("read already" in reason for reason in reasons(gathered).values())


def test_a_linked_folder_from_elsewhere_is_read(tmp_path):
    touch(tmp_path, "elsewhere/1.jpg", "in/2.jpg")
    (tmp_path / "in" / "more").symlink_to("../elsewhere")
    assert keys(find_samples(tmp_path / "in")) == ["2", "more/1"]


def test_what_is_no_file_is_named(tmp_path):
    touch(tmp_path, "1.jpg")
    os.mkfifo(tmp_path / "2.jpg")
    (tmp_path / "3.jpg").symlink_to("/dev/zero")
    (tmp_path / "4.jpg").symlink_to("nowhere")
    (tmp_path / "5.jpg").symlink_to("5.jpg")
    gathered = find_samples(tmp_path)
    assert keys(gathered) == ["1"]
    found = reasons(gathered)
    assert set(found) == {"2.jpg", "3.jpg", "4.jpg", "5.jpg"}
    assert "named pipe" in found["2.jpg"] and "device" in found["3.jpg"] and "to nothing" in found["4.jpg"]


def test_other_suffixes_and_hidden_files_are_counted(tmp_path):
    touch(tmp_path, "1.jpg", "a/2.HEIC", "3.heic", "notes", ".DS_Store", "a/._2.jpg")
    gathered = find_samples(tmp_path)
    assert keys(gathered) == ["1"]
    found = reasons(gathered)
    assert found[".heic"].startswith("2 file(s) .heic") and found[".*"].startswith("2 hidden")
    assert set(found) == {".heic", ".*", "without a suffix"}


def test_names_of_any_bytes_have_keys_that_can_be_written(tmp_path):
    for name in (b"caf\xe9.jpg", b"a\nb.jpg", b"x\x1b[2J.jpg", rb"caf\xe9.jpg"):
        (tmp_path / os.fsdecode(name)).touch()
    found = keys(find_samples(tmp_path))
    assert len(set(found)) == 4 and all(key.encode() and key.isprintable() for key in found)


def test_names_that_differ_in_a_dot_only_are_both_read(tmp_path):
    touch(tmp_path, "a.b.jpg", "a_b.jpg", "a.b.png", "a_b_jpg.webp")
    gathered = find_samples(tmp_path)
    assert len(set(keys(gathered))) == 4
    assert sorted(source.files["image"].name for source in gathered.sources) == sorted(
        ["a.b.jpg", "a_b.jpg", "a.b.png", "a_b_jpg.webp"]
    )


def test_maps_of_another_suffix_are_told(tmp_path):
    touch(tmp_path, "images/1.jpg", "maps/1.jpg")
    (left,) = [left for left in find_samples(tmp_path).skipped if left.key == "1"]
    assert "maps/ has 1 file(s) .jpg: only .png, .tif, .tiff are read here" in left.reason


@pytest.mark.parametrize("data", ["1.jpg,0\n".encode("utf-16"), b"1.jpg,\0\n"])
def test_labels_that_are_no_text_are_told_with_their_file(tmp_path, data):
    touch(tmp_path / "p", "1.jpg")
    (tmp_path / "l.csv").write_bytes(data)
    with pytest.raises(ValueError, match=r"l\.csv is not UTF-8 text"):
        find_samples(tmp_path / "p", labels=str(tmp_path / "l.csv"))


def test_labels_and_lists_may_name_files_in_other_encodings(tmp_path):
    touch(tmp_path / "p", os.fsdecode(b"caf\xe9.jpg"))
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbfcaf\xe9.jpg,7\n")
    assert [source.label for source in find_samples(tmp_path / "p", labels=str(tmp_path / "l.csv")).sources] == [7]
    (tmp_path / "p" / "list.txt").write_bytes(b"caf\xe9.jpg\n")
    assert find_samples(tmp_path / "p" / "list.txt").sources[0].files["image"].exists()
