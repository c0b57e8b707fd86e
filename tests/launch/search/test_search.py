"""A search evaluates every combination of sampling settings once, and sorts them by a figure."""

import json
import math

import pytest
from fixtures import pairs
from fixtures.feature_networks import write_network
from fixtures.priors import grids, npy, write_code_shards
from fixtures.shards import write_images
from fixtures.tokenizers import CODES, FACTOR, write_tokenizer
from PIL import Image

from smalti.launch.__main__ import main
from smalti.launch.search.grid import panel, table
from smalti.trainer.checkpoint import model_files

WINDOW = (3, 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    write_tokenizer(folder / "tokenizer")
    pairs.write_prior(folder / "prior", folder / "tokenizer", "class", window=WINDOW)
    write_images(folder / "images", 9, classes=5, side=WINDOW[0] * FACTOR)
    write_network(folder / "net.pt")
    return folder


def asked(place, out, *more, options=""):
    judged = f"--features {place / 'net.pt'} --tokenizer {place / 'tokenizer'} --batch 4 {options}"
    return ["search", str(place / "prior"), str(place / "images"), "--out", str(out), "--evaluate", judged, *more]


def results(out):
    return json.loads((out / "results.json").read_text())["settings"]


def test_each_combination_is_what_evaluate_says_of_it_and_none_is_done_twice(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(asked(place, out, "--guidance", "1", "2", "--top-k", "0", "3")) == 0
    lines = capsys.readouterr().out.splitlines()
    found = results(out)
    assert [(each["guidance"], each["top_k"]) for each in found] == [(1.0, None), (1.0, 3), (2.0, None), (2.0, 3)]
    distances = [float(line.split("|")[5]) for line in lines[2:]]
    assert len(distances) == 4 and distances == sorted(distances) and len(set(distances)) == 4
    one = ["--guidance", "2", "--top-k", "3", "--features", str(place / "net.pt"), "--batch", "4"]
    one += ["--tokenizer", str(place / "tokenizer"), "--out", str(tmp_path / "one.json")]
    assert main(["evaluate", str(place / "prior"), str(place / "images"), *one]) == 0
    assert json.loads((tmp_path / "one.json").read_text())["figures"] == found[3]["figures"]
    Image.open(out / "plot.png").load()
    capsys.readouterr()
    assert main(asked(place, out, "--guidance", "1", "2", "3", "--top-k", "0", "3")) == 0
    said = capsys.readouterr().err
    assert said.count("guidance") == 2 and "5 of 6: guidance 3, temperature 1, top-k all, top-p all" in said
    assert results(out)[:4] == found and len(results(out)) == 6


def test_codes_tell_temperatures_apart_and_a_cut_is_infinitely_far(place, tmp_path, capsys):
    metadata = model_files.read_metadata(place / "tokenizer")
    members = [
        {"codes.npy": npy(grid), "cls": b"%d" % (number % 5)} for number, grid in enumerate(grids(9, WINDOW, CODES))
    ]
    write_code_shards(tmp_path / "codes", metadata, members)
    out = tmp_path / "out"
    asked_for = ["search", str(place / "prior"), str(tmp_path / "codes"), "--out", str(out), "--metric", "drawn_nll"]
    assert main([*asked_for, "--temperature", "1", "2", "4", "--top-k", "0", "2"]) == 0
    first = capsys.readouterr().out.splitlines()[2].split("|")
    best = min(results(out), key=lambda each: each["figures"]["drawn_nll"])
    assert float(first[2]) == best["temperature"] and first[3].strip() == "all"
    cut = [each["figures"] for each in results(out) if each["top_k"] == 2]
    assert all(each["drawn_nll"] == math.inf and 0 < each["drawn_kept"] < 1 for each in cut)
    assert (out / "plot.png").exists()
    assert main([*asked_for[:4], str(tmp_path / "cut"), *asked_for[5:], "--top-k", "2"]) == 0
    assert not (tmp_path / "cut" / "plot.png").exists()  # no point of it is finite


def test_the_best_is_first_whether_a_figure_is_to_be_small_or_large():
    done = [{"guidance": scale, "figures": {"fid": scale, "precision": scale / 4}} for scale in (2.0, 1.0, 3.0)]
    axes = {"guidance": [2.0, 1.0, 3.0]}
    assert [line.split(" ")[1] for line in table(done, axes, "fid")[2:]] == ["1", "2", "3"]
    assert [line.split(" ")[1] for line in table(done, axes, "precision")[2:]] == ["3", "2", "1"]
    assert panel(done, axes, "fid").lines == {"fid": [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]}


def test_what_cannot_be_is_told_in_a_line(place, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(asked(place, out, "--metric", "beauty")) == 2
    assert "the evaluation has no figure 'beauty'; it has" in capsys.readouterr().err
    assert main(asked(place, out, "--temperature", "0")) == 2
    assert "temperature" in capsys.readouterr().err
    assert main(asked(place, out)) == 0
    assert main(asked(place, out, options="--seed 1")) == 2
    assert "holds a search of something else" in capsys.readouterr().err
