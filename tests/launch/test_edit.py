"""``smalti edit``: what lies outside the edit stays bit for bit, the seed decides, and bad input has its sentence."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.editors import write_editors, write_photo
from fixtures.pairs import write_pair
from fixtures.priors import write_tokenizer
from PIL import Image

from smalti.launch.edit.__main__ import main
from smalti.trainer.editing.job import EditJob
from smalti.trainer.exit_code import ExitCode
from smalti.trainer.sampling import partial
from smalti.trainer.sampling.image_files import read_metadata


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    write_editors(folder)
    return folder


def edit(networks: Path, folder: Path, *more: Any, kind: str = "dense", image: str = "photo.png", out: str = "out"):
    guide = ["--guide", networks / "guide"] if kind == "guided" else []
    arguments = [networks / kind, networks / "tokenizer", "--image", folder / image,
                 "--segmentation", folder / "old.png", "--out", folder / out, "--tile", 8, *guide, *more]  # fmt: skip
    return main([str(each) for each in arguments])


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def edited_map(folder: Path, labels: np.ndarray, region: Any, label: Any = 5) -> Path:
    after = labels.copy()
    after[region] = label
    Image.fromarray(after).save(folder / "new.png")
    return folder / "new.png"


REGIONS = {
    "one pixel": (slice(20, 21), slice(33, 34)),
    "a part": (slice(5, 30), slice(10, 40)),
    "first corner": (slice(0, 3), slice(0, 3)),
    "last corner": (slice(-3, None), slice(-3, None)),
    "everything": (slice(None), slice(None)),
}


@pytest.mark.parametrize("kind", ["dense", "guided"])
@pytest.mark.parametrize("region", list(REGIONS))
def test_pixels_outside_the_edit_are_those_of_the_photo_and_inside_something_is_new(
    networks: Path, tmp_path: Path, region: str, kind: str
):
    colors, labels = write_photo(tmp_path)
    new = edited_map(tmp_path, labels, REGIONS[region])
    assert edit(networks, tmp_path, "--edited", new, "--candidates", 2, kind=kind) == 0
    masked = pixels(new) != labels
    for number in range(2):
        path = tmp_path / "out" / f"photo-seed-0-{number:02d}.png"
        found, notes = pixels(path), read_metadata(path)
        assert np.array_equal(found[~masked], colors[~masked]) and not np.array_equal(found, colors)
        assert notes["edited"] == masked.sum() and notes["rank"] in (1, 2) and notes["log_likelihood"] < 0
    assert (tmp_path / "out" / "photo-seed-0-sheet.png").exists()


@pytest.mark.parametrize("kind", ["dense", "guided"])
def test_what_lies_below_the_mask_changes_no_pixel_of_the_result(networks: Path, tmp_path: Path, kind: str):
    colors, labels = write_photo(tmp_path)
    new = edited_map(tmp_path, labels, REGIONS["a part"])
    masked = pixels(new) != labels
    other = np.where(masked[..., None], 255 - colors, colors)
    Image.fromarray(other).save(tmp_path / "other.png")
    for image in ("photo.png", "other.png"):
        assert edit(networks, tmp_path, "--edited", new, "--candidates", 2, kind=kind, image=image) == 0
    for number in range(2):
        one, two = (pixels(tmp_path / "out" / f"{stem}-seed-0-{number:02d}.png") for stem in ("photo", "other"))
        assert np.array_equal(one, two)


def test_the_seed_decides_and_the_number_of_candidates_changes_none(networks: Path, tmp_path: Path):
    _, labels = write_photo(tmp_path)
    new = edited_map(tmp_path, labels, REGIONS["a part"])
    for out, candidates, seed in (("one", 1, 0), ("five", 5, 0), ("again", 5, 0), ("other", 1, 7)):
        arguments = ("--edited", new, "--candidates", candidates, "--seed", seed)
        assert edit(networks, tmp_path, *arguments, kind="guided", out=out) == 0
    one, five = (pixels(tmp_path / out / "photo-seed-0-00.png") for out in ("one", "five"))
    assert np.array_equal(one, five)
    assert not np.array_equal(one, pixels(tmp_path / "other" / "photo-seed-7-00.png"))
    for number in range(5):
        name = f"photo-seed-0-{number:02d}.png"
        assert (tmp_path / "five" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("kind", ["dense", "guided"])
def test_guidance_makes_other_candidates_of_the_same_seed(networks: Path, tmp_path: Path, kind: str):
    _, labels = write_photo(tmp_path)
    given = ["--edited", edited_map(tmp_path, labels, REGIONS["a part"]), "--candidates", 1]
    for scale in (1, 1.5, 40):
        asked = [*given, "--guidance", scale]
        assert edit(networks, tmp_path, *asked, kind=kind, out=f"at-{scale}") == ExitCode.DONE
    made = [pixels(tmp_path / f"at-{scale}" / "photo-seed-0-00.png") for scale in (1, 40)]
    assert not np.array_equal(*made)
    assert "scale=1.5" in read_metadata(tmp_path / "at-1.5" / "photo-seed-0-00.png")["sampling"]
    assert edit(networks, tmp_path, *given, "--guidance", 2, kind=kind, out="at-40") == ExitCode.WRONG  # another


def test_candidates_are_ranked_by_their_likelihood(networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, labels = write_photo(tmp_path)
    edit(networks, tmp_path, "--edited", edited_map(tmp_path, labels, REGIONS["a part"]), "--candidates", 4)
    notes = [read_metadata(tmp_path / "out" / f"photo-seed-0-{number:02d}.png") for number in range(4)]
    ranked = sorted(notes, key=lambda note: note["rank"])
    assert [note["log_likelihood"] for note in ranked] == sorted((n["log_likelihood"] for n in notes), reverse=True)
    shown = read_metadata(tmp_path / "out" / "photo-seed-0-sheet.png")["candidates"]
    assert shown == [note["candidate"] for note in ranked]
    assert "rank 1 of 4" in capsys.readouterr().out


def test_several_classes_and_a_mask_make_one_edit_and_gray_edges_are_said(
    networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    colors, labels = write_photo(tmp_path)
    new = edited_map(tmp_path, labels, REGIONS["a part"], np.array([3, 4, 5], np.uint8).repeat(10))
    mask = np.zeros(labels.shape, np.uint8)
    mask[35:40, 50:60], mask[34, 50:60] = 255, 90
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert edit(networks, tmp_path, "--edited", new, "--mask", tmp_path / "mask.png", "--candidates", 1) == 0
    masked = (pixels(new) != labels) | (mask > 0)
    found = pixels(tmp_path / "out" / "photo-seed-0-00.png")
    assert np.array_equal(found[~masked], colors[~masked]) and (found != colors)[mask == 90].any()
    assert "10 pixels are gray" in capsys.readouterr().err


def test_an_edit_that_changes_nothing_gives_the_photo_back_and_says_so(
    networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    colors, _ = write_photo(tmp_path)
    assert edit(networks, tmp_path, "--edited", tmp_path / "old.png") == 0
    assert np.array_equal(pixels(tmp_path / "out" / "photo-seed-0-00.png"), colors)
    assert "changes nothing" in capsys.readouterr().out


def test_transparency_turns_and_inks_of_a_photo_are_kept_as_training_sees_them(networks: Path, tmp_path: Path):
    colors, labels = write_photo(tmp_path)
    new = edited_map(tmp_path, labels, REGIONS["a part"])
    masked = pixels(new) != labels
    alpha = (np.indices(labels.shape)[0] * 5).astype(np.uint8)
    Image.fromarray(np.dstack((colors, alpha))).save(tmp_path / "alpha.png")
    turned = Image.fromarray(np.rot90(colors))
    turned.save(tmp_path / "turned.png", exif=exif(6))  # stored lying, seen upright
    Image.fromarray(colors).convert("CMYK").save(tmp_path / "inks.jpg", quality=95)
    for image, expected in (("alpha.png", np.dstack((colors, alpha))), ("turned.png", colors), ("inks.jpg", None)):
        assert edit(networks, tmp_path, "--edited", new, "--candidates", 1, image=image) == 0
        found = pixels(tmp_path / "out" / f"{image.split('.')[0]}-seed-0-00.png")
        assert found.shape[:2] == labels.shape
        if expected is not None:
            assert np.array_equal(found[~masked], expected[~masked])
    assert np.array_equal(pixels(tmp_path / "out" / "alpha-seed-0-00.png")[..., 3], alpha)


def test_an_edit_replaces_no_candidate_of_another_edit_or_setting_and_is_made_again_as_it_was(
    networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _, labels = write_photo(tmp_path)
    new = edited_map(tmp_path, labels, REGIONS["a part"])
    asked = ("--edited", new, "--candidates", 2)
    assert edit(networks, tmp_path, *asked) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(before) == 3
    assert edit(networks, tmp_path, *asked) == 0
    assert edit(networks, tmp_path, *asked, "--temperature", 0.5) == 2
    assert "was made otherwise" in capsys.readouterr().err
    edited_map(tmp_path, labels, REGIONS["first corner"])
    assert edit(networks, tmp_path, *asked) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert edit(networks, tmp_path, *asked, "--seed", 1) == 0  # has names of its own


@pytest.mark.parametrize("kind", ["dense", "guided"])
def test_an_edit_that_is_killed_goes_on_to_the_same_files_and_one_that_is_finished_is_left_alone(
    networks: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
):
    _, labels = write_photo(tmp_path)
    asked = ("--edited", edited_map(tmp_path, labels, REGIONS["a part"]), "--candidates", 3, "--save-every", 0)
    save, there = partial.save_all, []  # codes at every save

    def killed(paths: Any, digests: Any, state: Any) -> None:
        save(paths, digests, state)
        there.append(int((state.codes >= 0).sum()))
        if len(there) == 20:
            raise KeyboardInterrupt

    assert edit(networks, tmp_path, *asked, kind=kind, out="whole") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial, "save_all", killed)
        with pytest.raises(KeyboardInterrupt):
            edit(networks, tmp_path, *asked, kind=kind, out="killed")
        assert not list((tmp_path / "killed").glob("*.png"))
        assert edit(networks, tmp_path, *asked, kind=kind, out="killed") == 0
    assert there[20] >= there[19] > there[0]  # what was sampled is not sampled again
    whole, again = (
        {path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("whole", "killed")
    )
    assert whole == again and len(whole) == 4
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EditJob, "run", None)  # nothing is sampled
        assert edit(networks, tmp_path, *asked, kind=kind, out="killed") == 0
    assert "there already" in capsys.readouterr().out


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def test_a_page_without_its_packages_says_how_to_get_them_and_an_edit_without_a_photo_what_is_missing(
    networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    known = [str(networks / "dense"), str(networks / "tokenizer")]
    assert main([*known, "--serve"]) == ExitCode.WRONG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("pip install 'smalti[serve]'")
    write_photo(tmp_path)
    for given in (["--image", "photo.png"], ["--edited", "new.png"], ["--mask", "mask.png"]):
        assert main([*known, "--serve", *given]) == ExitCode.WRONG
        assert "leave --edited and --mask out" in capsys.readouterr().err
    for given, sentence in ((["--serve", "7860"], "HOST:PORT"), ([], "with --image and its map with --segmentation")):
        with pytest.raises(SystemExit):
            main([*known, *given])
        assert sentence in capsys.readouterr().err


def test_bad_input_is_refused_with_a_sentence(networks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, labels = write_photo(tmp_path)
    new = edited_map(tmp_path, labels, REGIONS["a part"])
    Image.fromarray(labels[:-1]).save(tmp_path / "small.png")
    Image.fromarray(np.full_like(labels, 77)).save(tmp_path / "unknown.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "taken").mkdir()
    Image.fromarray(labels).save(tmp_path / "taken" / "photo-seed-0-00.png")
    write_tokenizer(tmp_path / "other", seed=3, mask_aware=True)
    gpt, _ = write_pair(tmp_path / "pair")
    known = [networks / "dense", networks / "tokenizer", "--image", tmp_path / "photo.png",
             "--segmentation", tmp_path / "old.png", "--out", tmp_path / "out"]  # fmt: skip
    for change, sentence in (
        (["--edited", tmp_path / "small.png"], "must have the photo's 45 x 70 pixels"),
        (["--mask", tmp_path / "small.png"], "must have the photo's 45 x 70 pixels"),
        (["--edited", tmp_path / "unknown.png"], "label that the prior does not know"),
        (["--edited", tmp_path / "text.png"], "cannot be used"),
        (["--image", tmp_path / "text.png", "--edited", new], "the photo"),
        ([], "--edited"),
        (["--edited", new, "--out", tmp_path / "taken"], "was not written by this command"),
        (["--edited", new, "--guide", networks / "guide"], "leave --guide out"),
        (["--edited", new, "--guide", gpt], "kind editor"),
    ):
        assert main([str(each) for each in (*known, *change)]) == ExitCode.WRONG
        assert sentence in capsys.readouterr().err
    for folder, tokenizer, sentence in (
        (gpt, networks / "tokenizer", "use smalti sample"),
        (networks / "dense", tmp_path / "other", "learnt the codes of the tokenizer"),
        (networks / "guided", networks / "tokenizer", "--guide FOLDER"),
    ):
        assert main([str(each) for each in (folder, tokenizer, *known[2:], "--edited", new)]) == ExitCode.WRONG
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
