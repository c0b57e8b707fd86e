"""Config keys and values under the names that they had before: what they are called now, section by section."""

from collections.abc import Mapping
from typing import Any

# By the class of the section: an old key and the present one.
KEYS: Mapping[str, Mapping[str, str]] = {
    "metadata": {"rebuilds": "target"},  # of weights
    "condition_tokenizers": {"map": "segmentation"},  # in these metadata
    "AdversarialConfig": {
        "weight": "disc_weight",
        "start": "disc_start",
        "ramp": "ramp_steps",
        "warmup": "disc_only_steps",
        "clamp": "max_adaptive_weight",
        "discriminator_sees": "discriminator_fakes",
        "r1": "r1_gamma",
        "epsilon": "eps",
    },
    "BatchConfig": {"total": "global_batch_size", "micro": "micro_batch_size"},
    "CodeMapConfig": {"codes": "vocab_size"},
    "CompositeConfig": {"parts": "conditions"},
    "CoordinatesConfig": {"codes": "vocab_size"},
    "CosineConfig": {
        "codes": "codebook_size",
        "beta": "commitment_weight",
        "weight": "codebook_weight",
        "revive_after": "replace_dead_after",
    },
    "DataConfig": {
        "workers": "num_workers",
        "window": "shuffle_window",
        "repeats": "max_repeats",
        "fault_limit": "max_bad_fraction",
        "members": "extensions",
    },
    "EMAConfig": {
        "codes": "codebook_size",
        "beta": "commitment_weight",
        "epsilon": "eps",
        "revive_after": "replace_dead_after",
    },
    "EngineConfig": {"zero": "zero_stage", "clip": "grad_clip", "nvme": "nvme_path", "compile": "compile_backend"},
    "EntropyConfig": {"sure": "per_sample_weight", "even": "batch_weight"},
    "GPTConfig": {
        "keep": "token_keep_prob",
        "condition_drop": "condition_dropout",
        "loss_rows": "loss_chunk",
        "checkpoint_activations": "activation_checkpointing",
    },
    "GumbelConfig": {"codes": "codebook_size"},
    "IBQConfig": {"codes": "codebook_size", "beta": "codebook_term_weight", "weight": "codebook_weight"},
    "LFQConfig": {"beta": "commitment_weight"},
    "LoopConfig": {"steps": "max_steps", "evaluate_every": "eval_every"},
    "LowResolutionConfig": {"pixels": "pixels_per_code"},
    "MonitorsConfig": {
        "every": "check_every",
        "skips": "max_skipped_steps",
        "window": "usage_window",
        "accuracy": "freeze_above_accuracy",
        "thaw": "unfreeze_below_accuracy",
        "clamped": "max_clamped_fraction",
        "usage": "min_codebook_usage",
        "won": "on_discriminator_won",
        "at_clamp": "on_clamped_weight",
        "collapsed": "on_codebook_collapse",
    },
    "NeighborhoodConfig": {
        "keep": "token_keep_prob",
        "condition_drop": "condition_dropout",
        "loss_rows": "loss_chunk",
        "checkpoint_activations": "activation_checkpointing",
        "above": "rows_above",
        "beside": "columns_beside",
    },
    "ObjectsConfig": {"by": "representation"},
    "OptimizerConfig": {
        "epsilon": "eps",
        "warmup": "warmup_steps",
        "decay": "decay_fraction",
        "final": "min_lr_ratio",
        "scale": "lr_scaling",
    },
    "PreviewConfig": {"pictures": "images"},
    "PriorRun": {
        "folder": "run_dir",
        "data": "train_data",
        "held_out": "val_data",
        "average": "ema_decay",
        "keep": "keep_last",
        "stopping": "early_stopping",
        "sequence_ranks": "sequence_parallel_size",
    },
    "SimVQConfig": {"codes": "codebook_size", "beta": "commitment_weight", "weight": "codebook_weight"},
    "VQConfig": {
        "codes": "codebook_size",
        "beta": "commitment_weight",
        "weight": "codebook_weight",
        "revive_after": "replace_dead_after",
    },
    "VQGANConfig": {
        "multipliers": "channel_multipliers",
        "residual_blocks": "num_res_blocks",
        "middle_attention": "mid_attention",
        "labels": "num_labels",
        "checkpoint_activations": "activation_checkpointing",
    },
    "VQGANLossConfig": {"pixel": "pixel_loss", "labels": "segmentation_loss", "logits": "classifier_logits"},
    "VQGANRun": {
        "folder": "run_dir",
        "data": "train_data",
        "held_out": "val_data",
        "average": "ema_decay",
        "keep": "keep_last",
        "rebuilds": "target",
        "sentinels": "monitors",
    },
}
# By the present key: an old value and the present one.
VALUES: Mapping[str, Mapping[str, str]] = {
    "kind": {"several": "composite", "neighbourhood": "neighborhood", "blur_patch": "blur_patchgan"},
    "block": {"modern": "llama"},
    "target": {"picture": "image", "map": "segmentation"},
    "discriminator_fakes": {"before": "same_forward", "after": "updated_generator"},
    "on_codebook_collapse": {"revive": "replace"},
    "representation": {"centre": "center"},
    "field": {"map_codes": "segmentation_codes"},
}


def keys(section: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A section's mapping with its old keys under their present names."""
    table = KEYS.get(section, {})
    return {table.get(key, key): value for key, value in raw.items()}


def values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A section's mapping with its old values under their present names."""
    return {
        key: VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value for key, value in raw.items()
    }
