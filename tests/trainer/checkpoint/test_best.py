"""The best checkpoints by a validation figure stay beside the newest, through kills, on any number of ranks."""

import json
import math
from pathlib import Path

import processes
import pytest
from fixtures.runs import write_vqgan

from smalti.launch import export
from smalti.trainer import config as configs
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.best import KeepBestConfig, best_checkpoint
from smalti.trainer.checkpoint.storage import list_checkpoints
from smalti.trainer.checkpoint.writer import RetentionPolicy
from smalti.trainer.jobs.run import Run, train
from smalti.trainer.training.metrics import history


def checkpoint(run: Path, step: int, figures: dict[str, float] | None) -> None:
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"step": step, "files": {}, "val": figures}))


def removed(run: Path, policy: RetentionPolicy) -> list[int]:
    return [each.step for each in policy.old(list_checkpoints(run))]


def test_the_best_are_kept_beside_the_newest_and_those_without_figures_go(tmp_path: Path) -> None:
    for step, psnr in enumerate((20.0, 24.0, 24.0, math.nan, 21.0), start=1):
        checkpoint(tmp_path, step, {"psnr": psnr})
    checkpoint(tmp_path, 6, None)
    checkpoint(tmp_path, 7, {"other": 99.0})
    (tmp_path / "checkpoints" / "step-00000007" / "manifest.json").write_text("{")
    assert removed(tmp_path, RetentionPolicy(1)) == [6, 5, 4, 3, 2, 1]
    assert removed(tmp_path, RetentionPolicy(1, None, KeepBestConfig("psnr", "max"))) == [6, 5, 4, 3, 1]
    assert removed(tmp_path, RetentionPolicy(1, None, KeepBestConfig("psnr", "max", 2))) == [6, 5, 4, 1]
    assert removed(tmp_path, RetentionPolicy(1, 4, KeepBestConfig("psnr", "min"))) == [6, 5, 3, 2]


def test_a_metric_that_there_is_not_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"keep_best\.metric must be one of l1, psnr, got fid"):
        KeepBestConfig("fid").value({"psnr": 1.0, "l1": 2.0})


LOOP = {"loop__max_steps": 6, "loop__save_every": 4, "loop__eval_every": 1, "loop__preview_every": 100}
BEST = {"keep_last": 1, "keep_best": {"metric": "quantizer_loss", "mode": "min", "count": 2}}


def train_in_parts(recipe: str, stops: list[int]) -> list[list[int]]:
    """On a rank: the run brought to each of these steps by a start of its own; which checkpoints are there after it."""
    found = []
    for steps in stops:
        run = configs.read(Run, Path(recipe), [f"loop.max_steps={steps}"])
        train(run, fresh=False)
        found.append([each.step for each in list_checkpoints(Path(run.run_dir))])
    return found


def test_the_best_evaluations_are_saved_and_stay_however_often_a_run_is_started(tmp_path: Path) -> None:
    whole = write_vqgan(tmp_path, name="whole", **LOOP, **BEST)
    parts = write_vqgan(tmp_path, name="parts", **LOOP, **BEST)
    for recipe, stops in ((whole, [6]), (parts, [2, 3, 6])):
        kept = processes.run(train_in_parts, 2, str(recipe), stops)
        assert kept[0] == kept[1]
        values = {line["step"]: line["val/quantizer_loss"] for line in history(recipe.with_suffix(""))
                  if line["step"] and "val/quantizer_loss" in line}  # fmt: skip
        assert sorted(values) == [1, 2, 3, 4, 5, 6]
        best = sorted(values, key=lambda step, values=values: (values[step], step))[:2]
        assert kept[0][-1] == sorted({6, *best}, reverse=True)
        assert best_checkpoint(recipe.with_suffix("")).name == f"step-{best[0]:08d}"
    assert history(whole.with_suffix(""))[-1]["val/psnr"] == history(parts.with_suffix(""))[-1]["val/psnr"]
    run = whole.with_suffix("")
    assert export.main([str(run), str(tmp_path / "best"), "--checkpoint", "best"]) == 0
    chosen = model_files.read_metadata(best_checkpoint(run))["digest"]
    assert model_files.read_metadata(tmp_path / "best")["digest"] == chosen
    assert best_checkpoint(run) != list_checkpoints(run)[0].folder  # as the figures fell out; else nothing is tested


def test_the_best_of_a_run_that_keeps_none_is_refused_with_a_way_out(tmp_path: Path, capsys) -> None:
    checkpoint(tmp_path / "run", 1, {"psnr": 1.0})
    assert export.main([str(tmp_path / "run"), str(tmp_path / "out"), "--checkpoint", "best"]) == 2
    assert "keeps no best checkpoint; set keep_best" in capsys.readouterr().err
