"""How many ranks ``make demo`` starts, and which folders of photos it takes."""

import re
import subprocess
from pathlib import Path

import pytest
import torch

MAKEFILE = Path(__file__).parents[3] / "Makefile"


def made(*options: str) -> subprocess.CompletedProcess[str]:
    """``make demo`` with options, without setting up the environment first."""
    command = ["make", "-o", ".venv/.installed", "demo", *options]
    return subprocess.run(command, cwd=MAKEFILE.parent, capture_output=True, text=True, timeout=60, check=False)


def test_photos_of_another_folder_of_the_same_name_are_not_taken_for_those_that_were_packed(tmp_path):
    (tmp_path / "packed.done").write_text("/elsewhere/photos\n")
    ended = made("PHOTOS=/here/photos", f"DEMO={tmp_path}")
    assert ended.returncode == 2 and "holds the demo on /elsewhere/photos; move it away" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["packed.done"]


def test_a_folder_whose_path_has_spaces_is_refused_with_a_way_out():
    ended = made("-n", "PHOTOS=my photos")
    assert ended.returncode == 2 and 'ln -s "my photos" photos' in ended.stderr


@pytest.mark.parametrize(
    ("gpus", "launcher"),
    [(0, "DS_ACCELERATOR=cpu deepspeed --num_gpus 2"), (1, "deepspeed --num_gpus 1"), (8, "deepspeed --num_gpus 2")],
)
def test_the_demo_has_a_rank_for_each_gpu_and_two_at_most(gpus, launcher, monkeypatch, capsys):
    asked = re.search(r"^RANKS = .*?python -c '(.*?)'\)", MAKEFILE.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    exec(asked[1].replace("\\\n", ""))
    assert capsys.readouterr().out.split() == launcher.split()
