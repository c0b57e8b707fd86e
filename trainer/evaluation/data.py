"""The data set of an evaluation: every sample exactly once, in batches that are the same on any number of ranks."""

import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...models.bounds import Natural, Share, Width, check_ranges
from ..data.collate import Batch
from ..data.config import DataConfig
from ..data.crops import AnyCropConfig, CodeCropConfig, CropConfig, TamingCropConfig
from ..data.stream import Stream
from ..data.workers.datasets import Crops
from ..distributed import ranks
from ..images.known_values import Check
from ..shards.errors import TooManySampleErrorsError
from ..shards.patterns import without_secrets
from ..shards.reader import ShardSet

PRINT_EVERY_S = 10.0


@dataclass(frozen=True)
class EvaluationConfig:
    """How an evaluation goes through its samples."""

    batch: Width = 16  # samples that a network sees at once; part of the arithmetic
    num_workers: Natural = 0  # processes that read and decode, on each rank
    max_bad_fraction: Share = 0.01  # largest share of samples that may be left out

    def __post_init__(self) -> None:
        check_ranges(self)


class EvaluationData(NamedTuple):
    """The samples of an evaluation, as one rank sees them."""

    stream: Stream
    config: EvaluationConfig
    covering: bool = False  # crops that cover each image, and not its middle

    def batches(self, say: Callable[[str], None]) -> Iterator[Batch]:
        """This rank's batches: the middle of images, or the windows that cover grids of codes. Rank 0 tells of them.

        Raises:
            ValueError: too many samples cannot be used.
        """
        seen, printed = 0, time.monotonic()
        try:
            crops: Crops | None = "grid" if self.covering else None
            for batch in self.stream.eval_batches(self.config.batch, crops, dealt="batches"):
                yield batch
                seen += len(batch["key"])
                if ranks.rank() == 0 and time.monotonic() - printed >= PRINT_EVERY_S:
                    printed = time.monotonic()
                    say(f"{seen} crops seen, of about {-(-self.stream.samples // ranks.world())} samples of this rank")
        except TooManySampleErrorsError as error:
            raise ValueError(str(error)) from None

    def left_out(self) -> dict[str, int]:
        """How many samples could not be used, over all ranks, by kind. Every rank must call this."""
        return dict(sum(ranks.all_gather_object(Counter(self.stream.sample_errors)), Counter()))

    def protocol(self) -> dict[str, Any]:
        """What figures over these samples must say of them."""
        shards = [without_secrets(name) for source in self.stream.config.sources for name in source.shards]
        return {
            "data": ", ".join(shards),
            "fingerprint": self.stream.fingerprint,
            **cut(self.stream.config.crop, self.covering),
        }


def open_data(
    shards: Sequence[str],
    crop: AnyCropConfig,
    fields: Sequence[str],
    checks: Mapping[str, Check],
    config: EvaluationConfig,
    covering: bool = False,
) -> EvaluationData:
    """Open the shards on every rank; every rank must call this.

    Args:
        covering: crops that cover each image are wanted, and not its middle.

    Raises:
        AgreedError: they cannot be used: none is there, two samples have one key, a field is missing, images are too
            small for the crop, or ranks find different samples.
    """
    data = DataConfig(
        shards=tuple(shards), crop=crop, num_workers=config.num_workers, max_bad_fraction=config.max_bad_fraction
    )
    world = ranks.world()
    stream = ranks.agreed(
        lambda: Stream(
            data,
            fields,
            global_batch=config.batch * world,
            micro_batch=config.batch,
            rank=ranks.rank(),
            world=world,
            checks=checks,
        )
    )
    ranks.agreed(lambda: _check_keys(ShardSet.open(shards)) if ranks.rank() == 0 else None)
    here = (socket.gethostname(), stream.samples, stream.fingerprint)
    for host, samples, fingerprint in ranks.all_gather_object(here):
        if fingerprint != stream.fingerprint:
            raise ranks.AgreedError(
                f"{host} finds {samples} samples with the fingerprint {fingerprint}, {here[0]} {here[1]} with "
                f"{here[2]}; give every node the same shards"
            )
    return EvaluationData(stream, config, covering)


def crop_of_size(size: int, resize: int | None) -> CropConfig | TamingCropConfig | None:
    """The crop that is named by its size in pixels; None for size 0.

    Args:
        resize: the shortest side as taming-transformers resizes it; None for the largest square, with antialiasing.

    Raises:
        ValueError: there is a resize without a size, or below it.
    """
    if size and resize is not None:
        return TamingCropConfig(size=size, resize=resize)
    if resize is not None:
        raise ValueError("--resize needs --size, the part that is cut out of the resized image")
    return CropConfig(size=size, scale=(math.inf, math.inf)) if size else None


def protocol_of_samples(data: EvaluationData, samples: int) -> tuple[dict[str, Any], list[str]]:
    """What a protocol says of how many samples counted, and what must be warned of. Every rank must call this.

    Args:
        samples: that counted, over all ranks.
    """
    left_out = data.left_out()
    said = ", ".join(f"{number} {kind}" for kind, number in sorted(left_out.items()))
    return {"samples": samples, "left_out": sum(left_out.values())}, [f"left out: {said}"] if said else []


def cut(crop: AnyCropConfig | None, covering: bool = False) -> dict[str, str]:
    """The crop and the filter of resizing, in the words of a protocol: equal words are equal pixels."""
    if isinstance(crop, CodeCropConfig):
        return {"crop": f"windows of {crop.window[0]}x{crop.window[1]} codes that cover each grid"}
    if isinstance(crop, TamingCropConfig):
        return {
            "crop": f"shortest side to {crop.resize or crop.size}, the middle {crop.size}x{crop.size}",
            "resize_filter": "bilinear, not antialiased",
        }
    if crop is None:
        return {"crop": "whole images", "resize_filter": "none"}
    low, high = crop.scale
    scale = "the largest square" if math.isinf(low) else f"{low:g} to {high:g} source pixels a pixel"
    part = f"{crop.size}x{crop.size} that cover each image" if covering else f"the middle {crop.size}x{crop.size}"
    return {"crop": f"{part}, {scale}", "resize_filter": "Lanczos, antialiased"}


def _check_keys(shards: ShardSet) -> None:
    """Makes sure that no two samples have one key, as where an image was packed twice.

    Raises:
        ValueError: two have; naming their shards.
    """
    places: dict[str, int] = {}
    for shard, count in enumerate(shards.counts):
        for sample in range(count):
            key = shards.key(shard, sample)
            if key in places:
                first, second = (without_secrets(shards.names[number]) for number in (places[key], shard))
                raise ValueError(
                    f"two samples have the key {key!r}, in {first} and in {second}, and each must count once; evaluate "
                    "the sets one by one, or pack them again together"
                )
            places[key] = shard
