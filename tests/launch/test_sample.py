"""The command samples the same images however it goes about it, says how in their metadata, and refuses in clear."""

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from fixtures import pairs, runs
from PIL import Image

from smalti.launch import sample
from smalti.models.conditions import ClassConfig
from smalti.models.vqgan.seams import seam
from smalti.trainer.checkpoint import model_files
from smalti.trainer.images import big_tiff
from smalti.trainer.sampling import partial
from smalti.trainer.sampling.asked_images import class_folders
from smalti.trainer.sampling.job import SamplingJob

SIZE = "20x28"  # 5 x 7 codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return pairs.write_tokenizer(folder / "tokenizer")


@pytest.fixture(scope="module", params=["none-gpt", "none-neighborhood"])
def prior(request, folder, tokenizer):
    return pairs.write_prior(folder / request.param, tokenizer, *request.param.split("-"))


@pytest.fixture(scope="module")
def of_maps(folder, tokenizer):
    return pairs.write_prior(folder / "segmentation", tokenizer, "segmentation")


@pytest.fixture(scope="module")
def of_classes(folder, tokenizer):
    return pairs.write_prior(folder / "class", tokenizer, "class")


def sampled(capsys, out, *arguments):
    """Run the command; the pixels of its images by name, previews and grids left out."""
    code = sample.main([*map(str, arguments), "--out", str(out)])
    assert code == 0, capsys.readouterr().err
    return pixels(out)


def pixels(out):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(out.glob("*-????*.*"))}


def same(one, other):
    assert one.keys() == other.keys() and one
    return all(np.array_equal(one[name], other[name]) for name in one)


def refused(capsys, tmp_path, *arguments):
    """What the command says."""
    assert sample.main([*map(str, arguments), "--out", str(tmp_path)]) == 2
    assert not list(tmp_path.glob("*.png"))
    return capsys.readouterr().err


def test_the_same_seed_samples_the_same_images_in_every_batch_and_mode(capsys, tmp_path, prior, tokenizer):
    common = (prior, tokenizer, "--size", SIZE, "--seed", 3, "--count", 3)
    first = sampled(capsys, tmp_path / "a", *common)
    assert list(first) == ["seed-3-0000", "seed-3-0001", "seed-3-0002"]
    assert not np.array_equal(first["seed-3-0000"], first["seed-3-0001"])
    for number, options in enumerate([("--batch", 3), ("--mode", "serial", "--batch", 2)]):
        assert same(first, sampled(capsys, tmp_path / str(number), *common, *options))
    assert not same(first, sampled(capsys, tmp_path / "greedy", *common, "--greedy"))
    other = sampled(capsys, tmp_path / "seed", prior, tokenizer, "--size", SIZE, "--seed", 4, "--count", 3)
    assert not np.array_equal(first["seed-3-0000"], other["seed-4-0000"])


def test_ranks_share_the_images_and_sample_the_same(capsys, tmp_path, of_maps, tokenizer):
    labels(tmp_path / "segmentation.png", (20, 28))
    common = [of_maps, tokenizer, "--segmentation", tmp_path / "segmentation.png", "--seed", 3, "--count", 3, "--grid"]
    alone = sampled(capsys, tmp_path / "alone", *common)
    shared = [*map(str, common), "--out", str(tmp_path / "shared")]
    job = processes.command("smalti.launch.sample", shared, 2, {"OMP_NUM_THREADS": "1"})
    ended = job.wait()
    assert ended.codes == [0, 0], ended.log
    assert same(alone, pixels(tmp_path / "shared"))
    assert [len(re.findall("20 x 28", output)) for output in ended.outputs] == [2, 1]
    sheets = [tmp_path / part / "segmentation-seed-3-grid.png" for part in ("alone", "shared")]
    assert np.array_equal(*(np.asarray(Image.open(sheet)) for sheet in sheets))


def test_a_run_that_is_killed_in_the_middle_goes_on_to_the_same_image(capsys, tmp_path, prior, tokenizer):
    common = [prior, tokenizer, "--size", "48x48"]
    whole = sampled(capsys, tmp_path / "whole", *common)
    common = [*map(str, common), "--out", str(tmp_path / "killed"), "--save-every", "0", "--preview", "0"]
    job = processes.command("smalti.launch.sample", common, 1)
    kept = partial.path_of(tmp_path / "killed" / "seed-0-0000.png")
    deadline = time.monotonic() + 60
    while not kept.exists() or (np.load(kept)["codes"] >= 0).sum() < 20:
        assert time.monotonic() < deadline and processes.alive(job.pids[0]), job.output()
        time.sleep(0.01)
    job.signal(signal.SIGKILL, 0)
    job.wait()
    assert not (tmp_path / "killed" / "seed-0-0000.png").exists()
    before = np.load(kept)["codes"].copy()
    assert 20 <= (before >= 0).sum() < before.size

    there = []  # codes at every save of the run that goes on
    plain = partial.save_all

    def save_all(paths, digests, state):
        there.append(int((state.codes >= 0).sum()))
        plain(paths, digests, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial, "save_all", save_all)
        assert sample.main(common[:-2]) == 0
    assert there[0] >= (before >= 0).sum()  # what was sampled is not sampled again
    assert same(whole, pixels(tmp_path / "killed"))
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["seed-0-0000.png"]


def test_finished_images_are_left_alone_and_none_is_replaced_by_another(capsys, tmp_path, of_classes, tokenizer):
    common = (of_classes, tokenizer, "--size", SIZE, "--class", 2)
    sampled(capsys, tmp_path, *common)
    stamp = (tmp_path / "class-2-seed-0-0000.png").stat().st_mtime_ns
    capsys.readouterr()
    sampled(capsys, tmp_path, *common, "--count", 2, "--mode", "serial")
    assert "class-2-seed-0-0000.png: there already" in capsys.readouterr().out
    first = pixels(tmp_path)["class-2-seed-0-0000"]
    assert not np.array_equal(first, sampled(capsys, tmp_path, *common, "--class", 3)["class-3-seed-0-0000"])
    for change in (("--temperature", 3), ("--tile", 5, "--halo", 1)):
        assert sample.main([*map(str, (*common, *change)), "--out", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "class-2-seed-0-0000.png is there and was asked for otherwise" in said and "--out" in said
        elsewhere = sampled(capsys, tmp_path / change[0], *common, *change)
        assert not np.array_equal(first, elsewhere["class-2-seed-0-0000"]), change
    assert (tmp_path / "class-2-seed-0-0000.png").stat().st_mtime_ns == stamp


def test_a_file_of_the_users_is_never_replaced_by_an_image(capsys, tmp_path, prior, tokenizer):
    Image.new("RGB", (8, 8)).save(tmp_path / "seed-0-0000.png")
    before = (tmp_path / "seed-0-0000.png").read_bytes()
    assert sample.main([str(prior), str(tokenizer), "--size", SIZE, "--out", str(tmp_path)]) == 2
    assert "is not by this command" in capsys.readouterr().err
    assert (tmp_path / "seed-0-0000.png").read_bytes() == before


def test_metadata_say_how_an_image_was_made(capsys, tmp_path, of_maps, tokenizer):
    labels(tmp_path / "segmentation.png", (20, 28))
    sampled(
        capsys, tmp_path, of_maps, tokenizer, "--segmentation", tmp_path / "segmentation.png", "--seed", 9, "--top-k", 5
    )
    with Image.open(tmp_path / "segmentation-seed-9-0000.png") as image:
        notes = json.loads(image.text["smalti"])
    assert notes["seed"] == 9 and notes["image"] == 0 and notes["size"] == [20, 28]
    assert notes["prior"] == model_files.read_metadata(of_maps)["digest"]
    assert notes["tokenizer"] == model_files.read_metadata(tokenizer)["digest"]
    assert notes["precision"] == "float32"
    assert "top_k=5" in notes["sampling"] and "blended" in notes["decoded"] and len(notes["request"]) == 64


def test_another_precision_makes_another_image_and_does_not_go_on_in_the_same_file(
    capsys, tmp_path, of_maps, tokenizer
):
    common = (of_maps, tokenizer, "--segmentation", labels(tmp_path / "map.png", (20, 28)))
    sampled(capsys, tmp_path / "half", *common, "--precision", "bf16")
    with Image.open(tmp_path / "half" / "map-seed-0-0000.png") as image:
        assert json.loads(image.text["smalti"])["precision"] == "bfloat16"
    assert sample.main([str(part) for part in (*common, "--out", tmp_path / "half")]) == 2
    assert "was asked for otherwise" in capsys.readouterr().err


def labels(path, size, most=6):
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    numbers = (rows * 4 // size[0] + columns * 3 // size[1]).clamp(max=most)
    Image.fromarray(numbers.byte().numpy()).save(path)
    return path


def test_a_map_of_another_size_is_laid_over_the_image(capsys, tmp_path, of_maps, tokenizer):
    own, twice, odd = (
        labels(tmp_path / f"map{number}.png", size) for number, size in enumerate([(48, 48), (96, 96), (50, 49)])
    )
    common = (of_maps, tokenizer, "--greedy")
    first = sampled(capsys, tmp_path / "a", *common, "--segmentation", own)["map0-seed-0-0000"]
    assert first.shape == (48, 48, 3)
    stretched = sampled(capsys, tmp_path / "b", *common, "--segmentation", twice, "--size", "48x48")["map1-seed-0-0000"]
    assert np.array_equal(first, stretched)
    assert sampled(capsys, tmp_path / "c", *common, "--segmentation", odd)["map2-seed-0-0000"].shape == (48, 48, 3)


def test_several_sizes_are_sampled_in_one_run(capsys, tmp_path, of_classes, tokenizer):
    common = (of_classes, tokenizer, "--class", 1, "--count", 2)
    both = sampled(capsys, tmp_path / "both", *common, "--size", "12x16", "20x28")
    assert [image.shape[:2] for image in both.values()] == [(12, 16), (20, 28)] * 2
    one = sampled(capsys, tmp_path / "one", *common, "--size", "20x28")
    assert np.array_equal(both["class-1-seed-0-0001-20x28"], one["class-1-seed-0-0001"])


def test_classes_are_sampled_in_one_process_with_batches_across_them_and_a_folder_each(
    capsys, tmp_path, of_classes, tokenizer, monkeypatch
):
    together = []
    plain = SamplingJob._run
    monkeypatch.setattr(SamplingJob, "_run", lambda self, tasks: (together.append(len(tasks)), plain(self, tasks)))
    common = (of_classes, tokenizer, "--size", SIZE, "--seed", 3, "--count", 2)
    sampled(capsys, tmp_path / "all", *common, "--classes", "0-2,4", "--batch", 3)
    assert together == [3, 3, 2]
    assert sorted(folder.name for folder in (tmp_path / "all").iterdir()) == ["0", "1", "2", "4"]
    for label in (0, 1, 2, 4):
        alone = sampled(capsys, tmp_path / "alone", *common, "--class", label)
        beside = pixels(tmp_path / "all" / str(label))
        assert list(beside) == ["seed-3-0000", "seed-3-0001"]
        assert all(np.array_equal(beside[name], alone[f"class-{label}-{name}"]) for name in beside)
    capsys.readouterr()
    sampled(capsys, tmp_path / "all", *common, "--classes", "2-3")
    assert capsys.readouterr().out.count("there already") == 2
    assert len(pixels(tmp_path / "all" / "3")) == 2


def test_folders_of_classes_sort_by_number():
    condition = ClassConfig(classes=1000).build(8, (2, 2))
    assert [folder.name for folder in class_folders(condition, Path("out"), [7, 999])] == ["007", "999"]
    with pytest.raises(ValueError, match="knows 1000 numbers of cls, 0 to 999, got 1000"):
        class_folders(condition, Path("out"), [0, 1000])


def test_progress_tells_codes_a_second_and_the_time_left(capsys, tmp_path, of_classes, tokenizer):
    sampled(capsys, tmp_path, of_classes, tokenizer, "--class", 1, "--size", SIZE, "--count", 2, "--batch", 2)
    assert re.search(r"70/70 codes  \d+ codes/s  left 0 s\n", capsys.readouterr().out)


@pytest.mark.parametrize("form", ["png", "tiff"])
def test_the_seam_between_tiles_is_told_for_every_image_in_tiles(capsys, tmp_path, of_classes, tokenizer, form):
    common = (of_classes, tokenizer, "--class", 1, "--size", "36x28", "--count", 2, "--format", form)
    tiles = ("--tile", 4, "--halo", 0)
    images = sampled(capsys, tmp_path / "hard", *common, *tiles, "--decode", "blended")
    seams = re.findall(r"(class-1-seed-0-000\d)\S*: 36 x 28, seam (\d\.\d+) \(1 is none\)\n", capsys.readouterr().out)
    assert [name for name, _ in seams] == ["class-1-seed-0-0000", "class-1-seed-0-0001"]
    for name, value in seams:
        pixels = torch.from_numpy(images[name].copy()).permute(2, 0, 1)[None].float()
        assert float(value) == pytest.approx(seam(pixels, [16, 32], [16]), abs=0.02)  # of colors that were rounded
    for manner in (("--decode", "whole", *tiles), ("--decode", "blended", "--tile", 9)):
        sampled(capsys, tmp_path / manner[1], *common, *manner)
        assert ", seam" not in capsys.readouterr().out


def photo(path, size, transparent=None):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    if transparent is not None:
        pixels[transparent][..., 3] = 0
    Image.fromarray(pixels, "RGBA").save(path)
    return path


def test_a_photo_is_completed_where_it_is_transparent(capsys, tmp_path, of_classes, tokenizer, monkeypatch):
    seen = []
    plain = SamplingJob.run

    def watched(self, tasks):
        seen.append(tasks[0].wanted)
        plain(self, tasks)

    monkeypatch.setattr(SamplingJob, "run", watched)
    common = (of_classes, tokenizer, "--class", 1, "--init-image")
    hole = photo(tmp_path / "hole.png", (24, 32), (slice(9, 24), slice(8, 17)))  # codes 2 to 5 down, 2 to 4 across
    sampled(capsys, tmp_path / "hole", *common, hole)
    expected = torch.zeros(6, 8, dtype=torch.bool)
    expected[2:, 2:5] = True
    assert torch.equal(seen[-1].known_codes[0] < 0, expected)
    half = photo(tmp_path / "half.png", (24, 32))
    sampled(capsys, tmp_path / "half", *common, half)
    assert torch.equal((seen[-1].known_codes[0] < 0).all(1), torch.arange(6) >= 3)
    sampled(capsys, tmp_path / "third", *common, half, "--keep-rows", 1 / 3)
    assert torch.equal((seen[-1].known_codes[0] < 0).all(1), torch.arange(6) >= 2)
    sampled(capsys, tmp_path / "larger", *common, half, "--size", "28x40")
    assert (seen[-1].known_codes[0, :6, :8] >= 0).all() and (seen[-1].known_codes >= 0).sum() == 48
    codes = [wanted.known_codes[0, :2] for wanted in seen[1:]]
    assert all(torch.equal(each[:, :8], codes[0]) for each in codes)  # the photo's own codes, in every case


def test_a_photo_that_leaves_nothing_to_sample_is_refused(capsys, tmp_path, of_classes, tokenizer):
    whole = photo(tmp_path / "whole.jpg.bmp", (24, 32))
    common = (of_classes, tokenizer, "--class", 1, "--init-image", whole)
    assert "gives 48, which leaves nothing to sample" in refused(capsys, tmp_path, *common, "--keep-rows", 1)
    assert "gives 0, which leaves nothing to complete" in refused(capsys, tmp_path, *common, "--keep-rows", 0)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--size", "18x28"], "both sides must be multiples of 4, got 18x28"),
        ([], "say how large the image is to be"),
        (["--size", "8x28"], "at least 3 codes a side, got 2; ask for a larger image"),
        (["--size", SIZE, "--class", "5"], "the prior knows 5 numbers of cls, 0 to 4, got 5"),
        (["--size", SIZE, "18x28"], "both sides must be multiples of 4, got 18x28"),  # before the first one is sampled
        (["--size", SIZE, "--tile", "4"], "more than twice the halo"),
        (["--size", SIZE, "--init-image", "nowhere.png"], "nowhere.png"),
    ],
)
def test_what_cannot_be_sampled_is_refused(capsys, tmp_path, of_classes, tokenizer, asked, said):
    assert said in refused(capsys, tmp_path, of_classes, tokenizer, "--class", 1, *asked)


def test_no_images_at_all_are_refused_before_anything_is_read(capsys):
    with pytest.raises(SystemExit) as ended:
        sample.main(["no-prior", "no-tokenizer", "--size", SIZE, "--count", "0", "--out", "nowhere"])
    assert ended.value.code == 2
    assert "--count: must be at least 1, got 0" in capsys.readouterr().err


def test_what_the_prior_needs_is_asked_for(capsys, tmp_path, of_maps, of_classes, tokenizer):
    assert "give one with --segmentation" in refused(capsys, tmp_path, of_maps, tokenizer, "--size", SIZE)
    assert "number with --class" in refused(capsys, tmp_path, of_classes, tokenizer, "--size", SIZE)
    wild = labels(tmp_path / "wild.bmp", (20, 28))
    Image.fromarray(np.full((20, 28), 7, np.uint8)).save(wild)
    said = refused(capsys, tmp_path, of_maps, tokenizer, "--segmentation", wild)
    assert "the prior knows 7 numbers of segmentation_codes, 0 to 6, got 7" in said
    said = refused(capsys, tmp_path, of_maps, tokenizer, "--segmentation", wild, "--segmentation-tokenizer", tokenizer)
    digest = model_files.read_metadata(tokenizer)["digest"][:12]
    assert f"maps as the commonest label of each cell, and --segmentation-tokenizer is {digest}; omit it" in said


def test_a_tokenized_map_needs_its_tokenizer(capsys, tmp_path, tokenizer):
    maps, others = (pairs.write_tokenizer(tmp_path / name, seed, labels=7) for seed, name in enumerate("ab"))
    learnt, other = (model_files.read_metadata(each)["digest"] for each in (maps, others))
    prior = pairs.write_prior(
        tmp_path / "prior", tokenizer, "segmentation", condition_tokenizers={"segmentation": learnt}
    )
    exported = tmp_path / "exported"
    subprocess.run([sys.executable, "-m", "smalti.launch.export", prior, exported], check=True, capture_output=True)
    drawn = labels(tmp_path / "map.bmp", (20, 28))
    for folder in (prior, exported):
        common = (folder, tokenizer, "--segmentation", drawn)
        said = f"maps as codes of the tokenizer {learnt[:12]}, and --segmentation-tokenizer"
        assert f"{said} is missing; name" in refused(capsys, tmp_path, *common)
        assert f"{said} is {other[:12]}; name" in refused(capsys, tmp_path, *common, "--segmentation-tokenizer", others)
    said = refused(capsys, tmp_path, prior, tokenizer, "--segmentation", drawn, "--segmentation-tokenizer", maps)
    assert "the prior knows 7 numbers of segmentation_codes" in said  # 32 codes of the maps do not fit a prior of 7


def test_what_the_prior_does_not_read_is_refused(capsys, tmp_path, of_maps, of_classes, tokenizer):
    drawn = labels(tmp_path / "map.bmp", (20, 28))
    said = refused(capsys, tmp_path, of_classes, tokenizer, "--class", 1, "--segmentation", drawn)
    assert "this prior reads cls; omit --segmentation" in said
    said = refused(capsys, tmp_path, of_maps, tokenizer, "--segmentation", drawn, "--class", 1)
    assert "this prior reads segmentation_codes; omit --class" in said


def test_another_tokenizer_is_refused(capsys, tmp_path, of_classes, tokenizer):
    other = pairs.write_tokenizer(tmp_path / "other", seed=1)
    said = refused(capsys, tmp_path, of_classes, other, "--class", 1, "--size", SIZE)
    digests = [model_files.read_metadata(folder)["digest"][:12] for folder in (tokenizer, other)]
    assert f"the prior learnt the codes of the tokenizer {digests[0]}, and this one is {digests[1]}" in said


def test_a_priors_run_tells_its_tokenizer(capsys, tmp_path, of_classes, tokenizer):
    """A run is its config beside checkpoints; here the weights lie beside it, as an export's do."""
    run = tmp_path / "run"
    shutil.copytree(of_classes, run)
    recipe = runs.write_prior(tmp_path, tokenizer=str(tokenizer))
    shutil.copy(recipe, run / "config.yaml")
    arguments = ("--class", 1, "--size", SIZE)
    seams = sampled(capsys, tmp_path / "seams", run, *arguments)
    assert same(seams, sampled(capsys, tmp_path / "named", run, tokenizer, *arguments))


def test_an_export_does_not_tell_its_tokenizer(capsys, tmp_path, of_classes):
    assert "name that behind it" in refused(capsys, tmp_path, of_classes, "--class", 1, "--size", SIZE)


def test_giant_images_become_tiled_tiffs_of_the_same_pixels(capsys, tmp_path, of_classes, tokenizer, monkeypatch):
    monkeypatch.setattr(big_tiff, "SIDE", 16)
    common = (of_classes, tokenizer, "--class", 1, "--size", "36x28", "--tile", "5", "--halo", "1")
    plain = sampled(capsys, tmp_path / "png", *common)
    tiled = sampled(capsys, tmp_path / "tiff", *common, "--format", "tiff")
    assert same(plain, tiled)
    with Image.open(tmp_path / "tiff" / "class-1-seed-0-0000.tiff") as image:
        assert json.loads(image.tag_v2[270])["size"] == [36, 28]
    capsys.readouterr()
    sampled(capsys, tmp_path / "tiff", *common, "--format", "tiff")
    assert "there already" in capsys.readouterr().out


def test_a_fresh_process_samples_the_same_bits_from_a_copy_of_the_weights(capsys, tmp_path, of_classes, tokenizer):
    common = ["--class", "1", "--size", SIZE, "--seed", "5"]
    here = sampled(capsys, tmp_path / "here", of_classes, tokenizer, *common)
    for name, source in (("prior", of_classes), ("tokenizer", tokenizer)):
        exported = [sys.executable, "-m", "smalti.launch.export", str(source), str(tmp_path / name)]
        subprocess.run(exported, check=True, capture_output=True)
    places = [tmp_path / "prior", tmp_path / "tokenizer"]
    job = processes.command("smalti.launch.sample", [*places, *common, "--out", tmp_path / "there"], 1)
    ended = job.wait()
    assert ended.codes == [0], ended.log
    assert same(here, pixels(tmp_path / "there"))


@pytest.mark.parametrize(
    ("device", "batch", "given", "expected"),
    [
        ("cpu", 9, (None, None), (4, 1)),
        ("cuda", 1, (None, None), (4, 4)),
        ("cuda", 5, (None, None), (20, 20)),
        ("cuda", 15, (None, None), (64, 32)),
        ("cuda", 15, (6, None), (6, 6)),
        ("cuda", 15, (8, 2), (8, 2)),
    ],
)
def test_lanes_and_prefill_follow_the_images_on_gpus_alone_unless_they_are_given(device, batch, given, expected):
    asked = argparse.Namespace(batch=batch, lanes=given[0], prefill=given[1])
    assert sample.lanes_and_prefill(asked, 4, device == "cuda") == expected


def test_samples_come_in_one_archive_too_with_their_classes(capsys, tmp_path, of_classes, prior, tokenizer):
    common = (of_classes, tokenizer, "--size", SIZE, "--count", 2, "--npz")
    sampled(capsys, tmp_path, *common, "--classes", "4,1")
    with np.load(tmp_path / "seed-0.npz") as held:
        images = [np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("*.png"))]
        assert held["arr_0"].dtype == np.uint8 and np.array_equal(held["arr_0"], np.stack(images))
        assert held["arr_1"].tolist() == [1, 1, 4, 4] and held["arr_1"].dtype == np.int64
    sampled(capsys, tmp_path, *common, "--classes", "1,4")  # the same images may be written again
    assert not (tmp_path / "seed-0-2.npz").exists()
    before = (tmp_path / "seed-0.npz").read_bytes()
    sampled(capsys, tmp_path, *common, "--classes", "2")  # others have an archive of their own
    with np.load(tmp_path / "seed-0-2.npz") as held:
        assert held["arr_1"].tolist() == [2, 2]
    assert (tmp_path / "seed-0.npz").read_bytes() == before
    sampled(capsys, tmp_path / "none", prior, tokenizer, "--size", SIZE, "--npz")
    with np.load(tmp_path / "none" / "seed-0.npz") as held:
        assert held.files == ["arr_0"]
    np.savez(tmp_path / "none" / "seed-1.npz", a=np.zeros(3))
    said = [str(part) for part in (prior, tokenizer, "--size", SIZE, "--npz", "--seed", 1, "--out", tmp_path / "none")]
    assert sample.main(said) == 2 and "seed-1.npz is there" in capsys.readouterr().err
    assert not (tmp_path / "none" / "seed-1-0000.png").exists()


class Reds(torch.nn.Module):
    """The redder an image is, the larger the number of its class."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0].mean(dim=(1, 2))[:, None] * torch.arange(5)


def test_of_many_candidates_those_stay_of_which_a_classifier_is_surest_whatever_is_killed(
    capsys, tmp_path, of_classes, tokenizer, monkeypatch
):
    torch.jit.script(Reds()).save(str(tmp_path / "reds.pt"))
    common = (of_classes, tokenizer, "--size", "12x16")
    chosen = ("--classifier", tmp_path / "reds.pt", "--keep-share", 0.4, "--count", 2, "--classes", "2,4")
    sampled(capsys, tmp_path / "best", *common, *chosen, "--batch", 2, "--npz")
    for label in (2, 4):
        every = sampled(capsys, tmp_path / str(label), *common, "--class", label, "--count", 5)
        logits = {name: (image[..., 0] / 127.5 - 1).mean() * np.arange(5) for name, image in every.items()}
        sure = {name: each[label] - np.log(np.exp(each).sum()) for name, each in logits.items()}
        expected = sorted(sorted(sure, key=lambda name: -sure[name])[:2])
        best = pixels(tmp_path / "best" / str(label))
        assert [f"class-{label}-{name}" for name in best] == expected
        assert all(np.array_equal(best[name], every[f"class-{label}-{name}"]) for name in best)
    with np.load(tmp_path / "best" / "seed-0.npz") as held:
        assert held["arr_1"].tolist() == [2, 2, 4, 4]
    everything = {path: path.read_bytes() for path in (tmp_path / "best").rglob("*.png")}
    assert not list((tmp_path / "best").rglob(".*"))

    plain, moved = Path.replace, []

    def dying(self, target):
        if ".candidates" in str(self) and ".candidates" not in str(target):
            moved.append(target)
            if len(moved) == 2:
                raise KeyboardInterrupt  # as if it had been killed between the first move and the second
        return plain(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dying)
        sampled(capsys, tmp_path / "again", *common, *chosen)
    assert len(list((tmp_path / "again").rglob("[!.]*.png"))) == 5  # one is kept, four wait
    sampled(capsys, tmp_path / "again", *common, *chosen)
    found = {path.relative_to(tmp_path / "again"): path.read_bytes() for path in (tmp_path / "again").rglob("*.png")}
    assert found == {path.relative_to(tmp_path / "best"): data for path, data in everything.items()}
    capsys.readouterr()
    sampled(capsys, tmp_path / "again", *common, *chosen)
    assert "codes/s" not in capsys.readouterr().out  # nothing is sampled again


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--classifier", "map.png"], "map.png is no TorchScript file that can be loaded"),
        (["--classifier", "few.pt", "--keep-share", "1"], "know the class 1"),
    ],
)
def test_a_classifier_that_cannot_choose_is_refused(capsys, tmp_path, of_classes, tokenizer, more, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels(tmp_path / "map.png", (20, 28))
    few = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 16, 1))
    torch.jit.trace(few, torch.zeros(1, 3, 12, 16)).save("few.pt")
    common = [str(part) for part in (of_classes, tokenizer, "--class", 1, "--size", "12x16", "--out", "out")]
    assert sample.main([*common, *more]) == 2
    assert said in capsys.readouterr().err


def test_a_share_that_keeps_more_than_there_is_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        sample.main(["prior", "tokenizer", "--out", "out", "--classifier", "few.pt", "--keep-share", "1.5"])
    assert "argument --keep-share: must be in [0, 1], got 1.5" in capsys.readouterr().err
