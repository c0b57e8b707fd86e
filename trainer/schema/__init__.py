"""From nested dictionaries to frozen dataclasses: strict, with every problem of the whole in one message.

The dataclasses are the schema. A field is a bool, int, float, str, Path, Literal, tuple, dict with text keys, another
dataclass (a *section*), or a union of these. The sections of one union differ in a field that is a Literal in all of
them (``kind``, ``task``). A section's own ``__post_init__`` checks what its fields' types cannot say.
"""

import difflib
import types
from collections.abc import Hashable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from ...models.bounds import range_problems
from . import renamed as renamed

T = TypeVar("T")
_SCALARS = (bool, int, float, str, Path, types.NoneType)
# Of a field that changes no number of a run, or only by rounding: it may differ between two starts of the run.
MAY_CHANGE = {"may_change": True}
_UNREADABLE = object()  # stands in for a value whose problem has been noted already


class ConfigError(ValueError):
    """A config that cannot be used, with all its ``problems``; ``source`` says where it came from."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = "".join("\n  " + problem.replace("\n", "\n    ") for problem in self.problems)
        return f"{self.source} has {len(self.problems)} problem(s):{lines}"


def build(cls: Any, raw: Any, source: str, problems: list[str], *, saved: bool = False) -> Any:
    """The dataclass ``cls`` (or one of a union) from plain values, or all the problems, those known before included.

    Args:
        saved: the values were written by smalti itself, maybe before a key was renamed: old names are read as the new
            ones. Elsewhere an old name is a problem that names the new one.
    """
    reader = _Reader(problems, saved)
    config = reader.value(cls, raw, "", MISSING)
    if reader.problems:
        raise ConfigError(source, reader.problems)
    return config


@overload
def from_mapping(cls: type[T], mapping: dict[str, Any], source: str = "the config", *, saved: bool = False) -> T: ...
@overload
def from_mapping(
    cls: types.UnionType, mapping: dict[str, Any], source: str = "the config", *, saved: bool = False
) -> Any: ...
def from_mapping(cls: Any, mapping: dict[str, Any], source: str = "the config", *, saved: bool = False) -> Any:
    """Build the dataclass from nested dictionaries (of a JSON file, say) as strictly as from YAML; see ``build``."""
    return build(cls, mapping, source, [], saved=saved)


def to_mapping(config: Any) -> dict[str, Any]:
    """The config as nested dictionaries and lists that JSON and YAML can hold; ``from_mapping`` turns them back."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config) if field.init}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _sections(hint: Any) -> tuple[type, ...]:
    return tuple(member for member in _members(hint) if is_dataclass(member) and isinstance(member, type))


@cache
def _kinds(sections: tuple[type, ...]) -> tuple[str, dict[Hashable, type]]:
    """The field that tells the sections of a union apart, and the section that each of its values means."""
    for name in _hints(sections[0]):
        literals = [_hints(section).get(name) for section in sections]
        if all(get_origin(literal) is Literal for literal in literals):
            values = [(value, cls) for cls, hint in zip(sections, literals, strict=True) for value in get_args(hint)]
            if len(dict(values)) == len(values):
                return name, dict(values)
    names = ", ".join(section.__name__ for section in sections)
    raise TypeError(f"{names} cannot be distinguished; give each a field `kind: Literal[...]` with values of its own")


def _chosen(sections: tuple[type, ...], raw: dict[str, Any], default: Any) -> type | None:
    """The section that a mapping describes; None where it does not say, or says something unknown."""
    if len(sections) < 2:
        return sections[0] if sections else None
    name, kinds = _kinds(sections)
    if name not in raw:
        return type(default) if type(default) in sections else None
    return kinds.get(raw[name]) if isinstance(raw[name], Hashable) else None


def _default(section: type, field: Field[Any], instance: Any) -> Any:
    """What a field is when nothing is said: as in the default of the section itself, or else as its class says."""
    if type(instance) is section:
        return getattr(instance, field.name)
    return field.default_factory() if field.default_factory is not MISSING else field.default


def merged(hint: Any, default: Any, base: Any, over: Any) -> Any:
    """One layer over another: maps merge, all else replaces, and so does a section of another kind."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    sections = _sections(hint)
    old, section = _chosen(sections, base, default), _chosen(sections, {**base, **over}, default)
    if old not in (None, section):
        return over
    inner = _inside(hint, section, default, base)
    both = {key: merged(*inner.get(key, (Any, MISSING)), base[key], over[key]) for key in over if key in base}
    return {**base, **over, **both}


def _inside(hint: Any, section: type | None, default: Any, base: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The type and the default of what lies under each key, where they are known."""
    if section is not None:
        hints = _hints(section)
        return {field.name: (hints[field.name], _default(section, field, default)) for field in fields(section)}
    return {key: (get_args(hint)[1], MISSING) for key in base} if get_origin(hint) is dict else {}


class _Reader:
    """Reads values as their types ask; notes every problem with its path and goes on."""

    def __init__(self, problems: list[str], saved: bool) -> None:
        self.problems = problems
        self.saved = saved

    def note(self, path: str, problem: str) -> Any:
        self.problems.append(f"{path}: {problem}" if path else problem)
        return _UNREADABLE

    def value(self, hint: Any, raw: Any, path: str, default: Any) -> Any:
        origin, sections = get_origin(hint), _sections(hint)
        if sections and isinstance(raw, dict):
            return self.section(sections, raw, path, default)
        if len(_members(hint)) > 1:
            return self.choice(hint, raw, path)
        if origin is tuple and isinstance(raw, list | tuple):
            return self.sequence(get_args(hint), raw, path)
        if origin is dict and isinstance(raw, dict):
            inner = get_args(hint)[1]
            read = {key: self.value(inner, raw[key], joined(path, key), MISSING) for key in raw}
            return _UNREADABLE if any(value is _UNREADABLE for value in read.values()) else read
        read = _scalar(hint, raw)
        if read is _UNREADABLE:
            advice = "; quote it to make it text" if hint is str and isinstance(raw, bool | int | float) else ""
            return self.note(path, f"expected {_expected(hint)}, got {shown(raw)}{advice}")
        return read

    def choice(self, hint: Any, raw: Any, path: str) -> Any:
        """The first member of a union that takes the value."""
        members = [member for member in _members(hint) if member is not types.NoneType]
        if raw is None and len(members) < len(_members(hint)):
            return None
        if len(members) == 1:
            return self.value(members[0], raw, path, MISSING)
        for member in members:
            trial = _Reader([], self.saved)
            read = trial.value(member, raw, path, MISSING)
            if not trial.problems:
                return read
        return self.note(path, f"expected {_expected(hint)}, got {shown(raw)}")

    def sequence(self, hints: tuple[Any, ...], raw: Sequence[Any], path: str) -> Any:
        if hints[-1] is Ellipsis:
            hints = hints[:1] * len(raw)
        if len(hints) != len(raw):
            return self.note(path, f"expected {len(hints)} values, got {len(raw)}: {shown(raw)}")
        read = [self.value(hint, raw[i], f"{path}[{i}]", MISSING) for i, hint in enumerate(hints)]
        return _UNREADABLE if any(value is _UNREADABLE for value in read) else tuple(read)

    def section(self, sections: tuple[type, ...], raw: dict[str, Any], path: str, default: Any) -> Any:
        if self.saved:
            raw = renamed.values(raw)
        section = _chosen(sections, raw, default)
        if section is None:
            name, kinds = _kinds(sections)
            got = f"got {shown(raw[name])}" if name in raw else "but it is missing"
            got += _renamed_value(name, raw.get(name))
            return self.note(joined(path, name), f"expected {_alternatives(kinds)}, {got}")
        hints, known = _hints(section), {field.name: field for field in fields(section) if field.init}
        if self.saved:
            raw = renamed.values(renamed.keys(section.__name__, raw))
        for name in raw:
            new = renamed.KEYS.get(section.__name__, {}).get(name)
            if name not in known and new in known:
                self.note(joined(path, name), f"was renamed to {new!r}")
            elif name not in known:
                advice = suggestion(str(name), known) or listing("keys here: ", known)
                self.note(joined(path, name), f"no such key{advice}")
        read = {}
        for name, field in known.items():
            ready = _default(section, field, default)
            if name in raw:
                read[name] = self.value(hints[name], raw[name], joined(path, name), ready)
                if read[name] is _UNREADABLE and (advice := _renamed_value(name, raw[name])):
                    self.problems[-1] += advice
            elif any(old in raw and new == name for old, new in renamed.KEYS.get(section.__name__, {}).items()):
                read[name] = _UNREADABLE  # noted already, under its old name
            elif ready is MISSING:
                read[name] = self.note(joined(path, name), f"missing, expected {_expected(hints[name])}")
            else:
                read[name] = ready
        if any(value is _UNREADABLE for value in read.values()):
            readable = {name: value for name, value in read.items() if value is not _UNREADABLE}
            for problem in range_problems(section, readable):
                self.note(path, problem)
            return _UNREADABLE
        try:
            return section(**read)
        except ValueError as error:
            return self.note(path, str(error))


def _scalar(hint: Any, raw: Any) -> Any:
    """The value if it is what the type says: a whole number serves as a float, 1e5 as an int, a bool as neither."""
    if get_origin(hint) is Literal:
        return next((value for value in get_args(hint) if type(value) is type(raw) and value == raw), _UNREADABLE)
    if hint is float and type(raw) is int:
        return float(raw)
    if hint is int and type(raw) is float and raw.is_integer():
        return int(raw)
    if hint is Path and isinstance(raw, str):
        return Path(raw)
    if hint not in _SCALARS and get_origin(hint) not in (tuple, dict) and not is_dataclass(hint):
        raise TypeError(f"a config cannot have a field of type {hint}; use a tuple, a dict with text keys, a dataclass")
    return raw if type(raw) is hint else _UNREADABLE


def joined(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def shown(value: Any) -> str:
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _renamed_value(name: str, value: Any) -> str:
    new = renamed.VALUES.get(name, {}).get(value) if isinstance(value, str) else None
    return f"; {value!r} was renamed to {new!r}" if new else ""


def _alternatives(values: Any) -> str:
    return " or ".join(shown(value) for value in values)


def _expected(hint: Any) -> str:
    """A type in the words of a user."""
    origin, arguments = get_origin(hint), get_args(hint)
    if len(_members(hint)) > 1:
        return " or ".join(dict.fromkeys(_expected(member) for member in _members(hint)))
    if origin is Literal:
        return _alternatives(arguments)
    if origin is tuple:
        return f"a list of {_expected(arguments[0]) if arguments[-1] is Ellipsis else len(arguments)}"
    if origin is dict or is_dataclass(hint):
        return "a section of keys and values"
    words = {bool: "true or false", types.NoneType: "null", Path: "a path"}
    return words.get(hint) or str(getattr(hint, "__name__", hint))


def suggestion(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def listing(title: str, known: Any) -> str:
    return f"; {title}{', '.join(dict.fromkeys(known))}" if known else ""
