"""Files of objects and of texts: what they must hold, and what is refused by name."""

import json

import numpy as np
import pytest
import torch
from fixtures.priors import npy

from smalti.trainer.sampling.condition_files import read_objects, read_text


def layout(**change):
    return {"size": [40, 60], "objects": [{"class": 3, "box": [1, 2, 60, 40.0]}]} | change


def test_objects_keep_their_order_their_classes_and_their_places():
    objects = [{"class": number, "box": [number, 0, number + 1.5, 7]} for number in (4, 0, 4)]
    read = read_objects(json.dumps(layout(objects=objects)).encode())
    assert read.size == (40, 60) and read.classes.tolist() == [4, 0, 4]
    assert torch.equal(read.boxes[:, 0], torch.tensor([4.0, 0.0, 4.0])) and read.boxes.shape == (3, 4)
    assert read_objects(json.dumps(layout(objects=[])).encode()).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([], "it must be"),
        (layout(more=1), "it must be"),
        (layout(size=[40]), "size must be 2 numbers"),
        (layout(size=[0, 60]), "above 0"),
        (layout(size=[40, 10**400]), "size must be 2 numbers below 1e\\+06"),
        (layout(size=[True, 60]), "size must be 2 numbers"),
        (layout(objects=[{"class": "dog", "box": [0, 0, 1, 1]}]), r"objects\[0\] must be"),
        (layout(objects=[{"class": True, "box": [0, 0, 1, 1]}]), r"objects\[0\] must be"),
        (layout(objects=[{"class": -1, "box": [0, 0, 1, 1]}]), r"objects\[0\].class must be the number of a class"),
        (layout(objects=[{"class": 1, "box": [0, 0, 1]}]), r"objects\[0\].box must be 4 numbers"),
        (layout(objects=[{"class": 1, "box": [5, 0, 5, 1]}]), "left < right"),
        (layout(objects=[{"class": 1, "box": [0, 0, 61, 1]}]), "inside of 60 x 40 pixels"),
        (layout(objects=[{"class": 1, "box": [float("nan"), 0, 1, 1]}]), "must be 4 numbers"),
    ],
)
def test_what_is_no_layout_is_refused(said, why):
    with pytest.raises(ValueError, match=why):
        read_objects(json.dumps(said).encode())


def test_a_text_is_a_matrix_of_finite_numbers():
    text = np.random.default_rng(0).normal(size=(3, 5))
    assert torch.equal(read_text(npy(text.astype(np.float16))), torch.from_numpy(text.astype(np.float16)).float())
    wrong = (np.zeros(3), np.zeros((2, 3), np.int64), np.full((2, 3), np.inf), np.array([[{}]], dtype=object))
    for array in wrong:
        with pytest.raises(ValueError):
            read_text(npy(array))
