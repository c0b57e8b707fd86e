"""Frozen networks in TorchScript files. Such a file is a program: load only what you trust."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def load(path: Path, device: torch.device) -> Any:
    """The network of a file, in evaluation mode on a device.

    Raises:
        ValueError: it is not there, or no TorchScript.
    """
    if not path.is_file():
        raise ValueError(f"there is no TorchScript file {path}")
    try:
        return torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is no TorchScript file that can be loaded: {first_line(error)}; torch.jit.save writes one"
        ) from None


@contextmanager
def plain_execution() -> Iterator[None]:
    """Without gradients, and with the same arithmetic in every call: optimized code is that of later ones alone."""
    with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        yield


def first_line(error: BaseException) -> str:
    """What an error says first; torch's go on for pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
