"""Work over every sample of a set of shards, shared out over the ranks: sampling under each sample's condition."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..distributed import ranks
from ..shards.errors import PASSING, SampleError, TooManySampleErrorsError
from .job import ImageJob, SamplingJob
from .rejection import Rejection, keep_best
from .shard_requests import ShardRequests

MAX_BAD_FRACTION = 0.01


class SetReport(NamedTuple):
    """What became of a set."""

    images: list[Path]  # in the order of the samples
    left_out: list[str]  # samples that could not be used, and why


class LeftOut:
    """The samples of a rank that cannot be used. Each is named once.

    Args:
        say: takes a line for the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.reasons: dict[int, str] = {}

    @contextmanager
    def leaving_out(self, sample: int) -> Iterator[None]:
        """Ends the block, and no more, if the sample cannot be used.

        Raises:
            SampleError: its whole shard is missing or cannot be reached.
        """
        try:
            yield
        except SampleError as error:
            if error.kind in PASSING:
                raise
            if sample not in self.reasons:
                self._say(f"left out: {error}")
            self.reasons[sample] = str(error)


def walk_set(
    samples: int,
    each: int,
    batch: int,
    say: Callable[[str], None],
    work: Callable[[range, LeftOut], Mapping[int, Path]],
) -> SetReport:
    """Do a work at ``samples * each`` places, batches of neighbors going round the ranks.

    Every rank must call this, and gets the same report. What a batch holds does not depend on the number of ranks.

    Args:
        samples: of the set.
        each: places of every sample, one behind the other.
        batch: places that are worked at together.
        say: takes a line for the user.
        work: makes images for some places, and gives their files by place.

    Raises:
        SampleError: a shard is missing or cannot be reached; the same command goes on later.
        TooManySampleErrorsError: more than ``MAX_BAD_FRACTION`` of the samples were left out; all others are done.
    """
    places = samples * each
    left_out = LeftOut(say)
    images: dict[int, Path] = {}
    for begin in range(ranks.rank() * batch, places, ranks.world() * batch):
        images |= work(range(begin, min(begin + batch, places)), left_out)
    reasons = left_out.reasons
    for others, missing in ranks.all_gather_object((images, reasons)):
        images |= others
        reasons |= missing
    if len(reasons) > MAX_BAD_FRACTION * samples:
        raise TooManySampleErrorsError(
            f"{len(reasons)} of {samples} samples were left out, more than a share of {MAX_BAD_FRACTION:g}; the first "
            f"is {reasons[min(reasons)]}"
        )
    return SetReport([images[place] for place in sorted(images)], [reasons[number] for number in sorted(reasons)])


def sample_set(
    job: SamplingJob, requests: ShardRequests, count: int, out: Path, rejection: Rejection | None = None
) -> SetReport:
    """Sample ``count`` images of every sample; see ``walk_set``.

    Image k of the sample n has the number n + k * samples, whatever ``count`` is. With a classifier the images are the
    best of more candidates, by the sample's class.

    Raises:
        ValueError: another image has the name of one of them; or there is a classifier, and the prior reads no class.
    """
    samples = len(requests)

    def task(sample: int, again: int, only: bool, made: Mapping[str, Any] | None = None) -> ImageJob:
        key, wanted = requests.key(sample), requests.request(sample)
        stem = key.name if only else f"{key.name}-{again:04d}"
        return job.image_job(wanted, sample + again * samples, out / key.parent, stem, made)

    def work(places: range, left_out: LeftOut) -> dict[int, Path]:
        tasks: dict[int, ImageJob] = {}
        for place in places:
            sample, again = divmod(place, count)
            with left_out.leaving_out(sample):
                tasks[place] = task(sample, again, count == 1)
        job.run(list(tasks.values()))
        return {place: task.path for place, task in tasks.items()}

    if rejection is None:
        return walk_set(samples, count, job.config.batch, job.say, work)
    if "cls" not in job.prior.model.condition.fields:
        raise ValueError("a classifier chooses among images of a class, and this prior reads none; omit --classifier")
    many = rejection.candidates(count)
    made = rejection.made(count)

    def best(places: range, left_out: LeftOut) -> dict[int, Path]:
        (sample,) = places
        kept: list[Path] = []
        with left_out.leaving_out(sample):
            tasks = [task(sample, again, False, made) for again in range(many)]
            kept = keep_best(job, rejection, tasks, int(requests.request(sample).fields["cls"]), count)
        return {sample * count + place: path for place, path in enumerate(kept)}

    return walk_set(samples, 1, 1, job.say, best)
