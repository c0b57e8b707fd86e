"""Which hosts of a hostfile answer."""

import os
import re
import shlex
import subprocess
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from ..files import write_own
from .side_files import HOSTS_MARK

PATIENCE_S = 15.0  # for all hosts together
_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_\[][A-Za-z0-9_.:%\]-]*")  # [USER@]NAME or an address
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")


def listed(hostfile: Path) -> list[str]:
    """The hosts of a file with a line ``NAME slots=GPUS`` for each, as ``deepspeed --hostfile`` takes it.

    Raises:
        OSError, ValueError: the file cannot be read, names nobody, or names what can be no host.
    """
    hosts = [name for line in hostfile.read_text(encoding="utf-8").splitlines() if (name := _name(line))]
    for name in hosts:
        if not _HOST.fullmatch(name):  # ssh and the launchers would take it for an option or give it to a shell
            raise ValueError(f"{hostfile} names {name!r}, which can be no host; write [USER@]NAME slots=GPUS")
    if not hosts:
        raise ValueError(f"{hostfile} names no host; give each a line such as: node1 slots=8")
    return hosts


def silent(hosts: Sequence[str], patience_s: float = PATIENCE_S) -> list[str]:
    """The hosts on which ssh cannot run a command, with the options that pdsh takes from PDSH_SSH_ARGS_APPEND."""
    command = [*SSH, *shlex.split(os.environ.get("PDSH_SSH_ARGS_APPEND", ""))]
    deadline = time.monotonic() + patience_s
    calls = [subprocess.Popen([*command, "--", host, "true"], stdin=subprocess.DEVNULL) for host in hosts]
    return [host for host, call in zip(hosts, calls, strict=True) if not _answered(call, deadline)]


def write_without(hostfile: Path, left_out: Collection[str], target: Path) -> None:
    """A copy of a hostfile without some of its hosts.

    Raises:
        ValueError: the target is somebody else's file.
    """
    lines = hostfile.read_text(encoding="utf-8").splitlines(keepends=True)
    left = "".join(line for line in lines if _name(line) not in left_out)
    write_own(target, HOSTS_MARK + left.encode(), HOSTS_MARK)


def _name(line: str) -> str:
    """The host of a line; empty for one without."""
    words = line.partition("#")[0].split()
    return words[0] if words else ""


def _answered(call: subprocess.Popen[bytes], deadline: float) -> bool:
    try:
        return call.wait(max(0.0, deadline - time.monotonic())) == 0
    except subprocess.TimeoutExpired:
        call.kill()
        call.wait()
        return False
