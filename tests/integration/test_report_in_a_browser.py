"""The page of ``smalti report`` in Chromium: no error on the console, and what is touched moves."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fixtures.reported import write_run

from smalti.launch import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not CHROMIUM, reason="not installed: chromium"),
]
# A visitor: smooths the curves, moves the slider of the previews, opens an image and doubles its size.
VISIT = """<script>addEventListener("load", () => setTimeout(() => {
  const input = (element, value) => { element.value = value; element.dispatchEvent(new Event("input")); };
  const line = () => Bokeh.documents[0].roots()[0].renderers[0].data_source.data;
  const before = [...line().smooth];
  input(document.getElementById("smoothing"), 0.9);
  const after = [...line().smooth];
  input(document.querySelector(".steps"), 0);
  document.querySelector("button.zoom").click();
  input(document.getElementById("scale"), 200);
  const view = document.querySelector("dialog img");
  document.title = JSON.stringify({
    plots: document.querySelectorAll(".plot canvas, .plot .bk-Figure").length,
    before, after, raw: [...line().value],
    shown: [...document.querySelectorAll(".step")].map(step => !step.hidden),
    open: document.querySelector("dialog").open, width: view.style.width, natural: view.naturalWidth,
    overflow: document.documentElement.scrollWidth > innerWidth,
  });
}, 2000))</script></body>"""


def visited(page: Path, width: int) -> tuple[str, str]:
    """What a visit left in the page, and what the browser wrote on its console."""
    command = [
        CHROMIUM, "--headless=new", "--disable-gpu", f"--window-size={width},1200", "--virtual-time-budget=20000",
        "--enable-logging=stderr", f"--user-data-dir={page.parent / f'profile-{width}'}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return ended.stdout, "\n".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("width", [400, 900, 1600])
def test_a_visitor_smooths_slides_and_zooms_without_an_error(tmp_path: Path, width: int):
    runs = [write_run(tmp_path / "first", "demo_vqgan"), write_run(tmp_path / "second", "demo_vqgan")]
    images = [str(path) for path in (runs[0] / "images").iterdir()]
    arguments = [*map(str, runs), "--images", *images, "--out", str(tmp_path / "report.html")]
    assert report.main(arguments) == 0
    page = tmp_path / "visited.html"
    page.write_text((tmp_path / "report.html").read_text().replace("</body>", VISIT))

    dom, console = visited(page, width)

    assert not re.search(r"ERROR|Uncaught|Refused|violat", console), console
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title, dom[:2000]
    seen = json.loads(title[1])
    assert seen["plots"] >= 3
    assert seen["before"] == seen["raw"] != seen["after"]
    assert seen["shown"] == [True, False, False, True]  # the first run's slider was moved
    assert seen["open"] and seen["width"] == f"{2 * seen['natural']}px"
    assert not seen["overflow"]
