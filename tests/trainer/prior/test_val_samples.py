"""Images sampled in validation: the same ones on any number of ranks, beside those that the prior learns from."""

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from fixtures.feature_networks import frechet, write_network
from fixtures.priors import CODES, condition_members, grids, npy, prior_run, write_code_shards, write_tokenizer

from smalti.models.conditions import CodeMapConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.models.sampling import GridRequest, SamplingConfig, sample
from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.data.stream import Stream
from smalti.trainer.distributed.engine import EngineConfig, NetworkConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig
from smalti.trainer.frozen_networks.feature_networks import FeatureNetworkConfig
from smalti.trainer.jobs.run import built, resolve_tokenizers
from smalti.trainer.keyed_random import mix, text_key
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.prior.val_samples import ValSamples, ValSamplesConfig
from smalti.trainer.training.loop import BatchConfig, LoopConfig

WINDOW, SAMPLES = (4, 4), 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("val_samples")
    metadata = write_tokenizer(folder / "tokenizer")
    codes = enumerate(grids(9, (6, 4)))
    members = [condition_members(number, (6, 4)) | {"codes.npy": npy(grid)} for number, grid in codes]
    write_code_shards(folder / "codes", metadata, members)
    write_network(folder / "net.pt")
    return folder


def run_of(folder: Path, zero: int = 1, together: int = 1) -> PriorRun:
    samples = ValSamplesConfig(
        FeatureNetworkConfig(str(folder / "net.pt")), SAMPLES, batch=4, sampling=SamplingConfig(top_k=8), seed=3
    )
    return prior_run(
        folder,
        loop=LoopConfig(max_steps=1),
        batch=BatchConfig(global_batch_size=4, micro_batch_size=2),
        model=GPTConfig(layers=1, heads=2, width=16, window=WINDOW),
        condition=CodeMapConfig(vocab_size=CODES),
        training=NetworkConfig(optimizer=OptimizerConfig(learning_rate=1e-3), engine=EngineConfig(zero_stage=zero)),
        sequence_parallel_size=together,
        previews=None,
        val_samples=samples,
    )


def evaluated(folder: str, layouts: list[tuple[int, int]]) -> dict[str, Any]:
    """On a rank: the figures of fresh priors, by batches of two sizes, and the weights that they are of."""
    found = []
    for zero, together in layouts:
        run = run_of(Path(folder), zero, together)
        torch.manual_seed(run.seed)
        task, _, val = built(run, resolve_tokenizers(run))
        found += [dict(task.evaluate(val.eval_batches(batch))) for batch in (5, 2)]
    return {"figures": found, "weights": task.weights()}


def test_the_distance_is_that_of_plainly_sampled_windows_on_any_number_of_ranks(place: Path) -> None:
    (alone,) = processes.run(evaluated, 1, place, [(1, 1)])
    both = processes.run(evaluated, 2, place, [(3, 1), (1, 2)])
    expected = plainly_compared(place, alone["weights"])
    figures = [each for rank in (alone, *both) for each in rank["figures"]]
    assert len(figures) == 2 + 2 * 4
    for each in figures:
        assert each["fid_to_rebuilt"] == pytest.approx(expected, rel=1e-4)
        assert each["fid_to_rebuilt"] == pytest.approx(figures[0]["fid_to_rebuilt"], rel=1e-9)
        assert each["sfid"] > 0 and each["nll"] > 0


def plainly_compared(place: Path, weights: dict[str, torch.Tensor]) -> float:
    """The windows with the smallest numbers, all at once, and scipy's distance."""
    run = run_of(place)
    prior = run.model.build(CODES, run.condition)
    prior.load_state_dict(weights)
    stream = Stream(run.val_data, ("codes", "segmentation_codes"), global_batch=1, micro_batch=1)
    windows: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for sample_of in stream.eval_batches(2):  # the two windows of a grid of 6 x 4
        for number, key in enumerate(sample_of["key"]):
            name = mix(text_key(str(key)), number) >> 1
            windows[name] = sample_of["codes"][number].long(), sample_of["segmentation_codes"][number]
    assert len(windows) == 18
    numbers = sorted(windows)[:SAMPLES]
    codes, maps = (torch.stack([windows[name][part] for name in numbers]) for part in (0, 1))
    config = SamplingConfig(top_k=8, lanes=SAMPLES * 4)
    made = sample(GridRequest(prior.eval(), {"segmentation_codes": maps}, WINDOW, numbers, 3, config)).codes
    tokenizer, network = load_tokenizer(place / "tokenizer"), torch.jit.load(str(place / "net.pt"))
    levels = [((tokenizer.decode(each) + 1) * 127.5).round().byte() for each in (codes, made)]
    with torch.no_grad():
        one, other = (network(each)[0].double().numpy() for each in levels)
    return frechet(one, other)


def test_a_network_that_is_not_there_ends_the_run_before_it_begins(place: Path) -> None:
    tokenizer = load_tokenizer(place / "tokenizer")
    with pytest.raises(ValueError, match="there is no TorchScript file"):
        ValSamples(ValSamplesConfig(FeatureNetworkConfig(str(place / "away.pt"))), tokenizer, 16)


def test_one_sample_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="samples must be at least 2"):
        ValSamplesConfig(samples=1)
