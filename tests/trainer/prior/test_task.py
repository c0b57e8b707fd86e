"""The prior's task in real ranks against one plain loop of torch."""

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from fixtures.priors import CODES, condition_members, grids, npy, prior_run, write_code_shards, write_tokenizer

from smalti.models.conditions import CodeMapConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.trainer.data.stream import Stream
from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.distributed.engine import EngineConfig, NetworkConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig
from smalti.trainer.jobs.run import built, resolve_tokenizers
from smalti.trainer.keyed_random import mix, text_key
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.training.loop import BatchConfig, LoopConfig

STEPS, TOTAL, WINDOW = 3, 8, (4, 4)
# Stage, micro-batch, and ranks that share a sequence.
LAYOUTS = [(0, 4, 1), (1, 2, 1), (2, 4, 1), (3, 4, 1), (3, 2, 1)]
SHARED = [(0, 4, 2), (1, 8, 2), (3, 4, 2)]

MODEL: dict[str, Any] = {
    "layers": 2, "heads": 2, "width": 32, "window": WINDOW, "token_keep_prob": 0.9, "condition_dropout": 0.2,
}  # fmt: skip


def run_of(folder: Path, **changes: Any) -> PriorRun:
    """A tiny prior conditioned on a map, which loses codes and conditions now and then."""
    settings: dict[str, Any] = {
        "loop": LoopConfig(max_steps=STEPS),
        "batch": BatchConfig(global_batch_size=TOTAL, micro_batch_size=4),
        "model": GPTConfig(**MODEL, loss_chunk=64),
        "condition": CodeMapConfig(vocab_size=CODES),
        # Where the true gradient is zero (biases of keys), Adam divides rounding by epsilon: not by 1e-8 here.
        "training": training_of(),
        "previews": None,
    }
    return prior_run(folder, **(settings | changes))


def training_of(**engine: Any) -> NetworkConfig:
    optimizer = OptimizerConfig(
        learning_rate=3e-3,
        eps=1e-4,
        weight_decay=0.1,
        schedule="wsd",
        warmup_steps=2,
        decay_fraction=0.5,
        lr_scaling="fixed",
    )
    return NetworkConfig(optimizer=optimizer, engine=EngineConfig(**{"grad_clip": 0.5} | engine))


def prepare(folder: Path, samples: int = 24, size: tuple[int, int] = (6, 7)) -> Path:
    """A tokenizer and code shards of grids larger than the window."""
    metadata = write_tokenizer(folder / "tokenizer")
    members = [
        condition_members(number, size) | {"codes.npy": npy(grid)} for number, grid in enumerate(grids(samples, size))
    ]
    write_code_shards(folder / "codes", metadata, members)
    return folder


def trained(folder: str) -> dict[str, Any]:
    """What training leaves, by layout; runs on every rank."""
    left = {}
    for zero, micro, together in [*LAYOUTS, *(SHARED if ranks.world() > 1 else [])]:
        batch = BatchConfig(global_batch_size=TOTAL, micro_batch_size=micro)
        run = run_of(Path(folder), batch=batch, training=training_of(zero_stage=zero), sequence_parallel_size=together)
        torch.manual_seed(run.seed)
        task, stream, val = built(run, resolve_tokenizers(run))
        steps = stream.train_batches(0)
        losses = []
        for step in range(STEPS):
            losses.append(task.step(next(steps), step)["nll"].item())
            held = dict(task.evaluate(val.eval_batches(5)))  # with other weights, which must leave no trace
        held |= task.arrays()
        average = task.weights()
        weights = sharded_parameters.full_state_dict(task.prior)
        found = {"losses": losses, "weights": weights, "ema": average, "val": held}
        left[f"{zero} {micro} {together}"] = found
    return left


def plainly_trained(folder: Path) -> dict[str, Any]:
    """The same by one process and nothing but torch: the global batch at once, a schedule and clipping by hand."""
    run = run_of(folder, batch=BatchConfig(global_batch_size=TOTAL, micro_batch_size=TOTAL))
    torch.manual_seed(run.seed)
    prior = run.model.build(CODES, run.condition)
    matrices = {module.weight for module in prior.modules() if isinstance(module, torch.nn.Linear)}
    others = [p for p in prior.parameters() if p not in matrices]
    groups = [{"params": [p for p in prior.parameters() if p in matrices], "weight_decay": 0.1}, {"params": others}]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-4, weight_decay=0.0)
    stream = Stream(
        run.train_data, ("codes", "segmentation_codes"), global_batch=TOTAL, micro_batch=TOTAL, seed=run.seed
    ).train_batches()
    average = {name: p.detach().clone() for name, p in prior.named_parameters()}
    losses = []
    for step, rate in enumerate([1.5e-3, 3e-3, 2e-3]):  # half way up, up, and a third of the way down
        batch = next(stream)[0]
        draw = prior.draw(batch["codes"], [mix(run.seed, step, text_key(key)) for key in batch["key"]], step / STEPS)
        loss = prior(draw.inputs, batch, targets=batch["codes"], dropped=draw.dropped).loss.mean()
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 0.5)
        for group in adam.param_groups:
            group["lr"] = rate
        adam.step()
        keep = (1 + step) / (10 + step)
        average = {name: keep * average[name] + (1 - keep) * p.detach() for name, p in prior.named_parameters()}
    weights = {name: value.clone() for name, value in prior.state_dict().items()}
    return {"losses": losses, "weights": weights, "ema": average, "val": plainly_evaluated(run, prior, average)}


@torch.no_grad()
def plainly_evaluated(run: PriorRun, prior: torch.nn.Module, average: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What all validation windows at once are worth to the averaged weights, from logits alone."""
    prior.load_state_dict(average, strict=False)
    data = Stream(run.val_data, ("codes", "segmentation_codes"), global_batch=TOTAL, micro_batch=TOTAL, seed=run.seed)
    batches = list(data.eval_batches(24))
    assert sum(len(batch["key"]) for batch in batches) == 4 * 24  # windows that cover a grid
    codes = torch.cat([batch["codes"] for batch in batches])
    logits = torch.cat([prior.eval()(batch["codes"], batch).logits for batch in batches])
    nats = -logits.double().log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    found = {"nll": nats.mean().item(), "nll_by_position": nats.mean(0)}
    for first in (1, 5):
        hits = (logits.topk(first).indices == codes[..., None]).any(-1)
        found[f"top{first}"] = hits.double().mean().item()
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("prior"))


@pytest.mark.parametrize("world", [1, 2])
def test_ranks_stages_and_accumulation_equal_one_plain_process(prepared, world):
    plain = plainly_trained(prepared)
    on_ranks = processes.run(trained, world, prepared)
    assert len(on_ranks[0]) == len(LAYOUTS) + (0 if world == 1 else len(SHARED))
    evaluations = []
    for rank in on_ranks:
        for layout, left in rank.items():
            torch.testing.assert_close(left["weights"], dict(plain["weights"]), rtol=0, atol=2e-5, msg=layout)
            torch.testing.assert_close(left["ema"], plain["ema"], rtol=0, atol=2e-5, msg=layout)
            evaluations.append(left["val"])
    means = torch.tensor([[left["losses"] for left in rank.values()] for rank in on_ranks]).mean(0)
    torch.testing.assert_close(means, torch.tensor(plain["losses"]).expand_as(means), rtol=1e-5, atol=1e-5)
    for found in evaluations:
        for name in ("nll", "top1", "top5"):
            assert found[name] == pytest.approx(plain["val"][name], rel=2e-5), name
        torch.testing.assert_close(found["nll_by_position"], plain["val"]["nll_by_position"], rtol=1e-4, atol=1e-4)
    assert 0 < plain["val"]["top1"] < plain["val"]["top5"] < 1


def bytes_held(folder: str) -> dict[str, dict[str, int]]:
    """What one rank keeps for a prior between backward and step, by stage; runs on every rank."""
    held = {}
    for zero in (0, 1, 2, 3):
        model = GPTConfig(layers=2, heads=2, width=64, window=WINDOW)
        run = run_of(Path(folder), model=model, training=training_of(zero_stage=zero))
        task, stream, _ = built(run, resolve_tokenizers(run))
        steps = stream.train_batches(0)
        task.step(next(steps), 0)
        fields = task.fields(next(steps)[0])
        task.engine.backward(task.engine(fields["codes"], fields, targets=fields["codes"]).loss.mean())
        held[str(zero)] = {
            "all": 4 * sum(getattr(p, "ds_numel", p.numel()) for p in task.prior.parameters()),
            "parameters": size_of([sharded_parameters.local_shard(p) for p in task.prior.parameters()]),
            "gradients": size_of(gradients_of(task.engine)),
            "moments": size_of(moments_of(task.engine)),
        }
    return held


def by_other_means(folder: str) -> dict[str, dict[str, torch.Tensor]]:
    """The weights that training leaves when memory or the compiler has a say; runs on every rank."""
    left = {}
    for name, changes in {
        "offloaded": {"training": training_of(zero_stage=3, offload_optimizer=True, offload_parameters=True)},
        "compiled": {"training": training_of(zero_stage=1, compile_backend="aot_eager")},
        "checkpointed": {"model": GPTConfig(**MODEL, activation_checkpointing=True, loss_chunk=5)},
    }.items():
        run = run_of(Path(folder), batch=BatchConfig(global_batch_size=TOTAL, micro_batch_size=TOTAL), **changes)
        torch.manual_seed(run.seed)
        task, stream, _ = built(run, resolve_tokenizers(run))
        steps = stream.train_batches(0)
        for step in range(STEPS):
            task.step(next(steps), step)
        left[name] = sharded_parameters.full_state_dict(task.prior)
    return left


def test_offloading_compiling_and_checkpointing_change_nothing(prepared):
    plain = plainly_trained(prepared)["weights"]
    (left,) = processes.run(by_other_means, 1, prepared)
    for name, weights in left.items():
        torch.testing.assert_close(weights, dict(plain), rtol=0, atol=2e-5, msg=name)


def size_of(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def gradients_of(engine: Any) -> list[torch.Tensor]:
    """Whole gradients that are still there, and the partitions into which they were reduced."""
    whole = [p.grad for p in engine.module.parameters() if p.grad is not None]
    if engine.zero_optimization_stage() == 3:
        return [*whole, engine.optimizer.grad_partitions_flat_buffer]
    parts = getattr(engine.optimizer, "averaged_gradients", {})
    return whole + [part for group in parts.values() if group is not None for part in group]


def moments_of(engine: Any) -> list[torch.Tensor]:
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    return [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]


def test_the_bytes_of_a_rank_fall_as_the_stage_promises(prepared):
    for rank in processes.run(bytes_held, 2, prepared):
        for zero, held in rank.items():
            whole = held["all"]
            shared = {"moments": int(zero) >= 1, "gradients": int(zero) >= 2, "parameters": int(zero) >= 3}
            for name, is_shared in shared.items():
                expected = (2 if name == "moments" else 1) * whole / (2 if is_shared else 1)
                if zero == "1" and name == "gradients":
                    continue  # stage 1 promises nothing of gradients
                assert held[name] == pytest.approx(expected, rel=0.05), (zero, name)
