"""What all commands share: help with an example, sizes, printed lines, and the exit code of an error."""

import argparse
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TextIO, get_args

from ..models import bounds
from ..trainer.distributed.process import deepspeed_log
from ..trainer.distributed.process.rank_info import rank_info_from_env
from ..trainer.distributed.process.shared_errors import said_by_rank_0
from ..trainer.exit_code import ExitCode
from ..trainer.schema import listing, suggestion
from ..trainer.shards.errors import SampleError, TooManySampleErrorsError

_MOST_NUMBERS = 1_000_000


class _Parser(argparse.ArgumentParser):
    """Parses for one rank of a job: what is wrong is said once, and so is all that libraries warn of from then on."""

    def parse_known_args(self, *given: Any, **named: Any) -> Any:
        _plain_warnings()
        return super().parse_known_args(*given, **named)

    def error(self, message: str) -> NoReturn:
        if said_by_rank_0():
            sys.exit(ExitCode.WRONG)
        super().error(message)


def _plain_warnings() -> None:
    """Warnings of Python and of DeepSpeed in a line each, once, from rank 0."""
    try:
        rank = rank_info_from_env(os.environ).rank
    except ValueError:  # which the command will say
        rank = 0
    deepspeed_log.collect(rank)
    warnings.formatwarning = _plain
    # What libraries will change one day is for those who develop with them.
    warnings.filterwarnings("ignore", category=FutureWarning, append=True)
    warnings.filterwarnings("once" if rank == 0 else "ignore", append=True)


def _plain(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning without the line of code that gave it, in place of ``warnings.formatwarning``."""
    return f"warning: {' '.join(str(message).split())}\n"


def parser(name: str, doc: str | None, example: str) -> argparse.ArgumentParser:
    """The parser of one command.

    Args:
        name: as users type it behind ``smalti``; with a dot, a module that is run by ``python -m``.
        doc: the module's docstring; its first sentence describes the command.
        example: one line that works as it stands, apart from the paths in it.
    """
    described = re.split(r"(?<=\.)\s|: ``", (doc or "").strip(), maxsplit=1)[0]
    return _Parser(
        prog=f"python -m smalti.launch.{name}" if "." in name else f"smalti {name}",
        description=described,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def advice(word: str, known: Iterable[str]) -> str:
    """What to try instead of a word that is not known, behind a semicolon: the nearest one, else all of them."""
    names = list(known)
    return suggestion(word, names) or listing("there are ", names)


def add_local_rank(options: argparse.ArgumentParser) -> None:
    """The option that the deepspeed launcher passes to every rank; which rank it is stands in the environment."""
    options.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)


def size(text: str) -> tuple[int, int]:
    """HEIGHTxWIDTH in pixels, as a type of ``argparse``."""
    match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH in pixels, such as 1024x2048, got {text!r}")
    return int(match[1]), int(match[2])


def side(text: str) -> int:
    """The side of a square in pixels, as HEIGHTxWIDTH or as one number, as a type of ``argparse``."""
    height, width = size(text if "x" in text else f"{text}x{text}")
    if height != width:
        raise argparse.ArgumentTypeError(f"crops are square, such as 256x256, got {text!r}")
    return height


def seconds(text: str) -> float:
    """A time above 0, as a type of ``argparse``."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"it is a number of seconds above 0, got {text!r}")
    return value


def numbers(text: str) -> list[int]:
    """Numbers and ranges of them, as ``0-9,17``, each once and in their order, as a type of ``argparse``."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < first + _MOST_NUMBERS:
            raise argparse.ArgumentTypeError(
                f"numbers are given as 0-999 or 1,3,8-11, at most {_MOST_NUMBERS} a range, got {part!r}"
            )
        found.update(range(first, last + 1))
    return sorted(found)


def within(bound: Any) -> Callable[[str], Any]:
    """A number in one of the ranges of ``models.bounds``, such as ``bounds.Seed``, as a type of ``argparse``."""
    kind, span = get_args(bound)

    def number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"must be a {noun}, got {text!r}") from None
        if not span.holds(value):
            raise argparse.ArgumentTypeError(f"must be {span.rule(value)}, got {value}")
        return value

    return number


count = within(bounds.Count)  # a number of things, at least one
natural = within(bounds.Natural)  # also none
processes = within(bounds.Processes)
seed = within(bounds.Seed)
share = within(bounds.Share)
positive = within(bounds.Positive)
scale = within(bounds.Scale)
weight = within(bounds.Weight)


def add_drawing_options(group: argparse._ActionsContainer, top_k: int | None = None) -> None:
    """The options of commands that sample codes: how each is drawn. ``SamplingConfig`` checks their numbers.

    Args:
        top_k: that is taken where none is asked for.
    """
    group.add_argument("--temperature", type=float, default=1.0, metavar="T", help="divides the logits (1)")
    usual = "all" if top_k is None else top_k
    group.add_argument("--top-k", type=int, default=top_k, metavar="K", help=f"only the k likeliest codes ({usual})")
    group.add_argument("--top-p", type=float, metavar="P", help="only the fewest codes that hold this probability")
    group.add_argument("--greedy", action="store_true", help="always the likeliest code")
    group.add_argument(
        "--guidance", type=float, default=1.0, metavar="SCALE", help="scale of classifier-free guidance; 1 is none"
    )
    group.add_argument(
        "--guidance-schedule",
        choices=("constant", "linear", "cosine"),
        default="constant",
        help="how the scale grows from 1 over the codes of an image (constant: it does not)",
    )


def sampling_config(asked: argparse.Namespace, **how: Any) -> Any:
    """The ``SamplingConfig`` of what ``add_drawing_options`` has read, and of ``how`` a grid is sampled."""
    from ..models.sampling import GuidanceConfig, SamplingConfig  # torch is slow to import

    guidance = GuidanceConfig(asked.guidance, asked.guidance_schedule)
    return SamplingConfig(asked.temperature, asked.top_k, asked.top_p, asked.greedy, guidance, **how)


def add_save_every(group: argparse._ActionsContainer) -> None:
    """The option of commands that keep what they have sampled of an image."""
    group.add_argument(
        "--save-every", type=weight, default=30.0, metavar="SECONDS", help="seconds of work that a kill may cost (30)"
    )


def add_tile_options(group: argparse._ActionsContainer) -> None:
    """The options of commands whose networks see images in tiles."""
    group.add_argument("--tile", type=count, default=16, metavar="CODES", help="codes a side seen at once (16)")
    group.add_argument(
        "--halo", type=natural, default=2, metavar="CODES", help="codes at a tile's border that others see too (2)"
    )


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """The options of commands that look at every image: which are left out, and how many processes do it."""
    parser.add_argument(
        "--minimum-side", type=count, default=1, metavar="PIXELS", help="leave out images with a shorter side (1)"
    )
    parser.add_argument(
        "--processes", type=natural, default=0, metavar="N", help="work so many at once (default: cores)"
    )


def say_left_out(skipped: Iterable[tuple[str, str, str]]) -> None:
    """A line for each sample that was left out, of which key, file and reason are known."""
    for _, file, reason in skipped:
        note(f"left out: {file}: {reason}")


class _Droppable(io.RawIOBase):
    """What a stream writes to, without its errors: what is not taken is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream  # which would close the descriptor with its own end
        self._descriptor = stream.fileno()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        try:
            return os.write(self._descriptor, data)
        except OSError:
            return len(data)


def drop_output_that_fails() -> None:
    """For commands whose results are files: what cannot be printed from now on is dropped, and ends no work.

    The log's disk may be full, its reader may be gone, and a path may have bytes that are no text.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            raw = _Droppable(stream)
        except (AttributeError, OSError):  # closed, or kept in memory by a caller
            continue
        stream.flush()
        text = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=stream.encoding, errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, text)


def say(line: str) -> None:
    """A line of result on standard output, at once."""
    print(line, flush=True)


def note(line: str) -> None:
    """A line of progress, or about something left out, on standard error, at once."""
    print(line, file=sys.stderr, flush=True)


def fail(error: BaseException, code: int = ExitCode.WRONG) -> int:
    """An error on standard error, which is said once where all ranks of a job meet it; the exit code."""
    if not said_by_rank_0():
        note(f"error: {error}")
    return code


def agreed(work: Callable[[], int]) -> int:
    """What a rank's share of a job returns; rank 0 says an error that all ranks have agreed on."""
    from ..trainer.distributed import ranks  # torch is slow to import

    try:
        return work()
    except ranks.AgreedError as error:
        return fail(error) if ranks.rank() == 0 else ExitCode.WRONG


def ended(work: Callable[[], int]) -> int:
    """What its work returns, or a line for what a user can mend and the code of it.

    ``ExitCode.FAILED`` where too many samples were left out, else ``ExitCode.WRONG``.
    """
    try:
        return work()
    except TooManySampleErrorsError as error:
        return fail(error, ExitCode.FAILED)
    except (OSError, ValueError, SampleError) as error:
        return fail(error)
