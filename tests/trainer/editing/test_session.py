"""Edits of one photo in turn: previews, candidates, what is kept, undo."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.editors import write_editors, write_photo

from smalti.models.sampling import SamplingConfig
from smalti.models.vqgan.tiling import Tiling
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer
from smalti.trainer.editing.job import EditJob, EditJobConfig, padded
from smalti.trainer.editing.photo import Photo
from smalti.trainer.editing.scene import Guide, SceneEncoder
from smalti.trainer.editing.session import EditSession
from smalti.trainer.editing.strokes import Strokes
from smalti.trainer.sampling.image_files import DecodeConfig, decode_image


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    write_editors(folder)
    return folder


def job_of(networks: Path, kind: str, **config: float) -> EditJob:
    tokenizer = load_tokenizer(networks / "tokenizer", "cpu")
    encode = SceneEncoder(tokenizer, None, Tiling(8, 2))
    guide = Guide(load_prior(networks / "guide", "cpu"), encode) if kind == "guided" else None
    prior = load_prior(networks / kind, "cpu")
    made = EditJobConfig(**{"candidates": 2, **config})
    return EditJob(prior, tokenizer, encode, guide, SamplingConfig(), DecodeConfig(tile=8), made)


def session_in(folder: Path) -> EditSession:
    colors, labels = write_photo(folder)
    return EditSession("photo", Photo(colors, None), labels)


def drawn(session: EditSession, rows: slice, label: int) -> Strokes:
    labels = session.current.labels.copy()
    labels[rows, 10:40] = label
    return Strokes(labels, np.zeros(labels.shape, np.bool_))


def quiet(_: object) -> None:
    pass


def test_a_kept_candidate_is_what_the_next_edit_starts_from_and_undo_goes_back(networks: Path, tmp_path: Path):
    session, job = session_in(tmp_path), job_of(networks, "guided")
    first = session.current
    session.sample(job, drawn(session, slice(5, 20), 5), 0, quiet)
    chosen = session.candidates[1]
    session.keep(1)
    second = session.current
    assert np.array_equal(second.photo.colors, chosen.colors) and (second.labels[5:20, 10:40] == 5).all()
    assert session.candidates == []

    edit = session.edit(drawn(session, slice(25, 40), 4))  # refines another region of what was kept
    assert np.array_equal(edit.masked, edit.labels != second.labels) and edit.masked[25:40, 10:40].all()
    session.sample(job, drawn(session, slice(25, 40), 4), 1, quiet)
    session.keep(0)
    outside = ~edit.masked
    assert np.array_equal(session.current.photo.colors[outside], second.photo.colors[outside])
    assert set(np.unique(session.current.labels)) >= {4, 5}

    session.undo()
    assert session.current is second
    session.undo()
    assert session.current is first
    with pytest.raises(ValueError, match="nothing to undo"):
        session.undo()


def test_a_region_is_made_anew_as_what_it_is(networks: Path, tmp_path: Path):
    session = session_in(tmp_path)
    labels = session.current.labels
    again = np.zeros(labels.shape, np.bool_)
    again[5:20, 10:40] = True
    session.sample(job_of(networks, "dense"), Strokes(labels, again), 0, quiet)
    session.keep(0)
    assert np.array_equal(session.current.labels, labels)
    changed = (session.current.photo.colors != session.versions[0].photo.colors).any(-1)
    assert changed.any() and not changed[~again].any()


def test_what_cannot_be_done_is_said(networks: Path, tmp_path: Path):
    session = session_in(tmp_path)
    nothing = Strokes(session.current.labels, np.zeros(session.current.labels.shape, np.bool_))
    with pytest.raises(ValueError, match="draw on the map first"):
        session.sample(job_of(networks, "dense"), nothing, 0, quiet)
    with pytest.raises(ValueError, match="no candidate is chosen"):
        session.keep(0)
    session.sample(job_of(networks, "dense"), drawn(session, slice(5, 9), 5), 0, quiet)
    for place in (-1, 2):
        with pytest.raises(ValueError, match="no candidate is chosen"):
            session.keep(place)


def test_the_preview_is_the_small_version_by_which_the_first_candidate_is_guided(
    networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    session, job = session_in(tmp_path), job_of(networks, "guided", feather=0.0)
    edit = session.edit(drawn(session, slice(5, 20), 5))
    preview = job.preview(edit, 3, quiet)
    seen: list[torch.Tensor] = []
    looks = job.guide.looks
    monkeypatch.setattr(job.guide, "looks", lambda small, codes: seen.append(codes) or looks(small, codes))
    job.run(edit, 3, quiet)
    small = job.guide.resized(padded(edit, job.encode.factor, job.network.config.blocks))
    sides = zip((45, 70), small.masked.shape[1:], (48, 72), strict=True)
    rows, columns = (round(side * short / whole) for side, short, whole in sides)
    masked, photo = small.masked[0].numpy(), small.images[0].permute(1, 2, 0).numpy()
    made = np.asarray(decode_image(job.tokenizer, seen[0], job.decode))
    expected = np.where(masked[..., None], made, photo)
    assert 0 < masked.sum() < masked.size
    assert preview.shape == (rows, columns, 3) and np.array_equal(preview, expected[:rows, :columns])


def test_an_editor_that_looks_at_all_blocks_makes_its_own_preview_and_an_edit_of_nothing_has_none(
    networks: Path, tmp_path: Path
):
    session, job = session_in(tmp_path), job_of(networks, "dense")
    assert job.preview(session.edit(drawn(session, slice(5, 20), 5)), 0, quiet) is not None
    nothing = Strokes(session.current.labels, np.zeros(session.current.labels.shape, np.bool_))
    assert job.preview(session.edit(nothing), 0, quiet) is None
