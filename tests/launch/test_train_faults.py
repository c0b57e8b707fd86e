"""The train command when the world goes wrong: its exit code, its last words, and what is left on the disk."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
from fixtures.runs import STEPS, lines, write_prior, write_vqgan

from smalti.trainer.checkpoint import model_files, sealed, storage
from smalti.trainer.exit_code import ExitCode
from smalti.trainer.jobs import exit_codes

TRAIN = "smalti.launch.train"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of a prior, and one run that nobody disturbed, on two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    ended = processes.command(TRAIN, [write_prior(folder, name="straight")], 2).wait()
    assert ended.codes == [0, 0], ended.log
    return folder


@pytest.fixture
def config(place: Path, request: pytest.FixtureRequest) -> Path:
    """The config of a run of the test's own, which is that of the undisturbed one."""
    return write_prior(place, name=request.node.name.replace("[", "-").rstrip("]"))


@pytest.fixture
def half_done(place: Path, config: Path) -> Path:
    """The same, with the undisturbed run's checkpoints but the last."""
    run = config.with_suffix("")
    shutil.copytree(place / "straight", run)
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")
    return config


def train(config: Path, world: int = 1, *options: str) -> processes.Ended:
    return processes.command(TRAIN, [config, *options], world).wait()


def digest(run: Path) -> str:
    """Of the final weights for use."""
    found = storage.latest_valid(run)
    assert found is not None and found.step == STEPS
    return str(model_files.read_metadata(found.folder)["digest"])


def steps_on_disk(run: Path) -> list[int]:
    return [found.step for found in storage.list_checkpoints(run)]


def started(config: Path, world: int, mark: str) -> processes.Job:
    """The command, once rank 0 has said something with the mark."""
    job = processes.command(TRAIN, [config], world)
    while mark not in job.output():
        assert processes.alive(job.pids[0]), job.output()
        time.sleep(0.002)
    return job


def test_the_manifest_says_all_that_a_resume_and_a_reader_need(place: Path):
    newest = storage.latest_valid(place / "straight")
    assert newest is not None
    manifest = json.loads((newest.folder / storage.MANIFEST).read_text())
    assert (manifest["step"], manifest["ranks"], manifest["zero"]) == (STEPS, 2, {"prior": 1})
    assert manifest["data"]["position"] == 8 * STEPS and manifest["data"]["fingerprint"]
    assert manifest["config"]["batch"] == {"global_batch_size": 8, "micro_batch_size": 2}
    assert manifest["versions"]["torch"] and manifest["versions"]["python"] and manifest["wandb"] is None
    assert {"rank-0000.pt", "rank-0001.pt", model_files.WEIGHTS, model_files.METADATA} < set(manifest["files"])
    on_disk = {str(path.relative_to(newest.folder)) for path in newest.folder.rglob("*") if path.is_file()}
    assert on_disk == {*manifest["files"], storage.MANIFEST}
    assert steps_on_disk(place / "straight") == [6, 5, 4]
    assert not storage.leftovers(place / "straight", storage.SAVING)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_that_is_asked_to_leave_saves_and_goes_on_bit_for_bit(config: Path, place: Path, number: signal.Signals):
    job = started(config, 2, "step 1/")
    job.signal(number, rank=1)
    ended = job.wait()
    assert ended.codes == [ExitCode.LEFT] * 2, ended.log
    assert 1 <= steps_on_disk(config.with_suffix(""))[0] < STEPS
    assert train(config, 2).codes == [0, 0]
    assert lines(config.with_suffix("")) == lines(place / "straight")
    assert digest(config.with_suffix("")) == digest(place / "straight")


def listens(process: subprocess.Popen[Any], number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_signal_that_comes_while_the_command_imports_makes_it_leave_before_the_first_step(config: Path):
    words = [sys.executable, "-m", TRAIN, str(config)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not listens(process, signal.SIGUSR1):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGUSR1)
        said = process.communicate(timeout=processes.PATIENCE_S)[0]
    assert process.returncode == ExitCode.LEFT, said
    assert "rank(s) on" in said and "step 1/" not in said  # the ranks came together, and did nothing
    assert not steps_on_disk(config.with_suffix(""))
    assert exit_codes.last(config.with_suffix("")) == ExitCode.LEFT


def test_a_dead_rank_ends_the_job_and_the_other_says_so(config: Path):
    job = started(config, 2, "step 1/")
    killed = time.monotonic()
    job.signal(signal.SIGKILL, rank=1)
    ended = job.wait()
    assert ended.codes[0] == ExitCode.FAILED and ended.codes[1] == -9, ended.log
    assert "lost contact with another rank. None of them said why" in ended.outputs[0]
    assert time.monotonic() - killed < 60


def test_ranks_that_lost_their_launcher_save_and_leave(place: Path):
    config = write_prior(place, name="orphans", loop__max_steps=100_000)  # it would not end before they look
    job = started(config, 2, " 1/100000")
    os.kill(job.leader, signal.SIGKILL)
    ended = job.wait()
    assert "the launcher is gone" in ended.log
    assert ended.outputs[0].count("is saved") and steps_on_disk(config.with_suffix(""))[0] >= 1


def flip(folder: Path) -> str:
    """Change one bit of the optimizer's states."""
    file = next(folder.glob("prior/*rank_1_*optim*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return f"{file.name} is not what was written"


def truncate(folder: Path) -> str:
    file = folder / "rank-0001.pt"
    file.write_bytes(file.read_bytes()[:-1])
    return f"rank-0001.pt has {file.stat().st_size} bytes"


@pytest.mark.parametrize("harm", [flip, truncate])
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_is_used(
    half_done: Path, place: Path, harm: Callable[[Path], str]
):
    run = half_done.with_suffix("")
    (run / "checkpoints" / ".saving-step-00000006").mkdir()
    said = harm(run / "checkpoints" / "step-00000005")
    ended = train(half_done, 2)
    assert ended.codes == [0, 0], ended.log
    assert said in ended.outputs[0] and "going on at step 4" in ended.outputs[0]
    assert "a save that was interrupted" in ended.outputs[0]
    assert digest(run) == digest(place / "straight") and lines(run) == lines(place / "straight")
    assert not list((run / "checkpoints").glob("corrupt-*"))  # removed after the next good save


def test_a_run_without_a_loadable_checkpoint_is_refused_unless_it_is_to_start_anew(half_done: Path, place: Path):
    run = half_done.with_suffix("")
    for folder in (run / "checkpoints").glob("step-*"):
        flip(folder)
    refused = train(half_done, 2)
    assert refused.codes == [ExitCode.WRONG] * 2
    assert "no checkpoint of this run is whole; start anew with --fresh" in refused.outputs[0]
    shutil.rmtree(run / "checkpoints")
    assert train(half_done, 2).codes == [ExitCode.WRONG] * 2
    assert train(half_done, 2, "--fresh").codes == [0, 0]
    assert digest(run) == digest(place / "straight")


@pytest.fixture(scope="module", params=[write_prior, write_vqgan])
def elastic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run of either stage on two ranks at ZeRO 1.

    Without dropout, which is drawn by rank, and without the adaptive weight, which is that of a micro-batch over ranks.
    """
    place = tmp_path_factory.mktemp("elastic")
    still = {f"model__{name}_dropout": 0.0 for name in ("embedding", "attention", "residual")}
    settings = still if request.param is write_prior else {"loss__adversarial__adaptive": False}

    def config(name: str) -> Path:
        return request.param(place, name=name, **settings)

    ended = processes.command(TRAIN, [config("straight")], 2).wait()
    assert ended.codes == [0, 0], ended.log
    return place, config


@pytest.mark.parametrize(("world", "zero"), [(1, 3), (4, 2), (2, 0)])
def test_a_run_goes_on_on_other_ranks_at_another_stage(elastic: tuple[Path, Any], world: int, zero: int):
    place, make = elastic
    config = make(f"on-{world}-at-{zero}")
    shutil.copytree(place / "straight", config.with_suffix(""))
    for step in (5, 6):
        shutil.rmtree(config.with_suffix("") / "checkpoints" / f"step-{step:08d}")
    sections = ["training"] if "tokenizer" in json.loads(config.read_text()) else ["generator_training"]
    ended = train(config, world, *(f"--set={section}.engine.zero_stage={zero}" for section in sections))
    assert ended.codes == [0] * world, ended.log
    assert "going on at step 4" in ended.outputs[0] and "which 2 rank(s) saved at ZeRO {" in ended.outputs[0]
    there, straight = lines(config.with_suffix("")), lines(place / "straight")
    assert len(there) == len(straight)
    for mine, expected in zip(there, straight, strict=True):
        assert mine == pytest.approx(expected, rel=2e-4, abs=1e-5)


def test_a_full_disk_ends_the_job_with_its_own_code_and_keeps_what_was_saved(half_done: Path, place: Path):
    run = half_done.with_suffix("")
    ended = processes.command("full_disk", [half_done], 2).wait()
    assert ended.codes == [ExitCode.NOT_SAVED] * 2, ended.log
    said = ended.outputs[0]
    assert "could not be written: rank " in said and "make room" in said and "the ones before it" in said
    assert ended.log.count("make room") == 1  # which all ranks know, and one says
    assert steps_on_disk(run)[0] == 5 and storage.verify(run / "checkpoints" / "step-00000005") is None
    assert not storage.leftovers(run, storage.SAVING)
    assert train(half_done, 2).codes == [0, 0]
    assert digest(run) == digest(place / "straight")


def test_another_data_set_is_refused(half_done: Path):
    other = next((half_done.parent / "codes").glob("*.tar"))
    moved = half_done.parent / "other-codes"
    shutil.copytree(half_done.parent / "codes", moved)
    for file in moved.glob(f"{sorted(moved.glob('*.tar'))[-1].stem}*"):
        file.unlink()
    assert other.exists()
    config = json.loads(half_done.read_text())
    config["train_data"]["shards"] = [str(moved)]
    half_done.write_text(json.dumps(config))
    ended = train(half_done, 2)
    assert ended.codes == [ExitCode.WRONG] * 2
    assert "fingerprint was" in ended.outputs[0] and "initial_weights" in ended.outputs[0]


def wrong(place: Path, stage: Any, **settings: Any) -> str:
    config = stage(place, name=f"wrong-{len(list(place.glob('wrong-*')))}", **settings)
    ended = processes.command(TRAIN, [config], 2).wait()
    assert ended.codes == [ExitCode.WRONG] * 2, ended.log
    assert ended.log.count("error: ") == 1, ended.log
    return ended.outputs[0]


def test_bad_input_is_refused_on_every_rank_and_one_says_the_way_out(place: Path, tmp_path: Path):
    assert "no such key" in wrong(place, write_prior, sed=3)
    assert "set max_repeats" in wrong(
        place, write_prior, batch__global_batch_size=48, batch__micro_batch_size=24, train_data__max_repeats=1
    )
    assert "must be a multiple of micro_batch x world" in wrong(place, write_prior, batch__global_batch_size=6)
    assert "no-such-folder" in wrong(place, write_prior, train_data__shards=[str(tmp_path / "no-such-folder")])
    assert "crop.size must be a multiple of the factor" in wrong(place, write_vqgan, train_data__crop__size=15)
    metadata = model_files.read_metadata(place / "tokenizer")
    other = tmp_path / "other"
    shutil.copytree(place / "tokenizer", other)
    (other / "config.json").write_text(sealed.sealed(metadata | {"digest": "0" * 64}))
    assert "made by the tokenizer" in wrong(place, write_prior, tokenizer=str(other))


def test_a_checkpoint_at_a_multiple_of_keep_every_stays(config: Path):
    ended = train(config, 1, "--set", "keep_last=1", "--set", "keep_every=3")
    assert ended.codes == [0], ended.log
    assert steps_on_disk(config.with_suffix("")) == [6, 3]


@pytest.mark.slow
def test_fifty_kills_at_any_moment_leave_a_run_that_goes_on(place: Path, config: Path):
    """Runs that save at every step, on two ranks; one that got through is compared and begun anew."""
    run, moments, kills, done = config.with_suffix(""), random.Random(0), 0, 0
    while kills < 50 or not done:
        job = processes.command(TRAIN, [config], 2)
        while not (run / "metrics.jsonl").exists() and processes.alive(job.pids[0]):
            time.sleep(0.001)
        if kills < 50:
            time.sleep(moments.uniform(0.0, 1.2))
            job.signal(signal.SIGKILL)
        ended = job.wait()
        if ended.codes == [0, 0]:
            assert digest(run) == digest(place / "straight") and lines(run) == lines(place / "straight")
            shutil.rmtree(run)
            done += 1
        else:
            assert set(ended.codes) == {-9}, ended.log
            kills += 1
