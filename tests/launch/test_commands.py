"""The command ``smalti``: its help is complete and quick, and a typo is answered with the nearest command."""

import argparse
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from smalti.launch import __main__ as launch
from smalti.launch import command
from smalti.launch.bench import __main__ as bench

NAMES = sorted(launch.COMMANDS)
HELP = """
import sys
from smalti.launch.__main__ import main
for arguments in {calls}:
    try:
        main([*arguments, "--help"])
    except SystemExit as ended:
        assert ended.code == 0, arguments
print("loaded", [name for name in {heavy} if name in sys.modules])
"""


class Parsed(BaseException):
    """Carries the parser out of a command that is about to read its arguments."""


def parser_of(name: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise Parsed(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed) as caught:
        launch.main([name])
    return caught.value.args[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_shows_an_example_and_explains_every_option(name: str, monkeypatch: pytest.MonkeyPatch):
    parser = parser_of(name, monkeypatch)
    assert parser.prog == f"smalti {name}" and parser.description
    assert parser.epilog.startswith(f"example:\n  smalti {name} ")
    assert all(action.help for action in parser._actions)
    example = parser.epilog.splitlines()[1].split()[2:]
    monkeypatch.undo()
    if "--" not in example:
        parser.parse_args(example)  # the example is one that the command takes


@pytest.mark.parametrize("name", bench.names())
def test_the_help_of_a_measurement_explains_every_option(name: str):
    parser = argparse.ArgumentParser()
    import_module(f"smalti.launch.bench.{name}").add_arguments(parser)
    assert all(action.help for action in parser._actions)


# Their configs say more about them than a range.
CHECKED_BY_CONFIGS = {"temperature", "top_k", "top_p", "guidance", "lanes", "prefill", "stages", "local_rank"}


def check_numbers(parser: argparse.ArgumentParser) -> None:
    """Every option that takes a number refuses what no such number can be."""
    for action in parser._actions:
        try:
            number = action.type("1")
        except (TypeError, ValueError, argparse.ArgumentTypeError):
            continue
        if action.dest in CHECKED_BY_CONFIGS or not isinstance(number, int | float):
            continue
        for text in ("", "nan", "-1000000000", "9" * (400 if isinstance(number, int) else 0)):
            with pytest.raises((ValueError, argparse.ArgumentTypeError)):
                raise AssertionError(f"{action.option_strings} takes {action.type(text)}")


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_command_has_a_range(name: str, monkeypatch: pytest.MonkeyPatch):
    check_numbers(parser_of(name, monkeypatch))


@pytest.mark.parametrize("name", bench.names())
def test_every_number_of_a_measurement_has_a_range(name: str):
    parser = argparse.ArgumentParser()
    import_module(f"smalti.launch.bench.{name}").add_arguments(parser)
    check_numbers(parser)


def test_a_number_outside_of_its_range_is_refused_with_its_option_and_rule(capsys: pytest.CaptureFixture[str]):
    asked = [
        ("--seed", "-1", "at least 0"),
        ("--flip", "nan", r"in \[0, 1\]"),
        ("--batch", "9" * 400, r"at most 2.1\S+"),
    ]
    for option, value, rule in asked:
        with pytest.raises(SystemExit, match="2"):
            launch.main(["encode", "runs/vqgan", "shards", "codes", option, value])
        assert re.search(rf"argument {option}: must be {rule}, got {value}$", capsys.readouterr().err.strip())


def helped(calls: list[list[str]], heavy: tuple[str, ...], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    code = HELP.format(calls=calls, heavy=heavy)
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)


def test_help_imports_nothing_that_is_slow_and_warns_of_nothing(tmp_path: Path):
    calls = [[name] for name in NAMES if name not in ("export", "import")]
    done = helped([[], *calls], ("torch", "deepspeed"), tmp_path)
    assert done.stdout.endswith("loaded []\n") and done.stderr == ""
    done = helped([["export"], ["import"]], ("deepspeed",), tmp_path)
    assert done.stdout.endswith("loaded []\n") and done.stderr == ""


def test_smalti_lists_all_commands_and_each_is_there(capsys: pytest.CaptureFixture[str]):
    assert launch.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in NAMES)
    for name in NAMES:
        assert callable(import_module(launch.MODULES.get(name, f".{name}"), "smalti.launch").main)


@pytest.mark.parametrize(
    ("typed", "advice"),
    [("trian", "did you mean 'train'?"), ("sampel", "did you mean 'sample'?"), ("xyz", "there are pack, ")],
)
def test_a_typo_is_answered_with_the_nearest_command(typed: str, advice: str, capsys: pytest.CaptureFixture[str]):
    assert launch.main([typed, "--help"]) == 2
    assert f"error: smalti has no command {typed!r}; {advice}" in capsys.readouterr().err


def test_a_typo_in_a_measurement_is_answered_too(capsys: pytest.CaptureFixture[str]):
    assert bench.main(["smapling"]) == 2
    assert "there is no measurement 'smapling'; did you mean 'sampling'?" in capsys.readouterr().err


def test_python_dash_m_is_the_same_command(tmp_path: Path):
    done = subprocess.run([sys.executable, "-m", "smalti", "trian"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean 'train'?" in done.stderr


@pytest.mark.parametrize("text", ["512", "512x", "0x512", "512X512", "-1x5", "1x2x3"])
def test_a_size_is_height_by_width(text: str):
    assert command.size("512x1024") == (512, 1024)
    with pytest.raises(argparse.ArgumentTypeError, match="HEIGHTxWIDTH"):
        command.size(text)


@pytest.mark.parametrize("text", ["", "3-1", "-1", "1,", "a", "0-9999999", "1-2-3", "٣"])
def test_numbers_are_ranges_and_commas(text: str):
    assert command.numbers("8-10,3,9") == [3, 8, 9, 10] and command.numbers("0") == [0]
    with pytest.raises(argparse.ArgumentTypeError, match="0-999 or 1,3,8-11"):
        command.numbers(text)


@pytest.mark.parametrize("error", [ValueError("so"), FileNotFoundError("so")])
def test_what_a_user_can_mend_ends_with_2_and_one_line(error: Exception, capsys: pytest.CaptureFixture[str]):
    def fails() -> int:
        raise error

    assert command.ended(fails) == 2
    assert capsys.readouterr().err == "error: so\n"
