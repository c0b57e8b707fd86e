"""Modules whose batch statistics may be summed over ranks, by a function that the caller gives them.

The networks know no ranks; alone in its process, each sees its own batch.
"""

from collections.abc import Callable

from torch import Tensor, nn

Reduce = Callable[[Tensor], Tensor]  # the sum over ranks, through which gradients pass


def single_process(statistics: Tensor) -> Tensor:
    """The sum over ranks of a process that is the only one."""
    return statistics


class CrossRankStatistics(nn.Module):
    """Base of what computes statistics of a batch, in training only.

    Ranks may assume: with a ``reduce`` that sums over all of them, outputs and gradients are those of one process
    with the whole batch. Every rank must then run the same forwards and backwards in the same order.
    """

    reduce: Reduce = staticmethod(single_process)


def set_cross_rank_reduce(network: nn.Module, reduce: Reduce) -> None:
    """Makes every module in ``network`` that has statistics of a batch sum them with ``reduce``."""
    for module in network.modules():
        if isinstance(module, CrossRankStatistics):
            module.reduce = reduce
