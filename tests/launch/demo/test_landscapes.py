"""The command that renders landscapes."""

import subprocess
import sys

import pytest

from smalti.launch.demo.landscapes import main


def test_the_command_renders_a_set_with_plain_lines_in_a_log(tmp_path, capsys):
    assert main([str(tmp_path), "--count", "2", "--size", "64x96", "--seed", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"2 landscapes in {tmp_path}\n"
    assert printed.err == "landscape-0000: 1 of 2\nlandscape-0001: 2 of 2\n"
    assert len(list(tmp_path.glob("images/*.jpg"))) == len(list(tmp_path.glob("maps/*.png"))) == 2


def test_maps_of_new_scenes_come_without_images(tmp_path):
    assert main([str(tmp_path), "--count", "1", "--first", "1000", "--size", "64x64", "--maps-only"]) == 0
    assert [path.name for path in tmp_path.rglob("*.*g")] == ["landscape-1000.png"]


@pytest.mark.parametrize(("size", "part"), [("64", "HEIGHTxWIDTH"), ("-1x64", "HEIGHTxWIDTH"), ("ax64", "got 'ax64'")])
def test_a_wrong_size_is_told(tmp_path, capsys, size, part):
    with pytest.raises(SystemExit):
        main([str(tmp_path), f"--size={size}"])
    assert part in capsys.readouterr().err


def test_errors_are_one_line_and_leave_nothing(tmp_path):
    command = [sys.executable, "-m", "smalti.launch.demo.landscapes", str(tmp_path / "new"), "--size", "9x64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: a landscape needs at least 64 pixels a side, got 9 x 64\n"
    assert not (tmp_path / "new").exists()
