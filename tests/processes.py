"""Real ranks for tests: a function, or a command of the package, in N processes that talk over gloo.

    processes.run(function, 2, "an argument")        what the function returned on each rank, inside ``ranks.group``
    processes.command("smalti.launch.train", ["run.yaml"], 2).wait()        exit codes and outputs of the ranks
    [*processes.launcher(2), "smalti.launch.train", "run.yaml"]     the same as a command line of its own
    one, other = processes.start(function, 1), processes.start(another, 1)      at the same time, on two cores
    processes.finished(one), processes.finished(other)      what ``run`` returns of each

Importing torch and DeepSpeed takes seconds, so one process imports them once for the whole session and every job is
forked from it: ``python -m`` without the imports. A job is a process group of its own: a leader, which waits for the
ranks as a launcher would, and the ranks. Everything comes back by files. A function is found again by its file and
name, so it lies at the top of its module; its arguments are what JSON holds, its result what torch reads safely.
"""

import atexit
import gc
import importlib
import importlib.util
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what tests compare holds on CPUs, where ranks may share a machine
PATIENCE_S = 300.0
# What an engine imports when it is built, which takes seconds too.
LATE = (
    "deepspeed.module_inject.auto_ep_layer", "deepspeed.ops.op_builder.all_ops",
    "deepspeed.runtime.superoffload.superoffload_stage3", "deepspeed.runtime.zero.muon.muon_optimizer",
    "torch._inductor.compile_fx",
)  # fmt: skip


class Ended(NamedTuple):
    """How a job ended."""

    codes: list[int]  # of each rank, -9 for a killed one
    outputs: list[str]  # stdout and stderr of each rank, as it wrote them

    @property
    def log(self) -> str:
        """The outputs of all ranks, for the message of a failed test."""
        return "".join(
            f"\n--- rank {rank} ended with {code}\n{output}"
            for rank, (code, output) in enumerate(zip(self.codes, self.outputs, strict=True))
        )


class Job:
    """A running job."""

    def __init__(self, order: Mapping[str, Any], world: int, environment: Mapping[str, str], patience_s: float) -> None:
        self.world = world
        self.name = order.get("function") or order["module"]
        self._patience_s = patience_s
        self.folder = _ordered(_place().name, {**order, "environment": dict(environment)}, world, patience_s)
        _ancestor().stdin.write(f"{self.folder}\n")
        _ancestor().stdin.flush()
        self.leader, *self.pids = json.loads(_appeared(self.folder / "pids.json"))

    def signal(self, number: signal.Signals, rank: int | None = None) -> None:
        """Send a signal to a rank, or to the leader and all ranks."""
        with suppress(ProcessLookupError):
            if rank is None:
                os.killpg(self.leader, number)
            else:
                os.kill(self.pids[rank], number)

    def output(self, rank: int = 0) -> str:
        """What a rank has written so far."""
        file = self.folder / f"rank-{rank}.txt"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait(self) -> Ended:
        """Wait for all ranks.

        Raises:
            AssertionError: they did not end in time; all were killed.
        """
        deadline = time.monotonic() + self._patience_s + 5
        while any(map(alive, [self.leader, *self.pids])):
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
                raise AssertionError(f"the job did not end in {self._patience_s} s{self._ended().log}")
            time.sleep(0.01)
        return self._ended()

    def _ended(self) -> Ended:
        codes = self.folder / "codes.json"
        found = json.loads(codes.read_text()) if codes.exists() else [-9] * self.world
        return Ended(found, [self.output(rank) for rank in range(self.world)])


def start(function: Callable[..., Any], world: int, *arguments: Any, patience_s: float = PATIENCE_S) -> Job:
    """Call a function at the top of its module on ``world`` ranks, inside ``ranks.group``."""
    order = {"file": function.__code__.co_filename, "function": function.__name__, "arguments": _plain(arguments)}
    return Job(order, world, {}, patience_s)


def run(function: Callable[..., Any], world: int, *arguments: Any, patience_s: float = PATIENCE_S) -> list[Any]:
    """What a function returned on each of ``world`` ranks.

    Raises:
        AssertionError: a rank failed, or was not done in time; the message has what every rank said.
    """
    return finished(start(function, world, *arguments, patience_s=patience_s))


def finished(job: Job) -> list[Any]:
    """What the function of a job returned on each rank, once all are done.

    Raises:
        AssertionError: as of ``run``.
    """
    import torch

    ended = job.wait()
    if any(ended.codes):
        raise AssertionError(f"{job.name} failed on {job.world} rank(s){ended.log}")
    return [torch.load(job.folder / f"result-{rank}.pt", weights_only=True) for rank in range(job.world)]


def command(
    module: str,
    arguments: Sequence[Any],
    world: int = 1,
    environment: Mapping[str, str] | None = None,
    patience_s: float = PATIENCE_S,
) -> Job:
    """``python -m module arguments`` on each of ``world`` ranks, as a launcher starts it."""
    return Job({"module": module, "arguments": _plain(arguments)}, world, environment or {}, patience_s)


def launcher(world: int) -> list[str]:
    """The words that start ranks of the module and arguments after them, wait, and end with the first bad code."""
    return [sys.executable, __file__, str(_ancestor().pid), _place().name, str(world)]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _plain(arguments: Sequence[Any]) -> list[Any]:
    return [str(argument) if isinstance(argument, Path) else argument for argument in arguments]


def _ordered(place: str, order: Mapping[str, Any], world: int, patience_s: float) -> Path:
    """A folder with what a job is to do."""
    folder = Path(tempfile.mkdtemp(dir=place))
    whole = {**order, "folder": str(folder), "world": world, "patience_s": patience_s, "port": free_port()}
    (folder / "order.json").write_text(json.dumps(whole))
    return folder


def _appeared(path: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        if _ancestor().poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"{path} did not appear; could the ancestor of the ranks not start?")
        time.sleep(0.005)
    return path.read_text()


@cache
def _place() -> Any:
    """A folder for all jobs of the session; it goes with it."""
    return tempfile.TemporaryDirectory(prefix="smalti-jobs-", ignore_cleanup_errors=True)


@cache
def _ancestor() -> Any:
    """The process from which every job is forked; it ends with the session."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, text=True, env=environment)
    atexit.register(process.kill)
    return process


def _launch(ancestor: str, place: str, world: str, module: str, *arguments: str) -> int:
    """What ``launcher`` begins: a job of the session's ancestor, which this process waits for."""
    folder = _ordered(place, {"module": module, "arguments": arguments, "environment": {}}, int(world), PATIENCE_S)
    with Path(f"/proc/{ancestor}/fd/0").open("w") as line:
        line.write(f"{folder}\n")
    while not (folder / "codes.json").exists():
        time.sleep(0.01)
    for rank in range(int(world)):
        print((folder / f"rank-{rank}.txt").read_text(), end="", flush=True)
    return next((code for code in json.loads((folder / "codes.json").read_text()) if code), 0)


def _serve() -> None:
    """The ancestor: fork a leader for every folder that is named on stdin."""
    import smalti.trainer.jobs.run  # noqa: F401

    for module in LATE:
        importlib.import_module(module)
    # The first engine of a process runs a compiler to find out which operations can be built here.
    _ = importlib.import_module("deepspeed.ops").__compatible_ops__
    gc.freeze()  # DeepSpeed collects garbage often, and need not walk through all modules each time
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a leader
    for line in sys.stdin:
        if os.fork() == 0:
            os.setsid()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _lead(Path(line.strip()))
            os._exit(0)


def _lead(folder: Path) -> None:
    """Fork the ranks, wait for them, leave their exit codes."""
    order = json.loads((folder / "order.json").read_text())
    pids = []
    for rank in range(order["world"]):
        pid = os.fork()
        if pid == 0:
            _be(rank, folder, order)
        pids.append(pid)
    _leave(folder / "pids.json", json.dumps([os.getpid(), *pids]))
    codes: dict[int, int] = {}
    deadline = time.monotonic() + order["patience_s"]
    while len(codes) < len(pids):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > deadline:
            for late in set(pids) - set(codes):
                os.kill(late, signal.SIGKILL)
        else:
            time.sleep(0.005)
    _leave(folder / "codes.json", json.dumps([codes[pid] for pid in pids]))


def _leave(path: Path, text: str) -> None:
    aside = path.with_suffix(".aside")
    aside.write_text(text)
    aside.rename(path)


def _be(rank: int, folder: Path, order: Mapping[str, Any]) -> None:
    """A rank: say everything into a file, do what is asked, end."""
    output = os.open(folder / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    silence = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((silence, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, place)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(order["world"]),
        LOCAL_WORLD_SIZE=str(order["world"]),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(order["port"]),
        **order["environment"],
    )
    code = 0
    try:
        if "module" in order:
            sys.argv[1:] = order["arguments"]
            sys.modules.pop(order["module"], None)  # it runs as __main__
            runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
        else:
            _call(rank, folder, order)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _call(rank: int, folder: Path, order: Mapping[str, Any]) -> None:
    import torch

    from smalti.trainer.distributed import ranks

    file = Path(order["file"])
    sys.path.insert(0, str(Path(__file__).parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with ranks.process_group(60.0):
        result = getattr(module, order["function"])(*order["arguments"])
        torch.save(result, folder / f"result-{rank}.pt")


if __name__ == "__main__":
    sys.exit(_launch(*sys.argv[1:]) if sys.argv[1:] else _serve())
