import pytest
from made_pictures import encoded, photo

from smalti.launch import bench_data


def test_all_figures_are_measured_and_printed(tmp_path, capsys):
    arguments = ["--samples", "128", "--photos", "1", "--megapixels", "0.6", "--rounds", "1", "--folder", str(tmp_path)]
    figures = bench_data.run(arguments)
    assert set(figures) == {
        "stream_vs_webdataset",
        "resume_vs_cold",
        "crop_vs_pillow_16mp",
        "crop_vs_pillow_16mp_unpacked",
    }
    assert all(value > 0 for value in figures.values())
    said = capsys.readouterr().out
    assert all(name in said for name in figures) and "webdataset, bytes in order" in said
    assert list(tmp_path.iterdir()) == []


def test_a_photo_can_be_made_of_real_ones(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(photo(20, 30), "PNG"))
    made = bench_data._photo(50, 70, 0, tmp_path)
    assert made.shape == (50, 70, 3)
    assert (made[20:40, 30:60] == photo(20, 30)).all()
    with pytest.raises(FileNotFoundError):
        bench_data._photo(50, 70, 0, tmp_path / "nowhere")
