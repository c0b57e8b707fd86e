"""The page of ``smalti edit --serve`` in Chromium: from uploads to downloads, with networks that know nothing."""

import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fixtures.browser import needs_chromium, opened
from fixtures.editors import write_editors, write_photo
from PIL import Image

from smalti.trainer.images.decode import decode_map

pytest.importorskip("gradio", reason="not installed: gradio", exc_type=ImportError)
pytest.importorskip("playwright", reason="not installed: playwright")
pytestmark = [pytest.mark.integration, needs_chromium]

SIZE = (45, 70)


class Server(NamedTuple):
    url: str
    files: Path  # what the tests give it
    own: Path  # where its temporary files are
    process: Any


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    networks, files, own = (tmp_path_factory.mktemp(name) for name in ("networks", "files", "own"))
    write_editors(networks)
    write_photo(files, SIZE)
    command = [sys.executable, "-m", "smalti.launch.edit", networks / "guided", networks / "tokenizer", "--guide",
               networks / "guide", "--candidates", 2, "--tile", 8, "--serve", "127.0.0.1:0"]  # fmt: skip
    process = subprocess.Popen(
        [str(word) for word in command],
        env={**os.environ, "TMPDIR": str(own), "OMP_NUM_THREADS": "1", "GRADIO_ALLOWED_PATHS": "/"},
        cwd=files, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = iter(process.stdout.readline, "")
    yield Server(next(line.strip() for line in lines if line.startswith("http")), files, own, process)
    process.terminate()
    assert process.wait(60) == 0
    assert list(own.iterdir()) == []  # nothing of its visitors stays


def give(page: Any, image: Path, segmentation: Path) -> None:
    for name, path in (("image", image), ("segmentation", segmentation)):
        clear = page.locator(f"#{name} button[aria-label=Clear], #{name} button[aria-label='Remove this file']")
        if clear.count():
            clear.first.click()
        page.locator(f"#{name} input[type=file]").set_input_files(path)
        page.locator(f"#{name}").get_by_text(path.suffix).first.wait_for()
    page.click("#open")


def says(page: Any, text: str) -> None:
    page.locator("#said").get_by_text(text).wait_for()


def stroke(page: Any, color: int, *points: tuple[float, float]) -> None:
    """Draws with a color of the palette, by its place, through points in shares of the map's canvas."""
    swatch = page.locator("#map button.color").nth(color)
    if not swatch.is_visible():
        page.click("#map button[aria-label=Color]")
    swatch.click()
    box = page.locator("#map canvas").first.bounding_box()
    for number, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        if number == 0:
            page.mouse.down()
    page.mouse.up()


def download(page: Any, name: str) -> bytes:
    with page.expect_download() as found:
        page.locator(f"#{name}").click()
    return Path(found.value.path()).read_bytes()


def pixels(data: bytes, folder: Path) -> np.ndarray:
    (folder / "found.png").write_bytes(data)
    with Image.open(folder / "found.png") as image:
        return np.asarray(image)


def test_a_visitor_opens_draws_chooses_keeps_downloads_and_undoes(server: Server, tmp_path: Path):
    before = decode_map((server.files / "old.png").read_bytes())
    photo = pixels((server.files / "photo.png").read_bytes(), tmp_path)
    with opened(server.url) as page:
        page.click("#sample")
        says(page, "open a photo and its label map first")
        give(page, server.files / "photo.png", server.files / "old.png")
        says(page, "Choose a class")
        page.locator("#map").get_by_label("Color").wait_for()
        page.locator("#photo img").wait_for()

        stroke(page, 5, (0.4, 0.4), (0.6, 0.6))
        page.locator("#preview img").wait_for()
        says(page, "pixels will be made anew")
        page.click("#keep")
        says(page, "no candidate is chosen")
        page.click("#sample")
        page.locator("#candidates button.thumbnail-item").nth(1).click()
        page.click("#keep")
        says(page, "Kept.")

        labels, made = decode_map(download(page, "map-file")), pixels(download(page, "image-file"), tmp_path)
        drawn = labels != before
        assert labels.shape == SIZE and set(np.unique(labels[drawn])) == {5} and 10 < drawn.sum() < 500
        assert drawn[SIZE[0] // 2, SIZE[1] // 2] and not drawn[:4].any() and not drawn[-4:].any()
        assert np.array_equal(made[~drawn], photo[~drawn]) and not np.array_equal(made[drawn], photo[drawn])

        # White is the last color: the same place once more, as the class that it has now.
        stroke(page, 6, (0.5, 0.5), (0.52, 0.52))
        says(page, "pixels will be made anew")
        page.click("#sample")
        page.locator("#candidates button.thumbnail-item").nth(0).click()
        page.click("#keep")
        says(page, "Kept.")
        assert np.array_equal(decode_map(download(page, "map-file")), labels)
        refined = pixels(download(page, "image-file"), tmp_path)
        changed = (refined != made).any(-1)
        assert 0 < changed.sum() < 40 and changed[15:30, 25:45].sum() == changed.sum()

        page.click("#undo")
        says(page, "This is how it was before.")
        assert np.array_equal(pixels(download(page, "image-file"), tmp_path), made)
        page.click("#undo")
        page.locator("#legend").get_by_text("class 5", exact=True).wait_for()  # which has no share of the map any more
        assert np.array_equal(pixels(download(page, "image-file"), tmp_path), photo)
        assert np.array_equal(decode_map(download(page, "map-file")), before)
        page.click("#undo")
        says(page, "nothing to undo")


def test_uploads_that_do_not_fit_are_refused_with_a_sentence(server: Server):
    labels = decode_map((server.files / "old.png").read_bytes())
    Image.fromarray(labels[:-1]).save(server.files / "small.png")
    Image.fromarray(np.full_like(labels, 77)).save(server.files / "unknown.png")
    (server.files / "text.png").write_text("no image")
    with opened(server.url) as page:
        page.click("#open")
        says(page, "two files are needed")
        for image, segmentation, sentence in (
            ("photo.png", "small.png", "the map small.png must have the photo's 45 x 70 pixels"),
            ("photo.png", "unknown.png", "the map unknown.png has a label that the prior does not know: it holds 77"),
            ("text.png", "old.png", "the photo text.png cannot be used"),
        ):
            give(page, server.files / image, server.files / segmentation)
            says(page, sentence)
        assert "Traceback" not in page.content()


def test_no_file_but_its_own_is_served_and_no_other_name_than_this_machines(server: Server):
    def status(path: str, host: str | None = None) -> int:
        asked = urllib.request.Request(f"{server.url}{path}", headers={"Host": host} if host else {})
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("/") == 200
    for path in ("/etc/passwd", server.files / "photo.png", "photo.png", Path(__file__)):
        assert status(f"/gradio_api/file={urllib.parse.quote(str(path))}") == 403
    assert status("/", host="elsewhere.example") == 400
