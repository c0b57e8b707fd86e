"""Photos to complete, and maps to sample under, as users have them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.priors import write_tokenizer
from PIL import Image

from smalti.models.conditions import ClassConfig, CodeMapConfig, ObjectsConfig
from smalti.models.vqgan.tiling import Tiling
from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.distributed import ranks
from smalti.trainer.images.known_values import OutOfRangeError
from smalti.trainer.sampling import request


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_photo_of_16_bit_gray_is_no_white_page(tmp_path: Path, suffix: str):
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 1040, (8, 1))
    Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
    photo = np.asarray(request.read_photo(tmp_path / f"ramp.{suffix}"))
    assert np.array_equal(photo[0, :, 0], np.round(np.arange(64) * 1040 / 257)) and (photo[..., 3] == 255).all()


def test_a_photo_keeps_its_transparency_and_is_turned_upright(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(np.asarray(request.read_photo(tmp_path / "photo.png")), np.rot90(pixels, -1))


def test_numbers_that_the_prior_has_no_vector_for_are_refused():
    for config, field, good, wrong in (
        (ClassConfig(classes=3), "cls", [0, 2], [[3], [-1]]),
        (CodeMapConfig(vocab_size=7), "segmentation_codes", [0, 6], [[0, 7], [-1, 3]]),
        (ObjectsConfig(classes=4), "object_classes", [-1, 3], [[4], [-2]]),
    ):
        condition = config.build(8, (2, 2))
        request.check_table(condition, field, torch.tensor(good))
        for values in wrong:
            with pytest.raises(ValueError, match=f"numbers of {field}, .* got -?\\d"):
                request.check_table(condition, field, torch.tensor(values))
        request.check_table(condition, "box", torch.tensor([99]))  # it is no number of a table


def test_a_map_with_labels_that_its_tokenizer_does_not_know_is_refused(tmp_path: Path):
    write_tokenizer(tmp_path / "maps", num_labels=7)
    tokenizer = load_tokenizer(tmp_path / "maps", ranks.device())
    labels = torch.randint(0, 7, (16, 16), generator=torch.Generator().manual_seed(0))
    labels[0, :2] = torch.tensor([255, 65535])  # marks of no label
    assert request._segmentation_codes(labels, (4, 4), tokenizer, Tiling(4, 1)).shape == (1, 4, 4)
    labels[3, 3] = 7
    with pytest.raises(OutOfRangeError, match="it holds 7, and the model knows 0 to 6"):
        request._segmentation_codes(labels, (4, 4), tokenizer, Tiling(4, 1))
