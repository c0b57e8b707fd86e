"""What watches a run of stage 1: when it speaks, what it does, and that all ranks do the same."""

from typing import Any

import processes
import pytest
import torch
from fixtures.games import TOTAL, game, micro_batches

from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.vqgan.monitors import DivergedError, MonitorsConfig, TrainingMonitors
from smalti.trainer.vqgan.task import VQGANTask

ALL_USED = torch.tensor(1.0)
POISONED = "s1-r1-m1-0"  # the sample that is spoilt on rank 1


def watched(accuracy: float, clamped: float = 0.0) -> dict[str, torch.Tensor]:
    return {"discriminator_accuracy": torch.tensor(accuracy), "clamped": torch.tensor(clamped)}


def test_an_alert_is_said_once_when_it_begins_and_once_when_it_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    sentinels = TrainingMonitors(MonitorsConfig(check_every=2))
    for step, accuracy in enumerate([1.0, 1.0, 1.0, 1.0, 0.5, 0.5]):
        sentinels.record(watched(accuracy))
        sentinels.check(step, ALL_USED)
        assert set(sentinels.scalars()) == ({"alert_discriminator_won"} if 1 <= step < 5 else set())
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("ALERT at step 2: the discriminator is right in 100.0% of its logits")
    assert said[1:] == ["step 6: discriminator_won is over"]


def test_a_look_is_at_the_mean_since_the_last_one() -> None:
    sentinels = TrainingMonitors(MonitorsConfig(check_every=4, freeze_above_accuracy=0.75, unfreeze_below_accuracy=0.5))
    for step, accuracy in enumerate([1.0, 1.0, 0.7, 0.4]):
        sentinels.record(watched(accuracy))
        sentinels.check(step, ALL_USED)
    assert sentinels.alerts == {"discriminator_won": "the discriminator is right in 77.5% of its logits"}


def test_a_discriminator_that_has_won_stays_frozen_until_it_is_wrong_often_enough() -> None:
    sentinels = TrainingMonitors(
        MonitorsConfig(
            check_every=1, freeze_above_accuracy=0.95, unfreeze_below_accuracy=0.8, on_discriminator_won="freeze"
        )
    )
    frozen = []
    for step, accuracy in enumerate([0.9, 0.96, 0.9, 0.81, 0.79, 0.9]):
        sentinels.record(watched(accuracy))
        frozen.append(sentinels.check(step, ALL_USED).freeze)
    assert frozen == [False, True, True, True, False, False]


def test_an_alert_alone_freezes_nothing() -> None:
    sentinels = TrainingMonitors(MonitorsConfig(check_every=1))
    sentinels.record(watched(1.0, clamped=1.0))
    assert not sentinels.check(0, ALL_USED).freeze
    assert set(sentinels.alerts) == {"discriminator_won", "weight_at_clamp"}


def test_a_codebook_is_judged_only_after_a_whole_window() -> None:
    sentinels = TrainingMonitors(
        MonitorsConfig(check_every=1, usage_window=3, min_codebook_usage=0.5, on_codebook_collapse="replace")
    )
    revived = []
    for step in range(4):
        sentinels.record({})
        revived.append(sentinels.check(step, torch.tensor(0.1)).replace_dead_codes)
    assert revived == [False, False, True, True]


def test_skipped_steps_in_a_row_end_the_run_and_a_good_one_forgives(capsys: pytest.CaptureFixture[str]) -> None:
    sentinels = TrainingMonitors(MonitorsConfig(max_skipped_steps=2))
    sentinels.record_skip(7, ["generator"], ["a.jpg"])
    sentinels.record({})
    sentinels.record_skip(9, ["generator"], [])
    with pytest.raises(DivergedError, match=r"2 steps in a row, up to step 10, .* grad_clip for the generator"):
        sentinels.record_skip(10, ["generator"], ["b.jpg"])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "step 7 skipped: numbers that are not finite in the generator; samples: a.jpg"
    assert said[1].endswith("samples: none stands out")


def test_a_restart_between_two_looks_changes_no_verdict() -> None:
    config = MonitorsConfig(
        check_every=3,
        usage_window=2,
        freeze_above_accuracy=0.9,
        unfreeze_below_accuracy=0.5,
        on_discriminator_won="freeze",
        min_codebook_usage=0.5,
    )
    one = TrainingMonitors(config)
    for step in range(8):
        one.record(watched((1.0, 0.95, 0.9, 0.2)[step % 4]))
        if step % 2:
            other = TrainingMonitors(config)
            other.load_state_dict(one.state_dict())
            one = other
        verdict = one.check(step, torch.tensor(0.3))
    straight = TrainingMonitors(config)
    for step in range(8):
        straight.record(watched((1.0, 0.95, 0.9, 0.2)[step % 4]))
        expected = straight.check(step, torch.tensor(0.3))
    assert (verdict, one.alerts) == (expected, straight.alerts)


@pytest.mark.parametrize(
    "wrong", [{"check_every": 0}, {"freeze_above_accuracy": 1.5}, {"unfreeze_below_accuracy": 0.999}]
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MonitorsConfig(**wrong)


def task_of(**settings: Any) -> VQGANTask:
    run = game(**settings)
    torch.manual_seed(run.seed)
    return VQGANTask(run, TOTAL // run.batch.micro_batch_size // ranks.world())


def spoil(task: VQGANTask) -> None:
    """From now on what is not a number stands in the poisoned sample."""
    read = task._target

    def target(batch: Any) -> torch.Tensor:
        values = read(batch)
        values[torch.tensor([key == POISONED for key in batch["key"]])] = torch.nan
        return values

    task._target = target  # type: ignore[method-assign]


def steps(task: VQGANTask, numbers: list[int]) -> list[dict[str, torch.Tensor]]:
    micro = task.run.batch.micro_batch_size
    return [dict(task.step(micro_batches(n, micro, ranks.rank(), ranks.world()), n)) for n in numbers]


def weights(task: VQGANTask) -> dict[str, torch.Tensor]:
    states = {name: sharded_parameters.full_state_dict(engine.module) for name, engine in task.engines.items()}
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
    patient = task_of(monitors={"max_skipped_steps": 1})
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
    frozen = task_of(
        monitors={
            "check_every": 1,
            "freeze_above_accuracy": 0.0,
            "unfreeze_below_accuracy": 0.0,
            "on_discriminator_won": "freeze",
        }
    )
    steps(frozen, [0])
    before = weights(frozen)
    steps(frozen, [1])
    again = task_of(
        monitors={
            "check_every": 1,
            "freeze_above_accuracy": 0.0,
            "unfreeze_below_accuracy": 0.0,
            "on_discriminator_won": "freeze",
        }
    )
    again.load_state_dict(frozen.state_dict())
    alive = {"check_every": 2, "usage_window": 1, "min_codebook_usage": 1.0, "on_codebook_collapse": "replace"}
    books = []
    for sentinels in ({}, alive):
        revived = task_of(quantizer={"codebook_size": 600}, monitors=sentinels)
        steps(revived, [0, 1])
        books.append(sharded_parameters.full_state_dict(revived.model)["quantize.embedding.weight"])
    return {"before": before, "after": weights(frozen), "again": again.discriminator_trainer.frozen, "books": books}


def test_asked_for_it_freezes_the_discriminator_and_revives_the_codebook_on_all_ranks() -> None:
    one, other = processes.run(frozen_and_revived, 2)
    moved = {name for name, value in one["after"].items() if not torch.equal(value, one["before"][name])}
    assert moved and not any(name.startswith("discriminator") for name in moved)
    assert one["again"] and other["again"]
    assert torch.equal(one["books"][1], other["books"][1])
    assert (one["books"][0] != one["books"][1]).any(1).sum() > 50  # idle codes went elsewhere
