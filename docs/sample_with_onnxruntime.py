"""Samples images with onnxruntime and numpy alone: python sample_with_onnxruntime.py PRIOR TOKENIZER OUT.npy [CLASS].

PRIOR and TOKENIZER are folders that ``smalti export --format onnx`` wrote. Greedy; exchange ``argmax`` for a draw.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(prior: str, tokenizer: str, out: str, label: str = "0") -> None:
    """One image of a class, or without a condition, as (1, 3, H, W) float32 in about [-1, 1]."""
    said = json.loads(Path(prior, "config.json").read_text())
    step = onnxruntime.InferenceSession(str(Path(prior, "step.onnx")))
    decoder = onnxruntime.InferenceSession(str(Path(tokenizer, "decoder.onnx")))
    rows, columns = said["window"]
    length = said["prefix"] + rows * columns
    keys = values = np.zeros((said["layers"], 1, said["heads"], length, said["head_channels"]), np.float32)
    grid, token = np.zeros(rows * columns, np.int64), said["codes"] + int(label)
    for position, cell in enumerate(said["cells"]):
        feed = {"token": np.array([token]), "position": np.array([position]), "keys": keys, "values": values}
        logits, keys, values = step.run(None, feed)
        token = grid[cell] = logits[0].argmax()
    (image,) = decoder.run(None, {"codes": grid.reshape(1, rows, columns)})
    np.save(out, image)
    print(grid.tolist())


main(*sys.argv[1:])
