"""TorchScript files as feature networks: what they may give, and what is said of those that do not fit."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fixtures import feature_networks
from fixtures.feature_networks import CLASSES, DIMENSIONS, SPATIAL, write_network

from smalti.trainer.files import sha256
from smalti.trainer.frozen_networks import pretrained
from smalti.trainer.frozen_networks.feature_networks import load_inception, load_torchscript
from smalti.trainer.frozen_networks.pretrained import PublishedWeights

IMAGES = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KEYS = ["a", "b", "c", "d"]


def test_a_file_that_gives_all_three_kinds_is_known_by_its_hash_and_its_sizes(tmp_path):
    path = write_network(tmp_path / "net.pt")
    network = load_torchscript(path, 16)
    assert network[:2] == ("net.pt", sha256(path))
    assert (network.dimensions, network.classes, network.spatial) == (DIMENSIONS, CLASSES, SPATIAL)
    found = network.features(IMAGES, KEYS)
    assert [part.shape[1] for part in found] == [DIMENSIONS, CLASSES, SPATIAL]


def test_features_alone_are_enough_and_an_option_asks_for_them(tmp_path):
    plain = load_torchscript(write_network(tmp_path / "plain.pt", feature_networks.Pooled), 16)
    option = load_torchscript(write_network(tmp_path / "option.pt", feature_networks.WithOption), 16)
    assert torch.equal(plain.features(IMAGES, KEYS).pooled, option.features(IMAGES, KEYS).pooled)
    assert (plain.classes, plain.spatial) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "side", "said"),
    [
        (feature_networks.Unpooled, 16, r"gives \(2, 6, 6, 6\) for 2 images, and must give \(2, D\)"),
        (feature_networks.Pooled, 3, "does not take uint8 images of 3 x 3 x 3"),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_anything_is_computed(tmp_path, kind, side, said):
    with pytest.raises(ValueError, match=said):
        load_torchscript(write_network(tmp_path / "net.pt", kind), side)


def test_files_that_are_no_networks_are_refused(tmp_path):
    (tmp_path / "notes.pt").write_text("years of notes")
    with pytest.raises(ValueError, match="is no TorchScript file"):
        load_torchscript(tmp_path / "notes.pt", 16)
    with pytest.raises(ValueError, match="there is no TorchScript file"):
        load_torchscript(tmp_path / "nowhere.pt", 16)


def test_nan_features_name_the_image(tmp_path):
    network = load_torchscript(write_network(tmp_path / "net.pt", feature_networks.NotFinite), 16)
    images = IMAGES.clone()
    images[:2] = 0
    with pytest.raises(ValueError, match=r"net\.pt gives NaN or infinity for the image c"):
        network.features(images, KEYS)


def test_without_torch_fidelity_the_published_inception_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"pip install 'smalti\[metrics\]'.*--features none"):
        load_inception(None, download=False)


def test_the_published_inception_is_torch_fidelitys_with_checked_weights(monkeypatch, tmp_path):
    """A stand-in for the package, with its interface: the real one needs a torchvision that fits torch."""
    torch.save({"weight": torch.ones(1)}, tmp_path / "source.pth")
    weights = PublishedWeights("inception", sha256(tmp_path / "source.pth")[:8], 96)
    monkeypatch.setattr("smalti.trainer.frozen_networks.feature_networks.INCEPTION", weights)

    class FeatureExtractorInceptionV3(torch.nn.Module):
        def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
            super().__init__()
            assert (name, features_list) == ("inception-v3-compat", ["2048", "logits"])
            assert Path(feature_extractor_weights_path) == tmp_path / "source.pth"

        def forward(self, images: torch.Tensor) -> Any:
            assert images.dtype == torch.uint8
            return torch.ones(len(images), 2048), torch.ones(len(images), 1008)

    module = SimpleNamespace(FeatureExtractorInceptionV3=FeatureExtractorInceptionV3)
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    network = load_inception(tmp_path / "source.pth")
    found = network.features(IMAGES, KEYS)
    assert (network.dimensions, network.classes) == (found.pooled.shape[1], found.logits.shape[1]) == (2048, 1008)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="its SHA-256 begins with"):
        load_inception(tmp_path / "other.pth")


def test_the_published_weights_are_torch_fidelitys():
    assert pretrained.INCEPTION.address == (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
    )
