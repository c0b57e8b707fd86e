"""Beside samples stand their conditions: as they are, and as their tokenizers rebuild them."""

from pathlib import Path

import torch
from fixtures.priors import write_tokenizer

from smalti.trainer.checkpoint.loading import load_tokenizer
from smalti.trainer.prior.condition_previews import condition_rows, drawn_boxes
from smalti.trainer.training.color_maps import color_coded

CPU = torch.device("cpu")


def test_maps_and_depths_stand_above_what_their_tokenizers_make_of_them(tmp_path: Path):
    write_tokenizer(tmp_path / "maps", seed=1, num_labels=9)
    write_tokenizer(tmp_path / "depths", seed=2, in_channels=1, out_channels=1)
    tokenizers = {
        "segmentation": load_tokenizer(tmp_path / "maps", CPU),
        "depth": load_tokenizer(tmp_path / "depths", CPU),
    }
    factor = tokenizers["depth"].metadata["factor"]
    side = 4 * factor
    batch = {"segmentation": torch.randint(9, (2, side, side)).byte(), "depth": torch.rand(2, side, side)}
    codes = {
        "segmentation_codes": tokenizers["segmentation"].encode(batch["segmentation"].long()),
        "depth_codes": tokenizers["depth"].encode(batch["depth"][:, None] * 2 - 1),
    }
    rows = condition_rows(batch, codes, tokenizers, (side, side))
    rebuilt = tokenizers["segmentation"].decode(codes["segmentation_codes"])
    gray = tokenizers["depth"].decode(codes["depth_codes"])
    expected = [
        color_coded(batch["segmentation"].long()), color_coded(rebuilt),
        (batch["depth"][:, None] * 2 - 1).expand(-1, 3, -1, -1), gray.expand(-1, 3, -1, -1),
    ]  # fmt: skip
    assert len(rows) == 4
    for row, right in zip(rows, expected, strict=True):
        torch.testing.assert_close(row, right)
    from_shards = condition_rows({}, codes, tokenizers, (side, side))  # where nobody has the maps themselves
    assert len(from_shards) == 2 and torch.equal(from_shards[0], rows[1])


def test_labels_without_a_tokenizer_and_small_images_are_shown_as_large_as_the_rest():
    labels = torch.tensor([[[0, 1], [2, 3]]])
    small = torch.rand(1, 3, 4, 4) * 2 - 1
    codes, low = condition_rows({}, {"segmentation_codes": labels, "low": small}, {}, (8, 8))
    assert torch.equal(codes[..., ::4, ::4], color_coded(labels)) and torch.equal(low[..., ::2, ::2], small)
    assert condition_rows({}, {"cls": torch.tensor([3])}, {}, (8, 8)) == []


def test_boxes_are_frames_in_the_colors_of_their_classes():
    fields = {
        "object_classes": torch.tensor([[5, -1]]), "object_boxes": torch.tensor([[[0, 0, 20, 40], [0, 0, 40, 40]]]),
        "box": torch.tensor([[20.0, 0.0, 40.0, 20.0]]), "source_size": torch.tensor([[40.0, 40.0]]),
    }  # fmt: skip
    (page,) = drawn_boxes(fields, (8, 8))
    color, crop = color_coded(torch.tensor([[[5]]]))[0, :, 0, 0], torch.full((3,), -1.0)
    frame = torch.zeros(8, 8, dtype=torch.bool)
    frame[[0, 7], :4] = frame[:, [0, 3]] = True
    own = torch.zeros(8, 8, dtype=torch.bool)
    own[[0, 3], 4:] = own[:4, [4, 7]] = True
    assert (page[:, frame] == color[:, None]).all() and (page[:, own] == crop[:, None]).all()
    assert (page[:, ~(frame | own)] == 1).all()  # the absent object, as large as the image, has left no trace
