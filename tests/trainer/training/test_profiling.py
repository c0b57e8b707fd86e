"""Where the time of training steps goes."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from smalti.trainer.training.profiling import COMMUNICATION, OTHER, ProfileWindow, part_times, profiled, table


def event(name: str, own: float, parent: Any = None, number: int = -1, device: float = 0.0) -> SimpleNamespace:
    """What the profiler says of an operation, in microseconds."""
    return SimpleNamespace(
        name=name, self_cpu_time_total=own, self_device_time_total=device, cpu_parent=parent, sequence_nr=number
    )


def test_a_part_has_what_its_forward_started_and_what_autograd_does_for_it():
    encoder = event("part: encoder", 100.0)
    inner = event("part: attention", 50.0, encoder)
    conv = event("aten::conv2d", 1000.0, encoder, number=7)
    softmax = event("aten::softmax", 500.0, inner, number=8)
    node = event("autograd::engine::evaluate_function: ConvolutionBackward0", 10.0, None, number=7)
    below = event("aten::convolution_backward", 3000.0, node)
    lost = event("autograd::engine::evaluate_function: MulBackward0", 70.0, None, number=99)
    reduced = event("gloo:all_reduce", 900.0, encoder)
    adam = event("Optimizer.step#Adam.step", 40.0)
    inside = event("aten::lerp_", 60.0, adam)

    events = [encoder, inner, conv, softmax, node, below, lost, reduced, adam, inside]
    times = {each.part: each for each in part_times(events, 2)}

    assert (times["encoder"].forward, times["encoder"].backward) == (0.55, 1.505)
    assert (times["attention"].forward, times["attention"].backward) == (0.275, 0.0)
    assert times[COMMUNICATION].host == 0.45 and times["optimizer"].host == 0.05
    assert times[OTHER].backward == 0.035
    assert sum(each.host for each in times.values()) == pytest.approx(sum(e.self_cpu_time_total for e in events) / 2e3)
    assert part_times(events, 2)[0].part == "encoder"


def test_on_a_gpu_the_shares_are_those_of_its_kernels():
    part = event("part: decoder", 10.0)
    events = [part, event("aten::mm", 10.0, part, device=3000.0), event("aten::add", 9000.0, device=1000.0)]
    rows = table(part_times(events, 1)).splitlines()
    assert rows[0].split() == ["ms", "a", "step", "forward", "backward", "GPU", "share"]
    assert rows[1].split() == ["decoder", "0.0", "0.0", "3.0", "75%"]
    assert rows[2].split() == ["other", "9.0", "0.0", "1.0", "25%"]


def steps(run: Path, window: ProfileWindow | None, count: int) -> list[int]:
    """Train two parts on batches of which each says its number."""
    net, blocks = nn.Linear(8, 8), nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    optimizer = torch.optim.SGD([*net.parameters(), *blocks.parameters()], lr=0.1)
    seen = []
    numbers: Iterator[int] = iter(range(5, 5 + count))
    for number in profiled(numbers, 5, window, {"net": net, "blocks": blocks}, run):
        seen.append(number)
        blocks[1](blocks[0](net(torch.ones(4, 8)))).sum().backward()
        optimizer.step()
    return seen


def test_the_steps_of_the_window_leave_a_trace_and_a_table_with_every_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert steps(tmp_path, ProfileWindow(6, 8), 5) == [5, 6, 7, 8, 9]
    said = (tmp_path / "profile" / "steps-6-8.txt").read_text()
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines()[1:]}
    assert {"net", "blocks", "optimizer", "data", "other"} <= rows.keys()
    assert float(rows["blocks"][1]) > 0  # backward
    assert said in capsys.readouterr().err
    with gzip.open(tmp_path / "profile" / "steps-6-8.json.gz") as file:
        names = [each.get("name") for each in json.load(file)["traceEvents"]]
    assert names.count("part: net") == 2 and names.count("part: blocks") == 4


def test_a_window_that_is_cut_short_gives_what_there_was(tmp_path: Path):
    steps(tmp_path, ProfileWindow(6, 100), 3)
    assert (tmp_path / "profile" / "steps-6-100.txt").is_file()


@pytest.mark.parametrize("window", [None, ProfileWindow(100, 101)])
def test_without_a_window_that_is_reached_nothing_is_written(tmp_path: Path, window: ProfileWindow | None):
    assert steps(tmp_path, window, 3) == [5, 6, 7]
    assert list(tmp_path.iterdir()) == []
