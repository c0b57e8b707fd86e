"""Sampling every sample of a set of shards, each under its own condition, into a folder of the samples' keys."""

from pathlib import Path
from typing import NamedTuple

from ..distributed import ranks
from ..shards.errors import PASSING, SampleError, TooManySampleErrorsError
from .job import ImageJob, SamplingJob
from .shard_requests import ShardRequests

MAX_BAD_FRACTION = 0.01


class SetReport(NamedTuple):
    """What became of a set."""

    images: list[Path]  # in the order of the samples
    left_out: list[str]  # samples that could not be used, and why


def sample_set(job: SamplingJob, requests: ShardRequests, count: int, out: Path) -> SetReport:
    """Sample ``count`` images of every sample. Every rank must call this, and gets the same report.

    Batches of neighbors go round the ranks. Image k of the sample n has the number n + k * samples, whatever ``count``
    is. Samples that cannot be used are named and left out.

    Raises:
        ValueError: another image has the name of one of them.
        SampleError: a shard is missing or cannot be reached; the same command goes on later.
        TooManySampleErrorsError: more than ``MAX_BAD_FRACTION`` of the samples were left out; all others are sampled.
    """
    samples, batch = len(requests), job.config.batch
    images: dict[int, Path] = {}
    left_out: dict[int, str] = {}
    for begin in range(ranks.rank() * batch, samples * count, ranks.world() * batch):
        tasks: dict[int, ImageJob] = {}
        for place in range(begin, min(begin + batch, samples * count)):
            sample, again = divmod(place, count)
            try:
                key, wanted = requests.key(sample), requests.request(sample)
            except SampleError as error:
                if error.kind in PASSING:
                    raise
                if sample not in left_out:
                    job.say(f"left out: {error}")
                left_out[sample] = str(error)
                continue
            stem = key.name if count == 1 else f"{key.name}-{again:04d}"
            tasks[place] = job.image_job(wanted, sample + again * samples, out / key.parent, stem)
        job.run(list(tasks.values()))
        images |= {place: task.path for place, task in tasks.items()}
    for others, missing in ranks.all_gather_object((images, left_out)):
        images |= others
        left_out |= missing
    if len(left_out) > MAX_BAD_FRACTION * samples:
        raise TooManySampleErrorsError(
            f"{len(left_out)} of {samples} samples were left out, more than a share of {MAX_BAD_FRACTION:g}; the first "
            f"is {left_out[min(left_out)]}"
        )
    return SetReport([images[place] for place in sorted(images)], [left_out[number] for number in sorted(left_out)])
