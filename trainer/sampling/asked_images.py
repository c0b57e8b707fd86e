"""Sampling images that a user asks for one by one: of some sizes, some classes, under files of conditions."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ...models.conditions import Condition
from ...models.vqgan.tiling import Tiling
from ..distributed import ranks
from . import condition_files
from .condition_fields import ConditionEncoder, check_table
from .condition_files import ConditionInputs
from .image_files import IMAGES, check_replaceable, contact_sheet
from .job import SamplingJob
from .rejection import Rejection, keep_best
from .request import Completion, SampleRequest, build_request, read_photo
from .sample_archive import check_archive, write_archive


class AskedImages(NamedTuple):
    """What to sample."""

    out: Path
    each: int  # images of every size and class
    sizes: Sequence[tuple[int, int] | None]  # in pixels; None for that of a condition
    given: ConditionInputs  # of one class, or of none where there are several
    classes: Sequence[int] = ()  # several, each in a folder of its own
    init_image: Path | None = None  # a photo to complete
    keep_rows: float | None = None  # share of its rows
    grid: bool = False  # all images of a size, small, in one more
    archive: bool = False  # all images of a size in one ``.npz``
    rejection: Rejection | None = None  # keeps the best of more images of a class


def sample_asked(job: SamplingJob, asked: AskedImages, tiles: Tiling) -> None:
    """Sample all of them. Every rank must call this.

    Args:
        tiles: in which maps, depths and photos are encoded.

    Raises:
        ValueError: something of what is asked does not fit the prior, a file cannot be used, or another image, or
            something else, has the name of one of them.
    """
    labels: list[int | None] = [*asked.classes] or [asked.given.label]
    given = asked.given._replace(label=labels[0])
    condition_files.check_inputs(job.prior, given)
    folders = class_folders(job.prior.model.condition, asked.out, asked.classes) if asked.classes else [asked.out]
    conditions = ConditionEncoder(job.prior, given.tokenizers, tiles)
    values = condition_files.read(given)
    _check_keep_rows(asked)
    photo = None if asked.init_image is None else Completion(read_photo(asked.init_image), asked.keep_rows, tiles)
    requests = [build_request(job.tokenizer, conditions, values, size, photo) for size in asked.sizes]
    stem = f"{_named(asked)}seed-{job.seed}"
    ends = ["" if size is None or len(asked.sizes) == 1 else f"-{size[0]}x{size[1]}" for size in asked.sizes]
    sheets = [asked.out / f"{stem}{end}-grid.png" for end in ends]
    archives = [asked.out / f"{stem}{end}.npz" for end in ends]
    for sheet in sheets if asked.grid else ():
        check_replaceable(sheet, IMAGES)
    for archive in archives if asked.archive else ():
        check_archive(archive)
    for wanted, end, sheet, archive in zip(requests, ends, sheets, archives, strict=True):
        groups = [
            _Group(_of_class(wanted, label), label, folder, f"{stem}-{{:04d}}{end}")
            for label, folder in zip(labels, folders, strict=True)
        ]
        images = _plain(job, groups, asked.each) if asked.rejection is None else _best(job, groups, asked)
        if asked.grid and ranks.rank() == 0:
            contact_sheet(images, sheet)
        if asked.archive and ranks.rank() == 0:
            job.say(f"{write_archive(archive, images)}: {len(images)} images")


def _check_keep_rows(asked: AskedImages) -> None:
    if asked.keep_rows is None:
        return
    if asked.init_image is None:
        raise ValueError("--keep-rows is of a photo; give one with --init-image")
    if not 0 <= asked.keep_rows <= 1:
        raise ValueError(f"--keep-rows must be in [0, 1], got {asked.keep_rows}")


class _Group(NamedTuple):
    """Images that differ in their numbers alone."""

    wanted: SampleRequest
    label: int | None
    folder: Path
    stem: str  # of their names, to be filled with the number


def _plain(job: SamplingJob, groups: Sequence[_Group], each: int) -> list[Path]:
    """All images of all groups; those that are sampled together are neighbors and fill the lanes of a forward."""
    tasks = [
        # Neighboring classes have neighboring lanes, so that images of many classes fill a forward.
        job.image_job(group.wanted, number, group.folder, group.stem.format(number), lane=number + (group.label or 0))
        for group in groups
        for number in range(each)
    ]
    batch = job.config.batch
    job.run([task for place, task in enumerate(tasks) if place // batch % ranks.world() == ranks.rank()])
    ranks.barrier()
    return [task.path for task in tasks]


def _best(job: SamplingJob, groups: Sequence[_Group], asked: AskedImages) -> list[Path]:
    """The best of each group; the groups go round the ranks."""
    rejection = asked.rejection
    if rejection is None or groups[0].label is None:
        raise ValueError("a classifier chooses among images of a class; give it with --class or --classes")
    many = rejection.candidates(asked.each)
    made = rejection.made(asked.each)
    kept: dict[int, list[Path]] = {}
    for place in range(ranks.rank(), len(groups), ranks.world()):
        wanted, label, folder, stem = groups[place]
        tasks = [job.image_job(wanted, number, folder, stem.format(number), made) for number in range(many)]
        kept[place] = keep_best(job, rejection, tasks, int(label or 0), asked.each)
    for others in ranks.all_gather_object(kept):
        kept |= others
    return [path for place in sorted(kept) for path in kept[place]]


def class_folders(condition: Condition, out: Path, labels: Sequence[int]) -> list[Path]:
    """A folder for each class, named by its number in as many digits as the largest class has: they sort by number.

    Raises:
        ValueError: the condition does not know a class.
    """
    check_table(condition, "cls", torch.tensor(labels))
    digits = len(str(condition.known["cls"].stop - 1))
    return [out / f"{label:0{digits}d}" for label in labels]


def _of_class(wanted: SampleRequest, label: int | None) -> SampleRequest:
    """The same image of another class; of None as it is."""
    if label is None:
        return wanted
    return wanted._replace(fields={**wanted.fields, "cls": torch.tensor([label])})


def _named(asked: AskedImages) -> str:
    """What is asked of the images, as the beginning of their names: two requests in one folder do not meet."""
    given = asked.given
    said = [] if given.label is None else [f"class-{given.label}"]
    files = (given.segmentation, given.depth, given.low_resolution, given.text, given.objects, asked.init_image)
    said += [re.sub(r"[^\w.-]", "_", file.stem)[:60] for file in files if file is not None]
    return "".join(f"{part}-" for part in said)
