"""Weights that a new run starts from: those of another run, or of an export."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..distributed import ranks
from . import model_files, storage
from .loading import of_newest


def load_initial_weights(network: nn.Module, source: str | None, run: Path, task: str) -> None:
    """Fill a network before its engine is built. Every rank must call this; a run that has saved goes on from that.

    Args:
        source: the folder of a run, whose averaged weights are taken, or of an export; None leaves the network alone.
        run: the folder of the run that begins.
        task: what the weights must be of.

    Raises:
        ValueError: no weights there, of another task, damaged, or of a network of another shape.
    """
    if source is None or ranks.broadcast_object(bool(storage.list_checkpoints(run))):
        return

    def read(folder: Path) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
        metadata = model_files.read_metadata(folder, task)
        return folder, metadata, model_files.read(folder, metadata)

    folder, metadata, loaded = of_newest(Path(source), read)
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in loaded.items()}
    if wanted != found:
        other = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise ValueError(
            f"initial_weights: {source} holds another network than this run's model: {other} is {found.get(other)} "
            f"there and {wanted.get(other)} here; give the run that model, or leave initial_weights out"
        )
    network.load_state_dict(loaded)
    if ranks.rank() == 0:
        print(f"starting from the weights {metadata['digest'][:12]} in {folder}", flush=True)
