"""A discriminator beside the weights of an imported VQGAN, for runs that go on training it."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...models.discriminators import PatchGANConfig
from ..config import to_mapping
from ..distributed import ranks
from . import model_files, storage
from .loading import of_newest

WEIGHTS = "discriminator.safetensors"


def write(folder: Path, config: PatchGANConfig, weights: dict[str, Tensor]) -> dict[str, Any]:
    """Leave the weights in a folder; what its metadata must say of them."""
    save_file(weights, folder / WEIGHTS)
    return {"discriminator": {"model": to_mapping(config), "digest": model_files.digest(weights)}}


def read(folder: Path, metadata: dict[str, Any]) -> dict[str, Tensor] | None:
    """The weights that the metadata of an export speak of; None where they speak of none.

    Raises:
        ValueError: they cannot be read, or are not what the metadata say.
    """
    said = metadata.get("discriminator")
    if said is None:
        return None
    try:
        weights: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}; import the network again") from None
    if not isinstance(said, dict) or model_files.digest(weights) != said.get("digest"):
        raise ValueError(f"{folder / WEIGHTS} is not what its metadata say; import the network again")
    return weights


def load_initial_discriminator(network: nn.Module, source: str | None, run: Path) -> None:
    """Fill a discriminator from beside a run's ``initial_weights``, where there is one of its shape. On every rank.

    A run that has saved goes on from that. Another discriminator than the one there starts afresh, and that is said.

    Raises:
        ValueError: what is there is damaged.
    """
    if source is None or ranks.broadcast_object(bool(storage.list_checkpoints(run))):
        return
    weights, folder = of_newest(
        Path(source), lambda folder: (read(folder, model_files.read_metadata(folder, "vqgan")), folder)
    )
    if weights is None:
        return
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    same = wanted == {name: tensor.shape for name, tensor in weights.items()}
    if same:
        network.load_state_dict(weights)
    if ranks.rank() == 0:
        outcome = "the discriminator starts from" if same else "the discriminator starts afresh: another network is in"
        print(f"{outcome} {folder / WEIGHTS}", flush=True)
