"""Candidates of an edit: a part of a photo made anew several times, ranked by how likely the editor finds them.

The same seed gives the same candidates, whatever their number.

Shapes: C candidates, one photo of H x W pixels, its grid of (h, w) codes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...models.bounds import Weight, Width, check_ranges
from ...models.conditions.edit import MASKED
from ...models.priors.editor import Editor
from ...models.sampling import UNFILLED, GridRequest, SamplingConfig, SamplingState, likelihood, sample
from ...models.sampling.gumbel_noise import mix
from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..sampling.image_files import DecodeConfig, decode_image
from ..sampling.job import check_pair
from .blending import Array, composited
from .photo import PhotoEdit
from .scene import Guide, Scene, SceneEncoder
from .unfinished import UnfinishedCandidates

_OF_GUIDE = 1  # tells its randomness from the editor's


@dataclass(frozen=True)
class EditJobConfig:
    """How many candidates an edit has, how they are joined to the photo, and how often they are kept on the way."""

    candidates: Width = 8
    feather: Weight = 8.0  # pixels over which what is made appears inside of the edit; 0 for a hard border
    save_every_s: Weight = 30.0  # how much work a kill may cost

    def __post_init__(self) -> None:
        check_ranges(self)


class Candidate(NamedTuple):
    """One version of the photo."""

    number: int  # keys its randomness together with the seed
    colors: npt.NDArray[np.uint8]  # (H, W, 3)
    likelihood: float  # of the codes that were made, in nats


class EditJob:
    """Edits photos with an editor.

    Args:
        prior, tokenizer: a pair.
        encode: by the tokenizers.
        guide: of a guided editor, the one that it was trained with.
        sampling: how codes are drawn, by the guide and by the editor.
        decode: how they become pixels.
        config: of the candidates.

    Raises:
        ValueError: the prior is no editor, is not the tokenizer's, or was guided by another guide.
    """

    def __init__(
        self,
        prior: LoadedPrior,
        tokenizer: LoadedTokenizer,
        encode: SceneEncoder,
        guide: Guide | None,
        sampling: SamplingConfig,
        decode: DecodeConfig,
        config: EditJobConfig,
    ) -> None:
        self.network = editor_of(prior)
        check_pair(prior, tokenizer)
        learnt, given = prior.metadata.get("guide"), None if guide is None else guide.digest
        if learnt != given:
            raise ValueError(
                f"the prior was trained with {_named(learnt)}, and this is {_named(given)}; "
                f"{'name that with --guide' if learnt else 'leave --guide out'}"
            )
        self.tokenizer, self.encode, self.guide = tokenizer, encode, guide
        self._small = Guide(prior, encode) if guide is None and self.network.config.attention == "dense" else guide
        self.sampling, self.decode, self.config = sampling, decode, config
        self.made = {  # how the candidates are made, for their metadata
            "prior": prior.metadata["digest"],
            "tokenizer": tokenizer.metadata["digest"],
            "guide": given,
            "precision": str(next(self.network.parameters()).dtype).removeprefix("torch."),
            "sampling": repr(sampling),
            "decoded": repr(decode),
            "feather": config.feather,
        }

    def run(
        self,
        edit: PhotoEdit,
        seed: int,
        progress: Callable[[SamplingState], None],
        unfinished: UnfinishedCandidates | None = None,
    ) -> list[Candidate]:
        """All candidates of an edit, the likeliest first; none where nothing is to be made anew.

        Args:
            progress: is called after every step of sampling.
            unfinished: where candidates are kept while they are sampled; those that are kept there go on. What the
                guide makes, which is small, is made again.
        """
        if not edit.masked.any():
            return []
        scene = self._scene(edit)
        numbers = range(self.config.candidates)
        fields = _repeated(self.encode(scene), len(numbers))
        if self.guide is not None:
            fields |= self._looks(scene, seed, progress)
        size = (fields["codes"].shape[1], fields["codes"].shape[2])
        before = None if unfinished is None else unfinished.before(size, self.network.codes)

        def look(state: SamplingState) -> None:
            progress(state)
            if unfinished is not None:
                unfinished.look(state)

        state = _filled(self.network, fields, numbers, seed, self.sampling, look, before)
        scores = likelihood(state).tolist()
        height, width = edit.masked.shape
        candidates = []
        for number in numbers:
            made = np.asarray(decode_image(self.tokenizer, state.codes[number : number + 1], self.decode))
            colors = composited(edit.photo.colors, made[:height, :width], edit.masked, self.config.feather)
            candidates.append(Candidate(number, colors, scores[number]))
        return sorted(candidates, key=lambda candidate: -candidate.likelihood)

    def _scene(self, edit: PhotoEdit) -> Scene:
        """What the editor sees of an edit; the map before it is encoded for guidance alone."""
        scene = padded(edit, self.encode.factor, self.network.config.blocks)
        return scene._replace(before=None) if self.sampling.guidance.scale == 1 else scene

    def _looks(self, scene: Scene, seed: int, progress: Callable[[SamplingState], None]) -> dict[str, Tensor]:
        """What the guide looks at in small versions of the candidates, which it makes itself."""
        guide, numbers = self.guide, range(self.config.candidates)
        if guide is None:
            return {}
        small = guide.small(scene)
        state = self._filled_small(guide, small, numbers, seed, progress)
        # One by one, so that no candidate's numbers depend on how many there are.
        looks = [guide.looks(small, state.codes[number : number + 1]) for number in numbers]
        return {name: torch.cat([each[name] for each in looks]) for name in looks[0]}

    def preview(self, edit: PhotoEdit, seed: int, progress: Callable[[SamplingState], None]) -> Array | None:
        """The small version of the first candidate, (h, w, 3), which its guide makes before it.

        Without a guide it is what an editor that looks at all blocks makes of a small version of the photo; None where
        the editor does not, or nothing is to be made anew.
        """
        guide = self._small
        if guide is None or not edit.masked.any():
            return None
        scene = self._scene(edit)
        seen = guide.resized(scene)
        state = self._filled_small(guide, guide.encode(seen), range(1), seed, progress)
        made = np.asarray(decode_image(self.tokenizer, state.codes, self.decode))
        photo, masked = seen.images[0].permute(1, 2, 0).numpy(), seen.masked[0].numpy()
        share = [small / whole for small, whole in zip(masked.shape, scene.masked.shape[1:], strict=True)]
        height, width = (max(round(side * part), 1) for side, part in zip(edit.masked.shape, share, strict=True))
        return composited(photo, made, masked, self.config.feather * min(share))[:height, :width]

    def _filled_small(
        self,
        guide: Guide,
        small: Mapping[str, Tensor],
        numbers: range,
        seed: int,
        progress: Callable[[SamplingState], None],
    ) -> SamplingState:
        """Small versions of some candidates, made by a guide that reads ``small``."""
        fields = _repeated(small, len(numbers))
        return _filled(guide.network, fields, numbers, mix(seed, _OF_GUIDE), self.sampling, progress)


def editor_of(prior: LoadedPrior) -> Editor:
    """The network of a prior that is an editor.

    Raises:
        ValueError: it is of another kind.
    """
    if not isinstance(prior.model, Editor):
        kind = prior.metadata["model"].get("kind")
        raise ValueError(f"this prior is of kind {kind}, and only those of kind editor edit photos; use smalti sample")
    return prior.model


def padded(edit: PhotoEdit, factor: int, blocks: tuple[int, int]) -> Scene:
    """The scene of an edit, whose borders are repeated to the right and below until the blocks divide its codes."""
    height, width = edit.masked.shape
    more = [(0, -side % (factor * count)) for side, count in zip((height, width), blocks, strict=True)]
    colors = np.pad(edit.photo.colors, (*more, (0, 0)), mode="edge")
    labels, before, masked = (np.pad(each, more, mode="edge") for each in (edit.labels, edit.before, edit.masked))
    return Scene(
        torch.from_numpy(colors).permute(2, 0, 1)[None],
        torch.from_numpy(labels.astype(np.int64))[None],
        torch.from_numpy(masked)[None],
        torch.from_numpy(before.astype(np.int64))[None],
    )


def _repeated(fields: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: field.expand(count, *field.shape[1:]) for name, field in fields.items()}


def _filled(
    network: Editor,
    fields: Mapping[str, Tensor],
    numbers: range,
    seed: int,
    sampling: SamplingConfig,
    progress: Callable[[SamplingState], None],
    before: SamplingState | None = None,
) -> SamplingState:
    codes = fields["codes"]
    known = codes.masked_fill(fields[MASKED], UNFILLED)
    size = (codes.shape[1], codes.shape[2])
    return sample(GridRequest(network, fields, size, numbers, seed, sampling, known), progress, before)


def _named(digest: str | None) -> str:
    return "no guide" if digest is None else f"the guide {digest[:12]}"
