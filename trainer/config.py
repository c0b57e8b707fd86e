"""Config files: YAML, the files it extends and the overrides of the command line, read into frozen dataclasses.

Every problem is reported at once (``schema`` finds those of types and names). Text is read as YAML 1.2 reads it, not
1.1: ``on``, ``no``, ``12:30`` and ``010`` are text, ``1e-4`` is a number. Keys are text; none may be given twice.
"""

import re
import types
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml

from . import bounded_json
from .schema import ConfigError, build, from_mapping, joined, listing, merged, shown, suggestion, to_mapping

__all__ = ["ConfigError", "differences", "dump", "from_mapping", "may_change", "read", "read_plain", "to_mapping"]

T = TypeVar("T")
MOST_BYTES = 1_000_000  # of one file
MOST_VALUES = 20_000  # keys and values of one file, with every alias unfolded
MOST_FILES = 100  # that a config extends, counted as often as they are read
DEEPEST = 64  # lists and sections inside each other
PACKAGED = Path(__file__).resolve().parents[1] / "configs"


class _Absent:
    """What a config holds where another one has a key and it has none."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


@overload
def read(cls: type[T], source: Path | str, overrides: Sequence[str] = (), *, saved: bool = False) -> T: ...
@overload
def read(cls: types.UnionType, source: Path | str, overrides: Sequence[str] = (), *, saved: bool = False) -> Any: ...
def read(cls: Any, source: Path | str, overrides: Sequence[str] = (), *, saved: bool = False) -> Any:
    """Read a config file, the files it ``extends`` and the overrides into one frozen dataclass.

    Later layers win: ancestors, the file, overrides. Maps merge, lists and values replace. A layer that changes
    the kind of a section starts that section afresh, so that no key of the old kind lingers.

    Args:
        cls: the dataclass to build, or a union of dataclasses (``VQGANRun | PriorRun``) for the file to choose from.
        source: a YAML file, or the bare name of a packaged config (``vqgan_tiny`` or ``vqgan_tiny.yaml``).
        overrides: ``path.to.field=value`` each, the value in YAML; order matters only for the same field.
        saved: the file was written by smalti itself (RUN/config.yaml): keys that were renamed since are understood.

    Raises:
        ConfigError: with every problem found, not only the first.
    """
    problems: list[str] = []
    raw: Any = {}
    for layer in (*_layers(_find(str(source), Path()), problems), _assignments(overrides, problems)):
        raw = merged(cls, MISSING, raw, layer)
    return build(cls, raw, str(source), problems, saved=saved)


def read_plain(path: Path) -> Any:
    """What a YAML file of another project holds: lists, maps, numbers and texts, within the limits of our own files.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        text = bounded_json.read_bytes(path, MOST_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
    return _load(text, str(path))[0]


def dump(config: Any) -> str:
    """The resolved config as YAML, every default written out; reading it gives an equal config."""
    return yaml.dump(to_mapping(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def differences(old: Any, new: Any) -> list[str]:
    """One line ``path: old -> new`` for every value in which two configs differ; empty when they are equal."""
    return _differences(to_mapping(old), to_mapping(new), "")


def may_change(config: Any, path: str) -> bool:
    """Whether the field of a config that a dotted path names, or a section above it, may change between two starts.

    A field says so beside its default: ``field(default=..., metadata=MAY_CHANGE)``.
    """
    for name in path.split("."):
        if not is_dataclass(config):
            return False
        found = next((each for each in fields(config) if each.name == name), None)
        if found is None:
            return False
        if found.metadata.get("may_change"):
            return True
        config = getattr(config, name)
    return False


def _differences(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        inside = [_differences(old.get(key, _ABSENT), new.get(key, _ABSENT), joined(path, key)) for key in old | new]
        return [line for lines in inside for line in lines]
    return [] if old == new else [f"{path}: {shown(old)} -> {shown(new)}"]


_TAG = "tag:yaml.org,2002:"
_PLAIN_SCALARS = {  # tried in this order; all else is text
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9_]*)",
    "float": r"[-+]?((0|[1-9][0-9_]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf",
    "merge": r"<<",
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  filled below; PyYAML wants them on the class

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []
        self._depth = self._composed = 0
        self._unfolded: dict[int, int] = {}  # how many values each node is, counted as often as aliases repeat them

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        """Refuse what is nested too deeply or unfolds to too much, before anything is made of it."""
        is_alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        self._composed += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEEPEST} levels", problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._unfolded:
            raise yaml.MarkedYAMLError(problem="an alias of something that it is inside of", problem_mark=mark)
        if not is_alias:
            self._unfolded[id(node)] = 1 + sum(self._unfolded[id(each)] for each in _inside(node))
        if max(self._composed, self._unfolded[id(node)]) > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES} values, aliases unfolded", problem_mark=mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Make every key text, and note the keys that are given twice: PyYAML would silently take the last."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _TAG + "merge":
                continue
            key.tag = _TAG + "str"
            line = key.start_mark.line + 1
            if key.value in lines:
                self.repeated.append(f"line {line}: {key.value!r} is given already on line {lines[key.value]}")
            lines.setdefault(key.value, line)
        return node


def _inside(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}  # noqa: RUF012  the reader's, so that text it would take for a number is quoted

    def represent_list(self, values: Any) -> yaml.SequenceNode:
        on_one_line = not any(isinstance(value, dict | list) for value in values)
        return self.represent_sequence(_TAG + "seq", values, flow_style=on_one_line)

    def represent_dict(self, values: Any) -> yaml.MappingNode:
        return self.represent_mapping(_TAG + "map", values, flow_style=False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _style in (_Loader, _Dumper):
    for _name, _pattern in _PLAIN_SCALARS.items():
        _style.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)
_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(dict, _Dumper.represent_dict)


def _load(text: str, source: str) -> tuple[Any, list[str]]:
    """The plain value of one YAML text, and its repeated keys."""
    try:
        loader = _Loader(text)
        return loader.get_single_data(), loader.repeated
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(source, [f"line {mark.line + 1 if mark else '?'}: {error.problem}"]) from error
    except (yaml.YAMLError, ValueError) as error:  # a character YAML forbids; a value that its explicit tag refuses
        raise ConfigError(source, [str(error)]) from error


def _find(name: str, folder: Path) -> Path:
    """The file of that name in the folder, or else the packaged config of that bare name."""
    bare = Path(name).name == name
    candidates = [folder / name, *([PACKAGED / name, PACKAGED / f"{name}.yaml"] if bare else [])]
    for candidate in candidates:
        if candidate.exists() and not candidate.is_dir():
            return candidate
    known = [path.name for place in ((folder / name).parent, PACKAGED) for path in sorted(place.glob("*.yaml"))]
    advice = suggestion(Path(name).name, known) or listing("configs here and packaged: ", known)
    raise ConfigError(str(folder / name), [f"no such file, and no packaged config of that name{advice}"])


def _layers(path: Path, problems: list[str], chain: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The file's mapping, after those of all the files it extends; the oldest ancestor comes first."""
    resolved = path.resolve()
    if resolved in chain:
        circle = " -> ".join(link.name for link in (*chain[chain.index(resolved) :], resolved))
        raise ConfigError(str(path), [f"extends: goes round in a circle: {circle}"])
    try:
        text = bounded_json.read_bytes(path, MOST_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}"]) from error
    raw, repeated = _load(text, str(path))
    problems += [f"{path.name} {problem}" for problem in repeated]
    if not isinstance(raw, dict):
        raise ConfigError(str(path), [f"expected keys and values, got {shown(raw)}"])
    parents = raw.pop("extends", [])
    names = [parents] if isinstance(parents, str) else parents
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(str(path), [f"extends: expected a file name or a list of them, got {shown(parents)}"])
    older: list[dict[str, Any]] = []
    for name in names:
        older += _layers(_find(name, path.parent), problems, (*chain, resolved))
        if len(older) > MOST_FILES:
            raise ConfigError(str(path), [f"extends: reads more than {MOST_FILES} files"])
    return [*older, raw]


def _assignments(overrides: Sequence[str], problems: list[str]) -> dict[str, Any]:
    """All overrides as one mapping: a new kind and keys for it belong together, whichever was given first."""
    whole: dict[str, Any] = {}
    for override in overrides:
        path, equals, text = override.partition("=")
        *parents, last = path.strip().split(".")
        if not equals or not all((*parents, last)) or len(parents) > DEEPEST:
            problems.append(f"--set {override}: expected path.to.field=value")
            continue
        try:
            value, repeated = _load(text, f"--set {override}")
        except ConfigError as error:
            problems += [f"--set {override}: {problem}" for problem in error.problems]
            continue
        problems += [f"--set {override}: {problem}" for problem in repeated]
        section = whole
        for name in parents:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    return whole
