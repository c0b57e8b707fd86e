"""Similarity is what its paper's definition gives in plain numpy and scipy, and what other libraries give."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.shards import photo
from scipy.ndimage import gaussian_filter

from smalti.models.metrics.similarity import ssim
from smalti.models.pixel_range import from_levels
from smalti.trainer.training.evaluation import psnr

VECTORS = Path(__file__).parent / "vectors"


def by_scipy(real: np.ndarray, rebuilt: np.ndarray) -> float:
    """Of (H, W, 3) levels: Wang et al. 2004, a channel at a time; the border that a window does not fill left out."""
    each = []
    for x, y in zip(np.moveaxis(real, 2, 0).astype(float), np.moveaxis(rebuilt, 2, 0).astype(float), strict=True):

        def smooth(values: np.ndarray) -> np.ndarray:
            return gaussian_filter(values, sigma=1.5, truncate=5 / 1.5)[5:-5, 5:-5]

        mx, my = smooth(x), smooth(y)
        vx, vy, vxy = smooth(x * x) - mx * mx, smooth(y * y) - my * my, smooth(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        each.append(((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return float(np.mean(each))


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def test_it_is_the_definition_of_the_paper():
    real = photo(33, 47, 1)
    noise = np.random.default_rng(2).integers(-30, 31, real.shape)
    rebuilt = np.clip(real.astype(int) + noise, 0, 255).astype(np.uint8)
    found = ssim(tensor(real), tensor(rebuilt)).item()
    assert found == pytest.approx(by_scipy(real, rebuilt), rel=1e-9)
    assert 0.1 < found < 0.95


def test_equal_images_are_1_and_every_image_of_a_batch_has_its_own():
    real, other = tensor(photo(16, 16, 1)), tensor(photo(16, 16, 2))
    found = ssim(torch.cat([real, real]), torch.cat([real, other]))
    assert found[0].item() == 1.0 and found[1].item() == pytest.approx(by_scipy(photo(16, 16, 1), photo(16, 16, 2)))


def test_two_flat_images_differ_by_their_brightness_alone():
    one, other = torch.full((1, 3, 12, 12), 50.0), torch.full((1, 3, 12, 12), 100.0)
    c1 = (0.01 * 255) ** 2
    assert ssim(one, other).item() == pytest.approx((2 * 50 * 100 + c1) / (50**2 + 100**2 + c1), rel=1e-9)


def test_ssim_and_psnr_are_those_of_scikit_image_and_torchmetrics_in_the_same_convention():
    described = importlib.util.spec_from_file_location("make_similarity", VECTORS / "make_similarity.py")
    made = importlib.util.module_from_spec(described)
    described.loader.exec_module(made)
    known = json.loads((VECTORS / "similarity.json").read_text())["pairs"]
    for (real, rebuilt), theirs in zip(made.pairs(), known, strict=True):
        images = tensor(real), tensor(rebuilt)
        ours = {"ssim": ssim(*images).item(), "psnr": psnr(*map(from_levels, images)).item()}
        for name, value in theirs.items():
            assert ours[name.split()[0]] == pytest.approx(value, rel=1e-6), name
