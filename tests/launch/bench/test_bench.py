"""The command of all measurements: its names, its help, its last line of JSON."""

import json
import sys
from types import ModuleType

import pytest

from smalti.launch.bench import __main__ as bench


@pytest.fixture
def offered(monkeypatch):
    """One made-up measurement, and a broken one."""
    module = ModuleType("smalti.launch.bench.speed", "How fast.\n\nMore.")
    module.add_arguments = lambda parser: parser.add_argument("--pairs", type=int, default=2)
    module.run = lambda arguments: print("a table") or {"ratio": 1.5, "pairs": arguments.pairs}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(bench, "names", lambda: ["broken", "speed"])
    monkeypatch.setitem(sys.modules, "smalti.launch.bench.broken", None)  # importing it raises


def test_the_last_line_is_one_json_object_with_the_figures(offered, capsys):
    assert bench.main(["speed", "--pairs", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a table" and json.loads(lines[-1]) == {"ratio": 1.5, "pairs": 3}


def test_only_the_named_measurement_is_imported(offered):
    assert bench.main(["speed"]) == 0
    with pytest.raises(ImportError):
        bench.main(["broken"])


def test_a_measurement_explains_its_options(offered, capsys):
    with pytest.raises(SystemExit) as left:
        bench.main(["speed", "--help"])
    said = capsys.readouterr().out
    assert left.value.code == 0 and "How fast." in said and "--pairs" in said


def test_the_former_name_of_a_measurement_is_answered_by_it_and_that_is_said(offered, monkeypatch, capsys):
    monkeypatch.setattr(bench, "FORMER", {"old": "speed"})
    assert bench.main(["old", "--pairs", "3"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["pairs"] == 3 and said.err == "bench old is called bench speed now\n"


def test_every_former_name_is_of_a_measurement_that_is_there():
    assert bench.FORMER == {"stage1": "vqgan_step", "stage2": "prior_step"}
    assert set(bench.FORMER.values()) <= set(bench.names()) and not set(bench.FORMER) & set(bench.names())


def test_only_measurements_that_are_there_are_offered(capsys):
    assert "data" in bench.names() and not {"__main__", "published", "timing"} & set(bench.names())
    assert bench.main(["nonsense"]) == 2
    assert f"there are {', '.join(bench.names())}" in capsys.readouterr().err
