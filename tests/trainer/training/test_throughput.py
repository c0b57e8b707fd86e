"""The clock of training: pace, share of waiting and pauses, on a clock that the test turns."""

from collections.abc import Iterator
from typing import Any

import processes
import pytest

from smalti.trainer.distributed import ranks
from smalti.trainer.training.throughput import Throughput, Workload, peak_flops


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_and_the_share_of_waiting_are_those_of_the_steps_between_two_readings():
    clock = Clock()
    throughput = Throughput(Workload("tokens", 600), clock)

    def slow() -> Iterator[int]:
        for number in range(4):
            clock.now += 1.0  # to read and decode
            yield number

    for _ in throughput.timed(slow()):
        clock.now += 3.0  # to train
        throughput.step_done()
    figures = throughput.read(4)
    assert figures["seconds_per_step"] == 4.0 and figures["data_wait"] == 0.25
    assert figures["tokens_per_second"] == figures["tokens_per_second_per_gpu"] == 150.0

    clock.now += 2.0
    throughput.step_done()
    figures = throughput.read(1)
    assert (figures["seconds_per_step"], figures["data_wait"], figures["tokens_per_second"]) == (2.0, 0.0, 300.0)


def test_an_evaluation_between_two_readings_is_no_training():
    clock = Clock()
    throughput = Throughput(None, clock)
    for step in range(1, 5):
        clock.now += 3.0
        throughput.step_done()
        if step == 2:
            clock.now += 50.0  # an evaluation
            throughput.resume()
            clock.now += 7.0  # and a preview
            throughput.resume()
    assert throughput.read(4) == {"seconds_per_step": 3.0, "data_wait": 0.0}


def test_what_came_before_the_first_step_is_no_training_either():
    clock = Clock()
    throughput = Throughput(None, clock)
    clock.now += 90.0
    throughput.resume()
    clock.now += 2.0
    assert throughput.read(1)["seconds_per_step"] == 2.0


def test_mfu_is_the_share_of_the_peak_that_the_operations_of_the_steps_reach():
    clock = Clock()
    throughput = Throughput(Workload("images", 8, flops=6e12), clock, peak=10e12)
    clock.now += 4.0
    assert throughput.read(2)["mfu"] == pytest.approx(0.3)  # 6e12 operations in 2 s, where 20e12 were possible
    assert "mfu" not in Throughput(Workload("images", 8), clock, peak=10e12).read(1)
    assert "mfu" not in Throughput(Workload("images", 8, flops=6e12), clock).read(1)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some other GPU", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name_or_not_at_all(name: str, peak: float | None):
    assert peak_flops(name) == peak


def test_no_steps_have_no_pace():
    assert "seconds_per_step" not in Throughput(Workload("images", 8), Clock()).read(0)


def read_on_two_ranks() -> dict[str, Any]:
    clock = Clock()
    throughput = Throughput(Workload("images", 12), clock)

    def slow() -> Iterator[int]:
        clock.now += 1.0 + ranks.rank()
        yield 0

    next(throughput.timed(slow()))
    clock.now += 3.0 - ranks.rank()
    return throughput.read(1)


def test_every_rank_reads_what_the_slowest_has_waited_and_the_images_of_all():
    expected = {
        "seconds_per_step": 4.0, "data_wait": 0.5, "images_per_second": 3.0, "images_per_second_per_gpu": 1.5,
    }  # fmt: skip
    assert processes.run(read_on_two_ranks, 2) == [pytest.approx(expected)] * 2
