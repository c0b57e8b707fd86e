"""Training an editor: one plain process whatever the ranks, exact when it goes on, and its frozen parts stay apart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from fixtures.priors import prior_run, write_tokenizer
from fixtures.shards import write_images
from torch import Tensor

from smalti.models.conditions import CodeMapConfig
from smalti.models.conditions.edit import GUIDE
from smalti.models.priors.editor import EditorConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.trainer.checkpoint.loading import load_prior
from smalti.trainer.data.crops import CropConfig
from smalti.trainer.data.masks import MaskConfig
from smalti.trainer.data.stream import Stream
from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.distributed.engine import EngineConfig, NetworkConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig
from smalti.trainer.jobs.run import built, resolve_tokenizers, train
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.prior.previews import PreviewConfig
from smalti.trainer.training.loop import BatchConfig, LoopConfig

STEPS = 2
SHAPE: dict[str, Any] = {
    "encoder_layers": 1,
    "decoder_layers": 1,
    "heads": 2,
    "width": 16,
    "blocks": (2, 2),
    "picks": 1,
}
SMALL, LARGE = CropConfig(size=16), CropConfig(size=32)
MAPS = CodeMapConfig(vocab_size=256)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with maps, a tokenizer that knows masks, and a guide that was trained for two steps."""
    folder = tmp_path_factory.mktemp("editor")
    write_images(folder / "images", 24, side=40)
    write_tokenizer(folder / "tokenizer", mask_aware=True)
    return folder


def editor_run(place: Path, name: str, attention: str = "dense", zero: Any = 1, **settings: Any) -> PriorRun:
    crop = SMALL if attention == "dense" else LARGE
    window = (crop.size // 4, crop.size // 4)
    return replace(
        prior_run(
            place, "images", crop, model=EditorConfig(**SHAPE, window=window, attention=attention), condition=MAPS,
            masks=MaskConfig(grow=1), guide=str(place / "guide") if attention == "guided" else None,
            loop=LoopConfig(max_steps=STEPS, log_every=1), batch=BatchConfig(global_batch_size=8, micro_batch_size=2),
            training=NetworkConfig(optimizer=OptimizerConfig(learning_rate=1e-3, eps=1e-3), engine=EngineConfig(zero)),
            previews=None,
        ), run_dir=str(place / name), **settings,
    )  # fmt: skip


def stepped(place: str, stages: list[int]) -> list[dict[str, Tensor]]:
    """On a rank: the weights after some steps under each ZeRO stage, and the losses."""
    left = []
    for zero in stages:
        run = editor_run(Path(place), "none", zero=zero)
        torch.manual_seed(run.seed)
        task, training, _ = built(run, resolve_tokenizers(run))
        batches = training.train_batches(0)
        losses = [ranks.all_reduce_mean_(task.step(next(batches), step)["nll"].clone()) for step in range(STEPS)]
        left.append({**sharded_parameters.full_state_dict(task.prior), "losses": torch.stack(losses)})
    return left


def plain(place: str) -> dict[str, Tensor]:
    """The same steps by plain torch on whole batches; the loss is the mean over all masked codes. On a rank."""
    run = editor_run(Path(place), "none")
    torch.manual_seed(run.seed)
    task, _, _ = built(run, resolve_tokenizers(run))
    torch.manual_seed(run.seed)
    model = run.model.build(task.codes, run.condition)
    data = Stream(run.train_data, ("image", "segmentation"), global_batch=8, micro_batch=8, seed=run.seed)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": run.training.optimizer.weight_decay},
              {"params": others, "weight_decay": 0}]  # fmt: skip
    adam = torch.optim.AdamW(groups, 1e-3, run.training.optimizer.betas, eps=1e-3)
    losses = []
    for step, (batch,) in zip(range(STEPS), data.train_batches(0), strict=False):
        fields = task.fields(batch, step)
        logits = model(fields["codes"], fields).logits
        loss = torch.nn.functional.cross_entropy(logits[fields["masked"]], fields["codes"][fields["masked"]])
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.training.engine.grad_clip or 1e9)
        adam.step()
        losses.append(loss.detach())
    return {**model.state_dict(), "losses": torch.stack(losses)}


@pytest.mark.parametrize("stages", [(1, 3), pytest.param((0, 2), marks=pytest.mark.slow)])
def test_two_ranks_under_every_zero_stage_are_one_plain_process_on_the_whole_batch(
    place: Path, stages: tuple[int, int]
):
    expected = processes.run(plain, 1, place)[0]
    results = processes.run(stepped, 2, place, list(stages))[0]
    for zero, found in zip(stages, results, strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6, msg=f"zero {zero}: {name}")
    before = editor_run(place, "none").model.build(16, MAPS).state_dict()
    assert (expected["head.weight"] - before["head.weight"]).abs().sum() > 0.1


def carried_on(place: str) -> dict[str, Any]:
    """On a rank: a guide; an editor guided by it to the end, and in two parts; what its weights and metadata hold."""
    folder = Path(place)
    train(editor_run(folder, "guide"), fresh=False)
    whole = editor_run(folder, "whole", "guided", loop=LoopConfig(max_steps=4), ema_decay=0.5,
                       previews=PreviewConfig(images=2, share=1.0))  # fmt: skip
    train(whole, fresh=False)
    for steps in (2, 4):
        train(replace(whole, run_dir=str(folder / "parts"), loop=LoopConfig(max_steps=steps)), fresh=False)
    one, two = (load_prior(folder / name, "cpu") for name in ("whole", "parts"))
    guide = load_prior(folder / "guide", "cpu")
    same = all(torch.equal(one.model.state_dict()[name], value) for name, value in two.model.state_dict().items())
    own = whole.model.build(one.metadata["codes"], MAPS).state_dict().keys() == one.model.state_dict().keys()
    guided = one.metadata["guide"] == guide.metadata["digest"]
    return {"same": same, "own": own, "guided": guided, "fields": list(one.model.condition.fields)}


def test_a_guided_run_goes_on_with_the_same_bits_and_its_checkpoint_holds_the_editor_alone(place: Path):
    found = processes.run(carried_on, 1, place)[0]
    assert found == {"same": True, "own": True, "guided": True, "fields": ["segmentation_codes", "masked", *GUIDE]}


def refused(place: str) -> list[str]:
    """On a rank: why runs are refused that name wrong tokenizers or guides."""
    folder, said = Path(place), []
    write_tokenizer(folder / "plain")
    write_tokenizer(folder / "other", seed=1, mask_aware=True)
    for settings in ({"tokenizer": str(folder / "plain")}, {"tokenizer": str(folder / "other")},
                     {"guide": str(folder / "tokenizer")},
                     {"model": replace(editor_run(folder, "x", "guided").model, heads=4)}):  # fmt: skip
        run = editor_run(folder, "refused", "guided", **settings)
        try:
            built(run, resolve_tokenizers(run))
        except ValueError as error:
            said.append(str(error))
    return said


def test_tokenizers_that_know_no_masks_and_guides_of_other_codes_or_shapes_are_refused(place: Path):
    said = processes.run(refused, 1, place)[0]
    for sentence, words in zip(said, ("mask_aware: true", "same tokenizers", "of a prior", "heads"), strict=True):
        assert words in sentence


def test_what_does_not_go_together_is_refused_when_the_config_is_read(place: Path):
    dense, guided = editor_run(place, "x"), editor_run(place, "x", "guided")
    for run, settings, words in (
        (dense, {"masks": None}, "masks: {}"),
        (dense, {"guide": "somewhere"}, "leave guide out"),
        (guided, {"guide": None}, "name the folder"),
        (dense, {"model": GPTConfig(window=(4, 4))}, "leave masks out"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(run, **settings)
