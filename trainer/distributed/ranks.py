"""The ranks of a job: who am I, how many are we, and what do we agree on.

A rank is found from RANK/WORLD_SIZE (``deepspeed``, ``torchrun``), else from SLURM's variables (``srun python -m``),
else the job is one process. Outside ``group`` every function here also works: a world of one.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from . import gpus, signals
from .process.rank_info import RankInfo, address, rank_info_from_env

T = TypeVar("T")


class ConnectError(RuntimeError):
    """The ranks did not find each other, or their network does not carry messages."""


@contextmanager
def process_group(timeout_s: float) -> Iterator[RankInfo]:
    """The job's process group: NCCL on GPUs, gloo elsewhere. Collectives that wait longer than the timeout raise.

    Every rank must enter. The processor's cores are shared out among the ranks of a machine unless OMP_NUM_THREADS says
    otherwise. A rank that raises must leave first: the block does not wait for the others on an error.

    Raises:
        ConnectError: the ranks cannot be connected.
        ValueError: two ranks of a machine share a GPU.
    """
    place = rank_info_from_env(os.environ)
    own_store: Any = None
    added: dict[str, str] = {}
    if "RANK" not in os.environ:
        if place.world == 1:
            # It chooses its port itself: one that is free now may be taken when it is asked for.
            own_store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True)  # type: ignore[attr-defined]
            master, port = "127.0.0.1", str(own_store.port)
        else:
            master, port = address(os.environ)
        added = {"RANK": str(place.rank), "WORLD_SIZE": str(place.world), "LOCAL_RANK": str(place.local_rank)}
        added |= {"MASTER_ADDR": master, "MASTER_PORT": port}
        added = {name: value for name, value in added.items() if name not in os.environ}
        os.environ.update(added)
    if "OMP_NUM_THREADS" not in os.environ:
        # Not all cores of the machine: a scheduler may have given this job a few of them.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // place.local_world))
    try:
        try:
            _join(place, timedelta(seconds=timeout_s), own_store)
        except dist.DistError as error:
            raise ConnectError(_unconnected(place, error)) from error
        try:
            yield place
        except BaseException:
            if place.world == 1:  # nobody to wait for
                _leave()
            raise
        _leave()
    finally:
        for name in added:  # of this group: the next one has its own
            os.environ.pop(name, None)


def _join(place: RankInfo, timeout: timedelta, own_store: Any) -> None:
    """Make the process group, on GPUs after each rank has one of its own.

    Args:
        own_store: of a process that was started alone; None: the ranks meet where the environment says.
    """
    if own_store is None:
        store, rank, world = next(iter(rendezvous("env://", timeout=timeout)))
    else:
        store, rank, world = own_store, place.rank, place.world
    if not torch.cuda.is_available():
        dist.init_process_group("gloo", timeout=timeout, store=store, rank=rank, world_size=world)
        return
    gpu = gpus.take(place.local_rank)
    gpus.claim_for(store, gpu)
    limit = gpus.set_nccl(os.environ, timeout)
    # With its device, the communicator is made now and no barrier guesses one.
    dist.init_process_group("nccl", timeout=limit, store=store, rank=rank, world_size=world, device_id=gpu)


def _leave() -> None:
    """Leave the group; by DeepSpeed where it was used, so that it forgets its groups before the next one."""
    comm: Any = sys.modules.get("deepspeed.comm")
    if comm is not None and comm.is_initialized():
        comm.destroy_process_group()
    else:
        dist.destroy_process_group()


def _unconnected(place: RankInfo, error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    name, kind = ("NCCL", "NCCL") if torch.cuda.is_available() else ("gloo", "GLOO")
    return (
        f"rank {place.rank} of {place.world} on {socket.gethostname()} could not join the others at "
        f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} by {name}: {first}; every rank must be started, and "
        f"every node must reach that address. With several networks, name the one that connects the nodes in "
        f"{kind}_SOCKET_IFNAME" + ("; NCCL_DEBUG=INFO shows what NCCL tries" if kind == "NCCL" else "")
    )


def device() -> torch.device:
    """The device of this rank: its GPU, or the processor."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Every rank waits here for all the others."""
    if world() > 1:
        dist.barrier()


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """The sum over ranks, written into the tensor. Every rank must call this with the same shape."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def all_reduce_mean_(tensor: Tensor) -> Tensor:
    """The mean over ranks, written into the tensor. Every rank must call this with the same shape."""
    return all_reduce_sum_(tensor).div_(world())


class _AllReduceSum(torch.autograd.Function):
    """The sum over ranks; the gradient of a sum that every rank uses is the sum of the ranks' gradients."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return all_reduce_sum_(tensor.clone())

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient)  # itself differentiable: a penalty on gradients is differentiated twice


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over ranks, through which gradients pass. Every rank must run its forward and its backward."""
    summed: Tensor = _AllReduceSum.apply(tensor)  # type: ignore[no-untyped-call]
    return summed


def all_gather(tensor: Tensor) -> Tensor:
    """The ranks' tensors of equal shape, joined along the first axis in the order of ranks; the same on every rank."""
    if world() == 1:
        return tensor
    gathered = tensor.new_empty(world() * tensor.shape[0], *tensor.shape[1:])
    dist.all_gather_into_tensor(gathered, tensor.contiguous())
    return gathered


def all_reduce_metrics(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of every scalar over all ranks, in one message and one wait for the device.

    Every rank must call this with the same names; their order does not matter.
    """
    names = sorted(scalars)
    if not names:
        return {}
    values = torch.stack([scalars[name].detach().float().to(device()) for name in names])
    return dict(zip(names, all_reduce_mean_(values).tolist(), strict=True))


def all_reduce_max(figures: Mapping[str, float]) -> dict[str, float]:
    """The largest of every figure over all ranks, in one message.

    Every rank must call this with the same names; their order does not matter.
    """
    names = sorted(figures)
    if world() == 1 or not names:
        return dict(figures)
    values = torch.tensor([figures[name] for name in names], dtype=torch.float64, device=device())
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return dict(zip(names, values.tolist(), strict=True))


def any_rank(value: bool) -> bool:
    """Whether any rank says yes. Every rank must call this."""
    if world() == 1:
        return value  # without a wait for the device
    flag = torch.tensor(float(value), device=device())
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def broadcast_object(value: T | None) -> T:
    """Rank 0's value on every rank; the others' arguments are ignored. Small picklable values of our own only."""
    box: list[Any] = [value]
    if world() > 1:
        dist.broadcast_object_list(box, src=0, device=device())
    return box[0]  # type: ignore[no-any-return]


def all_gather_object(value: T) -> list[T]:
    """Every rank's value, in the order of ranks, on every rank; all must call this. Small picklable values only."""
    values: list[Any] = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


@contextmanager
def entered_by_rank_0(resource: AbstractContextManager[Any]) -> Iterator[None]:
    """Around what rank 0 alone must hold, such as a folder, while every rank works. Every rank must enter.

    Raises:
        ValueError: rank 0 could not enter; on every rank.
    """
    problem = ""
    with ExitStack() as held:
        if rank() == 0:
            try:
                held.enter_context(resource)
            except (OSError, ValueError) as error:  # the other ranks wait for rank 0
                problem = str(error)
        problem = broadcast_object(problem)
        if problem:
            raise ValueError(problem)
        yield


class AgreedError(ValueError):
    """What a user can mend and went wrong on some rank, raised alike on every rank."""


def agreed(work: Callable[[], T]) -> T:
    """What this rank's part of some work gives, once all ranks have done theirs.

    Every rank must call this; the work itself waits for no other rank.

    Raises:
        AgreedError: the work of some rank raised OSError or ValueError; on every rank, with the first rank's words.
    """
    results: list[T] = []
    problem = ""
    try:
        results.append(work())
    except (OSError, ValueError) as error:
        problem = f"rank {rank()} on {socket.gethostname()}: {error}" if world() > 1 else str(error)
    problems = [said for said in all_gather_object(problem) if said]
    if problems:
        raise AgreedError(problems[0])
    return results[0]


class Interrupt:
    """Turns SIGTERM, SIGUSR1 and Ctrl-C into a question that all ranks answer alike at a step's end.

    A second Ctrl-C is not caught. One that came before, when only ``early`` listened, counts. Create it in the main
    thread.
    """

    SIGNALS: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        self.raised: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        self.raised = self.raised or signals.raised()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.raised = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def stop_requested(self) -> bool:
        """Whether any rank was asked to leave. Every rank must call this at the same step."""
        return any_rank(self.raised is not None)
