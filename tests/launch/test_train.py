"""The train command in real ranks: the same command goes on where a kill left the run, bit for bit."""

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from fixtures.runs import STEPS, lines, write_pixelsnail, write_prior, write_vqgan
from PIL import Image

from smalti.launch.evaluate.__main__ import main as evaluate_main
from smalti.launch.export import main as export_main
from smalti.launch.sample import main as sample_main
from smalti.trainer import config as configs
from smalti.trainer.checkpoint import storage
from smalti.trainer.distributed import engine as engines
from smalti.trainer.distributed import ranks
from smalti.trainer.jobs.run import Run, train

TRAIN = "smalti.launch.train"


def trained(config: Path, world: int) -> Path:
    """Run the command to its end; the run's folder."""
    ended = processes.command(TRAIN, [config], world).wait()
    assert ended.codes == [0] * world, ended.log
    return config.with_suffix("")


def final(run: Path, steps: int = STEPS) -> dict[str, Any]:
    """All that a run's last checkpoint holds, by file: tensors and numbers, flattened."""
    newest = storage.latest_valid(run)
    assert newest is not None and newest.step == steps
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


KILLED = [(0, "fp32", 1), (1, "fp32", 2), (2, "bf16", 2), (3, "bf16", 2)]


@pytest.mark.parametrize("stage", [write_vqgan, write_prior])
@pytest.mark.parametrize(("zero", "precision", "world"), KILLED)
def test_a_killed_run_goes_on_bit_for_bit(stage: Any, zero: int, precision: str, world: int, tmp_path: Path):
    straight = tmp_path / "straight"
    undisturbed = processes.command(TRAIN, [stage(tmp_path, zero, precision, name=straight.name)], world)
    config = stage(tmp_path, zero, precision, name="killed")
    for moment in KILLS:
        killed_in(config, world, moment)
    killed = trained(config, world)
    ended = undisturbed.wait()
    assert ended.codes == [0] * world, ended.log
    assert lines(killed) == lines(straight)
    assert not differing(final(killed), final(straight))


def gone_on(recipes: list[str]) -> list[list[str]]:
    """Where runs whose last step is done again, in another folder, differ from themselves; on every rank."""
    found = []
    for recipe in recipes:
        run = configs.read(Run, Path(recipe))
        straight, resumed = Path(run.run_dir), Path(f"{run.run_dir}-resumed")
        assert train(run, fresh=False)
        if ranks.rank() == 0:
            shutil.copytree(straight, resumed)
            shutil.rmtree(resumed / f"checkpoints/step-{run.loop.max_steps:08d}")
        ranks.barrier()
        assert train(replace(run, run_dir=str(resumed)), fresh=False)
        same = lines(straight) == lines(resumed)
        ends = (final(folder, run.loop.max_steps) for folder in (straight, resumed))
        found.append(differing(*ends) + ([] if same else ["metrics.jsonl"]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_both_stages_go_on_bit_for_bit_at_every_zero_stage_and_precision(world: int, tmp_path: Path):
    """The rest of the table whose corners are killed above; one job trains them all."""
    table = [(0, "fp32"), *((zero, precision) for zero in (1, 2, 3) for precision in ("fp32", "bf16"))]
    rest = [(zero, precision) for zero, precision in table if (zero, precision, world) not in KILLED]
    quick = {"loop__max_steps": 3, "loop__save_every": 2, "loop__eval_every": 3, "loop__preview_every": 100}
    quick |= {"batch__micro_batch_size": 8 // world}  # the discriminator plays from the second step on
    recipes = [
        stage(tmp_path, zero, precision, name=f"{stage.__name__}-{zero}-{precision}", **quick)
        for stage in (write_vqgan, write_prior)
        for zero, precision in rest
    ]
    assert processes.run(gone_on, world, [str(recipe) for recipe in recipes]) == [[[]] * len(recipes)] * world


def test_a_run_that_reads_its_shards_in_order_goes_on_bit_for_bit(tmp_path: Path):
    quick = {"loop__max_steps": 3, "loop__save_every": 2, "loop__eval_every": 3, "loop__preview_every": 100}
    in_order = {f"{data}__{key}": value for data in ("train_data", "val_data")
                for key, value in (("remote", {"fetch": "stream"}), ("num_workers", 1))}  # fmt: skip
    recipe = write_vqgan(tmp_path, name="straight", batch__micro_batch_size=4, **in_order, **quick)
    for folder in ("images", "val-images"):
        for index in (tmp_path / folder).glob("*.i*"):
            index.unlink()
    assert processes.run(gone_on, 2, [str(recipe)]) == [[[]]] * 2


@pytest.mark.slow
def test_a_pixelsnail_goes_on_bit_for_bit_and_is_sampled_evaluated_and_exported(tmp_path: Path):
    quick = {"loop__max_steps": 3, "loop__save_every": 2, "loop__eval_every": 3, "loop__preview_every": 100}
    recipes = [write_pixelsnail(tmp_path, zero, name=f"zero{zero}", **quick) for zero in (1, 3)]
    assert processes.run(gone_on, 2, [str(recipe) for recipe in recipes]) == [[[]] * 2] * 2
    run, export, images = tmp_path / "zero3", tmp_path / "export", tmp_path / "images"
    assert export_main([str(run), str(export)]) == 0
    found = []
    for prior in (run, export):
        tokenizer = [] if prior == run else [str(tmp_path / "tokenizer")]
        assert sample_main([str(prior), *tokenizer, "--size", "24x32", "--out", str(images / prior.name)]) == 0
        assert evaluate_main([str(prior), str(tmp_path / "codes"), "--out", str(tmp_path / "figures.json")]) == 0
        (image,) = (images / prior.name).glob("*.png")
        figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
        found.append((np.asarray(Image.open(image)), figures["nll"]))
    assert np.array_equal(found[0][0], found[1][0]) and found[0][0].shape == (24, 32, 3)
    # Random codes of 16 kinds: after three steps little more is known of them than that.
    assert found[0][1] == found[1][1] == pytest.approx(np.log(16), abs=0.3)


@pytest.mark.parametrize("stage", [write_vqgan, write_prior])
def test_a_profiled_run_trains_the_same_and_names_the_parts_of_its_networks(stage: Any, tmp_path: Path):
    plain, profiled = (stage(tmp_path, name=name) for name in ("plain", "profiled"))
    trained(plain, 2)
    ended = processes.command(TRAIN, [profiled, "--profile", "1:3"], 2).wait()
    assert ended.codes == [0, 0], ended.log
    assert differing(final(plain.with_suffix("")), final(profiled.with_suffix(""))) == []
    table = (profiled.with_suffix("") / "profile" / "steps-1-3.txt").read_text()
    parts = {"encoder", "decoder", "discriminator"} if stage is write_vqgan else {"blocks", "head"}
    assert {*parts, "optimizer", "communication", "data"} <= {line.split()[0] for line in table.splitlines()}
    assert table in ended.outputs[0] and "ms a step" not in ended.outputs[1]
