"""Averaged weights follow their closed form and give the module back as it was."""

import pytest
import torch
from torch import nn

from smalti.trainer.distributed.owned_weights import Shares
from smalti.trainer.training.ema import EMA


def averaged(decay: float = 0.9) -> tuple[nn.Linear, EMA]:
    module = nn.Linear(2, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    return module, EMA(Shares(module), decay)


def test_the_average_follows_the_recurrence():
    module, average = averaged(decay=0.5)
    expected = 1.0
    for step, value in enumerate([3.0, -2.0, 5.0, 4.0, 7.0, 1.0, 0.0, 2.0, 9.0, 8.0]):
        nn.init.constant_(module.weight, value)
        average.update(step)
        keep = min(0.5, (1 + step) / (10 + step))  # 0.1 at first, 0.5 from step 8 on
        expected = keep * expected + (1 - keep) * value
        assert average.state_dict()["weight"].flatten().tolist() == pytest.approx([expected] * 2, rel=1e-6)


def test_applied_shows_the_average_and_then_the_weights_again():
    module, average = averaged()
    nn.init.constant_(module.weight, 3.0)
    with average.applied():
        assert module.weight.flatten().tolist() == [1.0, 1.0]
    assert module.weight.flatten().tolist() == [3.0, 3.0]


def test_applied_gives_the_weights_back_after_an_error():
    module, average = averaged()
    nn.init.constant_(module.weight, 3.0)
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert module.weight.flatten().tolist() == [3.0, 3.0]


def test_the_average_of_bfloat16_weights_is_kept_in_fp32():
    module, average = averaged(decay=0.999)
    module.bfloat16()
    average.update(10**6)  # 1 + 2e-3 / 1000 is 1 in bfloat16
    nn.init.constant_(module.weight, 3.0)
    average.update(10**6)
    assert average.state_dict()["weight"].flatten().tolist() == pytest.approx([1.002, 1.002], rel=1e-6)


def test_frozen_weights_are_not_averaged():
    module = nn.Linear(2, 1)
    module.bias.requires_grad_(False)
    assert set(EMA(Shares(module), 0.9).state_dict()) == {"weight"}


def test_a_state_comes_back_and_another_modules_is_refused():
    module, average = averaged()
    nn.init.constant_(module.weight, 3.0)
    average.update(0)
    restored = averaged()[1]
    restored.load_state_dict({name: value.clone() for name, value in average.state_dict().items()})
    assert torch.equal(restored.state_dict()["weight"], average.state_dict()["weight"])
    with pytest.raises(ValueError, match="another model"):
        restored.load_state_dict({"weight": torch.zeros(3)})


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_outside_its_range_is_refused(decay: float):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        averaged(decay)


def test_without_an_average_the_weights_themselves_are_shown_and_nothing_is_kept():
    module, average = averaged(decay=0.0)
    before = {name: value.clone() for name, value in average.values().items()}
    nn.init.constant_(module.weight, 3.0)
    average.update(0)
    with average.applied():
        assert (module.weight == 3).all()
    assert average.state_dict() == {} and (average.values()["weight"] == 3).all()
    with average.applied(before):
        assert torch.equal(module.weight.detach().flatten(), before["weight"])
    assert (module.weight == 3).all()
