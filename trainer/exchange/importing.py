"""From a file or folder of another project to networks of this one."""

import re
from pathlib import Path
from typing import Any

import torch

from . import diffusers_vqgan, folders, stored_tensors, taming, transformers_gpt2
from .ledger import Ledger
from .networks import Network, vqgan_metadata
from .taming import Hints
from .vqgan_shapes import network_shapes, vqgan_config


def read(source: Path, hints: Hints, config: Path | None) -> tuple[dict[str, Network], dict[str, Any]]:
    """The networks of a source, and what became of each of its tensors.

    Args:
        hints: what the user says of a prior.
        config: a YAML that says the rest of it.

    Raises:
        ValueError: the source is damaged, hostile, of an unknown model, or of one that cannot be represented.
    """
    if config is not None:
        said = taming.hints_of(config)
        hints = Hints(hints.heads or said.heads, hints.condition or said.condition, hints.window, said.start)
    stored = stored_tensors.read(source)
    ledger = Ledger(stored.tensors, str(source))
    if source.is_dir():
        found = _folder(ledger, source)
    elif "encoder.conv_blocks.0.res.0.conv1.weight" in stored.tensors:
        found = {"": _llamagen_vqgan(ledger)}
    else:
        found = taming.import_networks(ledger, hints)
    ledger.close()
    return found, ledger.report() | {"beside": stored.beside}


def _folder(ledger: Ledger, folder: Path) -> dict[str, Network]:
    """The network of a folder with a config.json."""
    said = folders.read_config(folder)
    if said.get("_class_name") == diffusers_vqgan.CLASS:
        return {"": diffusers_vqgan.imported(ledger, said)}
    if said.get("architectures") == [transformers_gpt2.ARCHITECTURE]:
        return {"": transformers_gpt2.imported(ledger, said)}
    named = said.get("_class_name") or said.get("architectures") or said.get("model_type")
    raise ValueError(
        f"{folder} holds a model of class {named!r}; folders of {diffusers_vqgan.CLASS} and "
        f"{transformers_gpt2.ARCHITECTURE} can be imported"
    )


def _llamagen_vqgan(ledger: Ledger) -> Network:
    """LlamaGen's tokenizer: the published network under other names, with codes that are compared by their angle."""
    found = ledger.shapes()
    levels = len({name.split(".")[2] for name in found if name.startswith("encoder.conv_blocks.")})
    names = {_published(name, levels): name for name in found}
    ledger.drop(r"quantize\.codebook_used$", "a record of which codes were in use")
    shapes = {name: found[theirs] for name, theirs in names.items() if theirs not in ledger.dropped}
    config = vqgan_config(shapes, ledger.source, unit_codes=True)
    wanted = network_shapes(config)
    weights = ledger.fill(wanted, {name: names.get(name, name) for name in wanted}, "autoencoder")
    weights["quantize.idle"] = torch.zeros(config.codebook_size, dtype=torch.int64)
    return Network(weights, vqgan_metadata(config))


def _published(name: str, levels: int) -> str:
    """The published name of a tensor of LlamaGen's, whose decoder counts its levels from the lowest resolution."""
    name = re.sub(r"^encoder\.conv_blocks\.", "encoder.down.", name)
    name = re.sub(r"^decoder\.conv_blocks\.(\d+)", lambda level: f"decoder.up.{levels - 1 - int(level[1])}", name)
    name = re.sub(r"^(\w+\.(?:down|up)\.-?\d+)\.res\.", r"\1.block.", name)
    return re.sub(r"\.mid\.([012])\.", lambda part: f".mid.{('block_1', 'attn_1', 'block_2')[int(part[1])]}.", name)
