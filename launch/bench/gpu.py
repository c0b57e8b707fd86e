"""Measures training and sampling on one GPU in under eight minutes, beside the published loop and transformers' GPT2.

Each part runs in a process of its own; one that fails, or is not done in its time, stops no other. Every line of the
table is in ``OUT/table.md`` and every figure in ``OUT/figures.json`` as soon as it is measured, and what a part printed
in ``OUT/PART.log``. A figure that was not measured is null.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from ...trainer import files
from . import gpu_parts

TOTAL_S = 465
"""Of all parts together; the last one has what the others leave."""
LIMITS_S = {"sampling": 110, "prior": 110, "loader": 60, "vqgan": 400}
FIGURES = (
    "vqgan_vs_published", "vqgan_images_per_second", "prior_vs_transformers", "prior_tokens_per_second",
    "seconds_1024_wavefront", "seconds_1024_windowed", "windowed_codes_per_second_32", "loader_vs_step",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="folder of the figures (bench-gpu)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, on a CPU too: shows that it runs, no more")
    parser.add_argument("--parts", nargs="*", choices=sorted(LIMITS_S), default=list(LIMITS_S), metavar="PART",
                        help=f"measure only some of {', '.join(LIMITS_S)}")  # fmt: skip
    parser.add_argument("--alone", choices=sorted(LIMITS_S), help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> dict[str, float | None]:
    """Measure, print, and return the figures.

    Raises:
        ValueError: there is no GPU, and tiny networks were not asked for.
    """
    out: Path = arguments.out
    if not torch.cuda.is_available() and not arguments.tiny:
        raise ValueError("bench gpu needs a GPU, and there is none here; --tiny runs its code on the CPU")
    out.mkdir(parents=True, exist_ok=True)
    if arguments.alone:
        return _alone(arguments.alone, out, arguments.tiny)
    files.write_text(out / "table.md", f"{gpu_parts.machine()}\n\n{gpu_parts.HEAD}\n")
    files.write_text(out / "figures.json", json.dumps(dict.fromkeys(FIGURES)))
    print((out / "table.md").read_text(), end="", flush=True)
    ends = time.monotonic() + TOTAL_S
    for name in arguments.parts:
        problem = _in_its_process(name, out, arguments.tiny, min(LIMITS_S[name], ends - time.monotonic()))
        if problem:
            print(f"{name} {problem}; its output is in {out / name}.log", file=sys.stderr, flush=True)
    return _figures(out)


def _figures(out: Path) -> dict[str, float | None]:
    found: dict[str, float | None] = json.loads((out / "figures.json").read_text())
    return found


def _alone(name: str, out: Path, tiny: bool) -> dict[str, float | None]:
    """One part, in this process; its lines and figures lie on the disk as soon as each is measured."""
    figures: dict[str, float | None] = {}
    for row in gpu_parts.PARTS[name](gpu_parts.TINY if tiny else gpu_parts.FULL, out):
        print(row.line, flush=True)
        files.write_text(out / "table.md", (out / "table.md").read_text() + row.line + "\n")
        figures |= row.figures
        files.write_text(out / "figures.json", json.dumps(_figures(out) | figures, indent=1))
    return figures


def _in_its_process(name: str, out: Path, tiny: bool, limit_s: float) -> str:
    """Run a part and pass its table's lines on; what is wrong with it, or nothing."""
    command = [sys.executable, "-m", "smalti.launch.bench", "gpu", "--alone", name, "--out", str(out)]
    problem = ""
    with (out / f"{name}.log").open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            command + ["--tiny"] * tiny, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(max(limit_s, 0.0))
            problem = f"ended with code {code}" if code else ""
        except subprocess.TimeoutExpired:
            problem = f"was stopped after {limit_s:.1f} s"
        finally:  # its compilers and workers too, which hold memory of the GPU
            _kill_group(process)
        log.seek(0)
        said = [line.rstrip() for line in log if line.strip()]
    lines = [line for line in said if line.startswith("| ")]
    if lines:
        print("\n".join(lines), flush=True)
    return f"{problem}: {said[-1]}" if problem and said else problem


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
