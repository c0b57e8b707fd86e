"""A checkpoint takes the same bytes on any number of ranks: nothing in it is kept once by each."""

from pathlib import Path

import processes
import pytest
from fixtures.runs import write_prior

from smalti.trainer import config as configs
from smalti.trainer.checkpoint import storage
from smalti.trainer.jobs.run import Run, train

CASES = [*((zero, "fp32") for zero in (0, 1, 2, 3)), (1, "bf16"), (3, "bf16")]


def saved_bytes(recipes: list[str]) -> list[int]:
    """On a rank: of the checkpoint that each run leaves."""
    found = []
    for recipe in recipes:
        run = configs.read(Run, Path(recipe))
        assert train(run, fresh=False)
        (saved,) = storage.list_checkpoints(Path(run.run_dir))
        found.append(sum(path.stat().st_size for path in saved.folder.rglob("*") if path.is_file()))
    return found


def test_a_save_of_the_same_run_takes_the_same_bytes_on_any_number_of_ranks(tmp_path: Path):
    """Of runs with averaged weights, and the best ones besides, under every ZeRO stage and precision."""
    settings = {"model__layers": 2, "model__width": 192, "early_stopping": {"patience": 9}, "previews": None}
    settings |= {"ema_decay": 0.9, "loop__max_steps": 1, "loop__eval_every": 1}
    taken = []
    for world in (1, 2, 4):
        recipes = [write_prior(tmp_path, *case, name=f"{world}-{case}", **settings) for case in CASES]
        taken.append(processes.run(saved_bytes, world, [str(recipe) for recipe in recipes])[0])
    for case, alone, *others in zip(CASES, *taken, strict=True):
        assert alone > 10_000_000
        assert others == [pytest.approx(alone, rel=0.05)] * 2, case
