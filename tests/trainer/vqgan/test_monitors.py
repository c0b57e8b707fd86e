"""What watches a run of stage 1: when it speaks, what it does, and that all ranks do the same."""

from typing import Any

import processes
import pytest
import torch
from fixtures.games import TOTAL, game, micro_batches

from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.vqgan.monitors import DivergedError, Sentinels, SentinelsConfig
from smalti.trainer.vqgan.task import VQGANTask

ALL_USED = torch.tensor(1.0)
POISONED = "s1-r1-m1-0"  # the sample that is spoilt on rank 1


def watched(accuracy: float, clamped: float = 0.0) -> dict[str, torch.Tensor]:
    return {"discriminator_accuracy": torch.tensor(accuracy), "clamped": torch.tensor(clamped)}


def test_an_alert_is_said_once_when_it_begins_and_once_when_it_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    sentinels = Sentinels(SentinelsConfig(every=2))
    for step, accuracy in enumerate([1.0, 1.0, 1.0, 1.0, 0.5, 0.5]):
        sentinels.take(watched(accuracy))
        sentinels.look(step, ALL_USED)
        assert set(sentinels.scalars()) == ({"alert_discriminator_won"} if 1 <= step < 5 else set())
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("ALERT at step 2: the discriminator is right in 100.0% of its logits")
    assert said[1:] == ["step 6: discriminator_won is over"]


def test_a_look_is_at_the_mean_since_the_last_one() -> None:
    sentinels = Sentinels(SentinelsConfig(every=4, accuracy=0.75, thaw=0.5))
    for step, accuracy in enumerate([1.0, 1.0, 0.7, 0.4]):
        sentinels.take(watched(accuracy))
        sentinels.look(step, ALL_USED)
    assert sentinels.alerts == {"discriminator_won": "the discriminator is right in 77.5% of its logits"}


def test_a_discriminator_that_has_won_stays_frozen_until_it_is_wrong_often_enough() -> None:
    sentinels = Sentinels(SentinelsConfig(every=1, accuracy=0.95, thaw=0.8, won="freeze"))
    frozen = []
    for step, accuracy in enumerate([0.9, 0.96, 0.9, 0.81, 0.79, 0.9]):
        sentinels.take(watched(accuracy))
        frozen.append(sentinels.look(step, ALL_USED).freeze)
    assert frozen == [False, True, True, True, False, False]


def test_an_alert_alone_freezes_nothing() -> None:
    sentinels = Sentinels(SentinelsConfig(every=1))
    sentinels.take(watched(1.0, clamped=1.0))
    assert not sentinels.look(0, ALL_USED).freeze
    assert set(sentinels.alerts) == {"discriminator_won", "weight_at_clamp"}


def test_a_codebook_is_judged_only_after_a_whole_window() -> None:
    sentinels = Sentinels(SentinelsConfig(every=1, window=3, usage=0.5, collapsed="revive"))
    revived = []
    for step in range(4):
        sentinels.take({})
        revived.append(sentinels.look(step, torch.tensor(0.1)).revive)
    assert revived == [False, False, True, True]


def test_skipped_steps_in_a_row_end_the_run_and_a_good_one_forgives(capsys: pytest.CaptureFixture[str]) -> None:
    sentinels = Sentinels(SentinelsConfig(skips=2))
    sentinels.skip(7, ["generator"], ["a.jpg"])
    sentinels.take({})
    sentinels.skip(9, ["generator"], [])
    with pytest.raises(DivergedError, match=r"2 steps in a row, up to step 10, .* clip for the generator"):
        sentinels.skip(10, ["generator"], ["b.jpg"])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "step 7 skipped: numbers that are not finite in the generator; samples: a.jpg"
    assert said[1].endswith("samples: none stands out")


def test_a_restart_between_two_looks_changes_no_verdict() -> None:
    config = SentinelsConfig(every=3, window=2, accuracy=0.9, thaw=0.5, won="freeze", usage=0.5)
    one = Sentinels(config)
    for step in range(8):
        one.take(watched((1.0, 0.95, 0.9, 0.2)[step % 4]))
        if step % 2:
            other = Sentinels(config)
            other.load_state(one.state())
            one = other
        verdict = one.look(step, torch.tensor(0.3))
    straight = Sentinels(config)
    for step in range(8):
        straight.take(watched((1.0, 0.95, 0.9, 0.2)[step % 4]))
        expected = straight.look(step, torch.tensor(0.3))
    assert (verdict, one.alerts) == (expected, straight.alerts)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"accuracy": 1.5}, {"thaw": 0.999}])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SentinelsConfig(**wrong)


def task_of(**settings: Any) -> VQGANTask:
    run = game(**settings)
    torch.manual_seed(run.seed)
    return VQGANTask(run, TOTAL // run.batch.micro // ranks.world())


def spoil(task: VQGANTask) -> None:
    """From now on what is not a number stands in the poisoned sample."""
    read = task._target

    def target(batch: Any) -> torch.Tensor:
        values = read(batch)
        values[torch.tensor([key == POISONED for key in batch["key"]])] = torch.nan
        return values

    task._target = target  # type: ignore[method-assign]


def steps(task: VQGANTask, numbers: list[int]) -> list[dict[str, torch.Tensor]]:
    micro = task.run.batch.micro
    return [dict(task.step(micro_batches(n, micro, ranks.rank(), ranks.world()), n)) for n in numbers]


def weights(task: VQGANTask) -> dict[str, torch.Tensor]:
    states = {name: sharded_parameters.whole_state(engine.module) for name, engine in task.engines.items()}
    return {f"{network} {key}": value for network, state in states.items() for key, value in state.items()}


def with_and_without_a_spoilt_step() -> dict[str, Any]:
    """On a rank: at every stage, what three steps leave of which the second is spoilt, and what two good ones leave."""
    results: dict[str, Any] = {}
    for zero in (0, 1, 2, 3):
        zeros = {"generator_zero": zero, "discriminator_zero": zero, "quantizer": {"kind": "ema"}}
        good, spoilt = task_of(**zeros), task_of(**zeros)
        spoil(spoilt)
        steps(good, [0, 2])
        scalars = steps(spoilt, [0, 1, 2])
        results[str(zero)] = {"good": weights(good), "spoilt": weights(spoilt), "second": scalars[1]}
    patient = task_of(sentinels={"skips": 1})
    spoil(patient)
    try:
        steps(patient, [0, 1])
    except DivergedError as error:
        results["stopped"] = str(error)
    return results


def test_a_spoilt_batch_is_skipped_by_all_ranks_and_leaves_nothing_behind() -> None:
    job = processes.start(with_and_without_a_spoilt_step, 2)
    ended = job.wait()
    assert ended.codes == [0, 0], ended.log
    for rank in range(2):
        result = torch.load(job.folder / f"result-{rank}.pt", weights_only=True)
        assert result.pop("stopped").startswith("1 steps in a row, up to step 1, ")
        for stage in result.values():
            assert stage["second"] == {"skipped": 1.0}
            assert all(torch.equal(value, stage["spoilt"][key]) for key, value in stage["good"].items())
            assert all(value.isfinite().all() for value in stage["spoilt"].values())
    assert ended.outputs[0].count(f"in the generator and discriminator; samples: {POISONED}\n") == 5
    assert "skipped" not in ended.outputs[1]


def frozen_and_revived() -> dict[str, Any]:
    """On a rank: a discriminator frozen after its first step; and a codebook whose idle codes are moved."""
    frozen = task_of(sentinels={"every": 1, "accuracy": 0.0, "thaw": 0.0, "won": "freeze"})
    steps(frozen, [0])
    before = weights(frozen)
    steps(frozen, [1])
    again = task_of(sentinels={"every": 1, "accuracy": 0.0, "thaw": 0.0, "won": "freeze"})
    again.load_state(frozen.state())
    alive = {"every": 2, "window": 1, "usage": 1.0, "collapsed": "revive"}
    books = []
    for sentinels in ({}, alive):
        revived = task_of(quantizer={"codes": 600}, sentinels=sentinels)
        steps(revived, [0, 1])
        books.append(sharded_parameters.whole_state(revived.model)["quantize.embedding.weight"])
    return {"before": before, "after": weights(frozen), "again": again.adversary.frozen, "books": books}


def test_asked_for_it_freezes_the_discriminator_and_revives_the_codebook_on_all_ranks() -> None:
    one, other = processes.run(frozen_and_revived, 2)
    moved = {name for name, value in one["after"].items() if not torch.equal(value, one["before"][name])}
    assert moved and not any(name.startswith("discriminator") for name in moved)
    assert one["again"] and other["again"]
    assert torch.equal(one["books"][1], other["books"][1])
    assert (one["books"][0] != one["books"][1]).any(1).sum() > 50  # idle codes went elsewhere
