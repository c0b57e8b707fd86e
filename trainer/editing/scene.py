"""What an editor reads of an image, its label map and a mask: codes, and what a guide looks at.

Shapes: B images of H x W pixels, (h, w) their grids of codes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.conditions.code_map import majority_label
from ...models.conditions.edit import BEFORE, MASKED
from ...models.pixel_range import from_levels
from ...models.priors.editor import Editor
from ...models.vqgan import tiling
from ...models.vqgan.masking import masked_cells
from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..images.resize import antialiased


class Scene(NamedTuple):
    """Images to be edited, all of one size."""

    images: Tensor  # (B, 3, H, W) uint8
    labels: Tensor  # (B, H, W) integers, as edited
    masked: Tensor  # (B, H, W) bool, true where pixels are to be made anew
    before: Tensor | None = None  # (B, H, W) integers, the labels before the edit, for guidance away from them

    def resized(self, size: tuple[int, int]) -> "Scene":
        """At another size in pixels. A pixel that covers a masked one is masked, however small the mask is.

        Known pixels are computed from known ones alone: the filter, which reaches further, sees the mean of all known
        colors below the mask.
        """
        if self.images.shape[2:] == size:
            return self
        before = None if self.before is None else _points(self.before, size)
        masked = F.adaptive_max_pool2d(self.masked[:, None].float(), size)[:, 0] > 0
        known = ~self.masked[:, None]
        mean = (self.images * known).sum((2, 3), keepdim=True) // known.sum((2, 3), keepdim=True).clamp(min=1)
        filled = torch.where(known, self.images, mean.to(self.images.dtype))
        images = torch.where(masked[:, None], _shrunk(self.images, size), _shrunk(filled, size))
        return Scene(images, _points(self.labels, size), masked, before)


def _points(labels: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(labels[:, None].double(), size, mode="nearest-exact")[:, 0].long()


def _shrunk(images: Tensor, size: tuple[int, int]) -> Tensor:
    rows = [np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
    small = torch.from_numpy(np.stack([antialiased(row, size) for row in rows]))
    return small.permute(0, 3, 1, 2).to(images.device)


class SceneEncoder:
    """Encodes scenes for an editor.

    Args:
        tokenizer: of the images, which knows masks.
        maps: of the label maps; None where a map becomes the commonest label of each cell.
        tiles: in which large images are encoded; None encodes them whole.

    Raises:
        ValueError: the tokenizer knows no masks, or that of the maps has another factor.
    """

    def __init__(
        self, tokenizer: LoadedTokenizer, maps: LoadedTokenizer | None, tiles: tiling.Tiling | None = None
    ) -> None:
        if not tokenizer.model.config.mask_aware:
            raise ValueError(
                "an editor needs a tokenizer whose known codes do not depend on what is masked; "
                "train one with model.mask_aware: true"
            )
        self.factor: int = tokenizer.metadata["factor"]
        if maps is not None and maps.metadata["factor"] != self.factor:
            raise ValueError(
                f"the maps' tokenizer has factor {maps.metadata['factor']} and the images' {self.factor}; "
                "both must have a code for the same pixels"
            )
        self._tokenizer, self._maps, self._tiles = tokenizer, maps, tiles

    @torch.no_grad()
    def __call__(self, scene: Scene) -> dict[str, Tensor]:
        """``codes`` and ``segmentation_codes`` (B, h, w) int64 and ``masked`` (B, h, w) bool, on the networks' device.

        Where the scene has labels before the edit, their codes too, as ``segmentation_codes_before``.

        Masked codes are those of the image below the mask, computed from all of it: what training is to predict.
        """
        device = next(self._tokenizer.model.parameters()).device
        images, masked = from_levels(scene.images.to(device)), scene.masked.to(device)
        codes = self._encode(self._tokenizer, images, masked)
        fields = {"codes": codes, MASKED: masked_cells(masked, self.factor)}
        for name, labels in (("segmentation_codes", scene.labels), (BEFORE, scene.before)):
            if labels is not None:
                fields[name] = self._map_codes(labels.to(device).long(), (codes.shape[1], codes.shape[2]))
        return fields

    def _map_codes(self, labels: Tensor, size: tuple[int, int]) -> Tensor:
        if self._maps is not None:
            return self._encode(self._maps, labels, None)
        return torch.stack([majority_label(each.cpu(), *size) for each in labels]).long().to(labels.device)

    def _encode(self, tokenizer: LoadedTokenizer, values: Tensor, masked: Tensor | None) -> Tensor:
        if self._tiles is None:
            codes: Tensor = tokenizer.model.encode(values, masked).indices
            return codes
        return tiling.encode(tokenizer.model, values, *self._tiles, masked=masked)


class Guide:
    """A frozen editor on small grids, which says what a larger one looks at.

    Args:
        prior: its network looks at all blocks.
        encode: of the same tokenizers as the editor's.

    Raises:
        ValueError: it is no editor that looks at all blocks.
    """

    def __init__(self, prior: LoadedPrior, encode: SceneEncoder) -> None:
        network = prior.model
        if not isinstance(network, Editor) or network.config.attention != "dense":
            raise ValueError("a guide must be a prior of kind editor with model.attention: dense; name such a run")
        self.network = network
        self.encode = encode
        self.digest: str = prior.metadata["digest"]

    def resized(self, scene: Scene) -> Scene:
        """A scene as the guide sees it: its shorter side as in the guide's training."""
        return scene.resized(self.size((scene.images.shape[2], scene.images.shape[3])))

    def small(self, scene: Scene) -> dict[str, Tensor]:
        """What the guide itself reads of a scene."""
        return self.encode(self.resized(scene))

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Pixels at which it sees an image of so many; multiples of its blocks."""
        window, blocks = self.network.window, self.network.config.blocks
        shorter = min(size)
        rows, columns = (
            max(round(side / shorter * min(window) / count), 1) * count
            for side, count in zip(size, blocks, strict=True)
        )
        return rows * self.encode.factor, columns * self.encode.factor

    def looks(self, small: Mapping[str, Tensor], codes: Tensor | None = None) -> dict[str, Tensor]:
        """What it looks at in scenes of which it reads ``small``, when their codes are these; by default the true."""
        return self.network.affinities(small["codes"] if codes is None else codes, small)


def check_guide(guide: LoadedPrior, tokenizer: str, condition_tokenizers: Mapping[str, str], model: Any) -> None:
    """Refuse a guide that does not fit an editor.

    Args:
        tokenizer, condition_tokenizers: digests of the editor's.
        model: the editor's config.

    Raises:
        ValueError: it learnt other codes, or has other layers, heads or blocks.
    """
    learnt = (guide.metadata["tokenizer"], dict(guide.metadata.get("condition_tokenizers") or {}))
    if learnt != (tokenizer, dict(condition_tokenizers)):
        raise ValueError(
            f"the guide learnt the codes of the tokenizers {_short(learnt)}, and the editor those of "
            f"{_short((tokenizer, dict(condition_tokenizers)))}; name a guide of the same tokenizers"
        )
    shape = ("encoder_layers", "decoder_layers", "heads", "blocks")
    for name in shape:
        theirs, ours = getattr(guide.model.config, name, None), getattr(model, name)
        if theirs != ours:
            raise ValueError(f"the guide's {name} must be the editor's model.{name} {ours}, got {theirs}")


def _short(digests: tuple[str, dict[str, str]]) -> str:
    return ", ".join(digest[:12] for digest in (digests[0], *digests[1].values()))
