"""Painting pictures with a prior and its tokenizer, into a folder.

Which pictures there will be follows from the seed, the prior, the tokenizer and what is asked, and from nothing else:
not from how many are painted together, on how many ranks, in which mode, or how often the run was killed.

Shapes: B pictures that are painted together, their grids of h x w codes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...models.sampling import UNKNOWN, Painting, SamplingConfig, paint
from ..checkpoint import model_files
from ..checkpoint.loading import Prior, Tokenizer
from . import partial
from .image_files import DevelopConfig, develop, read_notes, save, write
from .progress import GalleryConfig, Watch
from .request import Wish


class Task(NamedTuple):
    """One picture to be painted."""

    number: int  # keys its randomness together with the seed
    path: Path
    made: Mapping[str, Any]  # how it is made, for its metadata; "wish" names all that decides what it will be


class Gallery:
    """Paints one wish again and again, picture by picture.

    Args:
        prior, tokenizer: a pair, see ``check_pair``.
        seed: of all pictures.
        sampling: how codes are drawn.
        develop: how they become pixels.
        config: how to go about it.
        say: takes a line for the user.
    """

    def __init__(
        self,
        prior: Prior,
        tokenizer: Tokenizer,
        seed: int,
        sampling: SamplingConfig,
        develop: DevelopConfig,
        config: GalleryConfig,
        say: Callable[[str], None],
    ) -> None:
        check_pair(prior, tokenizer)
        self.prior, self.tokenizer = prior, tokenizer
        self.seed = seed
        self.sampling, self.develop, self.config = sampling, develop, config
        self.say = say

    def task(self, wanted: Wish, number: int, folder: Path, stem: str) -> Task:
        """A picture's file and metadata."""
        factor: int = self.prior.card["factor"]
        height, width = (side * factor for side in wanted.size)
        made = {
            "seed": self.seed,
            "picture": number,
            "size": [height, width],
            "prior": self.prior.card["digest"],
            "tokenizer": self.tokenizer.card["digest"],
            "sampling": repr(self.sampling),
            "developed": repr(self.develop),
            "wish": self._identity(wanted, number),
        }
        return Task(number, folder / (stem + self.develop.suffix(height, width)), made)

    def paint(self, wanted: Wish, tasks: Sequence[Task]) -> None:
        """Paint the pictures that are not there yet; those that were begun go on.

        Raises:
            ValueError: another picture, or something else, has the name of one of them.
        """
        tasks = [task for task in tasks if not self._finished(task)]
        for begin in range(0, len(tasks), self.config.batch):
            self._paint(wanted, tasks[begin : begin + self.config.batch])

    def _finished(self, task: Task) -> bool:
        deciding = ("wish", "tokenizer", "developed")
        notes = read_notes(task.path)
        there = all(notes.get(name) == task.made[name] for name in deciding)
        if there:
            self.say(f"{task.path}: there already")
        elif task.path.exists():
            raise ValueError(
                f"{task.path} is there and was asked for otherwise (another prior, condition or setting), or is not by "
                "this command; move it away, or choose another --out"
            )
        return there

    def _paint(self, wanted: Wish, tasks: Sequence[Task]) -> None:
        """Paint some pictures together, to their files."""
        numbers = [task.number for task in tasks]
        fields = {name: field.repeat(len(tasks), *[1] * (field.dim() - 1)) for name, field in wanted.fields.items()}
        given = None if wanted.given is None else wanted.given.repeat(len(tasks), 1, 1)
        before = self._before(wanted, tasks)
        watch = Watch(self.config, 0 if before is None else int((before.codes[0] != UNKNOWN).sum()), self.say)
        for painting in paint(self.prior.model, fields, wanted.size, numbers, self.seed, self.sampling, given, before):
            watch.look(painting, lambda now: self._keep(now, tasks), lambda now: self._preview(now, tasks))
        for codes, task in zip(painting.codes, tasks, strict=True):
            seam = write(self.tokenizer, codes[None], self.develop, task.path, task.made)
            partial.forget(task.path)
            _preview_of(task.path).unlink(missing_ok=True)
            height, width = task.made["size"]
            visible = "" if seam is None else f", seam {seam:.3f} (1 is none)"
            self.say(f"{task.path}: {height} x {width}{visible}")

    def _before(self, wanted: Wish, tasks: Sequence[Task]) -> Painting | None:
        """What a killed run had painted of these pictures."""
        found = [partial.find(task.path, task.made["wish"]) for task in tasks]
        if not any(found):
            return None
        nothing = partial.Unfinished(torch.full(wanted.size, UNKNOWN, dtype=torch.int64), torch.zeros(wanted.size))
        codes, scores = zip(*[each or nothing for each in found], strict=True)
        return Painting(torch.stack(codes), torch.stack(scores), 0, 0)

    def _keep(self, painting: Painting, tasks: Sequence[Task]) -> None:
        for codes, scores, task in zip(painting.codes, painting.scores, tasks, strict=True):
            partial.keep(task.path, task.made["wish"], partial.Unfinished(codes, scores))

    def _preview(self, painting: Painting, tasks: Sequence[Task]) -> None:
        """Show the rows that have been begun; what is unknown in them is grey."""
        factor: int = self.prior.card["factor"]
        for codes, task in zip(painting.codes, tasks, strict=True):
            begun = codes[: int((codes != UNKNOWN).any(dim=1).nonzero().max()) + 1]
            picture = develop(self.tokenizer, begun.clamp(min=0)[None], self.develop)
            for row, column in (begun == UNKNOWN).nonzero().tolist():
                left, top = column * factor, row * factor
                picture.paste((128, 128, 128), (left, top, left + factor, top + factor))
            save(picture, _preview_of(task.path), {"painted": int((codes != UNKNOWN).sum()), **task.made})

    def _identity(self, wanted: Wish, number: int) -> str:
        """A digest of everything that decides a picture's codes. Both modes paint the same ones."""
        drawn = asdict(replace(self.sampling, mode="serial"))
        told = {name: field for name, field in wanted.fields.items() if name in self.prior.model.condition.fields}
        if wanted.given is not None:
            told["given"] = wanted.given
        said = [self.prior.card["digest"], self.seed, number, wanted.size, drawn, model_files.digest(told)]
        return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def check_pair(prior: Prior, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer that is not the one whose codes the prior learnt.

    Raises:
        ValueError: naming both.
    """
    learnt, given = prior.card["tokenizer"], tokenizer.card["digest"]
    if learnt != given:
        raise ValueError(
            f"the prior learnt the codes of the tokenizer {learnt[:12]}, and this one is {given[:12]}; name that one"
        )


def _preview_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.preview.png")
