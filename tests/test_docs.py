"""Every link of the pages leads somewhere, every page is in the site, every command of a snippet exists."""

import contextlib
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from smalti.launch.__main__ import COMMANDS, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What a link may name behind # in a page: its headings, as sites and GitHub write them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path):
    for link in LINK.findall(page.read_text()):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_site_and_on_its_first_page():
    named = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert set(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]) == named
    first = set(LINK.findall((ROOT / "docs/index.md").read_text()))
    assert named - {"index.md"} <= first


@cache
def shown(command: str) -> str:
    """What a command's own help says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return said.getvalue()


def commands(page: Path) -> list[list[str]]:
    """The words of every smalti command in the page's code blocks, from the command's name on."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.search(
                r"(?:^|\s)(?:smalti (?=[a-z])|(?:-m|--module) smalti\.launch\.)(.*)", line.split("  #")[0]
            )
            if match:
                found.append(shlex.split(re.split(r"[|;&>]", match[1])[0]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_snippet_exists_and_has_the_options_that_it_is_given(page: Path):
    for name, *words in commands(page):
        if name not in COMMANDS or name in ("bench", "supervise"):
            assert name in COMMANDS or name.startswith("demo."), name
            continue
        for option in {word.split("=")[0] for word in words if word.startswith("--") and word != "--"}:
            assert re.search(rf"{option}\b", shown(name)), f"smalti {name} {option}"
