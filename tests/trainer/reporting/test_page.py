"""One page about runs: what is in it, and that nothing else is needed."""

import base64
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.reported import write_run
from PIL import Image

from smalti.launch import report
from smalti.models.quantizers.usage import USE_BINS
from smalti.trainer.jobs.environment import FILE
from smalti.trainer.reporting import images
from smalti.trainer.reporting.differences import config_differences
from smalti.trainer.reporting.page import page, titles
from smalti.trainer.reporting.runs import reported_run
from smalti.trainer.training import arrays


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two VQGANs and a prior."""
    place = tmp_path_factory.mktemp("runs")
    folders = [
        write_run(place / "first", "demo_vqgan"),
        write_run(place / "second", "demo_vqgan", loop__max_steps=99),
        write_run(place / "prior", "demo_prior"),
    ]
    start = {"began": "2026-01-01", "hosts": ["<b>host</b>"], "ranks": 2, "device": "CPU", "versions": {}, "job": {}}
    (folders[0] / FILE).write_text(json.dumps(start) + "\nnot JSON\n")
    Image.new("RGB", (300, 200), (200, 30, 30)).save(place / "a<b>.png")
    use = torch.zeros(1 + USE_BINS)
    use[[0, -1]] = torch.tensor([48.0, 16.0])
    for folder in folders[:2]:
        (folder / arrays.FILE).write_text(arrays.lines(40, {"code_use": use}))
    nats = torch.arange(1.0, 7.0).view(2, 3)
    nats[1, 2] = math.nan
    (folders[2] / arrays.FILE).write_text(arrays.lines(20, {"nll_by_position": nats, "unknown": nats}))
    runs = [reported_run(folder) for folder in folders]
    return page(runs, ["said <so>"], [place / "a<b>.png"], {"pack": 3.0})


def test_the_page_asks_nothing_of_the_network_and_stays_small(two: str):
    assert "default-src 'none'" in two
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"([^\"]{5})", two)
    assert len(loaded) > 5 and set(loaded) == {"data:"}
    assert len(two) < 5_000_000


def test_names_and_lines_of_others_are_text_and_never_html(two: str):
    assert "said &lt;so&gt;" in two and "<so>" not in two
    assert "&lt;b&gt;host&lt;/b&gt;" in two and "<b>host" not in two
    assert 'alt="a&lt;b&gt;.png (300 x 200)"' in two


def test_every_metric_has_one_plot_with_all_runs_in_it(two: str):
    captions = re.findall(r'aria-label="(val/psnr[^"]*)"', two)
    assert captions == ["val/psnr, dB. first: 7.25 at step 0, 21.5 at step 40; second: 7.25 at step 0, 21.5 at step 40"]
    assert len(re.findall(r'aria-label="(?:val|train)/', two)) == 5  # psnr, usage, rec_loss; nll and its share


def test_code_use_is_one_histogram_of_all_runs_and_a_prior_has_a_map_of_its_nll(two: str):
    others = re.findall(r'aria-label="((?!val/|train/|an image)[^"]*)"', two)
    said = "48 of 64 codes not chosen, at step 40"
    assert others == [
        f"How many codes are used how often; the leftmost were not chosen at all. first: {said}; second: {said}",
        "Validation nats per code by place, 2 x 3, at step 20: 1 to 5, prior",
    ]
    assert two.count('<figure class="plot">') == 7


def test_what_differs_between_runs_is_a_table(two: str):
    row = re.search(r"<tr><td>loop.max_steps</td>(.*?)</tr>", two)
    assert row and row[1] == "<td>160</td><td>99</td>"


def test_a_damaged_line_about_a_start_is_left_out(two: str):
    assert two.count("<h3>Starts</h3>") == 1 and "not JSON" not in two


def test_previews_of_two_steps_have_a_slider_and_a_difference(tmp_path: Path):
    run = write_run(tmp_path / "run", "demo_vqgan")
    shown = images.previews(run, 256, 1_000_000)
    assert [preview.step for preview in shown] == [20, 40]
    names = [[name for name, _ in preview.strips] for preview in shown]
    assert names == [["image", "reconstruction", "difference, 4 times"]] * 2
    assert [gray(shown[0].strips[row][1].url) for row in range(3)] == [100, 90, 40]
    assert gray(shown[1].strips[2][1].url) == 0
    assert 'data-steps="20,40"' in page([reported_run(run)], [], [], {})


def gray(url: str) -> int:
    """The level of an image that is one gray."""
    data = base64.b64decode(url.removeprefix("data:image/webp;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.ptp(pixels) <= 2
    return round(float(pixels.mean()))


def test_previews_of_many_steps_are_thinned_out_and_end_with_the_last(tmp_path: Path):
    run = write_run(tmp_path / "run", "demo_vqgan")
    for step in range(50, 150):
        Image.new("RGB", (16, 16)).save(run / "images" / f"reconstructions-{step:08d}.png")
    shown = [preview.step for preview in images.previews(run, None, 1_000_000)]
    assert len(shown) <= images.MOST_STEPS and shown[-1] == 149 and shown == sorted(shown)


def test_an_image_takes_no_more_bytes_than_it_may_and_says_that_it_was_shrunk():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8))
    small = images.encoded(noise, 60_000)
    assert len(small.url) < 61_000
    assert small.shrunk > 1 and small.size == (1024 // small.shrunk, 1024 // small.shrunk)


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path):
    runs = [reported_run(write_run(tmp_path / place / "vqgan", "demo_vqgan")) for place in ("a", "b")]
    assert list(titles(runs)) == [str(run.folder) for run in runs]


def test_configs_differ_in_values_and_in_keys():
    first = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    second = {"a": {"b": 1, "c": [1, 3]}, "e": {}}
    assert config_differences({"first": first, "second": second}) == [
        ("a.c", ["[1, 2]", "[1, 3]"]), ("d", ["None", "-"]), ("e", ["-", "{}"]),
    ]  # fmt: skip


def test_the_command_writes_the_page_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = write_run(tmp_path / "run", "demo_vqgan")
    (tmp_path / "seconds.txt").write_text("VQGAN 60\n")

    code = report.main([str(run), "--seconds", str(tmp_path / "seconds.txt"), "--out", str(tmp_path / "report.html")])

    assert code == 0 and "report.html" in capsys.readouterr().out
    assert "<meter" in (tmp_path / "report.html").read_text()
