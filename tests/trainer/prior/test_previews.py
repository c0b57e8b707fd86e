"""Previews of a prior: what they show, and what they may cost."""

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from fixtures.priors import grids, npy, prior_run, write_code_shards, write_tokenizer

from smalti.models.conditions import UnconditionalConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.models.sampling import SamplingConfig
from smalti.trainer.distributed import ranks
from smalti.trainer.distributed.engine import NetworkConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig
from smalti.trainer.jobs.run import built, resolve_tokenizers
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.prior.previews import Budget, PreviewConfig, sampled_preview
from smalti.trainer.training.early_stopping import EarlyStoppingConfig
from smalti.trainer.training.loop import BatchConfig, LoopConfig

WINDOW = (4, 4)


class Clock:
    """Stands still until somebody sets how much time has passed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_previews_never_take_more_than_their_share():
    budget, previews = Budget(0.02, Clock()), 0
    for step in range(1, 20_001):
        budget.train(0.1)
        if step % 50 == 0 and budget.affordable():
            sounded = budget.cost > 0
            budget.cost = 3.0
            budget.spent += 3.0 if sounded else 0.5  # the first try ends when it sees the price
            previews += sounded
        assert budget.spent <= 0.02 * budget.trained
    assert previews == 13  # of 40 seconds in 2000, three at a time


def test_the_first_try_waits_until_ten_steps_are_a_small_share():
    budget = Budget(0.02, Clock())
    tried = []
    for step in range(1, 1001):
        budget.train(0.3)
        if budget.affordable():
            tried.append(step)
    assert tried[0] in (500, 501)


def tiny() -> Any:
    torch.manual_seed(0)
    config = GPTConfig(layers=1, heads=2, width=16, window=WINDOW)
    return config.build(8, UnconditionalConfig()).eval().requires_grad_(False)


class Gray(torch.nn.Module):
    """Decodes every code as one pixel of its own gray."""

    def decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes[:, None] / 4 - 1).expand(-1, 3, -1, -1)


def test_a_preview_shows_the_originals_their_completions_and_two_kinds_of_draws():
    codes = torch.randint(8, (3, *WINDOW), generator=torch.Generator().manual_seed(0))
    asked: list[float] = []
    config = PreviewConfig(images=3, sampling=SamplingConfig(temperature=2.0))
    shown = sampled_preview(tiny(), Gray, {}, codes, config, lambda share: not asked.append(share))["samples"]
    assert shown.shape == (16, 12, 3) and shown.dtype == torch.uint8
    rows = shown[..., 0].reshape(4, 4, 3, 4)
    assert torch.equal(rows[0], rows[0].new_tensor(((codes / 4) * 127.5).round().tolist()).permute(1, 0, 2))
    assert torch.equal(rows[1, :2], rows[0, :2]) and not torch.equal(rows[1, 2:], rows[0, 2:])
    assert not torch.equal(rows[2], rows[3])
    assert (rows[3] == rows[3][:, :1]).all()  # greedy draws of one prior without a condition are alike
    assert asked == [2 / 40]  # 8 + 16 + 16 codes


def test_a_preview_that_is_too_dear_ends_after_two_codes():
    codes = torch.zeros(1, *WINDOW, dtype=torch.int64)
    assert sampled_preview(tiny(), Gray, {}, codes, PreviewConfig(), lambda _: False) == {}


def run_of(folder: Path, **changes: Any) -> PriorRun:
    settings: dict[str, Any] = {
        "loop": LoopConfig(max_steps=4),
        "batch": BatchConfig(global_batch_size=8, micro_batch_size=8),
        "model": GPTConfig(layers=1, heads=2, width=16, window=WINDOW, residual_dropout=0.1, token_keep_prob=0.9),
        "training": NetworkConfig(optimizer=OptimizerConfig(learning_rate=1e-3)),
    }
    return prior_run(folder, **(settings | changes))


def with_and_without(folder: str) -> dict[str, Any]:
    """Losses and previews with any time for previews and with none, and what stopping leaves; runs on every rank."""
    left: dict[str, Any] = {}
    generous = PreviewConfig(images=2, share=1.0, sampling=SamplingConfig())
    for name, previews in (("with", generous), ("without", None)):
        run = run_of(Path(folder), previews=previews)
        torch.manual_seed(run.seed)
        task, training, val = built(run, resolve_tokenizers(run))
        for _ in range(0 if task.budget is None else 1000):
            task.budget.train(1.0)
        steps, losses, shapes = training.train_batches(0), [], []
        for step in range(4):
            losses.append(task.step(next(steps), step)["nll"].item())
            shown = task.preview(next(iter(val.eval_batches(4))))
            shapes.append([list(image.shape) for image in shown.values()])
        left[name] = {"losses": losses, "shapes": shapes}
    run = run_of(Path(folder), early_stopping=EarlyStoppingConfig(patience=2), training=rushed())
    task, training, val = built(run, resolve_tokenizers(run))
    steps, heard, finished = training.train_batches(0), [], []
    for step in range(4):
        heard.append(task.evaluate(val.eval_batches(4))["nll"])
        finished.append(task.finished())
        if step == 0:
            first = {name: value.clone() for name, value in task.ema.state_dict().items()}
        task.step(next(steps), step)
    again, _, _ = built(run, resolve_tokenizers(run))
    again.load_state_dict(task.state_dict())
    left["stopping"] = {"heard": heard, "finished": finished, "first": first, "best": task.weights()}
    left["stopping"]["again"] = [again.finished(), again.early_stopping.best, again.weights()["head.weight"]]
    return left


def rushed() -> NetworkConfig:
    """Every step makes it worse."""
    return NetworkConfig(optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=0))


def test_previews_change_nothing_and_stopping_keeps_the_best_weights(tmp_path):
    metadata = write_tokenizer(tmp_path / "tokenizer")
    write_code_shards(tmp_path / "codes", metadata, [{"codes.npy": npy(grid)} for grid in grids(16, (5, 5))])
    (left,) = processes.run(with_and_without, 1, tmp_path)
    assert left["with"]["losses"] == left["without"]["losses"]
    assert left["with"]["shapes"] == [[[4 * 16, 2 * 16, 3]]] * 4 and left["without"]["shapes"] == [[]] * 4
    stopped = left["stopping"]
    assert min(stopped["heard"]) == stopped["heard"][0] and stopped["finished"] == [False, False, True, True]
    flat = {name: value.flatten() for name, value in stopped["best"].items()}  # as the only rank averages them
    torch.testing.assert_close(flat, stopped["first"], rtol=0, atol=0)
    finished, best, weights = stopped["again"]
    assert finished and best == stopped["heard"][0] and torch.equal(weights, stopped["best"]["head.weight"])


def without_tokenizer(folder: str) -> list[int]:
    """How many images a preview has while the tokenizer is there and once it is gone; runs on every rank."""
    previews = PreviewConfig(images=2, share=1.0, sampling=SamplingConfig())
    run = run_of(Path(folder), previews=previews)
    task, training, val = built(run, resolve_tokenizers(run))
    for _ in range(1000):
        task.budget.train(1.0)
    steps, shown = training.train_batches(0), []
    for name in ("tokenizer", "elsewhere"):
        task.step(next(steps), len(shown))
        shown.append(len(task.preview(next(iter(val.eval_batches(4))))))
        if name == "tokenizer" and ranks.rank() == 0:
            (Path(folder) / "tokenizer").rename(Path(folder) / "elsewhere")
    return shown


def test_a_tokenizer_that_is_gone_costs_the_preview_and_not_the_training(tmp_path):
    metadata = write_tokenizer(tmp_path / "tokenizer")
    write_code_shards(tmp_path / "codes", metadata, [{"codes.npy": npy(grid)} for grid in grids(16, (5, 5))])
    assert processes.run(without_tokenizer, 1, tmp_path) == [[1, 0]]


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (PreviewConfig, {"share": 0.0}, "leave previews out for none"),
        (PreviewConfig, {"images": 0}, "images must be at least 1"),
        (EarlyStoppingConfig, {"patience": 0}, "leave early_stopping out"),
    ],
)
def test_settings_out_of_range_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)
