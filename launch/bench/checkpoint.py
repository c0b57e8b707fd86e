"""How long a save holds training up, and how fast it reaches the disk, against ``torch.save`` of the same state.

``smalti bench checkpoint``: one rank at ZeRO 1 with AdamW, a network of ``--megabytes`` of weights.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...trainer import files
from ...trainer.checkpoint.checkpointer import Checkpointer
from ...trainer.checkpoint.writer import RetentionPolicy, SaveReport
from ...trainer.distributed import engine as engines
from ...trainer.distributed import ranks
from ...trainer.distributed.optimizer import OptimizerConfig
from ..command import count

WIDTH = 1024
TIMEOUT_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be measured."""
    parser.add_argument("--megabytes", type=count, default=128, help="of fp32 weights; a checkpoint is four times that")
    parser.add_argument("--saves", type=count, default=3, help="of which the median is printed")
    parser.add_argument("--folder", type=Path, help="on the disk that is measured; a temporary one when left out")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure both ways in turn, print a table, and return ``stall_ratio`` and ``write_gb_s``."""
    with ranks.process_group(TIMEOUT_S), tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        task = _Task(max(1, arguments.megabytes * (1 << 20) // (4 * WIDTH * WIDTH)))
        saver = Checkpointer(Path(place), RetentionPolicy(1), _Nowhere(), _Nothing(), {})
        plain, ours = [], []
        for number in range(arguments.saves + 1):
            plain.append(_saved_plainly(task, Path(place)))
            ours.append(_saved_by_us(task, saver, number))
        plain, ours = plain[1:], ours[1:]  # the first of each warms up
    stalled = statistics.median(report.stalled_s for report in ours)
    written = statistics.median(report.size / report.written_s / 1e9 for report in ours)
    blocked = statistics.median(plain)
    print(f"a checkpoint of {ours[0].size / 1e9:.2f} GB, median of {len(ours)}")
    print(f"  torch.save and fsync   stalls {blocked:7.3f} s")
    print(f"  ours, in the background stalls {stalled:6.3f} s, {written:.2f} GB/s to the disk with checksums")
    return {
        "stall_ratio": stalled / blocked,
        "stalled_s": stalled,
        "torch_save_s": blocked,
        "write_gb_s": written,
        "gigabytes": ours[0].size / 1e9,
    }


def _saved_plainly(task: "_Task", place: Path) -> float:
    """Seconds until the state that our checkpoint holds is on the disk, written while training waits."""
    state = [file.content for file in engines.save(task.engines["network"], place / "plain")]
    began = time.monotonic()
    torch.save(state, place / "plain.pt")
    files.sync(place / "plain.pt")
    return time.monotonic() - began


def _saved_by_us(task: "_Task", saver: Checkpointer, number: int) -> SaveReport:
    """A save, with steps of training while it is written."""
    saver.save(task, number)
    while (report := saver.completed()) is None:
        task.step()
    return report


class _Task:
    """A stack of linear layers in an engine, and nothing else to keep."""

    def __init__(self, layers: int) -> None:
        network = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
        optimizer = OptimizerConfig(learning_rate=1e-3)
        engine = engines.build(network.to(ranks.device()), engines.EngineConfig(zero_stage=1), optimizer, 1, 1)
        self.engines: Mapping[str, Any] = {"network": engine}
        self.step()

    def step(self) -> None:
        engine = self.engines["network"]
        engine.backward(engine(torch.ones(1, WIDTH, device=ranks.device())).square().mean())
        engine.step()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def resharded(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return states[0]

    def weights(self) -> dict[str, Tensor]:
        return {}

    def metadata(self) -> dict[str, Any]:
        return {}


class _Nowhere:
    """A position in no data."""

    def state_dict(self, step: int) -> dict[str, object]:
        return {"step": step}

    def validate_state(self, state: dict[str, object]) -> None: ...


class _Nothing:
    """Metrics that keep nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
