"""Sequences that several ranks share."""

import pytest
import torch

from smalti.models.conditions import CaptionConfig, ClassConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.models.priors.neighborhood import NeighborhoodConfig
from smalti.models.transformer.sequence_parallel import part


class Among:
    """One of several ranks, without the others."""

    def __init__(self, ranks: int, rank: int = 0) -> None:
        self.ranks, self.rank = ranks, rank

    def to_heads(self, x: torch.Tensor) -> torch.Tensor:
        return x

    to_positions = whole = to_heads


def test_the_parts_of_all_ranks_are_the_sequence_and_zeros_behind_it():
    x = torch.arange(14.0).view(1, 7, 2) + 1
    parts = [part(x, Among(3, rank)) for rank in range(3)]
    assert [each.shape for each in parts] == [(1, 3, 2)] * 3
    whole = torch.cat(parts, dim=1)
    assert torch.equal(whole[:, :7], x) and not whole[:, 7:].any()


def test_alone_a_shared_sequence_is_a_whole_one():
    prior = GPTConfig(layers=1, heads=2, width=8, window=(2, 2)).build(5, ClassConfig(classes=3)).eval()
    codes, fields = torch.randint(5, (2, 2, 2)), {"cls": torch.tensor([0, 2])}
    before = prior(codes, fields).logits
    prior.share_sequence(Among(1))
    assert torch.equal(prior(codes, fields).logits, before)


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="2 heads cannot be dealt to 3 ranks"):
        GPTConfig(layers=1, heads=2, width=8, window=(2, 2)).build(5, ClassConfig()).share_sequence(Among(3))
    prior = NeighborhoodConfig(layers=1, heads=2, width=8, window=(2, 2), rows_above=1, columns_beside=1).build(
        5, ClassConfig()
    )
    with pytest.raises(ValueError, match="priors of kind gpt"):
        prior.share_sequence(Among(2))


def test_a_sequence_with_hidden_tokens_is_not_shared():
    prior = GPTConfig(layers=1, heads=2, width=8, window=(2, 2)).build(5, CaptionConfig(tokens=3, channels=4))
    with pytest.raises(ValueError, match="hidden tokens cannot be shared; set sequence_parallel_size: 1"):
        prior.share_sequence(Among(2))
