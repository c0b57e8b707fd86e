"""The stream that a config asks for."""

from collections.abc import Mapping, Sequence

from ..images.known_values import Check
from .batch_stream import BatchStream
from .config import DataConfig
from .in_order.stream import InOrderStream
from .stream import Stream


def open_stream(
    config: DataConfig,
    fields: Sequence[str] = ("image",),
    *,
    global_batch: int,
    micro_batch: int,
    rank: int = 0,
    world: int = 1,
    seed: int = 0,
    checks: Mapping[str, Check] | None = None,
) -> BatchStream:
    """Batches of samples for one rank of a job.

    Arguments as of ``BatchStream``, errors as of ``Stream`` and ``InOrderStream``.
    """
    made = InOrderStream if config.in_order else Stream
    return made(
        config,
        fields,
        global_batch=global_batch,
        micro_batch=micro_batch,
        rank=rank,
        world=world,
        seed=seed,
        checks=checks,
    )
