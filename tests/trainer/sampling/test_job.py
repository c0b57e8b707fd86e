"""What a gallery tells, keeps and shows while it samples."""

import numpy as np
import pytest
import torch
from fixtures import pairs
from PIL import Image

from smalti.models.sampling import UNFILLED, SamplingConfig, SamplingState
from smalti.trainer.checkpoint.loading import load_prior, load_tokenizer
from smalti.trainer.sampling import job, partial, progress
from smalti.trainer.sampling.image_files import DecodeConfig, contact_sheet, read_metadata, save
from smalti.trainer.sampling.job import SamplingJob
from smalti.trainer.sampling.partial import PartialSample
from smalti.trainer.sampling.progress import ProgressTracker, SamplingJobConfig
from smalti.trainer.sampling.request import SampleRequest


def state(sampled, cells=100, together=1):
    return SamplingState(torch.zeros(together, 10, 10), torch.zeros(together, 10, 10), sampled, cells)


def watched(monkeypatch, config, skipped, moments, together=1):
    """The lines printed, and when it was time to keep and to show, for (second, codes sampled) moments."""
    said, kept, shown = [], [], []
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    watch = ProgressTracker(config, skipped, said.append)
    for second, sampled in moments:
        clock[0] = second
        now = state(sampled, together=together)
        watch.look(now, lambda _, second=second: kept.append(second), lambda _, second=second: shown.append(second))
    return said, kept, shown


def test_the_pace_and_the_time_left_are_told_every_few_seconds(monkeypatch):
    moments = [(1, 10), (6, 40), (7, 50), (12, 80), (14, 100)]
    said, _, _ = watched(monkeypatch, SamplingJobConfig(), 0, moments, together=2)
    assert said == [
        "80/200 codes  13 codes/s  left 9 s",  # 80 codes in 6 s
        "160/200 codes  13 codes/s  left 3 s",
        "200/200 codes  14 codes/s  left 0 s",
    ]


def test_codes_that_were_sampled_before_do_not_count_for_the_pace(monkeypatch):
    said, _, _ = watched(monkeypatch, SamplingJobConfig(), 50, [(100, 50), (110, 60)])
    assert said == ["60/100 codes  1 codes/s  left 40 s"]


def test_it_is_kept_and_shown_when_the_time_has_come_but_not_when_it_is_done(monkeypatch):
    config = SamplingJobConfig(save_every_s=10, preview_every_s=20)
    moments = [(5, 1), (11, 2), (12, 3), (21, 4), (22, 5), (60, 100)]
    _, kept, shown = watched(monkeypatch, config, 0, moments)
    assert kept == [11, 21] and shown == [21]
    _, _, shown = watched(monkeypatch, SamplingJobConfig(), 0, moments)
    assert shown == []


def test_an_image_that_is_finished_leaves_nothing_unfinished_and_others_files_stay(tmp_path):
    image = tmp_path / "a.png"
    partial.save(image, "request", PartialSample(torch.tensor([[3, UNFILLED]]), torch.tensor([[-0.5, 0.0]])))
    for litter in (".a.png.part", "..a.png.unfinished.npz.part"):
        (tmp_path / litter).touch()  # of processes that were killed as they wrote
    others = {".a-2.png.part", ".a.png.mine.part", ".notes-on-a.txt.part"}
    for name in others:
        (tmp_path / name).touch()
    partial.remove(image)
    assert {left.name for left in tmp_path.iterdir()} == others


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    prior, tokenizer = pairs.write_pair(tmp_path_factory.mktemp("pair"))
    cpu = torch.device("cpu")
    return load_prior(prior, cpu), load_tokenizer(tokenizer, cpu)


def test_a_look_in_between_shows_what_is_sampled_and_grey_for_the_rest(pair, tmp_path, monkeypatch):
    develop = DecodeConfig(tile=7, halo=1)
    config = SamplingJobConfig(save_every_s=0, preview_every_s=0)
    made = SamplingJob(*pair, 0, lambda size: SamplingConfig(mode="serial"), develop, config, lambda line: None)
    wanted = SampleRequest((4, 5), {}, None)
    looks = []
    plain = job.save

    def kept(image, path, notes):
        plain(image, path, notes)
        looks.append((np.asarray(image), path.name, notes["sampled"]))

    monkeypatch.setattr(job, "save", kept)
    made.run([made.image_job(wanted, 0, tmp_path, "a")])
    assert [sampled for *_, sampled in looks] == list(range(1, 20))
    image, name, sampled = looks[4]
    assert name == "a.preview.png" and sampled == 5 and image.shape == (4, 20, 3)  # the row that was begun
    early = looks[1][0]
    assert (early[:, 8:] == 128).all() and not (early[:, :8] == 128).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_images_of_a_batch_that_was_begun_in_part_go_on_together(pair, tmp_path):
    wanted = SampleRequest((4, 5), {}, None)

    def sampled(folder, batch):
        made = SamplingJob(
            *pair, 0, lambda size: SamplingConfig(), DecodeConfig(), SamplingJobConfig(batch), lambda line: None
        )
        tasks = [made.image_job(wanted, number, folder, str(number)) for number in range(2)]
        return made, tasks

    made, tasks = sampled(tmp_path / "a", 1)
    made.run(tasks)
    made, tasks = sampled(tmp_path / "b", 2)
    codes = torch.full((4, 5), UNFILLED)
    codes[0, 0] = 0  # as if it had been drawn; the other image has not begun, so that all is drawn anew
    partial.save(tasks[0].path, tasks[0].made["request"], PartialSample(codes, torch.zeros(4, 5)))
    made.run(tasks)
    for name in ("0.png", "1.png"):
        assert np.array_equal(*(np.asarray(Image.open(tmp_path / folder / name)) for folder in ("a", "b")))


def test_a_job_that_was_killed_when_its_image_was_just_there_leaves_no_preview_and_a_strangers_stays(pair, tmp_path):
    wanted = SampleRequest((4, 5), {}, None)
    made = SamplingJob(*pair, 0, lambda size: SamplingConfig(), DecodeConfig(), SamplingJobConfig(), lambda line: None)
    tasks = [made.image_job(wanted, number, tmp_path, str(number)) for number in range(2)]
    made.run(tasks)
    save(Image.new("RGB", (2, 2)), tmp_path / "0.preview.png", {"sampled": 5})
    Image.new("RGB", (2, 2)).save(tmp_path / "1.preview.png")
    made.run(tasks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "1.preview.png"]


def test_an_image_tells_what_was_saved_with_it_and_strangers_tell_nothing(tmp_path):
    save(Image.new("RGB", (2, 2)), tmp_path / "a.png", {"seed": 1})
    assert read_metadata(tmp_path / "a.png") == {"seed": 1}
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "b.tiff")
    (tmp_path / "c.png").write_bytes(b"no image")
    for name in ("b.png", "b.tiff", "c.png", "nowhere.png"):
        assert read_metadata(tmp_path / name) == {}


def test_a_contact_sheet_holds_every_image_in_order(tmp_path):
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (40, 20), (10 * number, 0, 0)).save(paths[-1])
    contact_sheet(paths, tmp_path / "sheet.png", side=8)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (16, 24, 3)
    corners = [tuple(sheet[8 * (number // 3), 8 * (number % 3)]) for number in range(6)]
    assert corners == [(10 * number, 0, 0) for number in range(5)] + [(255, 255, 255)]


@pytest.mark.parametrize(("size", "suffix"), [((8191, 8192), ".png"), ((8192, 8192), ".tiff")])
def test_giant_images_become_tiffs(size, suffix):
    assert DecodeConfig().suffix(*size) == suffix
    assert DecodeConfig(format="png").suffix(*size) == ".png"
