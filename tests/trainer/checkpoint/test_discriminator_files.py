"""A discriminator beside imported weights is where a run's own begins, if it is of the same shape."""

import pytest
import torch
from fixtures import published

from smalti.launch import import_weights
from smalti.models.discriminators import PatchGANConfig
from smalti.trainer.checkpoint.discriminator_files import WEIGHTS, load_initial_discriminator


@pytest.fixture
def imported(tmp_path):
    state = published.vqgan_state(published.F8) | published.loss_state(layers=2, channels=8)
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    assert import_weights.main([str(tmp_path / "last.ckpt"), str(tmp_path / "in")]) == 0
    return tmp_path / "in", {name.removeprefix("loss.discriminator."): tensor for name, tensor in state.items()}


def test_a_discriminator_of_the_same_shape_starts_from_it(tmp_path, imported, capsys):
    folder, state = imported
    network = PatchGANConfig(channels=8, layers=2).build(3)
    load_initial_discriminator(network, str(folder), tmp_path / "run")
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert f"the discriminator starts from {folder / WEIGHTS}" in capsys.readouterr().out


def test_a_discriminator_of_another_shape_starts_afresh_and_says_so(tmp_path, imported, capsys):
    network = PatchGANConfig(channels=8, layers=3).build(3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_initial_discriminator(network, str(imported[0]), tmp_path / "run")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert "starts afresh: another network is in" in capsys.readouterr().out


def test_a_discriminator_that_was_exchanged_is_refused(tmp_path, imported):
    place = imported[0] / WEIGHTS
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is not what its metadata say"):
        load_initial_discriminator(PatchGANConfig(channels=8, layers=2).build(3), str(imported[0]), tmp_path / "run")
