"""Two sets of images are compared by the moments of their features, and too few of them are said loudly."""

import warnings

import pytest
import torch
from fixtures.feature_networks import DIMENSIONS, frechet, write_network

from smalti.trainer.frozen_networks.feature_networks import FeatureNetworkConfig, load_features
from smalti.trainer.frozen_networks.image_sets import ComparedSets


def compared(path, count):
    """Sums over so many images, in two batches, and the plain distance of their features."""
    sets = ComparedSets(load_features(FeatureNetworkConfig(str(path)), 16))
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator) for _ in range(2))
    for part in (slice(0, 1), slice(1, None)):
        sets.add(real[part], made[part], ["some"] * len(real[part]))
    return sets, [network_features(path, each) for each in (real, made)]


def network_features(path, images):
    with torch.no_grad():
        return torch.jit.load(str(path))(images)[0].double().numpy()


def test_the_distance_is_scipys_and_enough_images_are_no_warning(tmp_path):
    sets, features = compared(write_network(tmp_path / "net.pt"), DIMENSIONS + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sets.figures("rfid")["rfid"] == pytest.approx(frechet(*features), rel=1e-4)


def test_a_distance_of_no_more_images_than_features_is_warned_of(tmp_path):
    sets, _ = compared(write_network(tmp_path / "net.pt"), DIMENSIONS)
    with pytest.warns(UserWarning, match="rfid is of 6 samples in 6 dimensions, too few"):
        assert sets.figures("rfid")["rfid"] > 0


def test_one_image_has_no_covariance(tmp_path):
    sets, _ = compared(write_network(tmp_path / "net.pt"), 1)
    with pytest.raises(ValueError, match="needs at least 2 samples, got 1"):
        sets.figures("rfid")


def test_weights_are_the_published_networks_alone():
    with pytest.raises(ValueError, match="weights are those of network: inception"):
        FeatureNetworkConfig("net.pt", weights="weights.pth")
