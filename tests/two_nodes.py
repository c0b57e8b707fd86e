"""Two nodes on this machine: network namespaces on one bridge, each with a name, an address and an sshd of its own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("ip", "sshd", "ssh", "ssh-keygen", "pdsh", "unshare")
PACKAGES = "iproute2 openssh-server openssh-client pdsh"
NODES = {"smalti-a": "10.213.7.1", "smalti-b": "10.213.7.2"}
BRIDGE = "smalti-bridge"
FIRST, SECOND = NODES
_SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

SSH = """
Host *
  IdentityFile {folder}/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ServerAliveInterval 2
  ServerAliveCountMax 3
"""
SSHD = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
"""


class Nodes:
    """The two nodes, and how something is run on the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, command: list[str], environment: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
        """A command on the first node, in a session of its own."""
        variables_of_node = {**os.environ, **environment, "PDSH_SSH_ARGS_APPEND": f"-F {self.folder / 'ssh_config'}"}
        variables_of_node["PATH"] = f"{Path(sys.executable).parent}:{_SEARCHED}"
        with output.open("wb") as file:
            return subprocess.Popen(
                _on(FIRST, command),
                env=variables_of_node,
                cwd=self.folder,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def cut(self, node: str) -> None:
        """The node loses its network."""
        _run("ip", "-n", node, "link", "set", "eth0", "down")

    def end_all(self) -> None:
        """Kill whatever still runs on the nodes."""
        for node in NODES:
            for pid in _run("ip", "netns", "pids", node, check=False).split():
                os.kill(int(pid), signal.SIGKILL)


def missing() -> str:
    """Why there can be no such nodes here; empty if there can."""
    if os.geteuid():
        return "only root may make network namespaces"
    absent = [program for program in PROGRAMS if not shutil.which(program, path=_SEARCHED)]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: {PACKAGES})"
    allowed = subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0
    return "" if allowed else "this container may not make network namespaces"


@contextmanager
def nodes(folder: Path) -> Iterator[Nodes]:
    """Both nodes up, with sshd listening; all is gone afterwards."""
    folder.mkdir(parents=True)
    made = Nodes(folder)
    _remove()
    try:
        _write(folder)
        _wire()
        for node in NODES:
            sshd = shutil.which("sshd", path=_SEARCHED) or "sshd"
            _run(*_on(node, [sshd, "-f", str(folder / "sshd_config"), "-E", str(folder / f"{node}.log")]))
        yield made
    finally:
        made.end_all()
        _remove()


def _write(folder: Path) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    (folder / "ssh_config").write_text(SSH.format(folder=folder))
    (folder / "sshd_config").write_text(SSHD.format(folder=folder))
    (folder / "hosts").write_text("".join(f"{node} slots=1\n" for node in NODES))
    Path("/run/sshd").mkdir(exist_ok=True)
    for node in NODES:
        place = Path("/etc/netns") / node
        place.mkdir(parents=True, exist_ok=True)
        names = "".join(f"{address} {name}\n" for name, address in NODES.items())
        (place / "hosts").write_text(f"127.0.0.1 localhost\n{names}")


def _wire() -> None:
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "link", "set", BRIDGE, "up")
    for node, address in NODES.items():
        _run("ip", "netns", "add", node)
        _run("ip", "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", node)
        _run("ip", "link", "set", node, "master", BRIDGE, "up")
        _run("ip", "-n", node, "address", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", node, "link", "set", "eth0", "up")
        _run("ip", "-n", node, "link", "set", "lo", "up")


def _remove() -> None:
    for node in NODES:
        _run("ip", "netns", "del", node, check=False)
        shutil.rmtree(Path("/etc/netns") / node, ignore_errors=True)
    _run("ip", "link", "del", BRIDGE, check=False)


def _on(node: str, command: list[str]) -> list[str]:
    name_it = 'hostname "$0"; exec "$@"'
    return ["ip", "netns", "exec", node, "unshare", "--uts", "sh", "-c", name_it, node, *command]


def _run(*words: object, check: bool = True) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env={**os.environ, "PATH": _SEARCHED})
    if check and done.returncode:
        raise AssertionError(f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout
