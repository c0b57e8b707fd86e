"""From a file or folder of another project to networks of this one."""

from pathlib import Path
from typing import Any

from . import folders
from .formats import diffusers_vqgan, gpt2, llamagen, maskgit_vqgan, taming, transformers_gpt2
from .hints import Hints, read_project
from .networks import Network
from .sources import stored_tensors
from .sources.ledger import Ledger


def read(source: Path, hints: Hints, config: Path | None) -> tuple[dict[str, Network], dict[str, Any]]:
    """The networks of a source, and what became of each of its tensors.

    Args:
        hints: what the user says of a prior.
        config: a YAML that says the rest of it.

    Raises:
        ValueError: the source is damaged, hostile, of an unknown model, or of one that cannot be represented.
    """
    if config is not None:
        hints = hints.completed(read_project(config))
    stored = stored_tensors.read(source)
    ledger = Ledger(stored.tensors, str(source))
    if source.is_dir():
        found = _folder(ledger, source, hints)
    elif llamagen.VQGAN_MARK in stored.tensors:
        found = {"": llamagen.vqgan(ledger)}
    elif maskgit_vqgan.MARK in stored.tensors:
        found = {"": maskgit_vqgan.vqgan(ledger)}
    elif llamagen.PRIOR_MARK in stored.tensors:
        found = {"": llamagen.prior(ledger, hints)}
    else:
        found = taming.import_networks(ledger, hints)
    ledger.close()
    return found, ledger.report() | {"beside": stored.beside}


def _folder(ledger: Ledger, folder: Path, hints: Hints) -> dict[str, Network]:
    """The network of a folder with a config.json."""
    said = folders.read_config(folder)
    if said.get("_class_name") == diffusers_vqgan.CLASS:
        return {"": diffusers_vqgan.imported(ledger, said)}
    if said.get("architectures") == [transformers_gpt2.ARCHITECTURE]:
        if transformers_gpt2.SECTION in said:
            return {"": transformers_gpt2.imported(ledger, said)}
        return {"": gpt2.imported(ledger, said, hints)}
    named = said.get("_class_name") or said.get("architectures") or said.get("model_type")
    raise ValueError(
        f"{folder} holds a model of class {named!r}; folders of {diffusers_vqgan.CLASS} and "
        f"{transformers_gpt2.ARCHITECTURE} can be imported"
    )
