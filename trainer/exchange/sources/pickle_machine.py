"""Reads the pickle of a torch file without calling anything: no code of the file or of any package runs.

A pickle is a program for a stack machine whose instructions can call any function of any installed package. This
machine has no such instruction: dictionaries, lists, numbers and texts become what they are, the tensors of torch
become notes about where their bytes lie, every other object becomes an ``Inert``: a name and nothing else. A pickle
that would call what weights have no use for, such as ``os.system``, was made to do harm, and is refused whole.
"""

import pickletools
import sys
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch

MOST_BYTES = 256_000_000  # of a pickle without the tensors' own bytes; the largest released one has a few megabytes
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


HARMLESS = {  # of Python's own library: what containers of weights make objects of, by module; None for all of it
    "builtins": {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "getattr", "int", "list", "object"),
        *("range", "set", "slice", "str", "tuple"),
    },
    "_codecs": {"encode"},
    **dict.fromkeys(
        ("argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools", "pathlib"), None
    ),
    **dict.fromkeys(("types", "typing", "uuid"), None),
}
OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # of modules, in pickles of protocol 2


class Inert:
    """What stands for a class, a function or an object of a class: its dotted name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}, not built>"


class StorageNote(NamedTuple):
    """Where a tensor's numbers lie."""

    key: str  # the name of the member with the bytes
    dtype: torch.dtype
    numbers: int


class TensorNote(NamedTuple):
    """A tensor that has not been read."""

    storage: StorageNote
    offset: int  # in numbers
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def interpret(data: bytes) -> Any:
    """The object that a pickle describes.

    Raises:
        ValueError: it is no pickle as torch writes them, cut off, or larger than any of weights.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"its pickle has {len(data)} bytes, more than the {MOST_BYTES} that are read")
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.run(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its pickle makes no sense: {type(error).__name__} {error}") from None
    raise ValueError("its pickle has no end")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # how high the stack was at each open mark
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """One instruction."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _GETS:
            self.stack.append(self.memo[int(argument)])
        elif name in _PUTS:
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = self.stack[-1]
        elif name not in _IGNORED:
            instruction: Callable[[Any], None] | None = getattr(self, f"_{name.lower()}", None)
            if instruction is None:
                raise ValueError(f"its pickle has the instruction {name}, which weights do not need")
            instruction(argument)

    def _since_mark(self) -> list[Any]:
        place = self.marks.pop()
        values = self.stack[place:]
        del self.stack[place:]
        return values

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self._tuple_of(1)

    def _tuple2(self, _: Any) -> None:
        self._tuple_of(2)

    def _tuple3(self, _: Any) -> None:
        self._tuple_of(3)

    def _tuple_of(self, size: int) -> None:
        values = tuple(self.stack.pop() for _ in range(size))[::-1]
        self.stack.append(values)

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _dict(self, _: Any) -> None:
        self.stack.append(_pairs(self._since_mark()))

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _appends(self, _: Any) -> None:
        values = self._since_mark()
        _extend(self.stack[-1], values)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _update(self.stack[-1], {key: value})

    def _setitems(self, _: Any) -> None:
        values = self._since_mark()
        _update(self.stack[-1], _pairs(values))

    def _additems(self, _: Any) -> None:
        self._since_mark()  # of a set, which weights have no use for

    def _global(self, argument: str) -> None:
        self.stack.append(Inert(argument.replace(" ", ".")))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Inert(f"{module}.{name}"))

    def _binpersid(self, _: Any) -> None:
        kind, storage, key, _, numbers = self.stack.pop()
        dtype = STORAGES.get(storage.name.removeprefix("torch."))
        if kind != "storage" or dtype is None or not isinstance(key, str) or type(numbers) is not int:
            raise ValueError(f"its pickle names a storage of {storage!r}, which is none of torch's")
        self.stack.append(StorageNote(key, dtype, numbers))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_stands_for(function, arguments))

    def _newobj(self, _: Any) -> None:
        self._reduce(None)

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._reduce(None)

    def _build(self, _: Any) -> None:
        self.stack.pop()  # the state of an object that is not built


def _stands_for(function: Any, arguments: Any) -> Any:
    """What stands for the result of a call that is not made."""
    name = function.name if isinstance(function, Inert) else repr(type(function))
    _refuse_harm(name)
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return _tensor(*arguments[:4])
    if name == "torch._utils._rebuild_parameter":
        return arguments[0]
    if name == "collections.OrderedDict":
        return dict(arguments[0]) if arguments else {}
    return Inert(name)


def _refuse_harm(name: str) -> None:
    """Refuse a call of Python's own library that weights have no use for."""
    module, _, rest = name.partition(".")
    module = OLD_NAMES.get(module, module)
    known = HARMLESS.get(module, set())
    if module in {*sys.stdlib_module_names, "builtins"} and known is not None and rest not in known:
        raise ValueError(f"its pickle would call {name}, which no weights need; nothing of it was run")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> TensorNote:
    numbers = [offset, *shape, *stride]
    if not isinstance(storage, StorageNote) or len(shape) != len(stride) or any(type(n) is not int for n in numbers):
        raise ValueError("its pickle describes a tensor without whole numbers for its storage, shape and strides")
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if min(numbers) < 0 or prod(shape) > storage.numbers or (prod(shape) and last >= storage.numbers):
        raise ValueError(
            f"a tensor of shape {tuple(shape)} at {offset} does not fit its storage of {storage.numbers} numbers"
        )
    return TensorNote(storage, offset, tuple(shape), tuple(stride))


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Inert):
        raise TypeError("appends to what is no list")


def _update(target: Any, values: dict[Any, Any]) -> None:
    if isinstance(target, dict):
        target.update(values)
    elif not isinstance(target, Inert):
        raise TypeError("sets items of what is no dictionary")


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": lambda: Inert("set")}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_IGNORED = {"PROTO", "FRAME"}
