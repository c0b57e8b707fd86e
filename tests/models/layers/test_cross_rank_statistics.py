"""Modules with statistics of a batch: two ranks that sum them are one process with the whole batch, gradients too."""

import copy
from threading import Barrier, Thread

import pytest
import torch
from torch import Tensor, nn

from smalti.models.discriminators import BatchNorm, PatchGANConfig
from smalti.models.layers.cross_rank_statistics import set_cross_rank_reduce
from smalti.models.quantizers import EntropyConfig, IBQConfig, LFQConfig


def on_two_ranks(network: nn.Module, halves: list[Tensor]) -> list[Tensor]:
    """What copies of a network make of a batch's halves, in threads that wait for each other's sums.

    The sums join the two graphs, so that a backward passes from one to the other as it would between processes.
    """
    barrier, sums, outputs = Barrier(2), [torch.empty(0)] * 2, [torch.empty(0)] * 2

    def work(rank: int, replica: nn.Module) -> None:
        def reduce(mine: Tensor) -> Tensor:
            sums[rank] = mine
            barrier.wait()
            total = sums[0] + sums[1]
            barrier.wait()
            return total

        set_cross_rank_reduce(replica, reduce)
        outputs[rank] = replica(halves[rank])

    replicas = [copy.deepcopy(network) for _ in halves]
    threads = [Thread(target=work, args=pair) for pair in enumerate(replicas)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outputs


@pytest.mark.parametrize("network", [BatchNorm(3), PatchGANConfig(channels=8, layers=2).build(3)])
def test_batch_norm(network: nn.Module) -> None:
    whole = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = network(whole)
    expected.pow(3).sum().backward()
    halves = [part.detach().clone().requires_grad_() for part in whole.split([1, 3])]
    outputs = on_two_ranks(network, halves)
    torch.testing.assert_close(torch.cat(outputs), expected, rtol=1e-4, atol=1e-5)
    sum(output.pow(3).sum() for output in outputs).backward()
    torch.testing.assert_close(torch.cat([half.grad for half in halves]), whole.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", [[2, 2], [1, 3]], ids=str)
@pytest.mark.parametrize("kind", ["lfq", "ibq"])
def test_entropies_of_the_codes(kind: str, sizes: list[int]) -> None:
    torch.manual_seed(0)
    entropy = EntropyConfig(weight=1.0, temperature=1.0)
    lfq, ibq = (
        LFQConfig(bits=4, commitment_weight=0.0, entropy=entropy),
        IBQConfig(codebook_size=8, codebook_weight=0.0, entropy=entropy),
    )
    quantizer = lfq.build(4) if kind == "lfq" else ibq.build(4)
    whole = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = quantizer(whole).loss
    expected.backward()
    halves = [part.detach().clone().requires_grad_() for part in whole.split(sizes)]
    losses = [quantized.loss for quantized in on_two_ranks(quantizer, halves)]
    for loss in losses:
        torch.testing.assert_close(loss, expected)
    (sum(losses) / 2).backward()  # an engine takes the mean over ranks
    torch.testing.assert_close(torch.cat([half.grad for half in halves]), whole.grad)


def test_evaluation_needs_no_other_rank() -> None:
    def unreachable(_: Tensor) -> Tensor:
        raise RuntimeError("a rank that evaluates alone must not wait for others")

    network = PatchGANConfig(channels=8, layers=2).build(3)
    quantizer = LFQConfig(bits=4).build(4)
    for module, x in ((network, torch.randn(1, 3, 16, 16)), (quantizer, torch.randn(1, 4, 3, 3))):
        set_cross_rank_reduce(module, unreachable)
        module.eval()(x)
        with pytest.raises(RuntimeError, match="must not wait"):
            module.train()(x)
