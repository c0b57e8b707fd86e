"""Checkpoints of the published code with its rarer parts: renumbered codes, discriminators with ActNorm."""

import torch
import torch.nn.functional as F
from fixtures import published
from safetensors.torch import load_file
from torch import Tensor

from smalti.launch import import_weights
from smalti.models.discriminators import PatchGANConfig
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_tokenizer

USED = [3, 0, 17, 5]


def imported(path, folder, *options):
    assert import_weights.main([str(path), str(folder), *options]) == 0
    return folder


def act_norm_state(layers: int) -> dict[str, Tensor]:
    """The published discriminator with ActNorm, under its names: shifts and scales are (1, C, 1, 1)."""
    torch.manual_seed(1)
    state: dict[str, Tensor] = {}
    for name, tensor in PatchGANConfig(channels=4, layers=layers, norm="act").build().state_dict().items():
        part = name.rpartition(".")[2]
        if part in ("loc", "scale"):
            state[name] = 1 + torch.randn(1, len(tensor), 1, 1) / 3
        elif part == "initialized":
            state[name] = torch.tensor(1, dtype=torch.uint8)
        elif not part.startswith("first_"):
            state[name] = torch.randn_like(tensor) / 3
    return state


def judged(state: dict[str, Tensor], images: Tensor, layers: int) -> Tensor:
    """What the published network says: convolutions, scale * (x + loc), leaks."""
    x = F.leaky_relu(F.conv2d(images, state["main.0.weight"], state["main.0.bias"], stride=2, padding=1), 0.2)
    for layer in range(layers):
        conv, norm = f"main.{2 + 3 * layer}", f"main.{3 + 3 * layer}"
        stride = 2 if layer < layers - 1 else 1
        x = F.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"], stride=stride, padding=1)
        x = F.leaky_relu(state[f"{norm}.scale"] * (x + state[f"{norm}.loc"]), 0.2)
    last = f"main.{2 + 3 * layers}"
    return F.conv2d(x, state[f"{last}.weight"], state[f"{last}.bias"], padding=1)


def test_a_discriminator_with_act_norm_judges_as_it_did(tmp_path):
    state = act_norm_state(2)
    whole = published.vqgan_state(published.F8) | {f"loss.discriminator.{name}": t for name, t in state.items()}
    folder = imported(published.lightning(tmp_path / "last.ckpt", whole), tmp_path / "out")
    said = model_files.read_metadata(folder)["discriminator"]["model"]
    assert said["norm"] == "act" and said["layers"] == 2
    network = PatchGANConfig(channels=4, layers=2, norm="act").build()
    network.load_state_dict(load_file(folder / "discriminator.safetensors"))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(network(images), judged(state, images, 2))  # in training: its norms have begun
    torch.testing.assert_close(network.eval()(images), judged(state, images, 2))


def test_renumbered_codes_become_the_codes_of_a_smaller_tokenizer(tmp_path):
    state = published.vqgan_state(published.F8)
    path = published.lightning(tmp_path / "last.ckpt", state | {"quantize.used": torch.tensor(USED)})
    tokenizer = load_tokenizer(imported(path, tmp_path / "out"), "cpu")
    whole = load_tokenizer(imported(published.lightning(tmp_path / "all.ckpt", state), tmp_path / "all"), "cpu")
    book = state["quantize.embedding.weight"]
    assert torch.equal(tokenizer.model.quantize.embedding.weight, book[USED])
    assert tokenizer.metadata["codes"] == 4
    assert tokenizer.metadata["former_codes"] == {"tokenizer": whole.metadata["digest"], "codes": USED}
    codes = torch.tensor([[[0, 3], [1, 2]]])
    torch.testing.assert_close(tokenizer.decode(codes), whole.decode(torch.tensor(USED)[codes]))


def test_a_prior_over_renumbered_codes_has_a_token_for_each(tmp_path):
    state = published.net2net_state(published.F8, None)
    for name in ("transformer.tok_emb.weight", "transformer.head.weight"):
        state[name] = state[name][:6]  # four codes, and tokens of the classes and of the unknown
    state["first_stage_model.quantize.used"] = torch.tensor(USED)
    path = published.lightning(tmp_path / "last.ckpt", state)
    folder = imported(path, tmp_path / "out", "--heads", "4", "--condition", "class:5")
    metadata = model_files.read_metadata(folder / "prior")
    assert metadata["codes"] == 4 and metadata["tokenizer"] == model_files.read_metadata(folder / "tokenizer")["digest"]
    weights = load_file(folder / "prior" / model_files.WEIGHTS)
    assert torch.equal(weights["tok_emb.weight"], state["transformer.tok_emb.weight"][:4])


def test_numbers_of_codes_that_are_not_there_are_refused(tmp_path, capsys):
    for number, used in enumerate(([0, 0, 1], [0, 99])):
        state = published.vqgan_state(published.F8) | {"quantize.used": torch.tensor(used)}
        path = published.lightning(tmp_path / f"{number}.ckpt", state)
        assert import_weights.main([str(path), str(tmp_path / f"out{number}")]) == 2
        assert "must name each of its" in capsys.readouterr().err
