"""How many ranks ``make demo`` starts."""

import re
from pathlib import Path

import pytest
import torch

MAKEFILE = Path(__file__).parents[3] / "Makefile"


@pytest.mark.parametrize(("gpus", "ranks"), [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_the_demo_has_a_rank_for_each_gpu_and_two_at_most(gpus, ranks, monkeypatch, capsys):
    asked = re.search(r"^RANKS = deepspeed --num_gpus \$\(shell python -c '(.*)'\)", MAKEFILE.read_text(), re.MULTILINE)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    exec(asked[1])
    assert int(capsys.readouterr().out) == ranks
