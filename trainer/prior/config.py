"""The run config of stage 2: an autoregressive prior over a tokenizer's codes."""

from dataclasses import dataclass, field
from typing import Literal

from ...models.bounds import Count, Decay, Name, Seconds, Seed, Width, check_ranges
from ...models.conditions import ConditionConfig, UnconditionalConfig
from ...models.priors import PriorConfig
from ...models.priors.editor import EditorConfig
from ...models.priors.gpt import GPTConfig
from ..checkpoint.best import KeepBestConfig
from ..data.masks import MaskConfig
from ..data.stream import DataConfig
from ..distributed.engine import NetworkConfig
from ..schema import MAY_CHANGE
from ..training.early_stopping import EarlyStoppingConfig
from ..training.loop import BatchConfig, LoopConfig
from ..training.wandb_logger import WandbConfig
from .previews import PreviewConfig
from .val_samples import ValSamplesConfig


@dataclass(frozen=True, kw_only=True)
class PriorRun:
    """Stage 2: a prior over a tokenizer's codes.

    With a crop of kind ``codes``, the data are code shards. With a crop of images they are image shards, which the
    frozen tokenizers encode on line.
    """

    task: Literal["prior"] = "prior"
    run_dir: Name = field(metadata=MAY_CHANGE)
    tokenizer: Name = field(metadata=MAY_CHANGE)  # folder of the VQGAN's run or export; the code shards must be its own
    # alike, of the fields segmentation and depth
    condition_tokenizers: dict[str, Name] = field(default_factory=dict, metadata=MAY_CHANGE)
    train_data: DataConfig
    val_data: DataConfig
    # images that validation samples, and compares with those that the prior learns from: fid_to_rebuilt
    val_samples: ValSamplesConfig | None = field(default=None, metadata=MAY_CHANGE)
    loop: LoopConfig = field(metadata=MAY_CHANGE)
    batch: BatchConfig
    model: PriorConfig = field(default_factory=GPTConfig)
    condition: ConditionConfig = field(default_factory=UnconditionalConfig)
    masks: MaskConfig | None = None  # what is masked in the images that a model of kind editor learns from
    guide: Name | None = field(default=None, metadata=MAY_CHANGE)  # folder of the editor that guides a guided one
    training: NetworkConfig
    # neighboring ranks that share every sequence; as many fewer share out the batch
    sequence_parallel_size: Width = field(default=1, metadata=MAY_CHANGE)
    ema_decay: Decay = 0.999
    early_stopping: EarlyStoppingConfig | None = None
    previews: PreviewConfig | None = field(default_factory=PreviewConfig, metadata=MAY_CHANGE)
    seed: Seed = 0
    initial_weights: Name | None = field(default=None, metadata=MAY_CHANGE)
    keep_last: Count = field(default=3, metadata=MAY_CHANGE)
    keep_every: Count | None = field(default=None, metadata=MAY_CHANGE)
    # checkpoints that stay for their validation figures, as the best of a metric
    keep_best: KeepBestConfig | None = field(default=None, metadata=MAY_CHANGE)
    timeout_s: Seconds = field(default=1800.0, metadata=MAY_CHANGE)
    # operators with a fixed order of additions: the same bits on a GPU too, more slowly
    deterministic: bool = field(default=False, metadata=MAY_CHANGE)
    wandb: WandbConfig | None = field(default=None, metadata=MAY_CHANGE)
    tensorboard: bool = field(default=False, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        check_ranges(self)
        self.training.optimizer.peak(self.batch.global_batch_size)
        unknown = sorted(set(self.condition_tokenizers) - {"segmentation", "depth"})
        if unknown:
            raise ValueError(f"condition_tokenizers are of the fields segmentation and depth, got {', '.join(unknown)}")
        if self.train_data.holds_codes != self.val_data.holds_codes:
            raise ValueError(
                "train_data and val_data must both be code shards (crop: {kind: codes}), or both of images"
            )
        for name, data in (("train_data", self.train_data), ("val_data", self.val_data)):
            if data.crop is None:
                raise ValueError(f"{name}.crop must be of kind codes, or cut images to the prior's window")
            if data.holds_codes and data.crop.output not in (self.model.window, (0, 0)):
                raise ValueError(
                    f"{name}.crop.window must be the prior's model.window {self.model.window}, got {data.crop.output}"
                )
        self._check_editor()

    def _check_editor(self) -> None:
        """An editor has images, masks and, where it is guided, a guide; no other prior has."""
        model = self.model
        editor = isinstance(model, EditorConfig)
        guided = isinstance(model, EditorConfig) and model.attention == "guided"
        if editor != (self.masks is not None):
            raise ValueError(
                f"masks are for a model of kind editor, which needs them, got {self.masks} and {model.kind}; "
                f"{'set masks: {}' if editor else 'leave masks out'}"
            )
        if guided != (self.guide is not None):
            raise ValueError(
                f"guide goes together with model.attention: guided, got {self.guide}; "
                f"{'name the folder of an editor that looks at all blocks' if guided else 'leave guide out'}"
            )
        if editor and self.val_samples is not None:
            raise ValueError("val_samples are of priors that make whole images; leave them out for an editor")
        if editor and self.train_data.holds_codes:
            raise ValueError("an editor learns from images, whose codes depend on the mask; crop images (kind: patch)")
        if editor and self.training.engine.compile_backend is not None:
            raise ValueError("training.engine.compile_backend must be null for a model of kind editor")
