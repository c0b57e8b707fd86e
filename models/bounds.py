"""The numbers that a config may hold: each field's type says its range, and ``check_ranges`` refuses what lies outside.

layers: Width
top_k: Count | None
betas: tuple[Decay, Decay]
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

MOST_PROCESSES = 1024
NEAR = 1.0  # ranges that end here are named whole; further ends are there because some end must be


class Within(NamedTuple):
    """A range of numbers; not a number lies in none, infinity lies in those that say so."""

    low: float
    high: float  # both ends are finite
    without_low: bool = False
    without_high: bool = False
    or_infinite: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range."""
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        return (above and below) or (self.or_infinite and value == math.inf)

    def rule(self, value: float) -> str:
        """What a number outside must be, in words."""
        if self.high <= NEAR:
            ends = "(" if self.without_low else "[", ")" if self.without_high else "]"
            return f"in {ends[0]}{self.low:g}, {self.high:g}{ends[1]}"
        if value > self.high:
            return f"at most {self.high:g}"
        return "positive" if self.without_low and self.low == 0 else f"at least {self.low:g}"


class NotEmpty(NamedTuple):
    """Of texts that name something."""

    def holds(self, value: str) -> bool:
        """Whether there is a name, of which every character may be in the name of a file."""
        return bool(value.strip()) and "\0" not in value

    def rule(self, value: str) -> str:
        """What a text must be."""
        return "a name that is not empty" if not value.strip() else "a name without the character 0"


Count = Annotated[int, Within(1, 2**31 - 1)]  # of steps, samples, bytes
Natural = Annotated[int, Within(0, 2**31 - 1)]  # a count that may be none
Processes = Annotated[int, Within(0, MOST_PROCESSES)]  # beside each other on one machine
Width = Annotated[int, Within(1, 65_536)]  # of anything a network has: channels, layers, rows
Depth = Annotated[int, Within(1, 32)]  # of what doubles or halves at every level
Bytes = Annotated[int, Within(1, 2**53)]
Limit = Annotated[int, Within(0, 2**53)]  # in bytes; 0 for none
Seed = Annotated[int, Within(0, 2**63 - 1)]
Weight = Annotated[float, Within(0, 1e9)]
Positive = Annotated[float, Within(0, 1e12, without_low=True)]
Scale = Annotated[float, Within(0, 1e12, without_low=True, or_infinite=True)]
Seconds = Annotated[float, Within(0, 1e7, without_low=True)]
Pause = Annotated[float, Within(0, 1e7)]  # in seconds
Share = Annotated[float, Within(0, 1)]
PositiveShare = Annotated[float, Within(0, 1, without_low=True)]
Decay = Annotated[float, Within(0, 1, without_high=True)]  # also a chance that must leave something
Name = Annotated[str, NotEmpty()]


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def check_ranges(config: Any, *further: str) -> None:
    """Look at every field of a frozen config, for its ``__post_init__``.

    Args:
        further: what else is wrong with the config, to be said in the same error.

    Raises:
        ValueError: some are outside their ranges, or something else is wrong; all is named.
    """
    found = range_problems(type(config), {field.name: getattr(config, field.name) for field in fields(config)})
    if found or further:
        raise ValueError("; ".join([*found, *further]))


def range_problems(cls: type, values: Mapping[str, Any]) -> list[str]:
    """What is wrong with values of some of a config's fields: name, rule and value of each that lies outside."""
    hints = _hints(cls)
    return [problem for name, value in values.items() for problem in _outside(name, value, hints[name])]


def _outside(name: str, value: Any, hint: Any) -> list[str]:
    """What is wrong with a value, or with a part of a tuple or dict, which is named by its place."""
    arguments = get_args(hint)
    if get_origin(hint) is Annotated:
        rule = arguments[1]
        return [] if rule.holds(value) else [f"{name} must be {rule.rule(value)}, got {value!r}"]
    if isinstance(value, tuple) and get_origin(hint) is tuple:
        each = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        parts = [_outside(f"{name}[{i}]", part, of) for i, (part, of) in enumerate(zip(value, each, strict=False))]
        return [problem for found in parts for problem in found]
    if isinstance(value, dict) and get_origin(hint) is dict:
        return [problem for key in value for problem in _outside(f"{name}.{key}", value[key], arguments[1])]
    if value is None or not arguments:
        return []
    annotated = [member for member in arguments if get_origin(member) in (Annotated, tuple)]
    return _outside(name, value, annotated[0]) if len(annotated) == 1 else []
