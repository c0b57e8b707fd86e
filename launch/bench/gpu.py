"""Measures training and sampling on one GPU in under eight minutes, beside the published loop and transformers' GPT2.

Each part runs in a process of its own with a time limit; one that fails stops no other. Figures are in
``OUT/figures.json`` as soon as they are measured, and what a part printed in ``OUT/PART.log``.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from . import gpu_parts

LIMITS_S = {"vqgan": 150, "prior": 120, "sampling": 130, "loader": 60}  # 460 in all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="folder of the figures (bench-gpu)")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, on a CPU too: shows that it runs, no more")
    parser.add_argument("--parts", nargs="*", choices=sorted(LIMITS_S), default=list(LIMITS_S), metavar="PART",
                        help=f"measure only some of {', '.join(LIMITS_S)}")  # fmt: skip
    parser.add_argument("--alone", choices=sorted(LIMITS_S), help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure, print, and return the figures.

    Raises:
        ValueError: there is no GPU, and tiny networks were not asked for.
    """
    if not torch.cuda.is_available() and not arguments.tiny:
        raise ValueError("bench gpu needs a GPU, and there is none here; --tiny runs its code on the CPU")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.alone:
        return _alone(arguments.alone, arguments.out, arguments.tiny)
    print(f"{gpu_parts.gpu_name()}\n\n{gpu_parts.HEAD}", flush=True)
    figures: dict[str, float] = {}
    for name in arguments.parts:
        problem = _in_its_process(name, arguments.out, arguments.tiny)
        figures |= _read(arguments.out / f"{name}.json")
        (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1))
        if problem:
            print(f"{name}: {problem}; its output is in {arguments.out / name}.log", file=sys.stderr, flush=True)
    return figures


def _alone(name: str, out: Path, tiny: bool) -> dict[str, float]:
    """One part, in this process; its figures lie on the disk as soon as each is measured."""
    figures: dict[str, float] = {}
    for row in gpu_parts.PARTS[name](gpu_parts.TINY if tiny else gpu_parts.FULL, out):
        print(row.line, flush=True)
        figures |= row.figures
        (out / f"{name}.json").write_text(json.dumps(figures))
    return figures


def _in_its_process(name: str, out: Path, tiny: bool) -> str:
    """Run a part and pass its table's lines on; what is wrong with it, or nothing."""
    command = [sys.executable, "-m", "smalti.launch.bench", "gpu", "--alone", name, "--out", str(out)]
    (out / f"{name}.json").unlink(missing_ok=True)
    problem = ""
    with (out / f"{name}.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command + ["--tiny"] * tiny, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(LIMITS_S[name])
            problem = f"ended with code {code}" if code else ""
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            problem = f"was stopped after {LIMITS_S[name]} s"
        log.seek(0)
        lines = [line.rstrip() for line in log if line.startswith("| ")]
    print("\n".join(lines), flush=True)
    return problem


def _read(file: Path) -> dict[str, float]:
    return dict(json.loads(file.read_text())) if file.exists() else {}
