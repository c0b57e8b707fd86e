"""Where the weights of the frozen judges are looked for, and what is said when they are nowhere."""

import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch

from smalti.trainer.distributed import ranks
from smalti.trainer.frozen_networks import pretrained
from smalti.trainer.frozen_networks.pretrained import PublishedWeights
from smalti.trainer.vqgan import frozen_losses
from smalti.trainer.vqgan.frozen_losses import LogitConfig, PerceptualConfig, load_logit_loss, load_lpips


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedWeights:
    """A small file that is published somewhere out of reach, with torch's cache in a folder of the test's own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    torch.save({"features.0.weight": torch.ones(2)}, tmp_path / "source.pth")
    digest = hashlib.sha256((tmp_path / "source.pth").read_bytes()).hexdigest()
    return PublishedWeights("tiny", digest[:8], megabytes=1)


def unreachable(*_: object, **__: object) -> None:
    raise URLError("no network")


def test_a_missing_file_is_named_with_both_places_and_the_command_that_fetches_it(published: PublishedWeights) -> None:
    with pytest.raises(FileNotFoundError) as error:
        published.load(None, download=False)
    for part in (published.file, str(published.cached), "smalti plan --prefetch", "config's path (None)"):
        assert part in str(error.value)


def test_a_path_goes_before_the_cache_and_a_missing_path_is_not_replaced_by_it(
    published: PublishedWeights, tmp_path: Path
) -> None:
    published.cached.parent.mkdir(parents=True)
    published.cached.write_bytes((tmp_path / "source.pth").read_bytes())
    assert published.load(None, download=False)["features.0.weight"].tolist() == [1, 1]
    assert published.load(tmp_path / "source.pth", download=False).keys() == {"features.0.weight"}
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        published.load(tmp_path / "elsewhere.pth", download=True)


def test_another_file_is_refused_by_its_hash(published: PublishedWeights, tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"is not torchvision's {published.file}.*not {published.digest}"):
        published.load(tmp_path / "other.pth", download=False)


def test_rank_0_alone_downloads_and_the_others_wait_for_it(
    published: PublishedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def download(address: str, target: str, hash_prefix: str, progress: bool) -> None:
        happened.append(f"download {address}")
        Path(target).write_bytes((tmp_path / "source.pth").read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(ranks, "barrier", lambda: happened.append("barrier"))
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    with pytest.raises(FileNotFoundError):
        published.load(None, download=True)
    assert happened == ["barrier"]
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    published.load(None, download=True)
    published.load(None, download=True)  # from the cache by now
    assert happened == ["barrier", f"download {published.address}", "barrier", "barrier"]


def test_a_failed_download_still_meets_the_others_at_the_barrier(
    published: PublishedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[bool] = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(ranks, "barrier", lambda: met.append(True))
    with pytest.warns(UserWarning, match="could not download"), pytest.raises(FileNotFoundError):
        published.load(None, download=True)
    assert met == [True]


def test_a_random_trunk_is_loud_repeatable_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with pytest.warns(UserWarning, match="RANDOM weights .loss.perceptual.trunk: random"):
        one = load_lpips(PerceptualConfig(trunk="random", seed=3))
        other = load_lpips(PerceptualConfig(trunk="random", seed=3))
    assert torch.equal(torch.rand(1), expected)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    with pytest.warns(UserWarning, match="logits.classifier"):
        load_logit_loss(LogitConfig(classifier="random"))


def test_heads_are_the_published_ones_and_lpips_itself_is_not_imported() -> None:
    heads = frozen_losses.heads()
    assert [heads[f"lin{i}.model.1.weight"].shape[1] for i in range(5)] == [64, 128, 256, 512, 512]
    assert all((head >= 0).all() for head in heads.values())  # as the paper projects them


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the heads in a copy of the package, free to be damaged."""
    found = importlib.util.find_spec("lpips")
    assert found is not None and found.submodule_search_locations
    place = Path("weights", "v0.1", "vgg.pth")
    copy = tmp_path / "lpips" / place
    copy.parent.mkdir(parents=True)
    copy.write_bytes((Path(found.submodule_search_locations[0]) / place).read_bytes())
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path / "lpips")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    return copy


@pytest.mark.parametrize("place", [0, 0.25, 0.5, 0.75, 0.9999])
def test_one_flipped_bit_of_the_heads_is_refused(installed: Path, place: float) -> None:
    assert len(frozen_losses.heads()) == 5
    data = bytearray(installed.read_bytes())
    data[int(place * len(data))] ^= 1
    installed.write_bytes(data)
    with pytest.raises(ValueError, match=r"not the published file of LPIPS' heads.*force-reinstall"):
        frozen_losses.heads()


def test_heads_that_are_cut_short_or_gone_are_refused(installed: Path) -> None:
    installed.write_bytes(installed.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"vgg\.pth is not the published file"):
        frozen_losses.heads()
    installed.unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*vgg\.pth; run"):
        frozen_losses.heads()


def test_all_published_files_are_prefetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda address, *_, **__: asked.append(address))
    paths = frozen_losses.prefetch()
    assert [path.name for path in paths] == [
        "vgg16-397923af.pth", "resnet50-11ad3fa6.pth", "weights-inception-2015-12-05-6726825d.pth"
    ]  # fmt: skip
    assert asked == [weights.address for weights in (pretrained.VGG16, pretrained.RESNET50, pretrained.INCEPTION)]


def test_configs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="weight must be at least 0"):
        PerceptualConfig(weight=-1.0)
    with pytest.raises(ValueError, match="path is of no use to a random network"):
        LogitConfig(classifier="random", path=Path("x"))
