"""A real SLURM of two nodes on this machine: munged, slurmctld and two slurmd, with files of their own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import processes

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
PACKAGES = "slurm-wlm munge"

CONFIG = """
ClusterName=smalti
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
ReturnToService=2
KillWait=30
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2,requeue_delay=1
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=8 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=8 RealMemory=8000
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=30 PreemptMode=REQUEUE State=UP MaxTime=60
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF State=UP MaxTime=60
"""


class Slurm:
    """The cluster, through its own commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def command(self, *words: object) -> str:
        """What a command of SLURM says."""
        done = subprocess.run([*map(str, words)], env=self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise AssertionError(f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def submit(self, *words: object, **environment: str) -> int:
        """Hand in a job; gives its number."""
        self.environment.update(environment)
        return int(self.command("sbatch", "--parsable", *words))

    def field(self, job: int, name: str) -> str:
        """A field of ``scontrol show job``, such as JobState."""
        words = self.command("scontrol", "show", "job", "--oneliner", job).split()
        return dict(word.partition("=")[::2] for word in words)[name]

    def wait(self, job: int, *states: str, patience_s: float = 120.0) -> str:
        """Wait until a job is in one of the states; a job that waits for its next start is released to start now."""
        deadline = time.monotonic() + patience_s
        while (state := self.field(job, "JobState")) not in states:
            if time.monotonic() > deadline:
                raise AssertionError(f"job {job} is {state}, not {states}, after {patience_s} s\n{self.logs()}")
            if state == "PENDING":
                with suppress(AssertionError):  # it may have begun meanwhile
                    self.command("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.2)
        return state

    def logs(self) -> str:
        """The last lines of all daemons."""
        return "\n".join(f"{path}:\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    if os.geteuid():
        return "only root may start the daemons of SLURM"
    absent = [program for program in PROGRAMS if not _found(program)]
    return f"not installed: {', '.join(absent)} (Debian: {PACKAGES})" if absent else ""


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    """Two idle nodes; all daemons are gone afterwards."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _write_configuration(folder)
        daemons.append(_munged(folder))
        slurm = Slurm(folder)
        daemons.append(_daemon(slurm, "slurmctld", "-D"))
        daemons += [_daemon(slurm, "slurmd", "-D", "-N", node) for node in ("n1", "n2")]
        _until_idle(slurm)
        yield slurm
    finally:
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _write_configuration(folder: Path) -> None:
    (folder / "state").mkdir()
    ports = {name: processes.free_port() for name in ("controller", "first", "second")}
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=host, **ports))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)


def _munged(folder: Path) -> subprocess.Popen[bytes]:
    files = {name: f"--{name}={folder / f'munge.{name}'}" for name in ("socket", "pid-file", "log-file", "seed-file")}
    files["key-file"] = f"--key-file={folder / 'munge.key'}"
    command = [_found("munged"), "--foreground", "--force", *files.values()]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _daemon(slurm: Slurm, name: str, *options: str) -> subprocess.Popen[bytes]:
    with (slurm.folder / f"{name}{options[-1]}.out").open("wb") as output:
        command = [_found(name), "-f", str(slurm.folder / "slurm.conf"), *options]
        return subprocess.Popen(command, env=slurm.environment, stdout=output, stderr=output)


def _until_idle(slurm: Slurm, patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    said = ""
    while said.split() != ["idle", "idle"]:
        if time.monotonic() > deadline:
            raise AssertionError(f"the nodes are {said!r} after {patience_s} s\n{slurm.logs()}")
        time.sleep(0.2)
        with suppress(AssertionError):
            said = slurm.command("sinfo", "--noheader", "--Node", "--partition", "low", "--format", "%T")


def _found(program: str) -> str:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
