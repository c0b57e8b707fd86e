"""What a step's codebook costs in messages between ranks."""

import pytest
from fixtures.games import game, micro_batches

from smalti.trainer.distributed import ranks
from smalti.trainer.vqgan.task import VQGANTask

CODES, CHANNELS = 16, 4


@pytest.fixture(scope="module", autouse=True)
def group():
    with ranks.process_group(300.0):
        yield


@pytest.fixture
def messages(monkeypatch):
    """The shapes of the codebook's messages."""
    found = []

    def noted(tensor):
        found.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(ranks, "all_reduce_sum_", noted)
    monkeypatch.setattr(ranks, "all_gather", noted)
    return found


@pytest.mark.parametrize(("quantizer", "expected"), [
    ({"kind": "vq"}, [(CODES,)]),  # no vectors are summed, and nothing is sent of no element
    ({"kind": "ema"}, [(CODES, 1 + CHANNELS)]),  # counts and sums together
    ({"kind": "vq", "replace_dead_after": 5}, [(CODES,), (2, 256, CHANNELS)]),  # with features to move codes onto
])  # fmt: skip
def test_statistics_travel_in_one_message_and_features_only_where_they_are_read(messages, quantizer, expected):
    task = VQGANTask(game(micro=4, quantizer=quantizer), accumulation=2)
    task.step(micro_batches(0, 4, 0, 1), 0)
    messages.clear()
    task.step(micro_batches(1, 4, 0, 1), 1)
    assert [shape for shape in messages if shape[0] in (CODES, 2)] == expected
