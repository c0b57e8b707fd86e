"""What runs came to: a few lines for the console, and one page of HTML with everything inside it.

The page needs no server, no script and no network: curves are drawn as SVG, images lie in it as they are.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..config import read
from ..training.metrics import FILE, history
from ..vqgan.config import VQGANRun
from .run import Run
from .run_dir import RESOLVED, resolved_config

WIDTH, HEIGHT, MARGIN = 360, 160, 8  # of a curve, in pixels
GRID = "reconstructions-*.png"


class ReportedRun(NamedTuple):
    """One run, as its folder tells it."""

    folder: Path
    run: Run
    lines: list[dict[str, float]]  # of its metrics


def reported_run(folder: Path) -> ReportedRun:
    """Read a run's folder.

    Raises:
        ValueError: it is not a run, or has not been evaluated.
    """
    if not resolved_config(folder).is_file() or not (folder / FILE).is_file():
        raise ValueError(f"{folder} is not a run's folder ({RESOLVED} and {FILE} are missing); train it first")
    lines = history(folder)
    if not curve(lines, "val/psnr") and not curve(lines, "val/nll"):
        raise ValueError(f"{folder} has not been evaluated yet; train it on")
    return ReportedRun(folder, read(Run, resolved_config(folder), saved=True), lines)


def curve(lines: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """The (step, value) pairs of one metric."""
    return [(line["step"], line[name]) for line in lines if name in line]


def seconds(path: Path) -> dict[str, float]:
    """Seconds by part from lines ``NAME SECONDS``; a part that was gone on with has several, which add up."""
    spent: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, number = line.rsplit(maxsplit=1)
        spent[name] = spent.get(name, 0.0) + float(number)
    return spent


def summary(parts: Sequence[ReportedRun], spent: Mapping[str, float], images: Sequence[Path]) -> list[str]:
    """What was trained, what it came to, how long it took, and where to look."""
    lines = [line for each in parts for line in _results(each)]
    if spent:
        lines.append("seconds: " + ", ".join(f"{name} {time:.0f}" for name, time in spent.items()))
        lines.append(f"in all: {sum(spent.values()) / 60:.1f} minutes")
    return lines + [f"image: {path}" for path in images]


def _results(each: ReportedRun) -> list[str]:
    run, lines = each.run, each.lines
    step = int(lines[-1]["step"])
    if isinstance(run, VQGANRun):
        psnr, use = curve(lines, "val/psnr"), curve(lines, "val/codebook/usage")
        found = [
            f"VQGAN in {each.folder}: {step} steps of {run.batch.global_batch_size} crops, factor {run.model.factor}, "
            f"{run.model.codebook_size} codes",
            f"  validation PSNR {psnr[0][1]:.2f} dB before, {psnr[-1][1]:.2f} dB after; "
            f"{use[-1][1]:.0%} of the codes in use",
        ]
        if run.loss.perceptual is not None and run.loss.perceptual.trunk == "random":
            found.append("  LPIPS had a random trunk: fine for trying things out, not for training in earnest")
        return found
    nats, share = curve(lines, "val/nll"), curve(lines, "val/normalized_nll")
    return [
        f"prior in {each.folder}: {step} steps of {run.batch.global_batch_size} grids, "
        f"conditioned on {run.condition.kind}",
        f"  validation NLL {nats[0][1]:.3f} nats per code before, {nats[-1][1]:.3f} after; "
        f"ln K is {nats[-1][1] / share[-1][1]:.3f}, so it is {1 - share[-1][1]:.0%} below",
    ]


def page(parts: Sequence[ReportedRun], said: Sequence[str], images: Sequence[Path]) -> str:
    """The whole page.

    Args:
        said: the summary's lines.
        images: PNG files to show.

    Raises:
        OSError: an image cannot be read.
    """
    body = ["<h1>smalti</h1>", f"<pre>{html.escape(chr(10).join(said))}</pre>"]
    body += [_figure(path, path.name) for path in images]
    for each in parts:
        body.append(f"<h2>{html.escape(str(each.folder))}</h2>")
        grids = sorted((each.folder / "images").glob(GRID))
        if grids:
            body.append(_figure(grids[-1], "Validation images above, their reconstructions below"))
        names = dict.fromkeys(name for line in each.lines for name in line if "/" in name)
        body += [_plot(name, curve(each.lines, name)) for name in names]
    return _PAGE.replace("BODY", "\n".join(body))


def _figure(path: Path, caption: str) -> str:
    inside = base64.b64encode(path.read_bytes()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{inside}"><figcaption>{text}</figcaption></figure>'


def _plot(name: str, points: Sequence[tuple[float, float]]) -> str:
    """One curve as SVG, its last value in its caption, its range beside it."""
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    wide, tall = (WIDTH - 2 * MARGIN) / (max(steps) or 1), (HEIGHT - 2 * MARGIN) / (high - low or 1)
    places = [(MARGIN + step * wide, HEIGHT - MARGIN - (value - low) * tall) for step, value in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}"><polyline points="{line}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/></svg>'
        f"<figcaption>{html.escape(name)} {values[-1]:.4g} <small>({low:.4g} to {high:.4g}, "
        f"step {steps[-1]:.0f})</small></figcaption></figure>"
    )


MARK = b"<title>smalti</title>"
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>smalti</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1160px; margin: 2rem auto; padding: 0 1rem; color: #222 }
pre { background: #f4f4f2; padding: 1rem; overflow: auto }
figure { margin: 1rem 0 }
figure img { max-width: 100% }
figure.curve { display: inline-block; width: 350px; margin: .5rem 1rem .5rem 0 }
figcaption { color: #555; font-size: 13px }
svg { background: #fafaf8; width: 100% }
polyline { fill: none; stroke: #2a6f97; stroke-width: 1.5 }
circle { fill: #c1554d }
</style>
BODY
</html>
"""
