"""Stretches of remote files, many asked for at once: each has a deadline, and is asked for again where it fails."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import fsspec

PAUSES = (0.5, 1.0, 2.0)  # seconds between attempts; a store that is busy answers soon
_AT_ONCE = 64  # requests on their way
_GAP = 256 * 1024  # bytes; nearer stretches are fetched together, which costs less than another request

T = TypeVar("T")


class Stretch(NamedTuple):
    """Bytes of a file."""

    path: str  # as its file system calls it
    start: int
    end: int  # behind the last


class Repeated:
    """How many requests of this process had to be made again."""

    count = 0


def fetch(system: Any, stretches: Sequence[Stretch], seconds: float) -> list[bytes | Exception]:
    """The bytes of each stretch, or why they cannot be had.

    What fails, takes too long, or has another length than was asked for is asked for again, after a pause that grows;
    what is not there is not. Fewer bytes in the end are those of a file that has no more.

    Args:
        system: of fsspec.
        seconds: that one answer may take.
    """
    found: list[bytes | Exception] = [b""] * len(stretches)
    waiting = list(range(len(stretches)))
    for pause in (*PAUSES, None):
        answers = _ask(system, [stretches[number] for number in waiting], seconds)
        for number, answer in zip(waiting, answers, strict=True):
            found[number] = answer
        waiting = [number for number in waiting if _is_doubtful(stretches[number], found[number])]
        if not waiting or pause is None:
            break
        Repeated.count += len(waiting)
        time.sleep(pause)
    return [_final(stretch, answer) for stretch, answer in zip(stretches, found, strict=True)]


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches (start, end) that hold all ranges (offset, size), near ones in one."""
    spans: list[tuple[int, int]] = []
    for offset, size in sorted(ranges):
        if spans and offset - spans[-1][1] <= _GAP:
            spans[-1] = spans[-1][0], max(spans[-1][1], offset + size)
        else:
            spans.append((offset, offset + size))
    return spans


def patiently(action: Callable[[], T]) -> T:
    """Does something that may fail for a moment; what is not there is not asked for again.

    Raises:
        OSError: it fails still.
    """
    for pause in PAUSES:
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception:  # each store has errors of its own
            Repeated.count += 1
            time.sleep(pause)
    try:
        return action()
    except OSError:
        raise
    except Exception as error:
        raise _as_os_error(error) from error


def _ask(system: Any, stretches: Sequence[Stretch], seconds: float) -> list[bytes | Exception]:
    """One attempt at all of them at once, as far as the store can do that."""
    if getattr(system, "async_impl", False):
        answers: list[bytes | Exception] = fsspec.asyn.sync(system.loop, _ask_together, system, stretches, seconds)
        return answers
    starts, ends = ([stretch[place] for stretch in stretches] for place in (1, 2))
    found: list[bytes | Exception] = system.cat_ranges(
        [each.path for each in stretches], starts, ends, on_error="return"
    )
    return found


async def _ask_together(system: Any, stretches: Sequence[Stretch], seconds: float) -> list[bytes | Exception]:
    room = asyncio.Semaphore(_AT_ONCE)

    async def ask(stretch: Stretch) -> bytes | Exception:
        async with room:
            try:
                answer: bytes = await asyncio.wait_for(
                    system._cat_file(stretch.path, start=stretch.start, end=stretch.end), seconds
                )
            except asyncio.TimeoutError:
                return OSError(f"there was no answer in {seconds:g} s")
            except Exception as error:  # each store has errors of its own
                return error
            return answer

    return list(await asyncio.gather(*map(ask, stretches)))


def _is_doubtful(stretch: Stretch, answer: bytes | Exception) -> bool:
    if isinstance(answer, Exception):
        return not isinstance(answer, FileNotFoundError)
    return len(answer) != stretch.end - stretch.start


def _final(stretch: Stretch, answer: bytes | Exception) -> bytes | Exception:
    if isinstance(answer, Exception):
        return answer if isinstance(answer, OSError) else _as_os_error(answer)
    if len(answer) > stretch.end - stretch.start:
        return OSError(
            f"the server sent {len(answer)} bytes where {stretch.end - stretch.start} were asked for; use fetch: shards"
        )
    return answer


def _as_os_error(error: Exception) -> OSError:
    return OSError(f"{type(error).__name__}: {error}")
