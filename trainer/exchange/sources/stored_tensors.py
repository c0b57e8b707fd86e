"""Tensors in files of other projects: their names, shapes and types at once, their numbers when they are asked for.

Reads torch's zip files (``.ckpt``, ``.pt``, ``.pth``, ``.bin``), safetensors, and folders of safetensors in shards.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...checkpoint import shards
from ...files import check_regular
from . import pickle_machine
from .pickle_machine import TensorNote

MOST_MEMBERS = 200_000  # of a zip file
CONTAINERS = ("state_dict", "model", "module")  # under which training programs keep the weights
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class StoredTensor(NamedTuple):
    """A tensor of a file that has not been read."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None for a type that no weights have
    load: Callable[[], Tensor]


class StoredWeights(NamedTuple):
    """What a file or a folder of weights holds."""

    tensors: dict[str, StoredTensor]
    beside: dict[str, str]  # what else there is at the top, and what it is


def read(path: Path) -> StoredWeights:
    """The tensors of a file, or of the only weights in a folder.

    Raises:
        ValueError: it is no file of tensors, damaged, or claims more than it holds.
    """
    if not path.exists():
        raise ValueError(f"there is no {path}")
    with _named_in_errors(path):
        if path.is_dir():
            return _read_folder(path)
        if path.suffix == ".safetensors":
            return StoredWeights(_safetensors(path), {})
        return _torch_file(path)


@contextmanager
def _named_in_errors(path: Path) -> Iterator[None]:
    """Whatever is wrong with a file is a ``ValueError`` that names it."""
    try:
        yield
    except (OSError, EOFError, SafetensorError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None


def _read_folder(folder: Path) -> StoredWeights:
    indexes, files = sorted(folder.glob(f"*{shards.INDEX}")), sorted(folder.glob("*.safetensors"))
    if len(indexes) == 1:
        tensors: dict[str, StoredTensor] = {}
        for name, placed in shards.files(folder, indexes[0]).items():
            part = _safetensors(folder / name)
            if sorted(part) != sorted(placed):
                raise ValueError(f"{name} holds other tensors than {indexes[0].name} says")
            tensors |= part
        return StoredWeights(tensors, {})
    if len(files) != 1:
        raise ValueError(f"a folder must hold one file of safetensors or one index of its shards, found {len(files)}")
    return StoredWeights(_safetensors(files[0]), {})


def _safetensors(path: Path) -> dict[str, StoredTensor]:
    check_regular(path)
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
        return {
            name: StoredTensor(tuple(part.get_shape()), DTYPES.get(part.get_dtype()), partial(_safe_tensor, path, name))
            for name, part in found.items()
        }


def _safe_tensor(path: Path, name: str) -> Tensor:
    with _named_in_errors(path), safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor.clone()  # else it would keep a mapping of the whole file


def _torch_file(path: Path) -> StoredWeights:
    """The tensors of a file that ``torch.save`` wrote."""
    check_regular(path)
    if not zipfile.is_zipfile(path):
        raise ValueError(
            "it is no zip file, as torch writes them since version 1.6, nor does it end in .safetensors; "
            "if an older torch wrote it, load it there and save its state dict as safetensors"
        )
    with _opened(path) as file:
        pickles = [name for name in file.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it holds {len(pickles)} members NAME/data.pkl, and a file of torch holds one")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in file.namelist() and file.read(f"{root}byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        if file.getinfo(pickles[0]).file_size > pickle_machine.MOST_BYTES:
            raise ValueError(f"its pickle has more than the {pickle_machine.MOST_BYTES} bytes that are read")
        content = pickle_machine.interpret(file.read(pickles[0]))
        sizes = {member.filename: member.file_size for member in file.infolist()}
    if not isinstance(content, dict):
        raise ValueError("it holds no dictionary of tensors")
    inside = next((name for name in CONTAINERS if isinstance(content.get(name), dict)), None)
    named = content if inside is None else content[inside]
    beside = {} if inside is None else {str(key): _kind(value) for key, value in content.items() if key != inside}
    tensors = {}
    for name, note in named.items():
        if not isinstance(name, str) or not isinstance(note, TensorNote):
            raise ValueError(f"{name!r} among its weights is no tensor but {_kind(note)}")
        place = f"{root}data/{note.storage.key}"
        claimed = torch.empty((), dtype=note.storage.dtype).element_size() * note.storage.numbers
        if sizes.get(place) != claimed:
            raise ValueError(f"{name} needs {claimed} bytes in its member {place}, which has {sizes.get(place)}")
        tensors[name] = StoredTensor(note.shape, note.storage.dtype, partial(_tensor, path, place, note))
    return StoredWeights(tensors, beside)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose members are stored as they are, so that it cannot grow in memory."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        if len(members) > MOST_MEMBERS:
            raise ValueError(f"it has {len(members)} members, more than the {MOST_MEMBERS} that are read")
        packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"its member {packed[0]!r} is compressed, which torch never does")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members claim more bytes than the file has")
        yield file


def _tensor(path: Path, place: str, note: TensorNote) -> Tensor:
    """The numbers of one tensor."""
    with _named_in_errors(path):
        with _opened(path) as file:
            data = bytearray(file.read(place))
        if not data:
            return torch.empty(note.shape, dtype=note.storage.dtype)
        whole = torch.frombuffer(data, dtype=note.storage.dtype)
        return whole.as_strided(note.shape, note.stride, note.offset).contiguous()


def _kind(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return repr(value) if isinstance(value, pickle_machine.Inert) else type(value).__name__
