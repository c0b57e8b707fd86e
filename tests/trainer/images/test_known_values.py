"""Numbers beyond what a model knows: each costs its own sample, named, in training and in evaluation."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.priors import npy, write_code_shards
from fixtures.shards import encoded, photo

from smalti.models.conditions import ClassConfig, CodeMapConfig, CompositeConfig, ObjectsConfig, TextConfig
from smalti.trainer.data.crops import CodeCropConfig, CropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.images.geometry import Measured
from smalti.trainer.images.known_values import OutOfRangeError, checked, only, only_cells, only_labels
from smalti.trainer.shards.errors import TooManySampleErrorsError
from smalti.trainer.shards.writer import ShardWriter

COUNT = 40
WHAT = {"tokenizer": None, "digest": "none", "factor": 4, "codes": 16}


def members(**changed: np.ndarray | bytes) -> dict[str, bytes]:
    good: dict[str, Any] = {
        "codes.npy": np.full((4, 4), 15, np.uint16),
        "segmentation_codes.npy": np.full((4, 4), 6, np.uint8),
        "object_classes.npy": np.array([-1, 0, 9]),
        "cls": b"2",
    }
    good |= {name.replace("__", "."): value for name, value in changed.items()}
    return {name: value if isinstance(value, bytes) else npy(value) for name, value in good.items()}


CHECKS = checked({"codes": range(16), "segmentation_codes": range(7), "object_classes": range(-1, 10), "cls": range(3)})


def stream(folder: Path, **settings: Any) -> Stream:
    config = DataConfig(shards=(str(folder),), crop=CodeCropConfig(window=(4, 4)), **settings)
    fields = ("codes", "segmentation_codes", "object_classes", "cls")
    return Stream(config, fields, global_batch=8, micro_batch=8, checks=CHECKS)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cls": b"3"}, r"\.cls: it holds 3, and the model knows 0 to 2"),
        ({"cls": b"-1"}, r"\.cls: it holds -1"),
        ({"codes__npy": np.pad([[16]], (0, 3))}, r"\.codes\.npy: it holds 16, and the model knows 0 to 15"),
        ({"codes__npy": np.full((4, 4), -1)}, r"\.codes\.npy: it holds -1"),
        ({"segmentation_codes__npy": np.full((4, 4), 255, np.uint8)}, r"\.segmentation_codes\.npy: it holds 255"),
        ({"object_classes__npy": np.array([-2, 0, 1])}, r"\.object_classes\.npy: it holds -2, .* -1 to 9"),
        ({"object_classes__npy": np.array([-1, 10, 1])}, r"\.object_classes\.npy: it holds 10"),
    ],
)
def test_one_number_too_large_costs_its_sample_and_is_named_with_it(tmp_path, caplog, changed, said):
    samples = [members(**changed) if number == 5 else members() for number in range(COUNT)]
    data = stream(write_code_shards(tmp_path / "codes", WHAT, samples), max_bad_fraction=0.2)
    keys = [key for batch in data.eval_batches(8) for key in batch["key"]]
    assert keys == [f"p{number:03d}" for number in range(COUNT) if number != 5]
    steps = data.train_batches()
    seen = {str(key) for _ in range(COUNT // 8) for batch in next(steps) for key in batch["key"]}
    assert "p005" not in seen and data.sample_errors == {"out of range": 2}
    (warning,) = caplog.messages  # once, though it was met twice
    assert "out of range: p005 in " in warning and re.search(said, warning)


def test_past_the_limit_the_stream_ends_with_the_name_of_a_sample(tmp_path):
    samples = [members(cls=b"7") if number % 13 == 1 else members() for number in range(800)]
    data = stream(write_code_shards(tmp_path / "codes", WHAT, samples))
    with pytest.raises(TooManySampleErrorsError, match=r"out of range: p\d+ in .*\.cls: it holds 7"):
        list(data.eval_batches(8))


@pytest.mark.parametrize("count", [20, 400])
def test_a_table_that_is_too_small_for_the_data_is_refused_before_training(tmp_path, count):
    samples = [members(cls=b"%d" % (number % 6)) for number in range(count)]
    folder = write_code_shards(tmp_path / "codes", WHAT, samples)
    with pytest.raises(ValueError, match=r"\d+ of \d+ samples that were tried .*\.cls: it holds \d.*make the model's"):
        stream(folder)


def test_conditions_say_what_they_know():
    assert ClassConfig(classes=5).build(8, (2, 2)).known == {"cls": range(5)}
    assert ObjectsConfig(classes=4).build(8, (2, 2)).known == {"object_classes": range(-1, 4)}
    assert TextConfig().build(8, (2, 2)).known == {}
    parts = (ClassConfig(classes=5), CodeMapConfig(vocab_size=9), CodeMapConfig(vocab_size=7))
    both = CompositeConfig(conditions=parts).build(8, (2, 2))
    assert both.known == {"cls": range(5), "segmentation_codes": range(7)}


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_marks_of_no_label_may_stand_in_maps(kind):
    check = only_labels(19)
    check(np.array([[0, 18], [255, 18]], kind))
    if kind is not np.uint8:
        check(np.array([[0, 65535]], kind))
        with pytest.raises(OutOfRangeError, match="it holds 300, and the model knows 0 to 18; 255 and 65535 mark no"):
            check(np.array([[0, 300]], kind))
    with pytest.raises(OutOfRangeError, match="it holds 19"):
        check(np.array([[19, 255]], kind))


def test_the_commonest_label_of_a_cell_must_be_known_and_no_other():
    labels = np.zeros((4, 4), np.uint16)
    labels[0, 0] = 200
    only_cells(range(10), (2, 2))(labels)
    labels[:2, :2] = 200
    with pytest.raises(OutOfRangeError, match="it holds 200, and the model knows 0 to 9"):
        only_cells(range(10), (2, 2))(labels)
    labels[0, 0] = 256
    with pytest.raises(OutOfRangeError, match="it holds 256, and the model knows 0 to 255"):
        only_cells(range(300), (2, 2))(labels)


def test_nothing_is_in_every_range():
    only(range(3))(np.zeros((0,), np.int64))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_map_with_more_labels_than_the_model_is_not_passed_over(tmp_path, workers):
    with ShardWriter(tmp_path / "maps", "m", 8, {}) as writer:
        for number in range(COUNT):
            labels = np.full((16, 16), number % 7, np.uint16)
            labels[:4] = 65535 if number % 2 else 255
            labels[5, 5] = 7 if number == 11 else 0
            files = {"png": encoded(photo(16, 16), "PNG"), "segmentation.png": encoded(labels, "PNG")}
            writer.write(f"p{number:03d}", files, Measured(16, 16))
    config = DataConfig(
        shards=(str(tmp_path / "maps"),), crop=CropConfig(size=16), max_bad_fraction=0.1, num_workers=workers
    )
    data = Stream(config, ("segmentation",), global_batch=8, micro_batch=8, checks={"segmentation": only_labels(7)})
    assert sum(len(batch["key"]) for batch in data.eval_batches(8)) == COUNT - 1
    assert data.sample_errors == {"out of range": 1}


def test_images_under_names_of_their_own_and_maps_without_an_image(tmp_path):
    pixels = photo(24, 32)
    with ShardWriter(tmp_path / "shards", "x", 8, {}) as writer:
        for number in range(8):
            files = {"input.png": pixels, "png": photo(16, 16, 9), "seg.png": pixels[..., 0]}
            writer.write(f"p{number}", {name: encoded(shown, "PNG") for name, shown in files.items()})
    names = {"image": "input.png", "segmentation": "seg.png"}

    def rows(fields: tuple[str, ...], extensions: dict[str, str]) -> Any:
        config = DataConfig(shards=(str(tmp_path / "shards"),), crop=None, extensions=extensions)
        return next(iter(Stream(config, fields, global_batch=1, micro_batch=1).eval_batches(1)))

    both = rows(("image", "segmentation"), names)
    assert np.array_equal(both["image"][0].permute(1, 2, 0), pixels)
    assert np.array_equal(both["segmentation"][0], pixels[..., 0])
    assert both["source_size"].tolist() == [[24.0, 32.0]]
    alone = rows(("segmentation",), names)
    assert np.array_equal(alone["segmentation"][0], pixels[..., 0])
