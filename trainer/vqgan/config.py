"""The run config of stage 1: a VQGAN of images, depth maps or segmentations."""

from dataclasses import dataclass, field
from typing import Literal

from ...models.bounds import Count, Decay, Name, Seconds, Seed, check_ranges
from ...models.discriminators import DiscriminatorConfig, PatchGANConfig
from ...models.vqgan.autoencoder import VQGANConfig
from ..checkpoint.best import KeepBestConfig
from ..data.inputs import Field
from ..data.masks import MaskConfig
from ..data.stream import DataConfig
from ..distributed.engine import NetworkConfig
from ..frozen_networks.feature_networks import FeatureNetworkConfig
from ..schema import MAY_CHANGE
from ..training.loop import BatchConfig, LoopConfig
from ..training.wandb_logger import WandbConfig
from .judged_beside import JudgedBesideConfig
from .monitors import MonitorsConfig
from .reconstruction_loss import VQGANLossConfig


@dataclass(frozen=True, kw_only=True)
class VQGANRun:
    """Stage 1: an autoencoder of images, depths or label maps."""

    task: Literal["vqgan"] = "vqgan"
    run_dir: Name = field(metadata=MAY_CHANGE)
    target: Field = "image"
    masks: MaskConfig | None = None  # what is masked for a model.mask_aware; needs label maps beside the images
    train_data: DataConfig
    val_data: DataConfig
    # in whose features validation compares images with what is rebuilt of them: rfid
    val_features: FeatureNetworkConfig | None = field(default=None, metadata=MAY_CHANGE)
    loop: LoopConfig = field(metadata=MAY_CHANGE)
    batch: BatchConfig
    model: VQGANConfig = field(default_factory=VQGANConfig)
    loss: VQGANLossConfig = field(default_factory=VQGANLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=PatchGANConfig)
    judged_beside: JudgedBesideConfig | None = None  # what the discriminator sees beside an image
    generator_training: NetworkConfig
    discriminator_training: NetworkConfig | None = None  # needed with loss.adversarial
    monitors: MonitorsConfig = field(default_factory=MonitorsConfig)
    channels_last: bool = False  # memory format of the images, which every layer hands on
    ema_decay: Decay = 0.999  # decay of the averaged weights, which are shown, evaluated and exported
    seed: Seed = 0
    # a run or export to start from, at step 0 only
    initial_weights: Name | None = field(default=None, metadata=MAY_CHANGE)
    keep_last: Count = field(default=3, metadata=MAY_CHANGE)  # checkpoints, the newest
    keep_every: Count | None = field(default=None, metadata=MAY_CHANGE)  # steps: checkpoints at its multiples stay too
    # checkpoints that stay for their validation figures, as the best of a metric
    keep_best: KeepBestConfig | None = field(default=None, metadata=MAY_CHANGE)
    timeout_s: Seconds = field(default=1800.0, metadata=MAY_CHANGE)  # a collective that waits longer ends the job
    # operators with a fixed order of additions: the same bits on a GPU too, more slowly
    deterministic: bool = field(default=False, metadata=MAY_CHANGE)
    wandb: WandbConfig | None = field(default=None, metadata=MAY_CHANGE)
    tensorboard: bool = field(default=False, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, data in (("train_data", self.train_data), ("val_data", self.val_data)):
            if data.crop is None or data.holds_codes:
                raise ValueError(f"{name}.crop must cut images to one size (kind: patch or taming), got {data.crop}")
            size = data.crop.output[0]
            if size % self.model.factor:
                raise ValueError(f"{name}.crop.size must be a multiple of the factor {self.model.factor}, got {size}")
        for name, training in (
            ("generator_training", self.generator_training),
            ("discriminator_training", self.discriminator_training),
        ):
            if training is None:
                continue
            training.optimizer.peak(self.batch.global_batch_size)
            if training.engine.precision == "fp16":
                raise ValueError(
                    f"{name}.engine.precision must be fp32 or bf16, got fp16, whose gradients underflow without a "
                    "scaled loss: the gradient that is cut at the image has none, and bf16 needs none"
                )
        self._check_field()
        self._check_game()
        if self.monitors.on_codebook_collapse == "replace" and not self.model.quantizer.can_replace_codes:
            raise ValueError(
                "monitors.on_codebook_collapse: replace needs a quantizer whose codes can be moved (vq, ema, cosine), "
                f"got {self.model.quantizer.kind}; set monitors.on_codebook_collapse: alert"
            )

    @property
    def judged_channels(self) -> int:
        """Channels that the discriminator sees."""
        return self.model.out_channels + (0 if self.judged_beside is None else self.judged_beside.channels)

    @property
    def fields(self) -> tuple[str, ...]:
        """What is read of every sample."""
        masks = () if self.masks is None else ("segmentation",)
        beside = () if self.judged_beside is None else (self.judged_beside.field,)
        return tuple(dict.fromkeys((self.target, *masks, *beside)))

    def _check_field(self) -> None:
        """The network and its losses fit what is rebuilt."""
        model, loss = self.model, self.loss
        if model.mask_aware != (self.masks is not None):
            raise ValueError(
                f"masks and model.mask_aware go together, got {self.masks} and {model.mask_aware}; "
                "set masks: {} and model.mask_aware: true, or neither"
            )
        if (self.target == "segmentation") != (model.num_labels is not None):
            raise ValueError(
                f"target: segmentation and model.num_labels go together, got {self.target} and {model.num_labels}"
            )
        if self.target == "segmentation":
            for name in ("perceptual", "classifier_logits", "adversarial"):
                if getattr(loss, name) is not None:
                    raise ValueError(f"loss.{name} is for images, not for maps; set loss.{name}: null")
            if self.val_features is not None:
                raise ValueError("val_features is for images, not for maps; set val_features: null")
            return
        channels = 3 if self.target == "image" else 1
        if (model.in_channels, model.out_channels) != (channels, channels):
            raise ValueError(
                f"model.in_channels and out_channels must be {channels} for target: {self.target}, "
                f"got {model.in_channels} and {model.out_channels}"
            )

    def _check_game(self) -> None:
        """The discriminator, where there is one, can be trained as asked."""
        game, training = self.loss.adversarial, self.discriminator_training
        if game is None:
            if self.judged_beside is not None:
                raise ValueError("judged_beside is for the discriminator; set judged_beside: null, or loss.adversarial")
            return
        if training is None:
            raise ValueError("discriminator_training is missing; name its optimizer, or set loss.adversarial: null")
        if game.r1_gamma > 0 and training.engine.zero_stage == 3:
            raise ValueError(
                "loss.adversarial.r1_gamma needs discriminator_training.engine.zero_stage 0, 1 or 2, because a "
                "partitioned network has no second derivative, "
                f"got r1_gamma {game.r1_gamma} and zero_stage 3; set zero_stage: 2"
            )
        compiler = training.engine.compile_backend
        if compiler is not None and (game.r1_gamma > 0 or training.engine.zero_stage == 3):
            raise ValueError(
                "discriminator_training.engine.compile_backend must be null with loss.adversarial.r1_gamma, because a "
                f"compiled network has no second derivative, and at zero_stage 3, got {compiler}, r1_gamma "
                f"{game.r1_gamma} and zero_stage {training.engine.zero_stage}"
            )
        judged = self.discriminator.required_resolution
        size = self.train_data.crop.output[0] if self.train_data.crop is not None else None
        if judged not in (None, size):
            raise ValueError(f"discriminator.resolution must be train_data.crop.size {size}, got {judged}")
