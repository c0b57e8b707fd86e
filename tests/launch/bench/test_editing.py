"""The measurement of editing, small: its figures, the memory that it counts, and what it compares is the same."""

import json

import torch

from smalti.launch.bench import __main__ as bench
from smalti.launch.bench import editing
from smalti.models.priors.editor import EditorConfig

CPU = torch.device("cpu")


def test_every_figure_is_in_the_last_line(capsys):
    assert bench.main(["editing", "--heads", "1", "--layers", "1", "--tokens", "1024", "--rounds", "1"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = ["both_ways", "causal", "training_memory", "memory_growth"]
    assert list(figures) == [*(f"attention_{name}" for name in names), "candidates_vs_single"]
    assert min(figures.values()) > 0


def test_memory_of_a_call_is_the_most_that_its_tensors_take_at_a_time():
    def call() -> None:
        first = torch.zeros(1 << 20)
        second = torch.zeros(2 << 20)
        del first, second
        torch.zeros(1 << 20)

    assert editing.peak_bytes(call, CPU) == 3 * 4 << 20


def test_the_sides_of_the_comparison_compute_the_same_where_all_blocks_are_looked_at():
    attention = editing.Attention(256, 2, False, CPU)  # four blocks in a strip: each looks at all
    torch.testing.assert_close(attention.sparse(), attention.dense(), rtol=0, atol=2e-6)
    torch.testing.assert_close(attention.written_out().view(1, 2, 4, 64, 64), attention.dense(), rtol=0, atol=2e-6)


def test_half_an_image_is_filled_by_guide_and_editor():
    shape = {"encoder_layers": 1, "decoder_layers": 1, "heads": 2, "width": 16, "blocks": (2, 2)}
    editor = EditorConfig(**shape, window=(8, 8), attention="guided", picks=1)
    assert editing.half_edit(editor, EditorConfig(**shape, window=(4, 4)), CPU) > 0
