"""However often a run is stopped, killed and restored, wandb has one run with the history that its folder has."""

import os
import signal
import struct
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import processes
import pytest
import torch

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


def records(path: Path) -> Iterator[Any]:
    """What an offline file of wandb holds: a log of LevelDB's kind, blocks of 32 KiB behind a head of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, part = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for the head of a record
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        part += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(part)
            part = b""


def synced(folder: Path) -> tuple[set[str], list[dict[str, float]]]:
    """The runs and rows that a server has once all offline files were sent to it, the oldest first."""
    identities, rows, rewound = set(), {}, -1
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        for record in records(file):
            if record.HasField("run"):
                identities.add(record.run.run_id)
                if record.run.HasField("branch_point"):
                    assert record.run.branch_point.run in identities and record.run.branch_point.metric == "_step"
                    rewound = record.run.branch_point.value
                    rows = {step: row for step, row in rows.items() if step <= rewound}
            if record.HasField("history"):
                row = {item.nested_key[0]: float(item.value_json) for item in record.history.item}
                assert row["_step"] == rewound or row["_step"] not in rows, "a row that is there is not taken again"
                rows[row["_step"]] = row
    return identities, list(rows.values())


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
    assert processes.run(sessions, 1, often, jobs) == [[0, -signal.SIGKILL, 0]]
    # The job that is killed leaves nothing of itself in wandb; the last one logs what it said up to step 7.
    check(often, {step: step * (1 if step <= 4 else 10 if step <= 7 else 100) for step in range(9)})
    # One that is killed before wandb has written a line leaves nothing to rewind.
    assert processes.run(sessions, 1, early, [Session(0, 2, 1, True), Session(1, 3, 10)]) == [[-signal.SIGKILL, 0]]
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


def test_without_wandb_nothing_of_it_is_written(tmp_path: Path):
    metrics = Metrics(tmp_path, 100, None, {})
    metrics.rewind(0)
    metrics.write_val(1, {"psnr": 1.0})
    metrics.close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
