"""What a killed run had sampled of an image is used whole, or the image is sampled from its beginning."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from smalti.trainer.sampling import partial
from smalti.trainer.sampling.partial import PartialSample

SIZE, CODES = (2, 3), 5
KEPT = PartialSample(torch.tensor([[0, 4, 2], [1, -1, -1]]), torch.tensor([[-1.0, -2, -3], [-4, 0, 0]]))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    partial.save(tmp_path / "a.png", "mine", KEPT)
    return tmp_path / "a.png"


def found(image: Path, request: str = "mine", size: tuple[int, int] = SIZE, codes: int = CODES) -> PartialSample | None:
    return partial.find(image, request, size, codes)


def test_what_was_kept_comes_back_for_the_same_request_only(image):
    back = found(image)
    assert back is not None and torch.equal(back.codes, KEPT.codes) and torch.equal(back.scores, KEPT.scores)
    assert found(image, "another") is None
    assert found(image.with_name("b.png")) is None


def test_every_cut_and_every_flipped_byte_is_named_or_found_whole(image, caplog):
    place = partial.path_of(image)
    sound = place.read_bytes()
    damaged = [sound[:length] for length in range(0, len(sound), 7)]
    damaged += [sound[:at] + bytes([sound[at] ^ 0x21]) + sound[at + 1 :] for at in range(len(sound))]
    named = 0
    for data in damaged:
        caplog.clear()
        place.write_bytes(data)
        back = found(image)
        if back is not None:  # a byte that no reader looks at, such as a date
            assert torch.equal(back.codes, KEPT.codes) and torch.equal(back.scores, KEPT.scores)
        elif caplog.records:
            named += 1
            assert str(place) in caplog.text and "is sampled from its beginning" in caplog.text
    assert named > len(damaged) // 2


@pytest.mark.parametrize(
    "arrays",
    [
        {"codes": np.zeros((3, 3), np.int32), "scores": np.zeros(SIZE, np.float32)},
        {"codes": np.zeros(SIZE, np.int32), "scores": np.zeros((1, 1), np.float32)},
        {"codes": np.full(SIZE, CODES, np.int32), "scores": np.zeros(SIZE, np.float32)},
        {"codes": np.full(SIZE, -2, np.int32), "scores": np.zeros(SIZE, np.float32)},
        {"codes": np.zeros(SIZE, np.int32)},
        {"codes": np.array([None] * 6).reshape(SIZE), "scores": np.zeros(SIZE, np.float32)},
    ],
)
def test_grids_that_cannot_be_of_this_image_are_not_used(image, caplog, arrays):
    np.savez(partial.path_of(image), request="mine", **arrays)
    assert found(image) is None
    assert "is sampled from its beginning" in caplog.text


def test_a_file_that_unfolds_to_gigabytes_is_not_unfolded(image, caplog):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("codes.npy", bytes(1 << 24))
    partial.path_of(image).write_bytes(packed.getvalue())
    assert found(image) is None
    assert "unfolds to more than such a grid takes" in caplog.text
