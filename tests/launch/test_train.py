"""The train command in real ranks: the same command goes on where a kill left the run, bit for bit."""

import signal
import time
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from made_runs import STEPS, lines, write_prior, write_vqgan

from smalti.trainer import checkpoints
from smalti.trainer import engine as engines

TRAIN = "smalti.launch.train"


def trained(config: Path, world: int) -> Path:
    """Run the command to its end; the run's folder."""
    ended = processes.command(TRAIN, [config], world).wait()
    assert ended.codes == [0] * world, ended.log
    return config.with_suffix("")


def final(run: Path) -> dict[str, Any]:
    """All that a run's last checkpoint holds, by file: tensors and numbers, flattened."""
    newest = checkpoints.newest(run)
    assert newest is not None and newest.step == STEPS
    found: dict[str, Any] = {}
    for file in sorted(newest.folder.rglob("*")):
        name = str(file.relative_to(newest.folder))
        if file.suffix == ".pt":
            flatten(name, engines.read(file), found)
        elif file.suffix == ".safetensors":
            found[name] = file.read_bytes()
    return found


def flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            flatten(f"{name}/{key}", part, into)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            flatten(f"{name}/{index}", part, into)
    elif isinstance(value, torch.Tensor | int | float | str):
        into[name] = value


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The names whose values are not the same bits."""
    assert set(first) == set(second)
    return [
        name
        for name, value in first.items()
        if not (torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name])
    ]


def killed_in(config: Path, world: int, moment: str, rank: int | None = None) -> None:
    """Start the command and kill it by SIGKILL as soon as a path of the run's folder appears."""
    job = processes.command(TRAIN, [config], world)
    deadline = time.monotonic() + processes.PATIENCE_S
    while not list(config.with_suffix("").glob(moment)):
        assert time.monotonic() < deadline and processes.alive(job.pids[0]), job.output()
        time.sleep(0.001)
    job.signal(signal.SIGKILL, rank)
    ended = job.wait()
    assert 0 not in ended.codes, ended.log
    assert not (config.with_suffix("") / f"checkpoints/step-{STEPS:08d}").exists(), "the kill came too late"


KILLS = ("checkpoints/.saving-step-00000002", "checkpoints/step-00000003")


@pytest.mark.parametrize("stage", [write_vqgan, write_prior])
@pytest.mark.parametrize(
    ("zero", "precision", "world"), [(0, "fp32", 1), (1, "fp32", 2), (2, "bf16", 2), (3, "bf16", 2)]
)
def test_a_killed_run_goes_on_bit_for_bit(stage: Any, zero: int, precision: str, world: int, tmp_path: Path):
    straight = trained(stage(tmp_path, zero, precision, name="straight"), world)
    config = stage(tmp_path, zero, precision, name="killed")
    for moment in KILLS:
        killed_in(config, world, moment)
    killed = trained(config, world)
    assert lines(killed) == lines(straight)
    assert not differing(final(killed), final(straight))
