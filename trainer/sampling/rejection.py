"""Rejection by a classifier: of many candidates of a class, those of which it is surest are kept.

As Razavi et al. 2019, section 3.4, and Esser et al. 2021, table 4: a kept share of 0.05 is their acceptance rate.
Shapes: B images of H x W pixels.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ...models.pixel_range import from_levels
from ...models.sampling import class_log_likelihood
from ..files import sha256
from ..frozen_networks import torchscript
from ..images.decode import open_image
from . import partial
from .job import ImageJob, SamplingJob

_TOGETHER = 16  # images in a forward, always the same ones, so that marks do not depend on how they were sampled


class Rejection(NamedTuple):
    """A classifier, and the share of candidates that it keeps."""

    classifier: torch.jit.ScriptModule  # (B, 3, H, W) in [-1, 1] to (B, classes) logits
    device: torch.device  # where it is
    digest: str  # of its file
    keep_share: float

    def candidates(self, each: int) -> int:
        """How many are sampled to keep so many."""
        return math.ceil(each / self.keep_share - 1e-9)

    def made(self, each: int) -> dict[str, Any]:
        """What the metadata of each image that is kept say of the choice."""
        return {"classifier": self.digest, "candidates": self.candidates(each), "kept": each}


def load_rejection(file: Path, keep_share: float, device: torch.device) -> Rejection:
    """A TorchScript file as the classifier.

    Raises:
        ValueError: it cannot be loaded, or the share is not in (0, 1].
    """
    if not 0 < keep_share <= 1:
        raise ValueError(f"the share of candidates to keep must be in (0, 1], got {keep_share}")
    classifier = torchscript.load(file, device)
    return Rejection(classifier, device, sha256(file), keep_share)


def keep_best(job: SamplingJob, rejection: Rejection, tasks: Sequence[ImageJob], label: int, keep: int) -> list[Path]:
    """Sample candidates aside, and keep the ``keep`` of which the classifier is surest, under their own names.

    A kill costs what a kill of sampling costs. What is kept does not depend on it.

    Args:
        tasks: the candidates, with the paths that they get if they are kept, all in one folder.
        label: the class.

    Raises:
        ValueError: another image has the name of one of them, or the classifier does not know the class.
    """
    there = [place for place, task in enumerate(tasks) if job.finished(task)]
    aside = tasks[0].path.parent / f".{tasks[0].path.stem}.candidates"
    waiting = {
        place: task._replace(path=aside / task.path.name) for place, task in enumerate(tasks) if place not in there
    }
    if len(there) < keep:
        job.run(list(waiting.values()))
        paths = [waiting.get(place, task).path for place, task in enumerate(tasks)]
        marks = _marks(rejection, paths, label)
        there = sorted(range(len(tasks)), key=lambda place: (place in waiting, -marks[place], place))[:keep]
        for place in there:
            paths[place].replace(tasks[place].path)
    for candidate in waiting.values():
        candidate.path.unlink(missing_ok=True)
        partial.remove(candidate.path)
    with suppress(OSError):  # there was none, or it holds what is not ours
        aside.rmdir()
    return [tasks[place].path for place in sorted(there)]


@torch.no_grad()
def _marks(rejection: Rejection, paths: Sequence[Path], label: int) -> list[float]:
    """How sure the classifier is of the class, for each image, in nats."""
    marks: list[float] = []
    for begin in range(0, len(paths), _TOGETHER):
        levels = []
        for path in paths[begin : begin + _TOGETHER]:
            with open_image(path) as image:
                levels.append(torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))
        images = from_levels(torch.stack(levels).to(rejection.device))
        logits = rejection.classifier(images)
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or logits.shape[1] <= label:
            said = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(
                f"the classifier must give (B, classes) logits for images in [-1, 1] and know the class {label}; of "
                f"{tuple(images.shape)} it made {said}"
            )
        marks += class_log_likelihood(logits, torch.full((len(images),), label, device=logits.device)).tolist()
    return marks
