"""The loop does each thing at its step, goes on at the given step, and leaves when it is asked to."""

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from smalti.trainer.distributed import signals
from smalti.trainer.training.loop import LoopConfig, fit

CONFIG = LoopConfig(max_steps=10, log_every=2, preview_every=5, eval_every=4, save_every=3)


class Recorder:
    """A task, its batches, metrics and checkpoints, which note what is asked of them in one diary."""

    def __init__(self) -> None:
        self.diary: list[tuple[str, int]] = []
        self.engines: Mapping[str, Any] = {}
        self.steps_done: list[int] = []
        self.leave_at: int | None = None
        self.ends_at: int | None = None
        self.best_at: int | None = None

    def step(self, micro_batches: list[Any], step: int) -> Mapping[str, Tensor]:
        assert micro_batches == [step]  # the stream's step is the task's
        self.steps_done.append(step)
        if step == self.leave_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": torch.tensor(float(step))}

    def evaluate(self, batches: Iterable[Any]) -> Mapping[str, float]:
        return {"seen": float(len(list(batches)))}

    def finished(self) -> bool:
        return self.ends_at in self.at("val")

    def preview(self, batch: Any) -> Mapping[str, Tensor]:
        return {"first": torch.tensor(batch)}

    def eval_batches(self, batch: int) -> Iterator[Any]:
        assert batch == 7
        return iter([0, 1, 2])

    def add(self, scalars: Mapping[str, Tensor]) -> None: ...

    def write(self, step: int, state: Mapping[str, float]) -> None:
        assert state == {}  # there are no engines
        self.diary.append(("write", step))

    def write_val(self, step: int, values: Mapping[str, float]) -> None:
        assert values == {"seen": 3.0}
        self.diary.append(("val", step))

    def arrays(self) -> Mapping[str, Tensor]:
        return {"seen": torch.tensor(3.0)}

    def write_arrays(self, step: int, described: Mapping[str, Tensor]) -> None:
        assert described == self.arrays() and self.diary[-1] == ("val", step)

    def write_images(self, step: int, images: Mapping[str, Tensor]) -> None:
        self.diary.append(("images", step))

    def note(self, saved: Any) -> None: ...

    def evaluated(self, step: int, figures: Mapping[str, float]) -> bool:
        assert figures == {"seen": 3.0} and self.diary[-1] == ("val", step)
        return step == self.best_at

    def save(self, task: Any, step: int) -> None:
        self.diary.append(("save", step))

    def completed(self) -> None:
        assert self.diary[-1][0] == "write"
        self.diary.append(("completed", self.diary[-1][1]))

    def wait(self) -> None:
        self.diary.append(("wait", len(self.steps_done)))

    def at(self, name: str) -> list[int]:
        return [step for what, step in self.diary if what == name]


def run(recorder: Any, **options: Any) -> bool:
    batches = ([step] for step in range(options.get("start", 0), 10**6))
    return fit(recorder, batches, recorder, 7, CONFIG, recorder, recorder, **options)


def test_everything_happens_at_its_step_and_at_the_last():
    recorder = Recorder()
    assert run(recorder)
    assert recorder.steps_done == list(range(10))
    assert recorder.at("write") == recorder.at("completed") == [2, 4, 6, 8, 10]
    assert recorder.at("val") == [0, 4, 8, 10]
    assert recorder.at("images") == [5, 10]
    assert recorder.at("save") == [3, 6, 9, 10]
    assert recorder.diary[-1] == ("wait", 10)  # nothing is left half written


def test_a_best_evaluation_is_saved_at_its_step():
    recorder = Recorder()
    recorder.best_at = 8
    assert run(recorder)
    assert recorder.at("save") == [3, 6, 8, 9, 10]


def test_a_resumed_run_does_the_rest_and_does_not_evaluate_its_beginning_again():
    recorder = Recorder()
    assert run(recorder, start=6)
    assert recorder.steps_done == [6, 7, 8, 9]
    assert recorder.at("val") == [8, 10]


def test_a_run_that_is_done_does_nothing():
    recorder = Recorder()
    assert run(recorder, start=10)
    assert recorder.diary == [("wait", 0)]


def test_a_job_that_is_asked_to_leave_saves_this_step_and_leaves():
    recorder = Recorder()
    recorder.leave_at = 4  # counted from 0: the fifth step
    assert not run(recorder)
    assert recorder.steps_done == [0, 1, 2, 3, 4]
    assert recorder.at("save") == [3, 5]
    assert recorder.diary[-1] == ("wait", 5)


def test_a_job_that_is_asked_to_leave_at_its_last_step_is_done():
    recorder = Recorder()
    recorder.leave_at = 9
    assert run(recorder)
    assert recorder.at("save") == [3, 6, 9, 10]


def test_a_job_that_was_asked_to_leave_while_it_started_does_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signals, "raised", lambda: signal.SIGUSR1)
    recorder = Recorder()
    assert not run(recorder, start=3)
    assert recorder.diary == [("wait", 0)] and not recorder.steps_done


def test_a_task_may_end_at_an_evaluation():
    recorder = Recorder()
    recorder.ends_at = 4
    assert run(recorder)
    assert recorder.steps_done == [0, 1, 2, 3]
    assert recorder.at("save") == [3, 4]


@pytest.mark.parametrize("name", ["max_steps", "log_every", "preview_every", "eval_every", "save_every"])
def test_intervals_are_at_least_one_step(name: str):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        LoopConfig(**{"max_steps": 10, name: 0})
