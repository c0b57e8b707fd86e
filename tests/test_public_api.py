"""What ``smalti`` offers in Python: its names, what importing it costs, and the snippets of the README and the docs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures.pairs import CODES, FACTOR, WINDOW, write_pair, write_prior, write_tokenizer
from fixtures.shards import write_images

import smalti
from smalti.models import sampling
from smalti.trainer.checkpoint import loading

ROOT = Path(smalti.__file__).parent
PROMISED = {
    "DataConfig", "GPT", "GPTConfig", "SamplingConfig", "Stream", "VQGAN", "VQGANConfig", "load_prior",
    "load_tokenizer", "sample",
}  # fmt: skip


def fresh(code: str, folder: Path) -> list[str]:
    """The lines that a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def snippets(page: Path) -> list[str]:
    """The Python blocks of a page, from top to bottom."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run_snippets(page: Path) -> None:
    """All of them in one namespace, as a notebook does; a problem names its line in the page."""
    names: dict[str, object] = {"__name__": "__main__"}
    text = page.read_text(encoding="utf-8")
    for snippet in snippets(page):
        above = text[: text.index(snippet)].count("\n")
        exec(compile("\n" * above + snippet, str(page), "exec"), names)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the snippets name: a tokenizer, a prior of classes, and shards of photos."""
    write_tokenizer(tmp_path / "runs/vqgan")
    write_prior(tmp_path / "runs/prior", tmp_path / "runs/vqgan", "class")
    write_images(tmp_path / "data/photos", 24)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_the_package_loads_neither_torch_nor_deepspeed(tmp_path: Path):
    heavy = "[m for m in ('torch', 'deepspeed', 'numpy', 'PIL') if m in sys.modules]"
    assert fresh(f"import sys, smalti; print(smalti.__version__); print({heavy})", tmp_path)[1] == "[]"


def test_no_public_name_loads_deepspeed(tmp_path: Path):
    code = "import sys, smalti; [getattr(smalti, n) for n in smalti.__all__]; print('deepspeed' in sys.modules)"
    assert fresh(code, tmp_path)[-1] == "False"


def test_every_public_name_is_there_once_and_listed():
    assert set(smalti.__all__) >= PROMISED and len(set(smalti.__all__)) == len(smalti.__all__)
    assert set(smalti.__all__) <= set(dir(smalti))
    for name in smalti.__all__:
        assert getattr(smalti, name) is getattr(smalti, name)


def test_every_quantizer_is_public():
    from typing import get_args

    from smalti.models.quantizers import QuantizerConfig

    for config in get_args(QuantizerConfig):
        assert getattr(smalti, config.__name__) is config
        built = config().build(config().dimension or 8)
        assert getattr(smalti, type(built).__name__) is type(built)


def test_type_checkers_see_just_the_names_that_are_there():
    (block,) = (node for node in ast.parse((ROOT / "__init__.py").read_text()).body
                if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")  # fmt: skip
    seen = {alias.name: node.module for node in block.body for alias in node.names if isinstance(node, ast.ImportFrom)}
    assert seen == smalti._HOMES


def test_a_name_that_is_not_there_is_an_attribute_error_that_lists_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'load_tokeniser'.*load_tokenizer"):
        _ = smalti.load_tokeniser


def test_the_lines_of_the_readme_run_as_they_stand(runs: Path):
    page = ROOT / "README.md"
    (block,) = snippets(page)
    assert len([line for line in block.splitlines() if line]) == 10
    run_snippets(page)


def test_the_snippets_of_the_page_on_python_run_in_order(runs: Path):
    assert len(snippets(ROOT / "docs/python.md")) >= 10
    run_snippets(ROOT / "docs/python.md")


def test_a_tokenizer_encodes_and_decodes_what_its_network_does(tmp_path: Path):
    tokenizer = smalti.load_tokenizer(str(write_tokenizer(tmp_path / "t")))
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    codes = tokenizer.encode(images)
    assert codes.shape == (2, 16 // FACTOR, 24 // FACTOR) and codes.dtype == torch.int64
    with torch.no_grad():
        assert torch.equal(codes, tokenizer.model.encode(images).indices)
        assert torch.equal(tokenizer.decode(codes), tokenizer.model.decode_codes(codes).clamp(-1, 1))


def test_a_tokenizer_of_segmentations_decodes_labels(tmp_path: Path):
    tokenizer = smalti.load_tokenizer(write_tokenizer(tmp_path / "t", labels=5))
    labels = torch.randint(5, (2, 8, 12))
    decoded = tokenizer.decode(tokenizer.encode(labels))
    assert decoded.shape == labels.shape and decoded.dtype == torch.int64 and 0 <= decoded.min() <= decoded.max() < 5


def test_images_of_integers_and_codes_of_another_tokenizer_are_rejected(tmp_path: Path):
    tokenizer = smalti.load_tokenizer(write_tokenizer(tmp_path / "t"))
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\], got torch.uint8"):
        tokenizer.encode(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=rf"codes must be in \[0, {CODES}\), got 0 to {CODES}"):
        tokenizer.decode(torch.tensor([[[0, CODES]]]))


def test_sampling_gives_the_codes_of_the_sampler(tmp_path: Path):
    prior = smalti.load_prior(write_pair(tmp_path, "class")[0])
    labels = torch.tensor([0, 4, 2])
    codes = smalti.sample(prior, {"cls": labels}, size=(4, 5), seed=7)
    config = sampling.SamplingConfig(mode="serial")
    assert torch.equal(
        codes, sampling.sample(sampling.GridRequest(prior.model, {"cls": labels}, (4, 5), range(3), 7, config)).codes
    )
    assert torch.equal(smalti.sample(prior.model, {"cls": labels[:2]}, (4, 5), 7), codes[:2])
    assert not torch.equal(smalti.sample(prior, {"cls": labels}, (4, 5), seed=8), codes)


def test_a_prior_without_a_condition_samples_a_count_of_its_window(tmp_path: Path):
    prior = smalti.load_prior(write_pair(tmp_path)[0])
    assert smalti.sample(prior, count=2).shape == (2, *WINDOW)
    with pytest.raises(ValueError, match="at least one image"):
        smalti.sample(prior, count=0)


@pytest.mark.parametrize("label", [-1, 5])
def test_a_class_that_the_prior_does_not_know_is_rejected(tmp_path: Path, label: int):
    prior = smalti.load_prior(write_pair(tmp_path, "class")[0])
    with pytest.raises(ValueError, match=f"5 numbers of cls, 0 to 4, got {label}"):
        smalti.sample(prior, {"cls": torch.tensor([1, label])}, size=WINDOW)
    with pytest.raises(KeyError, match="needs the field 'cls'"):
        smalti.sample(prior, size=WINDOW)


def test_the_device_is_that_of_the_rank_unless_another_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_tokenizer(tmp_path / "t")
    monkeypatch.setattr(loading.ranks, "device", lambda: torch.device("meta"))
    assert smalti.load_tokenizer(folder).model.decoder.conv_out.weight.is_meta
    assert smalti.load_tokenizer(folder, "cpu").model.decoder.conv_out.weight.device.type == "cpu"
