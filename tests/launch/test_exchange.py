"""What is trained here and exported loads in plain diffusers, transformers and onnxruntime, in another environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures import published

import smalti
from smalti.launch import export
from smalti.models.sampling.config import SamplingConfig
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer
from smalti.trainer.sampling.codes import sample

CPU = torch.device("cpu")
ROOT = Path(smalti.__file__).parent
STEPS = 40

DIFFUSERS = """
import sys, torch
from diffusers import VQModel
assert "smalti" not in sys.modules
model = VQModel.from_pretrained(sys.argv[1])
images, codes = torch.load(sys.argv[2])
with torch.no_grad():
    found = model.quantize(model.encode(images).latents)[2][2].view(codes.shape)
    shape = (*codes.shape, model.config.vq_embed_dim)
    rebuilt = model.decode(codes.flatten(), force_not_quantize=True, shape=shape).sample
torch.save((found, rebuilt), sys.argv[3])
"""
TRANSFORMERS = """
import sys, torch
from transformers import GPT2LMHeadModel
assert "smalti" not in sys.modules
model = GPT2LMHeadModel.from_pretrained(sys.argv[1]).eval()
offset = model.config.smalti["condition_offset"]
tokens = torch.arange(4)[:, None] + offset
greedy = model.generate(tokens, do_sample=False, max_new_tokens=64)[:, 1:]
absent = torch.full_like(tokens, model.config.vocab_size - 1)
settings = {"do_sample": False, "max_new_tokens": 64, "guidance_scale": 3.0}
guided = model.generate(tokens, negative_prompt_ids=absent, **settings)[:, 1:]
with torch.no_grad():
    logits = model(torch.cat((tokens, greedy), dim=1)[:, :-1]).logits[:, :, :offset]
torch.save((greedy, guided, logits), sys.argv[2])
"""
FOREIGN = """
import sys, torch
from transformers import GPT2Config, GPT2LMHeadModel
assert "smalti" not in sys.modules
sizes = {"vocab_size": 258, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=257, eos_token_id=None, tie_word_embeddings=False)).eval()
torch.manual_seed(0)
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.5)
model.save_pretrained(sys.argv[1])
unsampled = {"suppress_tokens": [256, 257], "pad_token_id": 256}
found = model.generate(torch.tensor([[257]]), do_sample=False, max_new_tokens=64, **unsampled)
torch.save(found[:, 1:], sys.argv[2])
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with diffusers, transformers and onnxruntime; another folder has onnx."""
    place = tmp_path_factory.mktemp("others")
    subprocess.run([sys.executable, "-m", "venv", str(place / "venv")], check=True)
    python = place / "venv" / "bin" / "python"
    version = torch.__version__.split("+")[0]
    wanted = [f"torch=={version}", "diffusers", "transformers", "safetensors", "onnxruntime"]
    writers = ["--target", str(place / "onnx"), "--no-deps", "onnx", "onnxscript", "onnx_ir", "ml_dtypes", "protobuf"]
    for arguments in (wanted, writers):
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"diffusers, transformers and onnx cannot be installed here: {done.stderr.strip()[-300:]}")
    return place


def command(name: str, *arguments: object, **variables: str) -> str:
    """A command of ours in a process of its own; what it said."""
    line = [sys.executable, "-m", "smalti.launch." + name, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def elsewhere(place: Path, code: str, *arguments: object) -> str:
    """A program in the other environment, which cannot import us."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = [str(place / "venv" / "bin" / "python"), "-I", "-c", code, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env=clean, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both configs of ``make exchange``, trained for fewer steps on fewer landscapes: RUN/vqgan and RUN/prior."""
    place = tmp_path_factory.mktemp("trained")
    command("demo.landscapes", place / "images", "--count", 8, "--size", "128x160")
    names = sorted(path.name for path in (place / "images" / "images").iterdir())
    rows = [f"{name},{number % 4}" for number, name in enumerate(names)]
    (place / "classes.csv").write_text("\n".join(["file,class", *rows]) + "\n")
    command("pack", place / "images", place / "shards", "--val", 2, "--labels", place / "classes.csv")
    steps = [f"loop.{name}={STEPS}" for name in ("max_steps", "save_every", "eval_every", "preview_every", "log_every")]
    for run, data in (("vqgan", "shards"), ("prior", "codes")):
        settings = [f"run_dir={place / run}", *steps, f"train_data.shards=[{place / data / 'train'}]"]
        settings += [f"val_data.shards=[{place / data / 'val'}]"]
        settings += [f"tokenizer={place / 'vqgan'}"] if run == "prior" else ["loss.adversarial.disc_start=20"]
        command("train", f"exchange_{run}", *(part for each in settings for part in ("--set", each)))
        if run == "vqgan":
            for part in ("train", "val"):
                command("encode", place / run, place / "shards" / part, place / "codes" / part)
    return place


@pytest.mark.slow
def test_a_trained_vqgan_gives_the_same_codes_and_images_in_diffusers(environment, trained, tmp_path):
    command("export", trained / "vqgan", tmp_path / "out", "--format", "diffusers")
    model = load_tokenizer(trained / "vqgan", CPU).model
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    with torch.no_grad():
        codes = model.encode(images).indices
        rebuilt = model.decode_codes(codes)
    torch.save((images, codes), tmp_path / "in.pt")
    elsewhere(environment, DIFFUSERS, tmp_path / "out", tmp_path / "in.pt", tmp_path / "back.pt")
    found, theirs = torch.load(tmp_path / "back.pt")
    assert torch.equal(found, codes)
    assert (theirs - rebuilt).abs().max() < 1e-4


@pytest.mark.slow
def test_a_trained_prior_continues_with_the_same_64_codes_in_transformers(environment, trained, tmp_path):
    command("export", trained / "prior", tmp_path / "out", "--format", "transformers")
    elsewhere(environment, TRANSFORMERS, tmp_path / "out", tmp_path / "back.pt")
    greedy, guided, logits = torch.load(tmp_path / "back.pt")
    prior = load_prior(trained / "prior", CPU).model
    fields = {"cls": torch.arange(4)}
    assert greedy.shape == guided.shape == (4, 64)
    assert torch.equal(greedy, greedily(prior, fields, None)) and torch.equal(guided, greedily(prior, fields, 3.0))
    with torch.no_grad():
        ours = prior(greedy.view(4, 8, 8), fields).logits.flatten(1, 2)
    torch.testing.assert_close(logits, ours, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_gpt2_that_transformers_has_made_continues_with_the_same_64_codes_here(environment, trained, tmp_path):
    """Its vocabulary has two tokens more than codes; the last one begins a sequence."""
    elsewhere(environment, FOREIGN, tmp_path / "gpt2", tmp_path / "codes.pt")
    command("import_weights", tmp_path / "gpt2", tmp_path / "in", "--tokenizer", trained / "vqgan")
    ours = sample(load_prior(tmp_path / "in", CPU), config=SamplingConfig(greedy=True))
    theirs = torch.load(tmp_path / "codes.pt")
    assert theirs.shape == (1, 64) and len(theirs.unique()) > 3 and torch.equal(ours.flatten(1), theirs)


def greedily(prior: Any, fields: dict[str, torch.Tensor], guidance: float | None) -> torch.Tensor:
    """The likeliest code again and again, by whole forwards, without any cache."""
    codes = torch.zeros(4, 64, dtype=torch.int64)
    for place in range(64):
        with torch.no_grad():
            grid = codes.view(4, 8, 8)
            logits = prior(grid, fields).logits.flatten(1, 2)[:, place]
            if guidance is not None:
                lost = prior(grid, fields, dropped=torch.ones(4, dtype=torch.bool)).logits.flatten(1, 2)[:, place]
                logits = lost.log_softmax(-1) + guidance * (logits.log_softmax(-1) - lost.log_softmax(-1))
        codes[:, place] = logits.argmax(-1)
    return codes


@pytest.mark.slow
@pytest.mark.parametrize("demo", [False, True], ids=["gpt2", "llama"])
def test_an_image_is_sampled_by_onnxruntime_alone(environment, trained, tmp_path, demo, capsys):
    """The example of the documentation, with the trained networks and with the demo's kind of prior."""
    prior_folder = trained / "prior"
    if demo:
        prior_folder = published.llama_prior(tmp_path / "prior", trained / "vqgan")
    for name, source in (("tokenizer", trained / "vqgan"), ("step", prior_folder)):
        command("export", source, tmp_path / name, "--format", "onnx", PYTHONPATH=str(environment / "onnx"))
    code = (ROOT / "docs" / "sample_with_onnxruntime.py").read_text()
    out = elsewhere(environment, code, tmp_path / "step", tmp_path / "tokenizer", tmp_path / "image.npy", 2)
    codes = torch.tensor(json.loads(out)).view(1, 8, 8)
    prior, tokenizer = load_prior(prior_folder, CPU).model, load_tokenizer(trained / "vqgan", CPU).model
    with torch.no_grad():
        logits = prior(codes, {"cls": torch.tensor([2])}).logits
        image = tokenizer.decode_codes(codes)
    assert torch.equal(logits.argmax(-1), codes)
    difference = np.abs(np.load(tmp_path / "image.npy") - image.numpy()).max()
    with capsys.disabled():
        print(f"\nonnxruntime against torch, a sampled image: largest difference {difference:.1e}")
    assert difference < 1e-4


@pytest.mark.parametrize("format_", ["diffusers", "transformers"])
def test_the_demos_own_networks_are_refused_with_the_reason(tmp_path, capsys, format_):
    task, reason = {
        "diffusers": ("demo_vqgan", "has norms in every block, and this network has none"),
        "transformers": ("demo_prior", "the block 'llama' turns its keys by row and column"),
    }[format_]
    source = published.fresh(tmp_path / "fresh", task)
    assert export.main([str(source), str(tmp_path / "out"), "--format", format_]) == 2
    error = capsys.readouterr().err
    assert reason in error and "torch-export and onnx" in error
