"""Labels of images out of files and names of folders: whole numbers stay what they are, names are numbered in order."""

import csv
import io
import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import read_regular
from ..keyed_random import text_key
from ..shards.folder_walk import Skipped, escaped
from .listing.raw_sample import key_of, plain_key
from .listing.sample_table import Hashes, Numbers, found_in

_LARGEST_FILE = 1 << 30  # bytes of a list or a file of labels
_LARGEST_CLASS = 1 << 31
_WHOLE = re.compile(r"\+?\d+(\.0*)?", re.ASCII)  # spreadsheets and pandas write 3 as 3.0
_NOTHING = ("", "nan", "null", "#n/a", "<na>")  # cells that hold no class
_OF_FILES = (
    "file", "files", "filename", "filenames", "filepath", "id", "image", "images", "img", "key", "name", "path",
    "photo", "picture",
)  # fmt: skip
_OF_CLASSES = ("category", "class", "cls", "label", "labels", "target", "y")
_PARTS_OF_HEADINGS = ("id", "idx", "image", "img", "index", "name", "path", "file", "no", "number")


class LabelRow(NamedTuple):
    """What a file of labels says of one image."""

    name: str  # of the image's file, by its path below the source
    label: str
    where: str  # the row of the file, for reports


Rows = Callable[[], Iterator[LabelRow | Skipped]]  # those of a file, as often as they are asked for: none is kept


class NamedClasses:
    """The classes of files by their names, with or without suffix; some 32 bytes each."""

    def __init__(self) -> None:
        self._names, self._short, self._long = array("Q"), array("Q"), array("Q")
        self._numbers = array("q")

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, name: str, number: int) -> None:
        """Adds what a row says."""
        short, long = label_keys(name)
        self._names.append(_name_key(name))
        self._short.append(short)
        self._long.append(long)
        self._numbers.append(number)

    def take_out_contradicted(self) -> dict[int, int]:
        """Takes out the names with several classes; gives the first class of each, by the number of the name."""
        names, numbers = self._column(self._names), np.array(self._numbers, np.int64)
        _, first, group = np.unique(names, return_index=True, return_inverse=True)
        others = numbers != numbers[first[group]]
        wrong = np.isin(group, np.unique(group[others]))
        contradicted = {int(names[row]): int(numbers[row]) for row in first[np.unique(group[others])].tolist()}
        for column in (self._names, self._short, self._long, self._numbers):
            kept = np.array(column)[~wrong]
            column[:] = array(column.typecode, kept.tobytes())
        return contradicted

    def classes_of(self, keys: Hashes, with_suffixes: Hashes) -> Numbers:
        """(N,) the class of each file, -1 for none.

        A name with the suffix decides; one without it, if all files that it may mean have one class.

        Args:
            keys: the number of each file's key.
            with_suffixes: and of its key with the suffix in it.
        """
        numbers = np.append(np.array(self._numbers, np.int64), -1)
        order = np.argsort(self._column(self._long), kind="stable")
        ordered, exact = self._column(self._long)[order], np.append(order, -1)
        found = numbers[exact[found_in(ordered, with_suffixes)]]
        found = np.where(found < 0, numbers[exact[found_in(ordered, keys)]], found)
        order = np.argsort(self._column(self._short), kind="stable")
        ordered, alike = self._column(self._short)[order], numbers[order]
        change = (ordered[1:] == ordered[:-1]) & (alike[1:] != alike[:-1])
        changes = np.concatenate([[0], np.cumsum(change, dtype=np.int64), [0]])[: len(ordered) + 1]
        last, first = found_in(ordered, keys), np.searchsorted(ordered, keys)
        is_one = (last >= 0) & (changes[last] == changes[np.minimum(first, len(ordered))])
        return np.asarray(np.where((found < 0) & is_one, np.append(alike, -1)[last], found))

    @staticmethod
    def _column(values: "array[int]") -> Hashes:
        return np.array(values, np.uint64)


class Labels(NamedTuple):
    """The classes of images."""

    named: NamedClasses  # by the name of the image's file
    classes: list[str]  # names in the order of their numbers; empty where labels are numbers
    skipped: list[Skipped]  # rows that say no class


def read_labels(file: Path, is_image: Callable[[str], bool], classes: Sequence[str] = ()) -> Labels:
    """The labels in a CSV (columns for file and class, by heading or in this order) or a JSON ({file: class}).

    What most rows hold decides: whole numbers are the classes themselves, names are numbered in alphabetical order.
    Rows of the other kind, empty or negative ones, and names with two classes are left out one by one; they change the
    class of no other image.

    Args:
        file: of labels.
        is_image: whether a name is that of an image to be labelled; tells a heading from a row.
        classes: names whose numbers are given, in their order; empty numbers those in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no CSV or JSON, its columns are unclear, or no row has a class.
    """
    if not file.exists():
        raise FileNotFoundError(f"there is no file of labels {file}; labels is 'folders' or a CSV or JSON file")
    rows = _json_rows(file) if file.suffix.lower() == ".json" else _csv_rows(file, is_image)
    said = numeric = 0
    texts: set[str] = set()
    for row in rows():
        if isinstance(row, LabelRow) and row.label.lower() not in _NOTHING:
            said += 1
            numeric += _is_numeric(row.label)
            texts |= set() if _is_numeric(row.label) else {row.label}
    as_numbers = 2 * numeric >= said
    if as_numbers and classes:
        raise ValueError(f"{file} has numbers, which need no names of classes; omit --classes")
    names = list(classes) or sorted(texts)
    places = {name: place for place, name in enumerate(names)}
    number_of = _whole if as_numbers else places.get
    named, skipped = NamedClasses(), list[Skipped]()
    for row in rows():
        if not isinstance(row, LabelRow):
            skipped.append(row)
        elif (number := number_of(row.label)) is not None:
            named.add(row.name, number)
        else:
            what = "whole number, as most classes are" if as_numbers else "name of a class"
            skipped.append(Skipped(escaped(row.name), row.where, f"its class {row.label[:80]!r} is no {what}"))
    contradicted = named.take_out_contradicted()
    for row in rows() if contradicted else ():
        number = number_of(row.label) if isinstance(row, LabelRow) else None
        if isinstance(row, LabelRow) and number is not None and contradicted.get(_name_key(row.name), number) != number:
            skipped.append(Skipped(escaped(row.name), row.where, "has another class in a row above"))
    if not len(named):
        raise ValueError(f"{file} has no row of an image and its class" + _example(skipped))
    return Labels(named, [] if as_numbers else names, skipped)


def label_keys(name: str) -> tuple[int, int]:
    """The numbers of a file's keys as ``keyed`` makes them: without suffix, and with it where two would share one."""
    return text_key(plain_key(name)), text_key(key_of([part for part in name.split("/") if part]))


def number_folders(folders: Sequence[str], classes: Sequence[str] = ()) -> tuple[dict[str, int], list[str]]:
    """The classes that folders stand for, and their names: whole numbers stay, names are numbered in order.

    Args:
        folders: their names.
        classes: names whose numbers are given; folders of other names get none.
    """
    if classes:
        return {name: place for place, name in enumerate(classes)}, list(classes)
    wholes = {name: _whole(name) for name in folders}
    numbers = {name: whole for name, whole in wholes.items() if whole is not None}
    if len(numbers) == len(wholes) == len(set(numbers.values())):
        return numbers, []
    names = sorted(wholes)
    return {name: place for place, name in enumerate(names)}, names


def text_of(file: Path) -> str:
    """The text of a list or a file of labels; bytes that are not UTF-8 stay, as in names of files.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not text.
    """
    data = read_regular(file, _LARGEST_FILE)
    if b"\0" in data:
        raise ValueError(f"{file} is not UTF-8 text (UTF-16?); save it as UTF-8")
    return os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))


def _name_key(name: str) -> int:
    return text_key(escaped(name))


def _json_rows(file: Path) -> Rows:
    try:
        said = json.loads(text_of(file), object_pairs_hook=_Pairs)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    if not isinstance(said, _Pairs):
        raise ValueError(f"{file} must hold one object, {{file: class, ...}}")
    pairs = said
    return lambda: (LabelRow(name, _text(label), str(file)) for name, label in pairs)


class _Pairs(list[tuple[str, Any]]):
    """The names and values of an object of JSON, those of equal names too, of which a dict would keep the last."""


def _text(label: Any) -> str:
    return "" if label is None else str(label).strip()


def _csv_rows(file: Path, is_image: Callable[[str], bool]) -> Rows:
    text = text_of(file)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)  # the first of equals, a comma

    def cells() -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            yield from ((reader.line_num, row) for row in reader if any(row))
        except csv.Error as error:
            raise ValueError(f"{file} is no CSV: {error}") from None

    heading = next(cells(), (0, list[str]()))[1]
    if not heading:
        raise ValueError(f"{file} is empty; it must have two columns, file and class")
    words = [cell.strip().lower() for cell in heading]
    name, label, begin = 0, 1, 0
    if _is_heading(words, heading[0], is_image):
        name, label = _columns(words, file)
        begin = 1
    elif any(len(_filled(row)) > 2 for _, row in cells()):
        raise ValueError(
            f"{file} has more than two columns and no heading that says which holds the class; add a first line such "
            "as file,class"
        )

    def rows() -> Iterator[LabelRow | Skipped]:
        for number, row in islice(cells(), begin, None):
            where = f"{file}, line {number}"
            if any("\n" in cell for cell in row):
                reason = "goes over several lines; is a quote not closed?"
                yield Skipped(escaped(row[0].splitlines()[0]), where, reason)
            elif len(row) <= max(name, label):
                yield Skipped(escaped(row[0]), where, "has no cell for a class")
            else:
                yield LabelRow(row[name].strip(), row[label].strip(), where)

    if not any(isinstance(row, LabelRow) for row in rows()) and (
        odd := [row for row in rows() if isinstance(row, Skipped)]
    ):
        raise ValueError(f"{file} must have two columns, file and class, in every line" + _example(odd))
    return rows


def _is_heading(heading: Sequence[str], first: str, is_image: Callable[[str], bool]) -> bool:
    """Whether the first row names columns: in words that are known, or in any where it names no file at all."""
    if is_image(first):
        return False
    known = _column(heading, _OF_FILES) == 0 or _column(heading, _OF_CLASSES) is not None
    return known or not Path(first).suffix


def _columns(heading: Sequence[str], file: Path) -> tuple[int, int]:
    """Which columns of a CSV name the file and the class."""
    label = _column(heading, _OF_CLASSES)
    name = _column([cell if place != label else "" for place, cell in enumerate(heading)], _OF_FILES) or 0
    if label is None and len(heading) == 2:
        label = 1 - name
    if label is None or label == name:
        columns = escaped(", ".join(heading))
        raise ValueError(f"{file} has the columns {columns}; call one of them 'file' and one 'class'")
    return name, label


def _column(heading: Sequence[str], words: Sequence[str]) -> int | None:
    """The first column with a name of these: as it stands, else with words around that say nothing new."""
    for place, cell in enumerate(heading):
        if cell in words:
            return place
    for place, cell in enumerate(heading):
        parts = re.split(r"[\s_\-.]+", cell)
        if set(parts) & set(words) and set(parts) <= {*words, *_PARTS_OF_HEADINGS}:
            return place
    return None


def _filled(row: Sequence[str]) -> Sequence[str]:
    """A row without empty cells at its end."""
    while row and not row[-1].strip():
        row = row[:-1]
    return row


def _is_numeric(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _whole(label: str) -> int | None:
    """The class that a label is, or None where it is none."""
    if not _WHOLE.fullmatch(label):
        return None
    number = int(label.split(".")[0])
    return number if number < _LARGEST_CLASS else None


def _example(skipped: Sequence[Skipped]) -> str:
    return f"; for example {skipped[0].file}: {skipped[0].reason}" if skipped else ""
