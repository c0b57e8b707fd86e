"""What a user reads while a command runs: plain lines, each once, and nothing of the libraries' own noise."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from fixtures.runs import write_vqgan

from smalti.launch import command

RANDOM_TRUNK = (
    "warning: a frozen judge of reconstructions has RANDOM weights (loss.perceptual.trunk: random): good for tests of "
    "the machinery, not for training or for numbers to report\n"
)


def test_a_training_says_its_own_lines_and_each_warning_in_one(tmp_path: Path):
    config = write_vqgan(tmp_path, loss__perceptual={"trunk": "random"}, loop__max_steps=1)
    ended = subprocess.run([sys.executable, "-m", "smalti", "train", config], capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stderr == RANDOM_TRUNK
    assert all(line.startswith(("step ", "1 rank(s) on ")) for line in ended.stdout.splitlines())
    assert "Creating torch.float32 ZeRO stage 1 optimizer" in (tmp_path / "run" / "deepspeed.log").read_text()


@pytest.mark.parametrize(("rank", "said"), [("0", ["warning: it has lines of its own\n"]), ("1", [])])
def test_a_warning_of_a_library_is_a_plain_line_of_rank_0(rank: str, said: list[str], monkeypatch: pytest.MonkeyPatch):
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with warnings.catch_warnings(record=True) as found:
        warnings.resetwarnings()
        command.parser("top", "Look.", "smalti top runs").parse_args([])
        for _ in range(3):
            warnings.warn("it has\nlines of its own", UserWarning, stacklevel=1)
            warnings.warn("it will go one day", FutureWarning, stacklevel=1)
    lines = [warnings.formatwarning(each.message, each.category, each.filename, each.lineno) for each in found]
    assert lines == said
