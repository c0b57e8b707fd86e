"""What a step's codebook costs in messages between ranks."""

from typing import Any

import processes
import torch
from fixtures.games import game, micro_batches

from smalti.trainer.distributed import ranks
from smalti.trainer.vqgan.task import VQGANTask

CODES, CHANNELS = 16, 4
QUANTIZERS = [{"kind": "vq"}, {"kind": "ema"}, {"kind": "vq", "replace_dead_after": 5}]


def messages(quantizers: list[dict[str, Any]]) -> list[list[list[int]]]:
    """The shapes of the codebook's messages in a step, for each quantizer."""
    sent: list[list[int]] = []
    originals = ranks.all_reduce_sum_, ranks.all_gather

    def noted(call):
        def inner(tensor: torch.Tensor) -> torch.Tensor:
            sent.append(list(tensor.shape))
            return call(tensor)

        return inner

    ranks.all_reduce_sum_, ranks.all_gather = (noted(call) for call in originals)
    found = []
    for quantizer in quantizers:
        task = VQGANTask(game(micro=4, quantizer=quantizer), accumulation=1)
        for step in range(2):
            sent.clear()
            task.step(micro_batches(step, 4, ranks.rank(), 2), step)
        found.append([shape for shape in sent if shape[0] in (CODES, 1)])
    return found


def test_statistics_travel_in_one_message_and_features_only_where_they_are_read():
    alone, summed, moved = processes.run(messages, 2, QUANTIZERS)[0]
    assert alone == [[CODES]]  # no vectors are summed, and nothing is sent of no element
    assert summed == [[CODES, 1 + CHANNELS]]
    assert moved == [[CODES], [1, 256, CHANNELS]]  # with features of the step, onto which codes are moved
