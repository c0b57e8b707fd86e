"""What is started again, with which words, and what is believed of a job's end; the jobs are shells here."""

from pathlib import Path

import pytest

from smalti.trainer.exit_code import ExitCode
from smalti.trainer.jobs import hosts, supervisor
from smalti.trainer.jobs.side_files import EXIT_CODE, STOP_REQUEST
from smalti.trainer.jobs.supervisor import Hosts, supervise


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has saved its steps 4 and 8."""
    for step in (4, 8):
        (tmp_path / "run" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    return tmp_path / "run"


def shell(command: str, *words: object) -> list[str]:
    return ["sh", "-c", command, "sh", *map(str, words)]


def test_restarts_that_are_used_up_end_with_the_last_code(run: Path, capsys: pytest.CaptureFixture[str]):
    assert supervise(shell("echo one >> $1/starts; kill -9 $$", run), run, 2) == 137
    assert (run / "starts").read_text() == "one\n" * 3
    ended = "supervise: the job ended with 137 (killed by SIGKILL); "
    assert capsys.readouterr().err.splitlines() == [
        f"{ended}restart 1 of 2 from the checkpoint of step 8",
        f"{ended}restart 2 of 2 from the checkpoint of step 8",
        f"{ended}it was started again 2 time(s). The same command goes on from the checkpoint of step 8",
    ]


def test_a_rank_that_nccl_has_ended_is_explained(run: Path, capsys: pytest.CaptureFixture[str]):
    assert supervise(shell("kill -ABRT $$"), run, 0) == 134
    assert "134 (killed by SIGABRT, as NCCL ends a rank that has lost another" in capsys.readouterr().err


@pytest.mark.parametrize("code", [ExitCode.WRONG, ExitCode.NOT_SAVED, ExitCode.LEFT])
def test_what_does_not_get_better_by_itself_is_not_started_again(
    run: Path, code: int, capsys: pytest.CaptureFixture[str]
):
    assert supervise(shell(f"exit {code}"), run, 3) == code
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("recorded", "launcher", "code"),
    [
        (None, 0, ExitCode.FAILED),  # a launcher that was killed and ends well
        (ExitCode.DONE, 1, ExitCode.DONE),  # one that fails while it tidies up
        (ExitCode.WRONG, 1, ExitCode.WRONG),  # torchrun's 1 for every code
        (ExitCode.LEFT, 1, ExitCode.LEFT),
        (ExitCode.LEFT, 0, ExitCode.FAILED),  # nobody asked: the ranks left because their launcher was gone
        (ExitCode.LEFT, 137, 137),
        (ExitCode.FAILED, 247, ExitCode.FAILED),
    ],
)
def test_what_rank_0_has_said_counts_and_a_launcher_alone_is_not_believed(
    run: Path, recorded: int | None, launcher: int, code: int
):
    say = "" if recorded is None else f"echo {recorded} > $1/exit-code;"
    assert supervise(shell(f"{say} exit {launcher}", run), run, 0) == code


def test_the_word_of_an_earlier_job_does_not_count(run: Path):
    (run / EXIT_CODE).write_text("0\n")
    assert supervise(shell("exit 3"), run, 0) == 3


def test_the_first_cause_is_in_the_line(run: Path, capsys: pytest.CaptureFixture[str]):
    cause = "rank 5 on node2: RuntimeError: out of memory"
    assert supervise(shell('echo "$2" > $1/failure.txt; exit 1', run, cause), run, 0) == 1
    assert f"ended with 1 ({cause}); " in capsys.readouterr().err


def test_a_request_to_leave_is_passed_on_by_a_file_until_the_job_has_left(run: Path):
    leaves = "kill -USR1 $PPID; while [ ! -e $1/stop-requested ]; do sleep 0.05; done; echo 75 > $1/exit-code; exit 1"
    assert supervise(shell(leaves, run), run, 3) == ExitCode.LEFT
    assert not (run / STOP_REQUEST).exists()


def test_ranks_whose_launcher_dies_of_the_request_are_waited_for(run: Path):
    rank = "while [ ! -e $1/stop-requested ]; do sleep 0.05; done; sleep 0.5; echo 75 > $1/exit-code"
    assert supervise(shell(f"({rank}) & kill -TERM $PPID; kill $$", run), run, 3) == ExitCode.LEFT


def test_a_silent_host_is_left_out_of_the_next_start(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a slots=2\nb slots=2\nc slots=2\n")
    gone = iter([["b"], ["b", "c"], []])
    monkeypatch.setattr(hosts, "silent", lambda listed: next(gone))
    command = shell("grep -v '^#' $2 >> $1/pools; echo >> $1/pools; exit 1", run, hostfile, f"--hostfile={hostfile}")
    assert supervise(command, run, 3, Hosts(hostfile)) == 1
    pools = (run / "pools").read_text().replace(" slots=2\n", " ").split("\n")
    assert pools == ["a b c ", "a c ", "a ", "a b c ", ""]
    assert "from the checkpoint of step 8, without b, c (no answer by ssh)" in capsys.readouterr().err


def test_too_few_hosts_end_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a\nb\n")
    monkeypatch.setattr(hosts, "silent", lambda listed: ["b"])
    assert supervise(shell("exit 247", hostfile), run, 3, Hosts(hostfile, minimum=2)) == 247
    assert "only 1 host(s) answer, not b, and 2 are needed" in capsys.readouterr().err


def test_a_file_of_the_users_never_becomes_the_list_of_the_hosts_that_are_left(run: Path, tmp_path: Path):
    taken = run / "remaining-hosts.txt"
    taken.write_text("a slots=8\n")
    (tmp_path / "hosts").write_text("a\n")
    for hostfile in (tmp_path / "hosts", taken):
        with pytest.raises(
            ValueError, match=r"remaining-hosts\.txt is to hold the hosts that are left; move your file"
        ):
            supervise(shell("exit 1", hostfile), run, 3, Hosts(hostfile))
    assert taken.read_text() == "a slots=8\n"


def test_a_command_that_does_not_name_the_hostfile_is_refused(run: Path, tmp_path: Path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("a\n")
    with pytest.raises(ValueError, match=r"the command must name .*hosts, so that a host can be left out"):
        supervise(shell("exit 0"), run, 3, Hosts(hostfile))
    with pytest.raises(ValueError, match="minimum_hosts must be from 1 to the 1 of"):
        Hosts(hostfile, minimum=2)
