"""What an editor and its guide read of a scene: known parts do not depend on masked ones, at any size."""

from pathlib import Path

import pytest
import torch
from fixtures.editors import write_editors
from fixtures.priors import write_tokenizer
from torch import Tensor

from smalti.models.conditions.edit import BEFORE
from smalti.models.priors.editor import EditorConfig
from smalti.models.vqgan.masking import masked_cells
from smalti.models.vqgan.tiling import Tiling
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer
from smalti.trainer.editing.scene import Guide, Scene, SceneEncoder, check_guide


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    write_editors(folder)
    return folder


def scene(size: tuple[int, int] = (64, 96), seed: int = 0) -> Scene:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (2, 3, *size), generator=draws, dtype=torch.uint8)
    labels = torch.arange(size[0])[:, None].expand(2, *size) // 24
    masked = torch.zeros(2, *size, dtype=torch.bool)
    masked[0, 20:41, 30:61], masked[1, 7, 90] = True, True
    return Scene(images, labels, masked)


def test_a_scene_is_read_with_the_map_before_the_edit_if_there_is_one(place: Path):
    encode = SceneEncoder(load_tokenizer(place / "tokenizer", "cpu"), None)
    of = scene()
    edited = of._replace(labels=torch.where(of.masked, 5, of.labels), before=of.labels)
    for now, without in ((edited, of), (edited.resized((32, 48)), of.resized((32, 48)))):
        fields = encode(now)
        assert torch.equal(fields[BEFORE], encode(without)["segmentation_codes"])
        assert not torch.equal(fields[BEFORE], fields["segmentation_codes"])
    assert BEFORE not in encode(of)


def perturbed(of: Scene) -> Scene:
    return of._replace(images=torch.where(of.masked[:, None], 255 - of.images, of.images))


def same_where(one: Tensor, other: Tensor, known: Tensor) -> bool:
    return torch.equal(one[known], other[known]) and not torch.equal(one, other)


@pytest.mark.parametrize("size", [(16, 24), (32, 96), (20, 30)])
def test_known_pixels_of_a_smaller_scene_do_not_depend_on_masked_ones(size: tuple[int, int]):
    one, other = scene().resized(size), perturbed(scene()).resized(size)
    assert one.images.shape[2:] == one.labels.shape[1:] == one.masked.shape[1:] == size
    assert torch.equal(one.masked, other.masked) and one.masked.flatten(1).any(1).all()  # one pixel is still there
    assert same_where(one.images.movedim(1, -1), other.images.movedim(1, -1), ~one.masked)


def test_a_scene_without_a_mask_is_shrunk_as_it_is_and_one_of_its_size_stays():
    whole = scene()._replace(masked=torch.zeros(2, 64, 96, dtype=torch.bool))
    assert whole.resized((64, 96)) is whole
    shades = whole._replace(images=torch.full((2, 3, 64, 96), 77, dtype=torch.uint8))
    assert (shades.resized((16, 24)).images == 77).all()
    everything = whole._replace(masked=torch.ones(2, 64, 96, dtype=torch.bool))
    assert torch.equal(everything.resized((16, 24)).images, whole.resized((16, 24)).images)


@pytest.mark.parametrize("tiles", [None, Tiling(8, 2)])
def test_known_codes_of_scene_and_guide_do_not_depend_on_masked_pixels(place: Path, tiles: Tiling | None):
    encode = SceneEncoder(load_tokenizer(place / "tokenizer", "cpu"), None, tiles)
    guide = Guide(load_prior(place / "guide", "cpu"), encode)
    for read in (encode, guide.small):
        one, other = read(scene()), read(perturbed(scene()))
        assert torch.equal(one["codes"][~one["masked"]], other["codes"][~one["masked"]])
        assert torch.equal(one["segmentation_codes"], other["segmentation_codes"])
        assert one["masked"].flatten(1).any(1).all()
    assert torch.equal(encode(scene())["masked"], masked_cells(scene().masked, 4))


def test_a_guide_sees_any_proportions_at_the_size_that_it_learnt_in_multiples_of_its_blocks(place: Path):
    guide = Guide(load_prior(place / "guide", "cpu"), SceneEncoder(load_tokenizer(place / "tokenizer", "cpu"), None))
    assert guide.size((64, 64)) == (16, 12) or guide.size((64, 64)) == (16, 24)
    for size in ((64, 96), (640, 320), (100, 1000)):
        rows, columns = guide.size(size)
        assert rows % 8 == columns % 12 == 0 and abs(columns / rows - size[1] / size[0]) < 0.8


def test_what_does_not_fit_together_is_refused(place: Path, tmp_path: Path):
    write_tokenizer(tmp_path / "plain")
    write_tokenizer(tmp_path / "other", channel_multipliers=(1, 1))
    tokenizer = load_tokenizer(place / "tokenizer", "cpu")
    with pytest.raises(ValueError, match="mask_aware: true"):
        SceneEncoder(load_tokenizer(tmp_path / "plain", "cpu"), None)
    with pytest.raises(ValueError, match="factor 2"):
        SceneEncoder(tokenizer, load_tokenizer(tmp_path / "other", "cpu"))
    with pytest.raises(ValueError, match="attention: dense"):
        Guide(load_prior(place / "guided", "cpu"), SceneEncoder(tokenizer, None))
    guide = load_prior(place / "guide", "cpu")
    with pytest.raises(ValueError, match="same tokenizers"):
        check_guide(guide, "0" * 64, {}, guide.model.config)
    with pytest.raises(ValueError, match=r"heads must be the editor's model\.heads 4, got 2"):
        config = EditorConfig(encoder_layers=1, decoder_layers=1, heads=4, width=16, window=(4, 6), blocks=(2, 3))
        check_guide(guide, guide.metadata["tokenizer"], {}, config)
