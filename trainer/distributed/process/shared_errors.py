"""An error that every rank meets, such as a wrong config, is said by rank 0 alone. Imports nothing that takes time."""

import os
import socket
import subprocess
import time

from .. import signals
from .rank_info import address, rank_info_from_env

PATIENCE_S = 5.0  # for rank 0 to end, or for a launcher to end this rank because rank 0 has
_LOOK_S = 0.2
_CONNECT_S = 2.0


def said_by_rank_0() -> bool:
    """Whether this rank may end in silence, because rank 0 has ended too and has said why. False on rank 0.

    It waits a while: rank 0 is gone when nobody listens at the address at which the ranks meet. A launcher that listens
    there ends the other ranks when rank 0 has ended.
    """
    before = signals.raised()
    try:
        if rank_info_from_env(os.environ).rank == 0:
            return False
        place = address(os.environ)
    except (KeyError, ValueError, IndexError, OSError, subprocess.CalledProcessError):
        return False  # no launcher's variables to go by
    deadline = time.monotonic() + PATIENCE_S
    while signals.raised() is before and _listens(*place):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _listens(host: str, port: str) -> bool:
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_S):
            return True
    except (OSError, ValueError):
        return False
