"""The gradients of a ZeRO 1 or 2 optimizer, summed over ranks in float32 while the backward goes on.

DeepSpeed 0.19 copies every gradient twice, by itself and in the network's precision, and sends what it has when the
backward is over. Here gradients are taken by the bucket: one fused call copies those of a bucket into a float32 buffer,
which is on its way to the ranks that own it while earlier layers still make theirs. Buckets leave in a fixed order, and
by the job's own communicator, so that no message ever meets another one of the same rank out of order. A sum over
micro-batches is one of float32 too.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 25_000_000
"""Numbers of a bucket, 100 MB: small enough to leave early, large enough for the whole bandwidth of a network."""
IN_FLIGHT = 4
"""Buckets that may be on their way at once."""
OWNERS = 4
"""Most ranks that a bucket is sent to one by one, half the bytes of sending it to all; beyond, a message waits longer
than its bytes take."""
REPLACED = (
    "reduce_gradients", "independent_gradient_partition_epilogue", "backward_epilogue",
    "averaged_gradients", "bit16_groups", "bit16_groups_flat", "partition_size", "dp_process_group",
    "partition_gradients", "sequence_parallel_size", "is_gradient_accumulation_boundary", "_clear_param_grad_only",
    "_get_preflattened_grad_partition", "_grad_acc_hooks",
)  # fmt: skip


class FlatGradient(list[Tensor]):
    """A group's gradient in the form that DeepSpeed takes as it is: one flat tensor of the rank's own partition."""

    def __init__(self, partition: Tensor) -> None:
        super().__init__([partition])
        self.flat_partition = partition


class Slice(NamedTuple):
    """A piece of a bucket that one rank owns."""

    owner: int
    start: int  # in the bucket
    end: int
    target: int  # where it begins in the owner's partition


class Bucket(NamedTuple):
    """Neighboring parameters of one group, in the group's flat order, without what lies between groups."""

    group: int
    parameters: list[nn.Parameter]
    numel: int
    slices: list[Slice]

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Each parameter's place in a flat buffer."""
        pieces = torch.split(buffer, [parameter.numel() for parameter in self.parameters])
        return [piece.view(parameter.shape) for piece, parameter in zip(pieces, self.parameters, strict=True)]


class Sent(NamedTuple):
    """A bucket on its way."""

    bucket: Bucket
    buffer: Tensor
    work: list[Any]


def install(optimizer: Any, module: nn.Module, accumulation: int) -> str:
    """Give a DeepSpeed optimizer of ZeRO 1 or 2 the reduction of this module in place of its own.

    Args:
        module: whose trained parameters it has.
        accumulation: micro-batches of one optimizer step.

    Returns:
        Why it was left as it is, for the log; nothing where it was changed. States on the host keep DeepSpeed's own
        way there: that is no reason to speak of.
    """
    if getattr(optimizer, "cpu_offload", False):
        return ""
    missing = [name for name in REPLACED if not hasattr(optimizer, name)]
    if missing:
        return f"this DeepSpeed's optimizer has no {', '.join(missing)}, so its gradients are copied one by one: slower"
    if dist.get_world_size(optimizer.dp_process_group) != dist.get_world_size():
        return ""
    reduction = Reduction(optimizer, module, accumulation)
    # The engine closes a backward by itself; what each gradient called for that cost more than the copies.
    for hook in optimizer._grad_acc_hooks:
        hook.remove()
    optimizer._grad_acc_hooks = reduction.watch() if dist.get_world_size() > 1 else []
    optimizer.reduce_gradients = lambda pipeline_parallel=False: reduction.finish()
    optimizer.independent_gradient_partition_epilogue = reduction.finish
    optimizer.backward_epilogue = lambda *_, **__: reduction.hold()
    return ""


class Reduction:
    """The gradients of one optimizer between a backward and its step."""

    def __init__(self, optimizer: Any, module: nn.Module, accumulation: int) -> None:
        self._optimizer = optimizer
        self._world = dist.get_world_size()
        self._divisor = self._world / float(optimizer.sequence_parallel_size)
        # What is summed in the network's own numbers would lose them.
        low = optimizer.dtype in (torch.float16, torch.bfloat16)
        self._held_back = accumulation > 1 and low and not optimizer.partition_gradients
        numbers = {parameter: number for number, parameter in enumerate(module.parameters())}
        buckets = [bucket for group in range(len(optimizer.bit16_groups)) for bucket in self._buckets(group)]
        # The backward reaches a bucket's first layer last.
        self._buckets_in_order = sorted(buckets, key=lambda b: -min(numbers[p] for p in b.parameters))
        self._bucket_of = {p: index for index, b in enumerate(self._buckets_in_order) for p in b.parameters}
        self._sums: dict[int, Tensor] = {}  # by bucket, of the micro-batches before
        self._partitions: dict[int, Tensor] = {}  # by group, of what has arrived
        self._begin()

    def watch(self) -> list[Any]:
        """Let every parameter say when it has its gradient."""
        return [
            parameter.register_post_accumulate_grad_hook(self.ready)  # type: ignore[no-untyped-call]
            for parameter in self._bucket_of
        ]

    def _begin(self) -> None:
        self._missing = [len(bucket.parameters) for bucket in self._buckets_in_order]
        self._next = 0
        self._on_their_way: list[Sent] = []
        self._streams: set[Any] = set()  # on which gradients were made

    def _buckets(self, group: int) -> Iterator[Bucket]:
        """The group's parameters, from its end on, as buckets of at least ``BUCKET`` numbers but the first."""
        optimizer = self._optimizer
        flat, size = optimizer.bit16_groups_flat[group], int(optimizer.partition_size[group])
        chosen: list[nn.Parameter] = []
        parameters = list(optimizer.bit16_groups[group])
        for position, parameter in reversed(list(enumerate(parameters))):
            chosen.insert(0, parameter)
            numel = sum(each.numel() for each in chosen)
            if numel >= BUCKET or position == 0:
                begin = parameter.data.storage_offset() - flat.storage_offset()
                yield Bucket(group, chosen, numel, list(_slices(begin, numel, size)))
                chosen = []

    @torch.no_grad()
    def ready(self, parameter: nn.Parameter) -> None:
        """A parameter has its gradient of this backward."""
        if not self._sends():
            return
        if parameter.is_cuda:
            self._streams.add(torch.cuda.current_stream(parameter.device))
        self._missing[self._bucket_of[parameter]] -= 1
        while self._next < len(self._missing) and self._missing[self._next] == 0:
            self._send()

    def _sends(self) -> bool:
        """Whether gradients leave with this backward: at stage 1 with the last one of a step."""
        return bool(self._optimizer.partition_gradients or self._optimizer.is_gradient_accumulation_boundary())

    def _send(self) -> None:
        """Start the next bucket's way to the ranks that own it."""
        bucket = self._buckets_in_order[self._next]
        buffer = self._collected(self._next)
        self._next += 1
        if len(self._on_their_way) == IN_FLIGHT:
            self._arrive()
        if len(bucket.slices) > OWNERS:
            work = [dist.all_reduce(buffer, async_op=True)]
        else:
            work = [dist.reduce(buffer[part.start : part.end], dst=part.owner, async_op=True) for part in bucket.slices]
        self._on_their_way.append(Sent(bucket, buffer, work))

    def _collected(self, index: int) -> Tensor:
        """A bucket's gradients as one float32 buffer, with those of the micro-batches before; the parameters lose
        theirs."""
        bucket = self._buckets_in_order[index]
        for stream in self._streams:
            torch.cuda.current_stream(stream.device).wait_stream(stream)
        flat = self._optimizer.bit16_groups_flat[bucket.group]
        buffer = torch.empty(bucket.numel, dtype=torch.float32, device=flat.device)
        views, gradients = bucket.views(buffer), []
        for parameter, view in zip(bucket.parameters, views, strict=True):
            gradients.append(torch.zeros_like(view) if parameter.grad is None else parameter.grad)
            parameter.grad = None
        torch._foreach_copy_(views, gradients)
        if len(self._streams) > 1:  # a gradient's memory is free for its own stream only when this one has read it
            for gradient in gradients:
                gradient.record_stream(torch.cuda.current_stream(gradient.device))
        before = self._sums.pop(index, None)
        return buffer if before is None else before.add_(buffer)

    def _arrive(self) -> None:
        """Take in what the bucket that left first has brought this rank."""
        sent = self._on_their_way.pop(0)
        for work in sent.work:
            work.wait()
        self._take(sent.bucket, sent.buffer)

    def _take(self, bucket: Bucket, buffer: Tensor) -> None:
        for part in bucket.slices:
            if part.owner == dist.get_rank():
                mine = self._partition(bucket.group)[part.target : part.target + part.end - part.start]
                mine.add_(buffer[part.start : part.end])

    def _partition(self, group: int) -> Tensor:
        """What this rank owns of a group's gradient, summed so far."""
        if group not in self._partitions:
            size = int(self._optimizer.partition_size[group])
            device = self._optimizer.bit16_groups_flat[group].device
            self._partitions[group] = torch.zeros(size, dtype=torch.float32, device=device)
        return self._partitions[group]

    @torch.no_grad()
    def finish(self) -> None:
        """Send what has not left yet, and at the end of a step hand the optimizer its own partitions."""
        while self._next < len(self._buckets_in_order):
            if self._world > 1:
                self._send()
            else:
                self._take(self._buckets_in_order[self._next], self._collected(self._next))
                self._next += 1
        while self._on_their_way:
            self._arrive()
        self._begin()
        if self._optimizer.is_gradient_accumulation_boundary():
            for group in range(len(self._optimizer.bit16_groups)):
                partition = self._partition(group)
                if self._divisor != 1:
                    partition.div_(self._divisor)
                self._optimizer.averaged_gradients[group] = FlatGradient(partition)
            self._partitions.clear()
        self._optimizer._clear_param_grad_only()
        self._optimizer._epilogue_ran_this_backward = True

    @torch.no_grad()
    def hold(self) -> None:
        """After a backward whose gradients do not leave yet: keep their sum in float32."""
        if self._held_back and not self._sends():
            for index in range(len(self._buckets_in_order)):
                self._sums[index] = self._collected(index)


def _slices(begin: int, numel: int, size: int) -> Iterator[Slice]:
    """The owners of numbers of a group's flat tensor, of which every rank owns ``size``."""
    place = begin
    while place < begin + numel:
        owner = place // size
        end = min((owner + 1) * size, begin + numel)
        yield Slice(owner, place - begin, end - begin, place - owner * size)
        place = end
