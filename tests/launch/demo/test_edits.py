"""Edits of landscapes: what maps become, and how much of what an editor makes is what they say."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.feature_networks import write_segmenter
from PIL import Image

from smalti.launch.demo import edits
from smalti.launch.demo.landscapes import landscape
from smalti.launch.demo.map_edits import map_edits
from smalti.launch.demo.scene import LABELS, MOUNTAINS, SKY
from smalti.trainer.sampling.image_files import save

MAPS = [landscape(0, index, 96, 128).labels for index in range(1000, 1010)]


def test_every_map_has_two_edits_and_each_changes_a_part_into_one_other_label():
    kinds = set()
    for labels in MAPS:
        found = map_edits(labels)
        assert len(found) >= 2
        for edit in found:
            changed = edit.labels != labels
            assert 0.05 < changed.mean() < 0.5 and len(np.unique(edit.labels[changed])) == 1
            assert edit.labels.dtype == np.uint8
            kinds.add(edit.name)
    assert len(kinds) == 8


def test_a_hill_stands_on_the_ground_before_the_sky_alone():
    hills = [(labels, edit.labels) for labels in MAPS for edit in map_edits(labels) if edit.name.startswith("a hill")]
    assert hills
    for before, after in hills:
        changed = after != before
        assert (before[changed] == SKY).all() and (after[changed] == MOUNTAINS).all()
        for column in np.flatnonzero(changed.any(axis=0)):
            assert changed[:, column].sum() == (before[np.flatnonzero(changed[:, column])[0] :, column] == SKY).sum()


def colored(labels: np.ndarray) -> np.ndarray:
    """An image whose labels ``ByColor`` finds."""
    return np.repeat(((labels[..., None] + 0.5) * 256 / len(LABELS)).astype(np.uint8), 3, axis=2)


def test_the_share_is_that_of_edited_pixels_over_all_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An editor whose likeliest candidates are as the map says, and whose other ones leave the landscape as it was."""
    asked = []

    def edited(arguments: list[str]) -> int:
        named = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        asked.append(named)
        before, after = (np.asarray(Image.open(named[name])) for name in ("--segmentation", "--edited"))
        for number in range(4):
            made = Image.fromarray(colored(after if number == 2 else before))
            notes = {"rank": 1 if number == 2 else 2 + number}
            save(made, Path(named["--out"]) / f"before-seed-0-{number:02d}.png", notes)
        return 0

    monkeypatch.setattr(edits.edit, "main", edited)
    segmenter = write_segmenter(tmp_path / "segmenter.pt", len(LABELS))
    assert edits.main(["editor", str(segmenter), str(tmp_path / "out"), "--count", "3", "--size", "64x80"]) == 0
    said = capsys.readouterr().out.splitlines()
    (total,) = [line.split() for line in said if line.startswith("all ")]
    assert total[:4] == ["all", "6", "25.0%", "100.0%"]
    assert len(asked) == 6 and all(named["--candidates"] == "4" for named in asked)
    with Image.open(tmp_path / "out" / "edits.png") as sheet:
        assert sheet.size == (7 * 80, min(4, len(said) - 4) * 64)


def test_an_edit_that_is_refused_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    segmenter = write_segmenter(tmp_path / "segmenter.pt", len(LABELS))
    (tmp_path / "editor").mkdir()
    assert edits.main([str(tmp_path / "editor"), str(segmenter), str(tmp_path / "out"), "--count", "1"]) == 2
    assert "this edit could not be made" in capsys.readouterr().err
