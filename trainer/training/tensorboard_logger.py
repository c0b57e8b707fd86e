"""The run in TensorBoard: the history that its folder has, however often it was stopped and restored.

    RUN/tensorboard/    event files; each start hides what was written before and writes the history anew

The only import of tensorboard, which is an extra.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .arrays import gray_levels

FOLDER = "tensorboard"


def check_installed() -> None:
    """Raises ValueError where the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "tensorboard: true needs the package tensorboard; run `pip install 'smalti[tensorboard]'`, "
            "or leave the key out"
        )


class TensorBoardRun:
    """Writes event files. Rank 0 makes one, when it is known where training goes on.

    Args:
        run: the run's folder.
        lines: of the run's metrics up to there, the oldest first.
    """

    def __init__(self, run: Path, lines: Sequence[Mapping[str, float]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._run = run
        self._writer = SummaryWriter(str(run / FOLDER), purge_step=0)
        for line in lines:
            values = {name: value for name, value in line.items() if name not in ("step", "seconds")}
            self.log(int(line["step"]), values)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, images: Mapping[str, Tensor]) -> None:
        """Image grids of a step, uint8 (H, W, 3)."""
        for name, image in images.items():
            self._writer.add_image(name, image.cpu().numpy(), step, dataformats="HWC")

    def describe(self, step: int, arrays: Mapping[str, Tensor]) -> None:
        """Small arrays of a step: one axis as a histogram, whose bins are numbered, a grid as gray levels."""
        for name, array in arrays.items():
            if array.dim() == 2:
                self._writer.add_image(name, gray_levels(array).numpy(), step, dataformats="HW")
                continue
            counts, ends = array.double().cpu(), torch.arange(1, len(array) + 1, dtype=torch.float64)
            middles = ends - 0.5
            self._writer.add_histogram_raw(
                name,
                min=0.0,
                max=float(len(array)),
                num=float(counts.sum()),
                sum=float(counts @ middles),
                sum_squares=float(counts @ middles.square()),
                bucket_limits=ends.tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )

    def alert(self, step: int, title: str, text: str) -> None:
        """An alert that begins."""
        self._writer.add_text(f"alert/{title}", text, step)

    def saved(self, step: int, checkpoint: Path) -> None:
        """A checkpoint is on the disk."""
        self._writer.add_text("checkpoint", str(checkpoint), step)

    def finish(self) -> None:
        """Everything is in the files."""
        self._writer.close()
