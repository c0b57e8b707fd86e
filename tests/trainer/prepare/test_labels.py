"""Files of labels as people have them: no odd cell changes the class of another image."""

import json
import os
from pathlib import Path

import pytest

from smalti.launch import pack
from smalti.trainer.prepare.find_images import find_samples
from smalti.trainer.shards.reader import ShardSet

COUNT = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 00.jpg to 11.jpg; nobody reads them."""
    (tmp_path / "p").mkdir()
    for number in range(COUNT):
        (tmp_path / "p" / f"{number:02d}.jpg").touch()
    return tmp_path


def labelled(folder: Path, text: str, name: str = "l.csv"):
    (folder / name).write_text(text)
    found = find_samples(folder / "p", labels=str(folder / name))
    return {int(source.key): source.label for source in found.sources}, found


def rows(form: str = "{:02d}.jpg,{}") -> str:
    return "".join(form.format(number, number) + "\n" for number in range(COUNT))


@pytest.mark.parametrize(
    "text",
    [
        rows(),
        "file,class\n" + rows(),
        "image_id;target\n" + rows("{:02d}.jpg;{}"),
        "sample\tclass id\n" + rows("{:02d}.jpg\t{}"),
        "Image Index,Finding,class\n" + rows("{:02d}.jpg,12,{}"),
        "label,img path\n" + "".join(f"{number},{number:02d}.jpg\n" for number in range(COUNT)),
        ",file,category\n" + "".join(f"{9 - number},{number:02d}.jpg,{number}\n" for number in range(COUNT)),
        "whatever,else\n" + rows("{:02d},{}.0"),
        rows("{:02d}.jpg, {} ,,"),
        rows("{:02d}.jpg,{:03d}"),
        "\n\n" + rows().replace("\n", "\r\n"),
    ],
)
def test_whole_numbers_stay_what_they_are(folder, text):
    found, listing = labelled(folder, text)
    assert found == {number: number for number in range(COUNT)}
    assert listing.classes == [] and listing.skipped == []


@pytest.mark.parametrize("cell", ["", "nan", "-1", "2.5", "cat", "1e3", "inf", "99999999999999999999", "0x3", "None"])
def test_an_odd_cell_costs_its_own_image_alone_and_is_named_with_its_line(folder, cell):
    found, listing = labelled(folder, rows().replace("07.jpg,7\n", f"07.jpg,{cell}\n"))
    assert found == {number: number for number in range(COUNT) if number != 7}
    assert [(left.key, left.file.rsplit(", ")[-1]) for left in listing.skipped if "line" in left.file] == [
        ("07.jpg", "line 8")
    ]
    assert "07" in [left.key for left in listing.skipped]


def test_a_number_among_names_is_no_class_and_renumbers_none(folder):
    names = ["zebra", "ant", "mole"]
    text = "".join(f"{number:02d}.jpg,{names[number % 3]}\n" for number in range(COUNT)).replace(
        "04.jpg,ant", "04.jpg,5"
    )
    found, listing = labelled(folder, text)
    assert listing.classes == ["ant", "mole", "zebra"]
    assert found == {number: [2, 0, 1][number % 3] for number in range(COUNT) if number != 4}
    assert any("'5' is no name of a class" in left.reason for left in listing.skipped)


def test_an_image_with_two_classes_has_none(folder):
    found, listing = labelled(folder, rows() + "03.jpg,3\n05.jpg,6\n")
    assert found == {number: number for number in range(COUNT) if number != 5}
    assert [left.reason for left in listing.skipped] == ["has another class in a row above", "has no label"]


def test_json_of_any_values(folder):
    values = {f"{number:02d}.jpg": float(number) for number in range(COUNT)} | {"02.jpg": None, "03.jpg": [3]}
    found, listing = labelled(folder, json.dumps(values), "l.json")
    assert found == {number: number for number in range(COUNT) if number not in (2, 3)}
    assert len(listing.skipped) == 4


def test_a_name_twice_in_json_with_two_classes_has_none(folder):
    text = ", ".join(f'"{number:02d}.jpg": {number}' for number in [*range(COUNT), 4])
    found, listing = labelled(folder, f'{{{text}, "05.jpg": 6}}', "l.json")
    assert found == {number: number for number in range(COUNT) if number != 5}
    assert [left.reason for left in listing.skipped] == ["has another class in a row above", "has no label"]


def test_a_quote_that_is_not_closed_is_named_and_costs_no_row_before_it(folder):
    found, listing = labelled(folder, rows().replace("09.jpg", '"09.jpg'))
    assert found == {number: number for number in range(9)}
    assert ("09.jpg,9", "goes over several lines; is a quote not closed?") in [
        (left.key, left.reason) for left in listing.skipped
    ]


@pytest.mark.parametrize("space", ["\x0b", "\x0c", "\x1c", "\u2028", "\x85"])
def test_names_with_odd_spaces_are_one_row(tmp_path, space):
    (tmp_path / "p").mkdir()
    names = [f"a{space}b.jpg", "c.jpg"]
    for name in names:
        (tmp_path / "p" / name).touch()
    (tmp_path / "l.csv").write_text(f"{names[0]},3\n{names[1]},4\n", encoding="utf-8")
    found = find_samples(tmp_path / "p", labels=str(tmp_path / "l.csv"))
    assert sorted(source.label for source in found.sources) == [3, 4]


def test_names_in_latin_1_and_a_mark_of_byte_order_are_read(tmp_path):
    (tmp_path / "p").mkdir()
    name = b"caf\xe9.jpg"
    (tmp_path / "p" / os.fsdecode(name)).touch()
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbf" + b'"file","class"\r\n"' + name + b'","7"\r\n')
    found = find_samples(tmp_path / "p", labels=str(tmp_path / "l.csv"))
    assert [source.label for source in found.sources] == [7] and found.skipped == []


def test_columns_that_nobody_can_tell_apart_are_refused_with_a_way_out(folder):
    with pytest.raises(ValueError, match="no heading that says which holds the class; add a first line"):
        labelled(folder, rows("{:02d}.jpg,7,{}"))
    with pytest.raises(ValueError, match="call one of them 'file' and one 'class'"):
        labelled(folder, "file,width,height\n" + rows("{:02d}.jpg,7,{}"))


def test_files_that_differ_in_their_suffix_alone_have_classes_of_their_own(folder):
    (folder / "p" / "00.png").touch()
    (folder / "l.csv").write_text("00.jpg,4\n00.png,5\n01.jpg,6\n01.png,7\n")
    found = find_samples(folder / "p", labels=str(folder / "l.csv"))
    assert {source.key: source.label for source in found.sources} == {"00_jpg": 4, "00_png": 5, "01": 6}


def test_folders_with_numbers_for_names_are_those_classes(tmp_path):
    for name in (0, 1, 2, 10, 11):
        (tmp_path / f"{name}").mkdir()
        (tmp_path / f"{name}" / "a.jpg").touch()
    found = find_samples(tmp_path, labels="folders")
    assert {source.key: source.label for source in found.sources} == {f"{name}/a": name for name in (0, 1, 2, 10, 11)}
    assert found.classes == []


def test_a_second_packing_takes_the_numbers_of_the_first(tmp_path, capfd):
    from fixtures.shards import encoded, photo

    for part, classes in (("t", ("cat", "dog", "fox")), ("v", ("cat", "fox", "yak"))):
        for name in classes:
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / f"{name}.png").write_bytes(encoded(photo(16, 16), "PNG"))
    first, second = str(tmp_path / "train"), str(tmp_path / "val")
    assert pack.main([str(tmp_path / "t"), first, "--labels", "folders", "--processes", "1"]) == 0
    assert json.loads((tmp_path / "train" / "report.json").read_text())["classes"] == ["cat", "dog", "fox"]
    options = ["--labels", "folders", "--classes", first, "--processes", "1"]
    assert pack.main([str(tmp_path / "v"), second, *options]) == 0
    shards = ShardSet.open([second])
    numbers = {shards.key(0, sample): int(shards.read(0, sample, "cls")) for sample in range(shards.samples)}
    assert numbers == {"cat/cat": 0, "fox/fox": 2} and shards.classes == ("cat", "dog", "fox")
    assert "its folder 'yak' is no class" in capfd.readouterr().err


def test_columns_of_any_bytes_are_told_in_text_that_can_be_printed(folder):
    (folder / "odd.csv").write_bytes(b"file,a\xff,b\n00.jpg,1,2\n")
    with pytest.raises(ValueError, match="has the columns") as refused:
        find_samples(folder / "p", labels=str(folder / "odd.csv"))
    str(refused.value).encode()
