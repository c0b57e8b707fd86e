"""The supervising command over real ranks: what it starts again, what it does not, and what it says."""

import os
import re
import signal
import time
from pathlib import Path

import processes
import pytest
from fixtures.runs import lines, write_prior

from smalti.launch import supervise
from smalti.trainer.checkpoint import model_files, storage
from smalti.trainer.exit_code import ExitCode

TRAIN = "smalti.launch.train"
STEPS = 40
LOOP = {"max_steps": STEPS, "log_every": 1, "preview_every": 1000, "eval_every": 1000, "save_every": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of a prior, and one run that nobody disturbed, on two ranks."""
    folder = tmp_path_factory.mktemp("runs")
    ended = processes.command(TRAIN, [write_prior(folder, name="straight", loop=LOOP)], 2).wait()
    assert ended.codes == [0, 0], ended.log
    return folder


@pytest.fixture
def config(place: Path, request: pytest.FixtureRequest) -> Path:
    """The config of a run of the test's own, which is that of the undisturbed one."""
    return write_prior(place, name=request.node.name, loop=LOOP)


def supervised(config: Path, *command: str, restarts: int = 3) -> processes.Job:
    words = command or processes.launcher(2)
    return processes.command("smalti.launch.supervise", ["--max-restarts", str(restarts), "--", *words, TRAIN, config])


def wait_for_a_checkpoint(config: Path, job: processes.Job) -> None:
    deadline = time.monotonic() + processes.PATIENCE_S
    while not storage.list_checkpoints(config.with_suffix("")):
        assert time.monotonic() < deadline and processes.alive(job.pids[0]), job.output()
        time.sleep(0.005)


def same_as_undisturbed(config: Path, place: Path) -> None:
    run, straight = config.with_suffix(""), place / "straight"
    assert lines(run) == lines(straight)
    found = [storage.latest_valid(run), storage.latest_valid(straight)]
    assert [checkpoint and checkpoint.step for checkpoint in found] == [STEPS, STEPS]
    assert len({model_files.read_metadata(checkpoint.folder)["digest"] for checkpoint in found if checkpoint}) == 1


def test_a_run_whose_rank_is_killed_comes_back_by_itself_and_ends_with_the_same_weights(config: Path, place: Path):
    job = supervised(config)
    wait_for_a_checkpoint(config, job)
    rank_0 = int((config.with_suffix("") / ".lock").read_text().split()[1])
    os.kill(rank_0, signal.SIGKILL)
    ended = job.wait()
    assert ended.codes == [0], ended.log
    assert "the job ended with 247 (killed by SIGKILL); restart 1 of 3 from the checkpoint of step " in ended.log
    same_as_undisturbed(config, place)


def test_a_supervisor_that_is_told_to_leave_has_the_ranks_save_and_leaves_with_75(config: Path, place: Path):
    job = supervised(config)
    wait_for_a_checkpoint(config, job)
    job.signal(signal.SIGTERM, rank=0)
    ended = job.wait()
    assert ended.codes == [ExitCode.LEFT], ended.log
    assert "stop-requested asks to; saving and leaving" in ended.log and "restart" not in ended.log
    assert storage.list_checkpoints(config.with_suffix(""))[0].step < STEPS
    assert supervised(config).wait().codes == [0]
    same_as_undisturbed(config, place)


def test_ranks_that_refuse_their_data_are_not_started_again(place: Path):
    config = write_prior(
        place,
        name="too-many",
        loop=LOOP,
        batch__global_batch_size=48,
        batch__micro_batch_size=24,
        train_data__max_repeats=1,
    )
    # A launcher such as torchrun ends with 1 whatever its ranks say.
    careless = '"$@"; exit 1'
    ended = supervised(config, "sh", "-c", careless, "sh", *processes.launcher(2)).wait()
    assert ended.codes == [ExitCode.WRONG] and "restart" not in ended.log, ended.log


def test_a_command_that_cannot_be_supervised_is_refused_with_a_way_out(config: Path, tmp_path: Path):
    def refused(*arguments: object) -> str:
        ended = processes.command("smalti.launch.supervise", list(map(str, arguments))).wait()
        assert ended.codes == [ExitCode.WRONG]
        return ended.log

    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=1\n")
    assert "must have the words smalti.launch.train CONFIG" in refused("--", "true")
    assert "would begin anew at every restart" in refused("--", "python", TRAIN, config, "--fresh")
    assert "no such key" in refused("--", "python", TRAIN, write_prior(tmp_path, name="wrong", sed=3))
    assert "the command must name" in refused("--hostfile", hostfile, "--", "deepspeed", TRAIN, config)
    assert "minimum_hosts must be from 1 to the 1" in refused(
        "--hostfile", hostfile, "--minimum-hosts", 2, "--", "deepspeed", "--hostfile", hostfile, TRAIN, config
    )


@pytest.mark.parametrize("option", ["--max-restarts", "--minimum-hosts"])
@pytest.mark.parametrize("number", ["-1", "nan", "1e3", "99999999999999999999"])
def test_a_number_that_would_never_end_or_never_do_is_refused(
    option: str, number: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit, match="2"):
        supervise.main([f"{option}={number}", "--", "true", "smalti.launch.train", "vqgan_tiny"])
    assert re.search(rf"{option}: must be (a whole number|at (least|most) [\d.e+]+), got", capsys.readouterr().err)
