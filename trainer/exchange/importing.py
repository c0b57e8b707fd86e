"""From a file or folder of another project to networks of this one."""

from pathlib import Path
from typing import Any

from . import stored_tensors, taming
from .ledger import Ledger
from .networks import Network
from .taming import Hints


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
    found = taming.import_networks(ledger, hints)
    ledger.close()
    return found, ledger.report() | {"beside": stored.beside}
