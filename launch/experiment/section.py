"""What an experiment found, as a section of a Markdown page with its plot and images beside it."""

import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from PIL import Image

from ...trainer.files import write_whole
from ...trainer.jobs.preflight import versions
from ...trainer.reporting import line_plot
from .lab import Lab, TrainedRun

MARK = "<!-- smalti experiment -->"


class Strip(NamedTuple):
    """A row of images that show the same thing."""

    name: str
    images: Sequence[Path]


class Result(NamedTuple):
    """What an experiment found."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    published: Sequence[str]  # the paper's figures for the same comparison, a line each
    findings: Sequence[str]  # what this run says, and what it does not
    seeds: Sequence[int]  # of what was trained and compared
    panels: Sequence[line_plot.Panel] = ()
    strips: Sequence[Strip] = ()


def write(lab: Lab, name: str, size: str, command: str, result: Result) -> list[str]:
    """Leave ``section.md``, and the images that it shows, in the experiment's folder; its lines."""
    stem = f"experiment-{name}-{size}"
    shown = []
    if result.panels:
        write_whole(lab.out / f"{stem}.png", line_plot.png(result.panels))
        shown.append(f"![{result.title}](images/{stem}.png)")
    if result.strips:
        sheet(result.strips, lab.out / f"{stem}-images.png")
        rows = "; ".join(strip.name for strip in result.strips)
        shown += [f"![images](images/{stem}-images.png)", "", f"From top to bottom: {rows}."]
    lines = [
        MARK,
        f"## {result.title}",
        "",
        f"`{command}`, {machine()}, {datetime.now(timezone.utc):%Y-%m-%d}, {lab.seconds / 60:.1f} minutes in all, "
        f"{_plural(len(result.seeds), 'seed')} {', '.join(map(str, result.seeds))}, torch {versions()['torch']}, "
        f"source {versions()['smalti'][:12]}.",
        "",
        "| " + " | ".join(result.header) + " |",
        "|" + "---|" * len(result.header),
        *("| " + " | ".join(row) + " |" for row in result.rows),
        "",
        *(f"* {line}" for line in (*result.findings, *(f"The paper: {line}" for line in result.published))),
        "",
        *shown,
        "",
    ]
    write_whole(lab.out / "section.md", ("\n".join(lines)).encode())
    return lines


def machine() -> str:
    """The machine, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} {_plural(threads, 'thread')}"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean of some seeds, and how far they lie apart."""
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def trained(runs: Sequence[TrainedRun]) -> list[str]:
    """The columns that every run has: parameters, steps, hours."""
    steps = max(line["step"] for line in runs[0].lines)
    return [f"{runs[0].parameters / 1e6:.3g} M", f"{steps:.0f}", f"{fmean(run.hours for run in runs):.3f}"]


TRAINED = ("parameters", "steps", "hours")


def sheet(strips: Sequence[Strip], path: Path, most: int = 128) -> None:
    """Rows of images as one PNG, all as large as the largest, or as ``most`` pixels; smaller ones without smoothing."""
    opened = []
    for strip in strips:
        row = []
        for file in strip.images:
            with Image.open(file) as stored:
                row.append(stored.convert("RGB"))
        opened.append(row)
    side = min(most, max(image.width for row in opened for image in row))
    whole = Image.new("RGB", (max(map(len, opened)) * side, len(opened) * side), "white")
    for top, row in enumerate(opened):
        for left, image in enumerate(row):
            smooth = Image.Resampling.LANCZOS if image.width > side else Image.Resampling.NEAREST
            whole.paste(image.resize((side, side), smooth), (left * side, top * side))
    whole.save(path, optimize=True)


def _plural(number: int, word: str) -> str:
    return word if number == 1 else f"{word}s"
