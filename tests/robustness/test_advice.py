"""What an error advises to set, or to leave out, is a key that the config has."""

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import smalti
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.vqgan.config import VQGANRun

ROOT = Path(smalti.__file__).parent
ADVISED = re.compile(r"\b(?:set ([a-z_.]+)(?=: | to )|leave ([a-z_.]+) out\b|raise ([a-z]+_[a-z_]+))")
NO_KEYS = {"it", "them", "this"}  # words that name what was named before


def keys(kind: Any, seen: set[Any]) -> Iterator[str]:
    """The names of all fields of a config and of what it holds."""
    for part in get_args(kind):
        yield from keys(part, seen)
    if dataclasses.is_dataclass(kind) and kind not in seen:
        seen.add(kind)
        for name, held in get_type_hints(kind).items():
            yield name
            yield from keys(held, seen)


KEYS = {key for run in (VQGANRun, PriorRun) for key in keys(run, set())}


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """The texts of a source file, with what f-strings fill in as ``{}``."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def advised(text: str) -> set[str]:
    words = {next(filter(None, match)) for match in ADVISED.findall(text)}
    return {word.rpartition(".")[2] for word in words} - NO_KEYS


def sources() -> list[Path]:
    return [file for room in ("models", "trainer", "launch") for file in sorted((ROOT / room).rglob("*.py"))]


def test_every_key_that_is_advised_is_one():
    unknown = [
        f"{file.relative_to(ROOT)}:{line}: {', '.join(sorted(wrong))}"
        for file in sources()
        for line, text in texts(file)
        if (wrong := advised(text) - KEYS)
    ]
    assert not unknown, "\n".join(unknown)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("make it smaller, or set repeats to {} or more", "repeats"),
        ("got {}; leave stopping out", "stopping"),
        ("set training.engine.zero: 3", "zero"),
        ("repair them, or raise fault_limit", "fault_limit"),
    ],
)
def test_advice_is_found_in_a_text(text: str, word: str):
    assert advised(text) == {word} and word not in KEYS
