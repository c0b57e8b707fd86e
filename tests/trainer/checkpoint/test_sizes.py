"""A checkpoint takes the same bytes on any number of ranks: nothing in it is kept once by each."""

from pathlib import Path

import processes
import pytest
from fixtures.runs import write_prior

from smalti.trainer.checkpoint import storage


def saved_bytes(place: Path, world: int, zero: int) -> int:
    """Of the checkpoint of a run with averaged weights, and the best ones besides, on so many ranks."""
    place.mkdir()
    settings = {"model__layers": 2, "model__width": 192, "early_stopping": {"patience": 9}, "ema_decay": 0.9}
    run = write_prior(place, zero=zero, precision="bf16", loop__max_steps=1, loop__eval_every=1, **settings)
    ended = processes.command("smalti.launch.train", [run], world).wait()
    assert ended.codes == [0] * world, ended.log
    found = storage.latest_valid(place / "run")
    assert found is not None
    return sum(path.stat().st_size for path in found.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("zero", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_save_of_the_same_run_takes_the_same_bytes_on_any_number_of_ranks(tmp_path: Path, zero: int):
    alone, *others = (saved_bytes(tmp_path / str(world), world, zero) for world in (1, 2, 4))
    assert alone > 10_000_000
    for other in others:
        assert other == pytest.approx(alone, rel=0.05)
