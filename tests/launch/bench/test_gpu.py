"""The measurement on a GPU runs whole on a CPU with tiny networks, and a part that fails stops nothing."""

import json

import pytest
import torch

from smalti.launch.bench import __main__ as bench
from smalti.launch.bench import gpu


@pytest.mark.slow
def test_every_part_gives_its_figures_with_tiny_networks(tmp_path, capfd):
    assert bench.main(["gpu", "--tiny", "--out", str(tmp_path)]) == 0
    printed = capfd.readouterr().out.splitlines()
    figures = json.loads(printed[-1])
    expected = {
        "vqgan_vs_published", "vqgan_images_per_second", "prior_tokens_per_second", "seconds_1024_wavefront",
        "seconds_1024_windowed", "windowed_codes_per_second_32", "loader_vs_step",
    }  # fmt: skip
    assert set(figures) - {"prior_vs_transformers"} == expected and all(value > 0 for value in figures.values())
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert sum(line.startswith("| ") for line in printed) >= 10


def test_a_part_past_its_limit_is_stopped_and_named(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(gpu, "LIMITS_S", {"prior": 0.2, "loader": 0.2})
    assert bench.main(["gpu", "--tiny", "--out", str(tmp_path)]) == 0
    said = capfd.readouterr()
    assert "prior: was stopped after 0.2 s" in said.err and "loader: was stopped after 0.2 s" in said.err
    assert json.loads(said.out.splitlines()[-1]) == {}


def test_it_is_refused_without_a_gpu(tmp_path, capfd):
    assert bench.main(["gpu", "--out", str(tmp_path)]) == 2
    assert "needs a GPU" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["prior_step", "zero"])
def test_what_measures_the_processor_is_refused_beside_a_gpu(name, capfd, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bench.main([name]) == 2
    assert f"bench {name} measures the processor's time" in capfd.readouterr().err
