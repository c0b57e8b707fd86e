"""An old name in a user's config is refused with the new one; in what smalti wrote itself it is read as the new one."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from smalti.trainer import config as configs
from smalti.trainer.checkpoint import model_files
from smalti.trainer.jobs.run import Run
from smalti.trainer.schema import renamed

SECTIONS_OF_METADATA = {"metadata", "condition_tokenizers"}
OLD = """
task: vqgan
folder: runs/old
rebuilds: picture
data: {shards: [a], crop: {kind: patch, size: 96}, window: 3}
held_out: {shards: [b], crop: {kind: patch, size: 96}}
batch: {total: 4, micro: 2}
loop: {steps: 7, evaluate_every: 5}
model: {residual_blocks: 1, quantizer: {kind: vq, codes: 64, revive_after: 9}}
discriminator: {kind: blur_patch}
loss: {adversarial: {discriminator_sees: after, start: 3}}
generator_training: {optimizer: {learning_rate: 1.0e-4, warmup: 2}, engine: {zero: 2, clip: 1.0}}
discriminator_training: {optimizer: {learning_rate: 1.0e-4}}
sentinels: {collapsed: revive}
average: 0.5
"""


def sections(hint: Any = Run) -> dict[str, set[str]]:
    """The keys of every section that a run's config may have, by the section's class."""
    found: dict[str, set[str]] = {}
    waiting = [hint]
    while waiting:
        each = waiting.pop()
        if not (isinstance(each, type) and is_dataclass(each)):
            waiting += get_args(each)
        elif each.__name__ not in found:
            found[each.__name__] = {field.name for field in fields(each)}
            waiting += get_type_hints(each).values()
    return found


@pytest.mark.parametrize("section", sorted(set(renamed.KEYS) - SECTIONS_OF_METADATA))
def test_the_table_names_keys_that_there_are_and_no_old_one_is_a_key_still(section: str):
    there = sections()[section]
    assert set(renamed.KEYS[section].values()) <= there and not set(renamed.KEYS[section]) & there


def test_a_users_old_names_are_each_refused_with_the_new_one(tmp_path: Path):
    (tmp_path / "old.yaml").write_text(OLD)
    with pytest.raises(configs.ConfigError) as refused:
        configs.read(Run, tmp_path / "old.yaml")
    problems = set(refused.value.problems)
    assert {
        "folder: was renamed to 'run_dir'",
        "rebuilds: was renamed to 'target'",
        "data: was renamed to 'train_data'",
        "held_out: was renamed to 'val_data'",
        "batch.total: was renamed to 'global_batch_size'",
        "loop.steps: was renamed to 'max_steps'",
        "model.quantizer.codes: was renamed to 'codebook_size'",
        "generator_training.engine.zero: was renamed to 'zero_stage'",
        "sentinels: was renamed to 'monitors'",
    } <= problems
    assert any(p.endswith("'blur_patch' was renamed to 'blur_patchgan'") for p in problems)


def test_an_old_config_that_smalti_wrote_is_read_under_the_new_names(tmp_path: Path):
    (tmp_path / "old.yaml").write_text(OLD)
    run = configs.read(Run, tmp_path / "old.yaml", saved=True)
    assert (run.run_dir, run.target, run.ema_decay) == ("runs/old", "image", 0.5)
    assert run.train_data.shuffle_window == 3 and run.batch.micro_batch_size == 2 and run.loop.eval_every == 5
    assert run.model.quantizer.codebook_size == 64 and run.model.quantizer.replace_dead_after == 9
    assert run.discriminator.kind == "blur_patchgan"
    assert run.loss.adversarial.discriminator_fakes == "updated_generator" and run.loss.adversarial.disc_start == 3
    assert run.generator_training.engine.zero_stage == 2 and run.monitors.on_codebook_collapse == "replace"


def test_metadata_of_older_weights_are_read_under_the_new_names(tmp_path: Path):
    old = {"task": "vqgan", "rebuilds": "map", "condition_tokenizers": {"map": "1", "depth": "2"}}
    model_files.write(tmp_path, {}, old)
    read = model_files.read_metadata(tmp_path)
    assert read["target"] == "segmentation" and "rebuilds" not in read
    assert read["condition_tokenizers"] == {"segmentation": "1", "depth": "2"}
