"""DeepSpeed speaks in plain lines, once, from rank 0, and keeps the rest in a file of the run."""

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smalti.trainer.distributed.process import deepspeed_log
from smalti.trainer.jobs import side_files

ALARM = "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it."


@pytest.fixture
def printed() -> Iterator[io.StringIO]:
    """What the handler prints that DeepSpeed gives its logger; the logger as it is found, and as it was afterwards."""
    logger = logging.getLogger("DeepSpeed")
    before = list(logger.filters), logger.level, list(logger.handlers), logger.propagate
    stream = io.StringIO()
    logger.filters, logger.handlers, logger.propagate = [], [logging.StreamHandler(stream)], False
    logger.setLevel(logging.WARNING)
    yield stream
    logger.filters, logger.handlers, logger.propagate = before[0], before[2], before[3]
    logger.setLevel(before[1])


def test_a_warning_is_one_line_of_rank_0_and_said_once(printed: io.StringIO, capsys: pytest.CaptureFixture[str]):
    deepspeed_log.collect(0)
    logger = logging.getLogger("DeepSpeed")
    for _ in range(3):
        logger.warning("Unable to find %s,\nwill proceed", "hostfile")
    assert capsys.readouterr() == ("", "warning: DeepSpeed: Unable to find hostfile, will proceed\n")
    assert printed.getvalue() == ""


def test_whoever_imports_an_engine_does_not_read_that_there_is_no_gpu(tmp_path: Path):
    """In a program of the user's own too, whose logging is otherwise left as it is."""
    code = (
        "import logging, smalti.trainer.distributed.process\n"
        "logger = logging.getLogger('DeepSpeed')\n"
        f"logger.warning('{ALARM}')\n"
        "logger.warning('something else')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "something else\n")


def test_other_ranks_say_errors_only(printed: io.StringIO, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    deepspeed_log.collect(3)
    deepspeed_log.write_to(tmp_path)
    logger = logging.getLogger("DeepSpeed")
    logger.warning("all ranks say this")
    logger.error("only this one says that")
    assert capsys.readouterr() == ("", "error: DeepSpeed: only this one says that\n")
    assert not list(tmp_path.iterdir()) and printed.getvalue() == ""


def test_what_only_informs_is_kept_in_a_file_that_the_run_knows_for_its_own(
    printed: io.StringIO, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    deepspeed_log.collect(0)
    logger = logging.getLogger("DeepSpeed")
    logger.info("before the run has a folder")
    deepspeed_log.write_to(tmp_path)
    logger.info("Creating torch.float32\nZeRO stage 1 optimizer")
    logger.warning("slow")
    path = tmp_path / "deepspeed.log"
    first, second = path.read_text().splitlines()
    assert first.endswith(" INFO Creating torch.float32 ZeRO stage 1 optimizer") and second.endswith(" WARNING slow")
    assert capsys.readouterr() == ("", "warning: DeepSpeed: slow\n") and printed.getvalue() == ""
    assert side_files.is_free(path)
    path.write_text("a log of the user's\n")
    assert side_files.taken(tmp_path) == [path]


def test_the_file_is_bounded_and_a_disk_that_takes_nothing_ends_nothing(
    printed: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(deepspeed_log, "MOST_BYTES", 100)
    deepspeed_log.collect(0)
    deepspeed_log.write_to(tmp_path)
    for number in range(50):
        logging.getLogger("DeepSpeed").info("message %d", number)
    assert 100 <= (tmp_path / "deepspeed.log").stat().st_size < 200
    deepspeed_log.write_to(tmp_path / "gone")
    logging.getLogger("DeepSpeed").info("for nobody")
    assert printed.getvalue() == ""
