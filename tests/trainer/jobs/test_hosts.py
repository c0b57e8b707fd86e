"""Hosts are asked by ssh, all at once and with pdsh's options; a hostfile without some is otherwise the same."""

import time
from pathlib import Path

import pytest

from smalti.trainer.jobs import hosts

HOSTFILE = """# the first rack
good slots=8  # the head
refuses slots=8

hangs slots=4
"""


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    file = tmp_path / "hosts"
    file.write_text(HOSTFILE)
    return file


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ssh that notes what it was given; only the host ``good`` answers. Gives the file of notes."""
    notes = tmp_path / "notes"
    program = tmp_path / "programs" / "ssh"
    program.parent.mkdir()
    answers = 'case "$*" in *" good true") exit 0;; *" hangs true") exec sleep 60;; esac'
    program.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n{answers}\nexit 255\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("PDSH_SSH_ARGS_APPEND", "-F 'a config' -p 2222")
    return notes


def test_a_hostfile_is_read_without_its_comments(hostfile: Path):
    assert hosts.listed(hostfile) == ["good", "refuses", "hangs"]


def test_a_hostfile_without_hosts_is_refused(tmp_path: Path):
    (tmp_path / "hosts").write_text("# nobody\n")
    with pytest.raises(ValueError, match="names no host; give each a line such as"):
        hosts.listed(tmp_path / "hosts")


def test_a_host_that_refuses_or_hangs_is_silent_and_nobody_is_waited_for_longer_than_the_patience(ssh: Path):
    began = time.monotonic()
    assert hosts.silent(["hangs", "good", "refuses", "hangs"], patience_s=1.0) == ["hangs", "refuses", "hangs"]
    assert time.monotonic() - began < 20
    assert "ConnectTimeout=10 -F a config -p 2222 -- good true" in ssh.read_text()


def test_the_other_lines_of_a_hostfile_stay_as_they_are(hostfile: Path, tmp_path: Path):
    hosts.write_without(hostfile, ["refuses"], tmp_path / "remaining")
    mark, left = (tmp_path / "remaining").read_text().split("\n", 1)
    assert mark.startswith("# Written by smalti supervise") and left == HOSTFILE.replace("refuses slots=8\n", "")
    assert hosts.listed(tmp_path / "remaining") == ["good", "hangs"]


@pytest.mark.parametrize(
    "name",
    ["-oProxyCommand=x", "root@-oProxyCommand=x", "a;reboot", "$(id)", "`id`", "a|b", "a,b", "a'b", "h\x1b[2J", "-"],
)
def test_what_can_be_no_host_is_refused_before_any_program_gets_it(name: str, tmp_path: Path):
    (tmp_path / "hosts").write_text(f"good slots=8\n{name} slots=8\n")
    with pytest.raises(ValueError, match="can be no host") as caught:
        hosts.listed(tmp_path / "hosts")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["node1", "gpu-07.rack_2.example.org", "me@10.0.0.7", "fe80::1%eth0", "[::1]"])
def test_names_and_addresses_are_hosts(name: str, tmp_path: Path):
    (tmp_path / "hosts").write_text(f"{name} slots=8\n")
    assert hosts.listed(tmp_path / "hosts") == [name]
