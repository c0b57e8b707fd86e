"""The measurement of the data pipeline, at a tiny size."""

import json

import pytest
from fixtures.shards import encoded, photo

from smalti.launch.bench import __main__, data


def test_all_figures_are_measured_and_printed(tmp_path, capsys):
    sizes = {"samples": 128, "photos": 1, "megapixels": 0.6, "rounds": 1, "shards": 600, "folder": tmp_path}
    assert __main__.main(["data", *(text for name, size in sizes.items() for text in (f"--{name}", str(size)))]) == 0
    said = capsys.readouterr().out
    *table, last = said.splitlines()
    figures = json.loads(last)
    assert set(figures) == {
        "stream_vs_webdataset",
        "stream_vs_webdataset_taming",
        "stream_vs_webdataset_lanczos",
        "taming_per_s",
        "remote_ms_20",
        "pack_bytes_per_file",
        "codes_us",
        "resume_vs_cold",
        "crop_vs_pillow_16mp",
        "crop_vs_pillow_16mp_unpacked",
        "start_s_10k_shards",
        "cache_over_limit",
    }
    assert all(value > 0 for value in figures.values())
    assert all(any(line.startswith(f"{name} ") for line in table) for name in figures)
    assert "webdataset, bytes in order" in said and "mosaicml-streaming, bytes shuffled" in said
    assert list(tmp_path.iterdir()) == []


def test_a_photo_can_be_made_of_real_ones(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(photo(20, 30), "PNG"))
    made = data._photo(50, 70, 0, tmp_path)
    assert made.shape == (50, 70, 3)
    assert (made[20:40, 30:60] == photo(20, 30)).all()
    with pytest.raises(FileNotFoundError):
        data._photo(50, 70, 0, tmp_path / "nowhere")
