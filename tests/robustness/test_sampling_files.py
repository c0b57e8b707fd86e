"""Damaged files of conditions and classifiers end in a sentence that names them."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.priors import npy
from fixtures.shards import encoded, photo
from mutations import mutated

from smalti.trainer.sampling import condition_files
from smalti.trainer.sampling.condition_files import ConditionInputs
from smalti.trainer.sampling.rejection import load_rejection

CASES = 120
LAYOUT = {"size": [40, 60], "objects": [{"class": 3, "box": [1, 2, 30, 40.5]}, {"class": 0, "box": [0, 0, 60, 40]}]}
SOUND = {
    "text": npy(np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)),
    "objects": json.dumps(LAYOUT).encode(),
    "depth": npy(np.random.default_rng(0).random((6, 7), np.float32)),
    "low_resolution": encoded(photo(8, 8), "PNG"),
    "segmentation": encoded(photo(8, 8)[..., 0].copy(), "PNG"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_damaged_file_of_a_condition_is_read_or_named(name: str, tmp_path: Path):
    file, refused = tmp_path / "file", 0
    others = [data for other, data in SOUND.items() if other != name]
    for seed in range(CASES):
        file.write_bytes(mutated(SOUND[name], others, random.Random(seed)))
        try:
            assert getattr(condition_files.read(ConditionInputs(**{name: file})), name) is not None
        except ValueError as error:
            assert str(file) in str(error)
            refused += 1
    assert refused > CASES / 10


def test_a_damaged_classifier_is_loaded_or_named(tmp_path: Path):
    file, refused = tmp_path / "classifier.pt", 0
    torch.jit.trace(torch.nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 4, 4)).save(str(file))
    sound = file.read_bytes()
    for seed in range(40):
        file.write_bytes(mutated(sound, list(SOUND.values()), random.Random(seed)))
        try:
            assert load_rejection(file, 0.5, torch.device("cpu")).candidates(3) == 6
        except ValueError as error:
            assert str(file) in str(error)
            refused += 1
    assert refused > 4
