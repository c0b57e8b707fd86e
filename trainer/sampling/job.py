"""Sampling images with a prior and its tokenizer, into a folder.

Which images there will be follows from the seed, the prior, the tokenizer and what is asked, and from nothing else:
not from how many are sampled together, on how many ranks, in which mode, or how often the run was killed.

Shapes: B images that are sampled together, their grids of h x w codes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...models.sampling import UNFILLED, GridRequest, SamplingConfig, SamplingState, sample_steps
from ..checkpoint import model_files
from ..checkpoint.loading import LoadedPrior, LoadedTokenizer
from ..files import part_of
from . import partial
from .image_files import DecodeConfig, check_replaceable, decode_image, read_metadata, save, write_image
from .progress import ProgressTracker, SamplingJobConfig
from .request import SampleRequest
from .sample_archive import CLASS

SAMPLED = "sampled"  # of a preview's metadata: codes


class ImageJob(NamedTuple):
    """One image to be sampled."""

    wanted: SampleRequest
    number: int  # keys its randomness together with the seed
    lane: int  # decides where in a forward it is
    path: Path
    made: Mapping[str, Any]  # how it is made, for its metadata; "request" names all that decides what it will be


class SamplingJob:
    """Samples images, a batch at a time.

    Args:
        prior, tokenizer: a pair, see ``check_pair``.
        seed: of all images.
        sampling_of: how the codes of grids of a size (h, w) are drawn.
        develop: how they become pixels.
        config: how to go about it.
        say: takes a line for the user.
    """

    def __init__(
        self,
        prior: LoadedPrior,
        tokenizer: LoadedTokenizer,
        seed: int,
        sampling_of: Callable[[tuple[int, int]], SamplingConfig],
        develop: DecodeConfig,
        config: SamplingJobConfig,
        say: Callable[[str], None],
    ) -> None:
        check_pair(prior, tokenizer)
        self.prior, self.tokenizer = prior, tokenizer
        self.seed = seed
        self.sampling_of, self.decode, self.config = sampling_of, develop, config
        self.say = say

    @property
    def precision(self) -> str:
        """That of the prior, which decides the codes too: float32 or bfloat16."""
        return str(next(self.prior.model.parameters()).dtype).removeprefix("torch.")

    def image_job(
        self,
        wanted: SampleRequest,
        number: int,
        folder: Path,
        stem: str,
        rejection: Mapping[str, Any] | None = None,
        lane: int | None = None,
    ) -> ImageJob:
        """An image's file and metadata.

        Args:
            rejection: how it is chosen among others, if it is.
            lane: what decides where in a forward it is, where its number does not.
        """
        factor: int = self.prior.metadata["factor"]
        height, width = (side * factor for side in wanted.size)
        made: dict[str, Any] = {
            "seed": self.seed,
            "image": number,
            "size": [height, width],
            "prior": self.prior.metadata["digest"],
            "tokenizer": self.tokenizer.metadata["digest"],
            "precision": self.precision,
            "sampling": repr(self.sampling_of(wanted.size)),
            "decoded": repr(self.decode),
            "request": self._identity(wanted, number),
        }
        if "cls" in wanted.fields:
            made[CLASS] = int(wanted.fields["cls"])
        if rejection is not None:
            made["rejection"] = dict(rejection)
        path = folder / (stem + self.decode.suffix(height, width))
        return ImageJob(wanted, number, number if lane is None else lane, path, made)

    def run(self, tasks: Sequence[ImageJob]) -> None:
        """Sample the images that are not there yet, neighbors of one size together; those that were begun go on.

        Raises:
            ValueError: another image, or something else, has the name of one of them.
        """
        tasks = [task for task in tasks if not self.finished(task)]
        if self.config.preview_every_s is not None:
            for task in tasks:
                check_replaceable(_preview_of(task.path), SAMPLED)
        for _, alike in groupby(tasks, lambda task: task.wanted.size):
            of_one_size = list(alike)
            for begin in range(0, len(of_one_size), self.config.batch):
                self._run(of_one_size[begin : begin + self.config.batch])

    def finished(self, task: ImageJob) -> bool:
        """Whether an image is there; what was kept of it on the way is removed then.

        Raises:
            ValueError: another image, or something else, has its name.
        """
        deciding = ("request", "tokenizer", "decoded", "rejection")
        notes = read_metadata(task.path)
        there = task.path.exists() and all(notes.get(name) == task.made.get(name) for name in deciding)
        if there:
            _remove_leftovers(task.path)  # of a job that was killed when the image was just there
            self.say(f"{task.path}: there already")
        elif task.path.exists():
            raise ValueError(
                f"{task.path} is there and was asked for otherwise (another prior, condition or setting), or is not by "
                "this command; move it away, or choose another --out"
            )
        return there

    def _run(self, tasks: Sequence[ImageJob]) -> None:
        """Sample some images of one size together, to their files."""
        size, numbers = tasks[0].wanted.size, [task.number for task in tasks]
        lanes = [task.lane for task in tasks]
        fields = {name: torch.cat([task.wanted.fields[name] for task in tasks]) for name in tasks[0].wanted.fields}
        known = [task.wanted.known_codes for task in tasks if task.wanted.known_codes is not None]
        given = torch.cat(known) if known else None  # a photo to complete is given for all, or for none
        before = self._before(tasks)
        watch = ProgressTracker(
            self.config, 0 if before is None else int((before.codes[0] != UNFILLED).sum()), self.say
        )
        for state in sample_steps(
            GridRequest(self.prior.model, fields, size, numbers, self.seed, self.sampling_of(size), given, lanes),
            before,
        ):
            watch.look(state, lambda now: self._keep(now, tasks), lambda now: self._preview(now, tasks))
        for codes, task in zip(state.codes, tasks, strict=True):
            seam = write_image(self.tokenizer, codes[None], self.decode, task.path, task.made)
            _remove_leftovers(task.path)
            height, width = task.made["size"]
            visible = "" if seam is None else f", seam {seam:.3f} (1 is none)"
            self.say(f"{task.path}: {height} x {width}{visible}")

    def _before(self, tasks: Sequence[ImageJob]) -> SamplingState | None:
        """What a killed run had sampled of these images."""
        return partial.find_all(*_places(tasks), tasks[0].wanted.size, self.prior.model.codes)

    def _keep(self, state: SamplingState, tasks: Sequence[ImageJob]) -> None:
        partial.save_all(*_places(tasks), state)

    def _preview(self, state: SamplingState, tasks: Sequence[ImageJob]) -> None:
        """Show the rows that have been begun; what is unknown in them is gray."""
        factor: int = self.prior.metadata["factor"]
        for codes, task in zip(state.codes, tasks, strict=True):
            begun = codes[: int((codes != UNFILLED).any(dim=1).nonzero().max()) + 1]
            image = decode_image(self.tokenizer, begun.clamp(min=0)[None], self.decode)
            for row, column in (begun == UNFILLED).nonzero().tolist():
                left, top = column * factor, row * factor
                image.paste((128, 128, 128), (left, top, left + factor, top + factor))
            save(image, _preview_of(task.path), {SAMPLED: int((codes != UNFILLED).sum()), **task.made})

    def _identity(self, wanted: SampleRequest, number: int) -> str:
        """A digest of everything that decides an image's codes. Both modes sample the same ones."""
        drawn = asdict(replace(self.sampling_of(wanted.size), mode="serial"))
        deciding_fields = {
            name: field for name, field in wanted.fields.items() if name in self.prior.model.condition.fields
        }
        if wanted.known_codes is not None:
            deciding_fields["given"] = wanted.known_codes
        said = [
            self.prior.metadata["digest"],
            self.seed,
            number,
            wanted.size,
            self.precision,
            drawn,
            model_files.digest(deciding_fields),
        ]
        return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check_pair(prior: LoadedPrior, tokenizer: LoadedTokenizer) -> None:
    """Refuse a tokenizer that is not the one whose codes the prior learnt.

    Raises:
        ValueError: naming both.
    """
    learnt, given = prior.metadata["tokenizer"], tokenizer.metadata["digest"]
    if learnt != given:
        raise ValueError(
            f"the prior learnt the codes of the tokenizer {learnt[:12]}, and this one is {given[:12]}; name that one"
        )


def _remove_leftovers(image: Path) -> None:
    """An image is finished: what was kept of it on the way goes, and its preview if it is one of ours."""
    partial.remove(image)
    if SAMPLED in read_metadata(_preview_of(image)):
        _preview_of(image).unlink()
    part_of(_preview_of(image)).unlink(missing_ok=True)


def _places(tasks: Sequence[ImageJob]) -> tuple[list[Path], list[str]]:
    """Where what is sampled of them is kept, and what it must say."""
    return [task.path for task in tasks], [task.made["request"] for task in tasks]


def _preview_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.preview.png")
