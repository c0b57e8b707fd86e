"""The configs of several runs beside each other: what is not the same."""

from collections.abc import Mapping
from typing import Any, NamedTuple

ABSENT = "-"  # a key that a run does not have


class Difference(NamedTuple):
    """A key whose value is not the same in all runs."""

    key: str  # dotted
    values: list[str]  # of each run


def config_differences(configs: Mapping[str, Mapping[str, Any]]) -> list[Difference]:
    """The keys in which configs differ, in the order of the configs.

    Args:
        configs: by the name of the run.
    """
    flat = [flattened(config) for config in configs.values()]
    keys = dict.fromkeys(key for config in flat for key in config)
    rows = (Difference(key, [config.get(key, ABSENT) for config in flat]) for key in keys)
    return [row for row in rows if len(set(row.values)) > 1]


def flattened(config: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Every value of nested mappings as text, by its dotted key."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        found |= flattened(value, f"{name}.") if isinstance(value, Mapping) and value else {name: str(value)}
    return found
