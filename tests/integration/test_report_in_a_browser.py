"""The page of ``smalti report`` in Chromium: no error on the console, and what is touched moves."""

from pathlib import Path
from typing import Any

import pytest
from fixtures.browser import needs_chromium, opened, until
from fixtures.reported import write_run

from smalti.launch import report

pytest.importorskip("playwright", reason="not installed: playwright")
pytestmark = [pytest.mark.integration, needs_chromium]

LINE = "Bokeh.documents[0].roots()[0].renderers[0].data_source.data"
IMAGE = "document.querySelector('dialog img').getBoundingClientRect()"
CLOSELY = """() => {
  const view = document.querySelector("dialog img"), room = view.parentElement;
  const image = view.getBoundingClientRect(), box = room.getBoundingClientRect();
  return { left: image.left, top: image.top, width: image.width, height: image.height, natural: view.naturalWidth,
    scrolled: [room.scrollLeft, room.scrollTop], room: [box.left, box.top, room.clientWidth, room.clientHeight],
    said: document.getElementById("scaled").textContent, alt: view.alt };
}"""


def written(folder: Path) -> Path:
    runs = [write_run(folder / "first", "demo_vqgan"), write_run(folder / "second", "demo_vqgan")]
    images = [str(path) for path in (runs[0] / "images").iterdir()]
    assert report.main([*map(str, runs), "--images", *images, "--out", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_a_visitor_smooths_slides_and_looks_closely_without_an_error(tmp_path: Path, width: int):
    with opened(written(tmp_path).as_uri(), width, 1000) as page:
        until(page, "window.Bokeh && Bokeh.documents.length && document.querySelector('.plot .bk-Figure')")
        assert page.locator(".plot .bk-Figure").count() >= 3
        assert page.evaluate(f"[...{LINE}.smooth]") == page.evaluate(f"[...{LINE}.value]")
        page.locator("#smoothing").fill("0.9")
        assert page.evaluate(f"[...{LINE}.smooth]") != page.evaluate(f"[...{LINE}.value]")
        page.locator(".steps").first.fill("0")
        assert page.locator(".step").evaluate_all("all => all.map(step => !step.hidden)") == [True, False, False, True]
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")

        page.locator("button.zoom").first.click()
        until(page, "document.querySelector('dialog').open")
        look_closely(page)
        page.keyboard.press("Escape")
        assert not page.evaluate("document.querySelector('dialog').open")


def look_closely(page: Any) -> None:
    """By keys, wheel and drag, in an image that is open."""
    seen = page.evaluate(CLOSELY)
    left, top, across, down = seen["room"]
    assert seen["alt"] and seen["width"] <= across + 1 and seen["height"] <= down + 1  # all of it
    page.keyboard.press("1")
    seen = page.evaluate(CLOSELY)
    assert seen["width"] == seen["natural"] == 1024 and seen["said"] == "100 %"
    for _ in range(6):
        page.keyboard.press("+")
    seen = page.evaluate(CLOSELY)
    assert seen["width"] == pytest.approx(1024 * 1.25**6, rel=0.01)

    x, y = left + across / 3, top + down / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    until(page, f"{IMAGE}.width > {seen['width'] * 1.3}")
    larger = page.evaluate(CLOSELY)
    for side, length, at in (("left", "width", x), ("top", "height", y)):  # what lay below the pointer lies there still
        assert (at - larger[side]) / larger[length] == pytest.approx((at - seen[side]) / seen[length], abs=0.003)

    page.mouse.down()
    page.mouse.move(x - 60, y + 40, steps=4)
    page.mouse.up()
    moved = page.evaluate(CLOSELY)
    assert moved["left"] - larger["left"] == pytest.approx(-60, abs=1)
    assert moved["top"] - larger["top"] == pytest.approx(40, abs=1)
    page.keyboard.press("ArrowRight")
    until(page, f"document.querySelector('dialog .view').scrollLeft > {moved['scrolled'][0]}")
    page.keyboard.press("0")
    assert page.evaluate(CLOSELY)["width"] <= across + 1
    page.locator("#scale").fill("200")
    assert page.evaluate(CLOSELY)["width"] == 2048


def test_two_fingers_make_an_image_larger_and_one_moves_it(tmp_path: Path):
    with opened(written(tmp_path).as_uri(), 400, 800, touch=True) as page:
        page.locator("button.zoom").first.tap()
        until(page, "document.querySelector('dialog').open")
        before = page.evaluate(CLOSELY)
        x, y = 200, before["top"] + before["height"] / 2
        fingers = page.context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            fingers.send("Input.dispatchTouchEvent", {
                "type": kind, "touchPoints": [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)],
            })  # fmt: skip

        touch("touchStart", (x - 20, y), (x + 20, y))
        for apart in (40, 80, 120, 160):
            touch("touchMove", (x - apart, y), (x + apart, y))
        touch("touchEnd")
        until(page, f"Math.abs({IMAGE}.width / {before['width']} - 8) < 0.2")
        larger = page.evaluate(CLOSELY)
        # What was between the fingers still is, but for what could not be moved while all of the image was seen.
        assert (x - larger["left"]) / larger["width"] == pytest.approx(0.5, abs=0.05)
        touch("touchStart", (x, y))
        touch("touchMove", (x + 30, y))
        touch("touchMove", (x + 70, y))
        touch("touchEnd")
        until(page, f"Math.abs({IMAGE}.left - {larger['left']} - 70) < 2")
