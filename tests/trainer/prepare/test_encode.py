"""Code shards made of image shards."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.shards import decoded, encoded, photo, write_images
from fixtures.tokenizers import CODES, FACTOR, write_tokenizer

from smalti.models.conditions.code_map import majority_label
from smalti.trainer.checkpoint.loading import LoadedTokenizer, load_tokenizer
from smalti.trainer.data.crops import CodeCropConfig, CropConfig, TamingCropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.prepare.encode import EncodeConfig, EncodeJob, EncodeReport, encode
from smalti.trainer.shards.errors import SampleError, TooManySampleErrorsError
from smalti.trainer.shards.reader import ShardSet
from smalti.trainer.shards.writer import ShardWriter

CPU = torch.device("cpu")
CROP = CropConfig(size=16)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 20)  # of 24 x 24, 24 x 25 and 24 x 26 pixels


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> LoadedTokenizer:
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("vqgan") / "export"), CPU)


def run(
    tokenizer: LoadedTokenizer, images: Path, folder: Path, said: list[str] | None = None, **options
) -> EncodeReport:
    others = options.pop("others", {})
    work = EncodeJob(ShardSet.open([str(images)]), folder, tokenizer, others, EncodeConfig(**options))
    return encode(work, (said if said is not None else []).append)


def stream(folder: Path, fields: tuple[str, ...], crop, **options) -> Stream:
    config = DataConfig(shards=(str(folder),), crop=crop, **options)
    return Stream(config, fields, global_batch=4, micro_batch=4, seed=5)


def codes_of(tokenizer: LoadedTokenizer, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return tokenizer.model.encode(images.float() / 127.5 - 1).indices


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "crop", [CROP, CropConfig(size=16, scale=(1.0, 1.5)), TamingCropConfig(size=16, flip=0.5, interpolation="bicubic")]
)
def test_cached_codes_are_those_of_the_same_crops_on_line(images, tokenizer, tmp_path, crop, workers):
    run(tokenizer, images, tmp_path / "codes", crop=crop, seed=5, num_workers=workers)
    cached = stream(tmp_path / "codes", ("codes", "segmentation_codes", "cls"), CodeCropConfig(window=(0, 0)))
    online = stream(images, ("image", "segmentation", "cls"), crop)
    seen = set()
    for of_codes, of_pixels in zip(cached.eval_batches(5), online.eval_batches(5, 1), strict=True):
        assert of_codes["key"] == of_pixels["key"]
        assert torch.equal(of_codes["codes"], codes_of(tokenizer, of_pixels["image"]))
        expected = [majority_label(labels.long(), 4, 4).long() for labels in of_pixels["segmentation"]]
        assert torch.equal(of_codes["segmentation_codes"], torch.stack(expected))
        assert torch.equal(of_codes["cls"], of_pixels["cls"])
        assert torch.equal(of_codes["flip"], of_pixels["flip"])
        assert torch.equal(of_codes["source_size"], of_pixels["source_size"])
        assert torch.allclose(of_codes["box"], of_pixels["box"])
        seen |= set(of_codes["codes"].flatten().tolist())
    assert len(seen) > CODES // 2  # else nothing was distinguished


def test_the_first_epoch_of_training_sees_the_crops_that_were_encoded(images, tokenizer, tmp_path):
    run(tokenizer, images, tmp_path / "codes", crop=CROP, seed=5)
    cached = {}
    for batch in stream(tmp_path / "codes", ("codes",), CodeCropConfig(window=(0, 0))).eval_batches(1):
        cached[batch["key"][0]] = batch["codes"][0]
    online = stream(images, ("image",), CROP).train_batches()
    for step in (next(online) for _ in range(5)):  # 20 of 20 images
        codes = codes_of(tokenizer, step[0]["image"])
        assert all(torch.equal(cached[key], codes[row]) for row, key in enumerate(step[0]["key"]))


def test_several_crops_of_an_image_have_keys_of_their_own(images, tokenizer, tmp_path):
    report = run(tokenizer, images, tmp_path / "codes", crop=CROP, crops=3, seed=5, batch=4)
    assert (report.samples, report.shards) == (60, 3)
    shards = ShardSet.open([str(tmp_path / "codes")])
    assert [shards.key(0, n) for n in range(4)] == ["p000-0", "p000-1", "p000-2", "p001-0"]
    cached = stream(tmp_path / "codes", ("codes",), CodeCropConfig(window=(0, 0))).eval_batches(12)
    for of_codes, of_pixels in zip(cached, stream(images, ("image",), CROP).eval_batches(12, 3), strict=True):
        assert torch.equal(of_codes["codes"], codes_of(tokenizer, of_pixels["image"]))
        assert [key.split("-")[0] for key in of_codes["key"]] == of_pixels["key"]


def test_whole_images_are_encoded_as_far_as_they_fill_codes(images, tokenizer, tmp_path):
    run(tokenizer, images, tmp_path / "codes", tile=64)
    source, shards = ShardSet.open([str(images)]), ShardSet.open([str(tmp_path / "codes")])
    pixels = torch.from_numpy(decoded(source.read(0, 1, "png")).copy())  # 24 x 25
    grid = np.load(io.BytesIO(shards.read(0, 1, "codes.npy")))
    assert grid.dtype == np.uint16 and grid.shape == (6, 6)
    expected = codes_of(tokenizer, pixels[:, :24].permute(2, 0, 1)[None])
    assert np.array_equal(grid, expected[0])
    assert json.loads(shards.read(0, 1, "json")) == {"box": [0, 0, 24, 24], "source_size": [24, 25], "flip": False}


def test_a_small_image_lies_beside_its_grid(images, tokenizer, tmp_path):
    run(tokenizer, images, tmp_path / "codes", tile=64, low_res=2)
    small = decoded(ShardSet.open([str(tmp_path / "codes")]).read(0, 0, "low.png"))
    whole = decoded(ShardSet.open([str(images)]).read(0, 0, "png"))
    assert small.shape == (12, 12, 3)
    average = whole.reshape(12, 2, 12, 2, 3).mean((1, 3))
    assert np.abs(small - average).mean() < 8  # another filter


def test_maps_are_encoded_by_a_tokenizer_of_their_own(images, tokenizer, tmp_path):
    of_maps = load_tokenizer(write_tokenizer(tmp_path / "maps", seed=1, labels=255), CPU)
    run(tokenizer, images, tmp_path / "codes", crop=CROP, seed=5, others={"segmentation": of_maps})
    said = stream(tmp_path / "codes", ("segmentation_codes",), CodeCropConfig(window=(0, 0)))
    assert said.provenance["maps"] == {"kind": "codes", "tokenizer": of_maps.metadata["digest"], "codes": CODES}
    for of_codes, of_pixels in zip(
        said.eval_batches(20), stream(images, ("image", "segmentation"), CROP).eval_batches(20, 1), strict=True
    ):
        with torch.no_grad():
            expected = of_maps.model.encode(of_pixels["segmentation"]).indices
        assert torch.equal(of_codes["segmentation_codes"], expected)


def test_images_that_cannot_be_used_are_named_counted_by_kind_and_left_out(images, tokenizer, tmp_path):
    broken = encoded(photo(24, 24), "PNG")[:-40]
    with ShardWriter(tmp_path / "images", "x", 4, {}) as writer:
        for number in range(6):
            members = {"png": broken if number == 2 else encoded(photo(24, 24, number), "PNG")}
            writer.write(f"p{number}", members | {"cls": b"1"}, measured=ShardSet.open([str(images)]).measured(0, 0))
    tar = tmp_path / "images" / "x-000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1  # inside p4.png
    tar.write_bytes(data)
    said: list[str] = []
    report = run(tokenizer, tmp_path / "images", tmp_path / "codes", said, crop=CROP, max_bad_fraction=0.5)
    assert report.samples == 4
    assert [(key, kind) for _, key, kind, _ in report.skipped] == [("p2", "undecodable"), ("p4", "damaged member")]
    assert sum("left out" in line and "x-000000.tar p2: undecodable" in line for line in said) == 1
    report = json.loads((tmp_path / "codes" / "report.json").read_text())
    assert report["kinds"] == {"undecodable": 1, "damaged member": 1}
    with pytest.raises(
        TooManySampleErrorsError, match=r"2 of 6 images were left out.*0\.01.*the first is p2: undecodable"
    ):
        run(tokenizer, tmp_path / "images", tmp_path / "codes", crop=CROP)  # it is all there; only the limit is new


def test_a_shard_that_cannot_be_reached_ends_the_work_and_loses_nothing(tokenizer, tmp_path):
    source = write_images(tmp_path / "images", 20)
    whole = (source / "x-000001.tar").read_bytes()
    work = EncodeJob(ShardSet.open([str(source)]), tmp_path / "codes", tokenizer, {}, EncodeConfig(crop=CROP))
    (source / "x-000001.tar").unlink()
    with pytest.raises(SampleError, match="missing shard"):
        encode(work, lambda _: None)
    assert [path.name for path in (tmp_path / "codes").glob("*.tar")] == ["x-000000.tar"]
    (source / "x-000001.tar").write_bytes(whole)
    assert encode(work, lambda _: None).samples == 20


def test_codes_of_another_making_or_of_other_images_are_not_mixed_in(images, tokenizer, tmp_path):
    run(tokenizer, images, tmp_path / "codes", crop=CROP)
    other = load_tokenizer(write_tokenizer(tmp_path / "other", seed=9), CPU)
    ours, theirs = other.metadata["digest"], tokenizer.metadata["digest"]
    with pytest.raises(ValueError, match=rf"(?s)was made as .*{theirs}.* not as .*{ours}.*another folder"):
        run(other, images, tmp_path / "codes", crop=CROP)
    with pytest.raises(ValueError, match=r"'seed': 1.*another folder"):
        run(tokenizer, images, tmp_path / "codes", crop=CROP, seed=1)
    changed = write_images(tmp_path / "images", 21)
    with pytest.raises(ValueError, match=r"x-000002\.tar was made of other images"):
        run(tokenizer, changed, tmp_path / "codes", crop=CROP)
    for path in changed.glob("x-000002.tar*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"x-000002\.tar belongs to no shard"):
        run(tokenizer, changed, tmp_path / "codes", crop=CROP)


def test_what_cannot_work_is_refused_before_anything_is_encoded(images, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=rf"multiple of the factor {FACTOR}, got 18"):
        run(tokenizer, images, tmp_path, crop=CropConfig(size=18))
    with pytest.raises(ValueError, match="pack --minimum-side"):
        run(tokenizer, images, tmp_path, crop=CropConfig(size=64))
    with pytest.raises(ValueError, match="whole images are encoded once, got crops = 2"):
        EncodeConfig(crops=2)
    with pytest.raises(ValueError, match="labels must lie below 256, got 256"):
        majority_label(torch.tensor([[0, 256]]), 1, 1)
    assert not list(tmp_path.glob("*.tar"))


def test_the_commonest_label_of_a_cell_and_the_lowest_of_equals():
    labels = torch.tensor([[1, 1, 9, 3], [2, 1, 3, 9], [5, 5, 7, 7], [5, 5, 7, 7]])
    assert majority_label(labels, 2, 2).tolist() == [[1, 3], [5, 7]]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_whole_images_of_one_size_are_encoded_together_with_the_same_codes(images, tokenizer, tmp_path, batch):
    seen = []

    def look(_, given):
        seen.append(len(given[0]))

    hook = tokenizer.model.encoder.register_forward_pre_hook(look)
    run(tokenizer, images, tmp_path / "codes", tile=64, batch=batch)
    hook.remove()
    source, shards = ShardSet.open([str(images)]), ShardSet.open([str(tmp_path / "codes")])
    assert sum(seen) == shards.samples and (max(seen) > 1) == (batch > 1)
    for sample in range(shards.counts[0]):
        pixels = torch.from_numpy(decoded(source.read(0, sample, "png")).copy()).permute(2, 0, 1)[None, :, :24, :24]
        grid = np.load(io.BytesIO(shards.read(0, sample, "codes.npy")))
        assert np.array_equal(grid, codes_of(tokenizer, pixels)[0])


def test_codes_made_in_bf16_say_so_and_are_not_mixed_with_others(images, tmp_path):
    rough = load_tokenizer(write_tokenizer(tmp_path / "export"), CPU)
    run(rough, images, tmp_path / "codes", crop=CROP, precision="bf16")
    assert ShardSet.open([str(tmp_path / "codes")]).provenance["precision"] == "bf16"
    assert next(rough.model.parameters()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="encode into another folder"):
        run(rough, images, tmp_path / "codes", crop=CROP)


def test_what_fails_while_it_encodes_is_raised(images, tokenizer, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(tokenizer.model, "encode", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(tokenizer, images, tmp_path / "codes", crop=CROP)
