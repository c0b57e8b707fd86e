"""Every packaged config of an editor: its promises at its head, and that the steps of its training fit together."""

from pathlib import Path

import pytest

import smalti.configs
from smalti.trainer.config import read
from smalti.trainer.prior.config import PriorRun
from smalti.trainer.schema import ConfigError
from smalti.trainer.vqgan.config import VQGANRun

FOLDER = Path(smalti.configs.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("editor_*.yaml"))
RUNS = {run.run_dir: run for run in (read(PriorRun, name) for name in NAMES)}
TOKENIZERS = {run.run_dir: run for run in (read(VQGANRun, path.stem) for path in FOLDER.glob("vqgan_editor_*.yaml"))}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_opens_with_what_to_type_what_it_costs_and_what_to_expect(name: str):
    head = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    assert any(line.endswith(f"smalti.launch.train {name}") for line in head)
    assert any(line.startswith("# Cost: ") for line in head) and any("Expected: " in line for line in head)


@pytest.mark.parametrize("name", NAMES)
def test_its_tokenizer_knows_masks_and_its_crops_are_its_window(name: str):
    run = read(PriorRun, name)
    tokenizer = TOKENIZERS[run.tokenizer]
    assert tokenizer.model.mask_aware
    for data in (run.train_data, run.val_data):
        assert data.crop.output == tuple(side * tokenizer.model.factor for side in run.model.window)


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_from_a_network_of_its_shape_and_its_guide_looks_at_all_blocks(name: str):
    run = read(PriorRun, name)
    assert (run.guide is None) == (run.model.attention == "dense")
    for folder in filter(None, (run.guide, run.initial_weights)):
        other = RUNS[folder]
        for field in ("encoder_layers", "decoder_layers", "heads", "width", "blocks", "norm"):
            assert getattr(other.model, field) == getattr(run.model, field)
        assert other.tokenizer == run.tokenizer and other.condition == run.condition
    assert run.guide is None or RUNS[run.guide].model.attention == "dense"


def test_an_order_of_codes_other_than_that_of_the_blocks_is_refused():
    with pytest.raises(ConfigError, match="order"):
        read(PriorRun, "editor_tiny", ["model.order=waves"])
