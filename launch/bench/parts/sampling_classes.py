"""Images a second of many classes sampled in one process, beside one process a class, as users type both."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from ....models.conditions import ClassConfig
from ....models.priors.gpt import GPTConfig
from ....trainer import config
from ....trainer.checkpoint import model_files
from ....trainer.vqgan.config import VQGANRun
from ... import sample

COUNT = 2  # images of each class
TURNS = 3  # classes that get a process of their own

Run = Callable[[Sequence[str]], None]


def in_a_process(arguments: Sequence[str]) -> None:
    """The command in a process of its own."""
    subprocess.run([sys.executable, "-m", sample.__name__, *arguments], check=True, stdout=subprocess.DEVNULL)


def measure(classes: int, run: Run = in_a_process) -> dict[str, float]:
    """Sample ``classes`` classes together, and some of them alone, before and after; prints the rates.

    Both networks have the demo's size and random weights: a prior of 4 layers of 128 with windows of 8 x 8 codes, and
    the tokenizer that makes 64 x 64 pixels of them.
    """
    with tempfile.TemporaryDirectory() as name:
        networks = _write(Path(name), classes)

        def seconds(asked: str, *more: str) -> float:
            began = time.perf_counter()
            out = Path(name) / f"images{asked}-{'-'.join(more)}"
            common = ["--size", "64x64", "--count", str(COUNT), "--out", str(out)]
            run([*map(str, networks), *common, f"--class{asked}", *more])
            return time.perf_counter() - began

        turns = min(TURNS, classes)
        alone = [seconds("", str(label)) for label in range(turns // 2)]
        together = seconds("es", f"0-{classes - 1}", "--batch", "16")
        alone += [seconds("", str(label)) for label in range(turns // 2, turns)]
    rates = {"one_process": COUNT * classes / together, "process_a_class": COUNT * turns / sum(alone)}
    ratio = rates["one_process"] / rates["process_a_class"]
    print(
        f"{classes} classes of {COUNT} images: {rates['one_process']:.2f} images/s in one process, "
        f"{rates['process_a_class']:.2f} in a process a class: {ratio:.1f} x",
        flush=True,
    )
    return {f"images_per_s_{name}": rate for name, rate in rates.items()} | {"classes_batched": ratio}


def _write(folder: Path, classes: int) -> tuple[Path, Path]:
    """A prior of classes and its tokenizer, as exports."""
    torch.manual_seed(0)
    vqgan = config.read(VQGANRun, "demo_vqgan").model
    tokenizer = _export(
        folder / "tokenizer",
        vqgan.build(),
        {"task": "vqgan", "model": config.to_mapping(vqgan), "factor": vqgan.factor, "codes": vqgan.codebook_size},
    )
    gpt = GPTConfig(layers=4, heads=4, width=128, window=(8, 8), block="llama")
    condition = ClassConfig(classes=classes)
    prior = _export(
        folder / "prior",
        gpt.build(vqgan.codebook_size, condition),
        {
            "task": "prior",
            "model": config.to_mapping(gpt),
            "condition": config.to_mapping(condition),
            "codes": vqgan.codebook_size,
            "factor": vqgan.factor,
            "tokenizer": model_files.read_metadata(tokenizer)["digest"],
        },
    )
    return prior, tokenizer


def _export(folder: Path, network: nn.Module, metadata: dict[str, object]) -> Path:
    folder.mkdir()
    model_files.write(folder, network.state_dict(), metadata)
    return folder
