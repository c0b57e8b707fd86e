"""The measurement of a prior's step: both ways compute the same, and how ratios are made."""

import pytest
import torch

from smalti.launch.bench.peers.published import published_logits
from smalti.launch.bench.prior_step import Size, Taken, _report
from smalti.models.conditions import CodeMapConfig
from smalti.models.priors.gpt import GPTConfig


def test_the_published_way_computes_the_same_prior():
    torch.manual_seed(0)
    prior = GPTConfig(layers=2, heads=2, width=16, window=(3, 3)).build(7, CodeMapConfig(vocab_size=5)).eval()
    torch.nn.init.normal_(prior.pos_emb, std=0.5)
    codes, condition_codes = torch.randint(7, (2, 3, 3)), torch.randint(5, (2, 3, 3))
    hidden = torch.ones(18, 18).tril().view(1, 1, 18, 18) == 0
    theirs = published_logits(prior, condition_codes.flatten(1), codes.flatten(1)[:, :-1], hidden)[:, 8:]
    ours = prior(codes, {"segmentation_codes": condition_codes}).logits.flatten(1, 2)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_ratios_are_medians_of_the_turns_and_shares_of_memory(capsys):
    taken = {
        "published": [Taken(3.0, 6.0, 0), Taken(9.0, 6.0, 0), Taken(4.0, 6.0, 0)],
        "from shards": [Taken(1.0, 2.0, 0), Taken(2.0, 2.0, 0), Taken(2.0, 2.0, 0)],
        "on line": [Taken(2.0, 3.0, 0), Taken(2.0, 3.0, 0), Taken(3.0, 3.0, 0)],
    }
    figures = _report(taken, {"published": 4, "from shards": 3}, Size(2, 2, 16, 3, 32, 1))
    assert figures["speedup_total"] == 3.0 and figures["speedup_from_shards"] == 1.5
    assert figures["memory_ratio"] == 0.75
    assert figures["speedup_total_processor"] == pytest.approx(3.0)
    assert "| published | 4.00 | 6.00 |" in capsys.readouterr().out
