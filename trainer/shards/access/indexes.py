"""The index of one shard, wherever the shard lies."""

import shlex
from pathlib import Path

from ..index import SUFFIX, ShardIndex
from ..patterns import is_remote, without_secrets
from ..remote import RemoteConfig, remote_index


def index_of(name: str, remote: RemoteConfig) -> ShardIndex:
    """The index of one shard.

    Raises:
        FileNotFoundError: there is no such shard, or it has no index.
        OSError: it cannot be reached.
        ValueError: the index is damaged, or the tar has grown.
    """
    if is_remote(name):
        try:
            return remote_index(name, remote)
        except (FileNotFoundError, OSError, ValueError) as error:
            kind = next(kind for kind in (FileNotFoundError, OSError, ValueError) if isinstance(error, kind))
            raise kind(without_secrets(str(error))) from None  # stores name the whole URL
    path = Path(name + SUFFIX)
    try:
        return _of_the_whole(ShardIndex.read(path), name)
    except FileNotFoundError:
        if Path(name).exists():
            raise FileNotFoundError(f"{name} has no index; make one with: smalti index {shlex.quote(name)}") from None
        raise FileNotFoundError(f"there is no shard {name}, and no index {path} of one") from None


def _of_the_whole(index: ShardIndex, name: str) -> ShardIndex:
    """The index, unless its tar has grown: what is new would be lost. (What is gone or cut off is a counted error.)"""
    tar = Path(name)
    tar_bytes = tar.stat().st_size if tar.exists() else 0
    if tar_bytes > index.tar_bytes:
        raise ValueError(
            f"{name} has grown from {index.tar_bytes} to {tar_bytes} bytes since it was indexed; index it again with: "
            f"smalti index {shlex.quote(name)}"
        )
    return index
