"""However often a run is stopped, killed and restored, wandb has one run with the history that its folder has."""

import json
import math
import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

import processes
import pytest
import torch
from fixtures.wandb_files import records, synced

from smalti.trainer.checkpoint.writer import SaveReport
from smalti.trainer.training.metrics import FILE, Metrics, history
from smalti.trainer.training.wandb_logger import WandbConfig, WandbRun


class Session(NamedTuple):
    """A job that goes on from one step to another, and says ``scale * step`` at each."""

    start: int
    end: int
    scale: float
    killed: bool = False


def sessions(folder: str, jobs: list[list[float]]) -> list[int]:
    """Exit codes of jobs, one after the other, each in a process of its own."""
    import wandb  # once for all of them

    assert wandb
    codes = []
    for job in jobs:
        second = int(time.time())
        child = os.fork()
        if not child:
            work(Path(folder), Session(*job))
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        while int(time.time()) == second:  # wandb names its folders by the second
            time.sleep(0.01)
    return codes


def work(folder: Path, job: Session) -> None:
    metrics = Metrics(folder, 100, WandbConfig(), {"seed": 0})
    metrics.rewind(job.start)
    for step in range(job.start + (job.start > 0), job.end + 1):
        metrics.add({"loss": torch.tensor(job.scale * step)})
        metrics.write(step, {})
        metrics.write_val(step, {"psnr": job.scale})
    if job.killed:
        os.kill(os.getpid(), signal.SIGKILL)
    metrics.close()


def logged(folder: Path) -> list[dict[str, float]]:
    """The same from the folder's own lines."""
    rows: dict[float, dict[str, float]] = {}
    for line in history(folder):
        values = {name: value for name, value in line.items() if name not in ("step", "seconds")}
        rows.setdefault(line["step"], {"_step": line["step"]}).update(values)
    return list(rows.values())


def check(folder: Path, losses: dict[int, float]) -> None:
    """wandb has one run, with these losses, and all else that the folder's lines say."""
    identities, rows = synced(folder)
    assert identities == {(folder / "wandb-id.txt").read_text().strip()}
    assert {row["_step"]: row["train/loss"] for row in rows} == losses
    for row, expected in zip(rows, logged(folder), strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected)


def test_a_run_that_goes_on_is_one_run_in_wandb_rewound_to_the_step_that_was_restored(tmp_path: Path):
    often, early = tmp_path / "often", tmp_path / "early"
    jobs = [Session(0, 6, 1), Session(4, 9, 10, True), Session(7, 8, 100)]
    first = processes.start(sessions, 1, often, jobs)
    # One that is killed before wandb has written a line leaves nothing to rewind.
    second = processes.start(sessions, 1, early, [Session(0, 2, 1, True), Session(1, 3, 10)])
    assert processes.finished(first) == [[0, -signal.SIGKILL, 0]]
    # The job that is killed leaves nothing of itself in wandb; the last one logs what it said up to step 7.
    check(often, {step: step * (1 if step <= 4 else 10 if step <= 7 else 100) for step in range(9)})
    assert processes.finished(second) == [[-signal.SIGKILL, 0]]
    check(early, {0: 0, 1: 1, 2: 20, 3: 30})


class Server(types.ModuleType):
    """The few calls of wandb, and what a server would do with them."""

    class Error(Exception):
        """Like wandb's."""

    class CommError(Error):
        """Like wandb's."""

    def __init__(self, answers: bool, rewinds: bool) -> None:
        super().__init__("wandb")
        self.answers, self.rewinds = answers, rewinds
        self.errors = self
        self.begun: list[tuple[str, str]] = []

    def teardown(self) -> None:
        """As wandb's, which ends the process that waits for a server."""

    def init(self, mode: str, resume_from: str | None = None, **settings: Any) -> Any:
        if mode == "online" and not self.answers:
            raise self.CommError("no route")
        if mode == "online" and resume_from and not self.rewinds:
            raise self.Error("not on this server")
        self.begun.append((mode, resume_from or f"{settings['id']}, resume {settings['resume']}"))
        place = Path(settings["dir"]) / "wandb" / "run-now-abcd" / "run-abcd.wandb"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        return types.SimpleNamespace(log=lambda values, step: None, finish=lambda: None)


@pytest.mark.parametrize(
    ("answers", "rewinds", "begun", "said"),
    [
        (True, True, ("online", "abcd?_step=5"), ""),
        (True, False, ("online", "abcd, resume allow"), "did not rewind the run to step 5 (not on this server)"),
        (False, True, ("offline", "abcd?_step=5"), "cannot be reached (no route); going on offline"),
    ],
)
def test_what_a_server_cannot_do_stops_no_training(
    answers: bool, rewinds: bool, begun: Any, said: str, tmp_path: Path, monkeypatch: Any, capsys: Any
):
    server = Server(answers=True, rewinds=rewinds)
    monkeypatch.setitem(sys.modules, "wandb", server)
    config = WandbConfig(mode="online")
    first = WandbRun(tmp_path, config, {}, "abcd", 0, [])
    first.log(9, {"loss": 1.0})
    first.finish()
    server.answers = answers
    WandbRun(tmp_path, config, {}, "abcd", 5, [{"step": 5, "loss": 1.0}])
    assert server.begun == [("online", "abcd, resume allow"), begun]
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("left", ["", "seven", "-3", "7" * 5000, "\xff"])
def test_a_damaged_note_of_what_was_sent_stops_no_training_and_all_is_told_again(
    left: str, tmp_path: Path, monkeypatch: Any
):
    monkeypatch.setitem(sys.modules, "wandb", Server(answers=True, rewinds=True))
    (tmp_path / "wandb-sent.txt").write_text(left, encoding="latin-1")
    run = WandbRun(tmp_path, WandbConfig(mode="online"), {}, "abcd", 5, [{"step": 5, "loss": 1.0}])
    run.finish()
    assert (tmp_path / "wandb-sent.txt").read_text() == "5\n"


def watched(folder: str) -> None:
    """A job whose numbers fail at its second line, with images, arrays and a checkpoint."""
    run = Path(folder)
    (run / "checkpoints" / "step-00000002").mkdir(parents=True)
    (run / "checkpoints" / "step-00000002" / "weights").write_bytes(b"of many gigabytes")
    config = WandbConfig(project="mosaics", name="a run", group="sizes", tags=("tiny", "cpu"))
    facts = {"seed": 0, "environment": {"ranks": 1, "job": {"SLURM_JOB_ID": "17"}}}
    metrics = Metrics(run, 100, config, facts)
    metrics.rewind(0)
    for step, loss in ((1, 1.0), (2, math.nan)):
        metrics.add({"loss": torch.tensor(loss)})
        metrics.write(step, {})
    metrics.write_arrays(2, {"code_use": torch.tensor([1.0, 5.0]), "nll_by_position": torch.eye(3)})
    metrics.note(SaveReport(step=2, stalled_s=0.5, written_s=2.0, size=1000))
    metrics.close()


def test_wandb_has_the_alerts_arrays_and_facts_of_a_job_and_a_reference_to_each_checkpoint(tmp_path: Path):
    processes.run(watched, 1, tmp_path)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    found = list(records(file))
    about = next(record.run for record in found if record.HasField("run"))
    assert (about.project, about.display_name, about.run_group) == ("mosaics", "a run", "sizes")
    assert set(about.tags) == {"tiny", "cpu"}
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert config["seed"] == 0 and config["environment"]["job"] == {"SLURM_JOB_ID": "17"}
    (alert,) = [record.alert for record in found if record.HasField("alert")]
    assert alert.title == "not_finite" and alert.text == f"step 2: not finite: loss, in {tmp_path}"
    logged = {item.nested_key[0] for record in found if record.HasField("history") for item in record.history.item}
    assert {"code_use", "nll_by_position", "train/loss"} <= logged
    (artifact,) = [record.artifact for record in found if record.HasField("artifact")]
    assert (artifact.name, artifact.type) == ("a_run-checkpoint", "checkpoint") and "step-2" in artifact.aliases
    (entry,) = artifact.manifest.contents
    assert entry.ref == (tmp_path / "checkpoints/step-00000002/weights").as_uri() and not entry.local_path


def test_without_wandb_nothing_of_it_is_written(tmp_path: Path):
    metrics = Metrics(tmp_path, 100, None, {})
    metrics.rewind(0)
    metrics.write_val(1, {"psnr": 1.0})
    metrics.close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
