"""The measurement on a GPU runs whole on a CPU with tiny networks, and a part that fails stops nothing."""

import json
import subprocess
import warnings
from contextlib import nullcontext

import pytest
import torch
from fixtures.simulated_gpu import simulated_gpu

from smalti.launch.bench import __main__ as bench
from smalti.launch.bench import gpu, gpu_parts
from smalti.launch.bench.peers import gpt2
from smalti.models.transformer.block import Block
from smalti.trainer.distributed import ranks


@pytest.mark.slow
def test_every_part_gives_its_figures_with_tiny_networks(tmp_path, capfd):
    assert bench.main(["gpu", "--tiny", "--out", str(tmp_path)]) == 0
    printed = capfd.readouterr().out.splitlines()
    figures = json.loads(printed[-1])
    assert list(figures) == list(gpu.FIGURES) and all(value > 0 for value in figures.values())
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    table = (tmp_path / "table.md").read_text().splitlines()
    assert len(table) >= 14 and [line for line in printed if line.startswith("| ")] == [
        line for line in table if line.startswith("| ")
    ]


FAILING = """
import sys
from smalti.launch.bench import __main__ as bench
from smalti.launch.bench import gpu_parts

def broken(sizes, out):
    yield gpu_parts.Row("| first | 1 |", {"prior_tokens_per_second": 7.0})
    raise RuntimeError("out of memory")

gpu_parts.PARTS = {"prior": broken, "loader": lambda *_: iter([gpu_parts.Row("| rest | 1 |", {"loader_vs_step": 2.0})])}
sys.exit(bench.main(sys.argv[1:]))
"""


def test_a_part_that_fails_leaves_what_it_measured_and_stops_no_other(tmp_path, capfd, monkeypatch):
    (tmp_path / "failing.py").write_text(FAILING)
    popen = subprocess.Popen
    monkeypatch.setattr(gpu.subprocess, "Popen", lambda command, **named: popen(
        [command[0], str(tmp_path / "failing.py"), *command[3:]], **named
    ))  # fmt: skip
    assert bench.main(["gpu", "--tiny", "--out", str(tmp_path), "--parts", "prior", "loader"]) == 0
    said = capfd.readouterr()
    figures = json.loads(said.out.splitlines()[-1])
    assert figures == dict.fromkeys(gpu.FIGURES) | {"prior_tokens_per_second": 7.0, "loader_vs_step": 2.0}
    assert "prior ended with code 1: RuntimeError: out of memory" in said.err
    assert (tmp_path / "table.md").read_text().endswith("| first | 1 |\n| rest | 1 |\n")


@pytest.fixture(scope="module")
def group():
    with ranks.process_group(300.0):
        yield


@pytest.mark.parametrize(
    "name", ["prior", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vqgan", "sampling"))]
)
def test_every_part_runs_on_a_simulated_gpu(name, group, tmp_path, monkeypatch):
    sizes = gpu_parts.TINY._replace(compiler="eager", layers=1, grid=17, batch=2)
    monkeypatch.setattr(ranks, "process_group", nullcontext)
    with warnings.catch_warnings(), simulated_gpu():
        warnings.simplefilter("ignore")  # of random weights
        rows = list(gpu_parts.PARTS[name](sizes, tmp_path))
    assert {name for row in rows for name in row.figures} <= set(gpu.FIGURES)
    assert all(value > 0 for row in rows for value in row.figures.values())


def test_gpt2_in_plain_torch_is_that_of_transformers_arithmetic():
    """Against the prior's own gpt2 blocks, which the tests of imports compare with transformers'."""
    torch.manual_seed(0)
    plain = gpt2.GPT2(2, 2, 16, 11, 9)
    tokens = torch.randint(11, (3, 9))
    x = plain.tokens(tokens) + plain.places.weight
    for block in plain.blocks:
        ours = Block("gpt2", 16, 2, 0.0, 0.0, "gelu_tanh")
        ours.load_state_dict(
            {f"attn.{name}.{kind}": part for kind in ("weight", "bias")
             for name, part in zip(("query", "key", "value"), getattr(block.joined, kind).chunk(3), strict=True)}
            | {f"{ours_name}.{kind}": getattr(getattr(block, name), kind) for kind in ("weight", "bias")
               for ours_name, name in (("attn.proj", "projection"), ("ln1", "first"), ("ln2", "second"),
                                       ("mlp.0", "up"), ("mlp.2", "down"))}
        )  # fmt: skip
        x = ours(x)
    logits = plain.norm(x) @ plain.tokens.weight.t()
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(plain(tokens, labels=tokens).loss, expected)


def test_a_part_past_its_limit_is_stopped_and_named(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(gpu, "LIMITS_S", {"prior": 0.2, "loader": 0.2})
    assert bench.main(["gpu", "--tiny", "--out", str(tmp_path)]) == 0
    said = capfd.readouterr()
    assert "prior was stopped after 0.2 s" in said.err and "loader was stopped after 0.2 s" in said.err
    assert json.loads(said.out.splitlines()[-1]) == dict.fromkeys(gpu.FIGURES)


def test_all_parts_together_stay_under_eight_minutes():
    assert gpu.TOTAL_S < 480 and list(gpu.LIMITS_S)[-1] == "vqgan"
    assert gpu.TOTAL_S - sum(limit for name, limit in gpu.LIMITS_S.items() if name != "vqgan") >= 180


def test_it_is_refused_without_a_gpu(tmp_path, capfd):
    assert bench.main(["gpu", "--out", str(tmp_path)]) == 2
    assert "needs a GPU" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["prior_step", "zero"])
def test_what_measures_the_processor_is_refused_beside_a_gpu(name, capfd, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bench.main([name]) == 2
    assert f"bench {name} measures the processor's time" in capfd.readouterr().err
