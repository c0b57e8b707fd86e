"""The measurement of samplers: its stretches are fair, and its figures are what its turns were."""

import argparse

import pytest

from smalti.launch import sample
from smalti.launch.bench import sampling
from smalti.launch.bench.parts import sampling_classes
from smalti.launch.bench.sampling import stretch
from smalti.launch.bench.timing import Contestant, Turn
from smalti.models.priors.decoding import strided_start


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_a_stretch_has_at_least_the_rows_share_of_new_windows(stride):
    starts = [strided_start(column, 64, 16, stride) for column in range(64)]
    begin = stretch(64, 16, stride, 16)
    found = len(set(starts[begin : begin + 16])) / 16
    assert len(set(starts)) / 64 <= found <= len(set(starts)) / 64 + 1 / 16
    assert begin == 0 or starts[begin] != starts[begin - 1]  # its first window is new in a whole row too


def test_a_whole_row_of_the_known_grid_has_49_new_windows():
    assert len({strided_start(column, 64, 16, 1) for column in range(64)}) == 49


def test_the_rate_is_codes_over_seconds_of_all_turns():
    contestant = Contestant("any", iter([]), 1)
    contestant.turns += [Turn(4, 1.0), Turn(2, 5.0)]
    assert contestant.rate == 1.0


def test_classes_in_one_process_are_measured_beside_a_process_a_class(capsys):
    runs = []

    def run(arguments):
        runs.append(arguments[-3:] if "--classes" not in arguments else arguments[-4:])
        assert sample.main(arguments) == 0

    figures = sampling_classes.measure(3, run)
    assert [asked[-1] for asked in runs] == ["0", "16", "1", "2"] and runs[1][:2] == ["--classes", "0-2"]
    rates = figures["images_per_s_one_process"], figures["images_per_s_process_a_class"]
    assert figures["classes_batched"] == pytest.approx(rates[0] / rates[1]) and min(rates) > 0
    assert "3 classes of 2 images" in capsys.readouterr().out


def test_every_sampler_is_measured_beside_the_published_way(capsys):
    parser = argparse.ArgumentParser()
    sampling.add_arguments(parser)
    small = ["--layers", "1", "--heads", "2", "--width", "16", "--window", "8", "--grid", "20", "--rounds", "2"]
    figures = sampling.run(parser.parse_args([*small, "--whole", "--classes", "0"]))
    names = ("serial", "wavefront", "stride4", "stride8", "windowed")
    for name in names:
        assert figures[f"speedup_{name}"] == pytest.approx(
            figures[f"codes_per_s_{name}"] / figures["codes_per_s_published"]
        )
    said = capsys.readouterr().out
    assert all(name in said for name in ("published", *names))
    assert min(figures.values()) > 0 and {"seconds_whole_wavefront", "seconds_whole_windowed"} <= figures.keys()
