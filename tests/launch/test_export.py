"""An export is the weights and the metadata of a run's newest whole checkpoint, or nothing."""

import processes
import pytest
import torch
from fixtures import pairs, runs
from fixtures.priors import npy, write_code_shards
from fixtures.priors import write_tokenizer as write_vqgan

from smalti.launch import export
from smalti.models.quantizers import CosineConfig, EMAConfig, GumbelConfig, VQConfig
from smalti.trainer.checkpoint import model_files
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer
from smalti.trainer.distributed import engine as engines
from smalti.trainer.exchange import exporting


@pytest.fixture
def tokenizer(tmp_path):
    return pairs.write_tokenizer(tmp_path / "tokenizer")


def test_what_is_exported_decodes_the_same_bits(capsys, tmp_path, tokenizer):
    assert export.main([str(tokenizer), str(tmp_path / "copy")]) == 0
    digest = model_files.read_metadata(tokenizer)["digest"]
    assert capsys.readouterr().out == f"{tmp_path / 'copy'}: vqgan, weights {digest[:12]}\n"
    codes = torch.arange(12).view(1, 3, 4)
    first, second = (load_tokenizer(folder, torch.device("cpu")).model for folder in (tokenizer, tmp_path / "copy"))
    assert torch.equal(first.decode_codes(codes), second.decode_codes(codes))
    assert not second.training and not any(parameter.requires_grad for parameter in second.parameters())


def test_a_folder_without_weights_is_refused(capsys, tmp_path):
    assert export.main([str(tmp_path), str(tmp_path / "copy")]) == 2
    assert "neither an export (no config.json) nor a run with a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_a_file_of_weights_without_room_is_refused(capsys, tmp_path, tokenizer):
    with pytest.raises(SystemExit, match="2"):
        export.main([str(tokenizer), str(tmp_path / "copy"), "--shard-bytes", "0"])
    assert "argument --shard-bytes: must be at least 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_weights_that_are_not_their_metadatas_are_refused(capsys, tmp_path, tokenizer):
    place = tokenizer / model_files.WEIGHTS
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(bytes(data))
    assert export.main([str(tokenizer), str(tmp_path / "copy")]) == 2
    assert "the file is damaged or was exchanged" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def trained(place, zero, ranks, **settings):
    """The folder of a run of a small prior."""
    config = runs.write_prior(place, zero, **{"name": f"zero{zero}", "loop__max_steps": 2} | settings)
    ended = processes.command("smalti.launch.train", [config], ranks).wait()
    assert ended.codes == [0] * ranks, ended.log
    return config.with_suffix("")


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_raw_weights_are_those_of_the_optimizer_from_every_stage(tmp_path, zero):
    """Where nothing is averaged, the weights for use, which the ranks gathered, are the raw ones."""
    run = trained(tmp_path, zero, 2, ema_decay=0.0)
    raw, used = exporting.opened(run, wanted="raw"), exporting.opened(run)
    assert raw.weights.keys() == used.weights.keys() and raw.metadata["weights"] == "raw"
    for name, tensor in used.weights.items():
        assert torch.equal(raw.weights[name], tensor), name


def test_raw_weights_of_a_run_in_half_precision_are_its_fp32_masters_and_go_out_in_every_format(tmp_path, capsys):
    run = trained(tmp_path, 1, 1, precision="bf16")
    for name, options in {
        "smalti": ["--format", "smalti"],
        "half": ["--format", "smalti", "--dtype", "bf16", "--shard-bytes", "4000"],
        "gpt2": ["--format", "transformers"],
    }.items():
        assert export.main([str(run), str(tmp_path / name), "--weights", "raw", *options]) == 0
    averaged, raw = exporting.opened(run), load_prior(tmp_path / "smalti", torch.device("cpu"))
    optimizer = next((run / "checkpoints").glob("*2/prior/*optim_states.pt"))
    flat = torch.cat(engines.read(optimizer)["optimizer_state_dict"]["single_partition_of_fp32_groups"])
    numbers = torch.cat([parameter.flatten() for parameter in raw.model.parameters()])
    assert set(numbers.tolist()) <= set(flat.tolist()) and not torch.equal(numbers, numbers.bfloat16().float())
    assert any(not torch.equal(averaged.weights[name], tensor) for name, tensor in raw.model.state_dict().items())
    assert raw.metadata["weights"] == "raw" and "as trained" in (tmp_path / "smalti" / "README.md").read_text()
    assert len(list((tmp_path / "half").glob("model-*.safetensors"))) > 1
    half = exporting.opened(tmp_path / "half").weights
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in raw.model.state_dict().items())
    assert export.main([str(tmp_path / "smalti"), str(tmp_path / "no"), "--weights", "raw"]) == 2
    assert "is an export, which holds one set of weights" in capsys.readouterr().err


QUANTIZERS = [
    VQConfig(codebook_size=16),
    EMAConfig(codebook_size=16),
    CosineConfig(codebook_size=16),
    GumbelConfig(codebook_size=16),
]


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda config: config.kind)
def test_a_tokenizer_of_the_codes_in_use_gives_the_same_images_under_new_numbers(tmp_path, capsys, quantizer):
    metadata = write_vqgan(tmp_path / "vqgan", quantizer=quantizer)
    whole = load_tokenizer(tmp_path / "vqgan", torch.device("cpu"))
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    codes = whole.encode(images)
    write_code_shards(tmp_path / "codes", metadata, [{"codes.npy": npy(grid.numpy())} for grid in codes])
    used = codes.unique()
    assert 2 <= len(used) < 16
    assert export.main([str(tmp_path / "vqgan"), str(tmp_path / "small"), "--used-in", str(tmp_path / "codes")]) == 0
    assert f"{len(used)} of 16 codes are used in" in capsys.readouterr().out
    small = load_tokenizer(tmp_path / "small", torch.device("cpu"))
    assert small.metadata["codes"] == len(used)
    assert small.metadata["former_codes"] == {"tokenizer": metadata["digest"], "codes": used.tolist()}
    renumbered = small.encode(images)
    assert torch.equal(used[renumbered], codes)
    assert torch.equal(small.decode(renumbered), whole.decode(codes))


@pytest.mark.parametrize("grid", [torch.tensor([[3, 16]]), torch.tensor([[-1, 2]]), torch.tensor([[0.5, 1.0]])])
def test_codes_that_the_tokenizer_has_not_are_named_by_their_sample(grid, tmp_path, capsys):
    metadata = write_vqgan(tmp_path / "vqgan")
    write_code_shards(tmp_path / "codes", metadata, [{"codes.npy": npy(grid.numpy())}])
    assert export.main([str(tmp_path / "vqgan"), str(tmp_path / "small"), "--used-in", str(tmp_path / "codes")]) == 2
    said = capsys.readouterr().err
    assert "p000 in" in said and "Traceback" not in said and not (tmp_path / "small").exists()


def test_codes_of_another_tokenizer_are_no_reason_to_cut_this_one(tmp_path, capsys):
    write_vqgan(tmp_path / "vqgan")
    other = write_vqgan(tmp_path / "other", seed=5)
    write_code_shards(tmp_path / "codes", other, [{"codes.npy": npy(torch.arange(4).view(2, 2).numpy())}])
    assert export.main([str(tmp_path / "vqgan"), str(tmp_path / "small"), "--used-in", str(tmp_path / "codes")]) == 2
    assert "were made by the tokenizer" in capsys.readouterr().err and not (tmp_path / "small").exists()
