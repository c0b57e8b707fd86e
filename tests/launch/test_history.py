"""A run that was killed and goes on has one continuous history, in its folder and in wandb."""

import signal
import time
from pathlib import Path

import processes
from fixtures.runs import STEPS, write_vqgan
from fixtures.wandb_files import synced

from smalti.trainer.training import arrays
from smalti.trainer.training.metrics import history

TRAIN = "smalti.launch.train"


def test_a_run_that_is_killed_and_resumed_has_every_step_once_in_its_lines_and_in_wandb(tmp_path: Path):
    config = write_vqgan(tmp_path, wandb={}, loop__save_every=2)
    job = processes.command(TRAIN, [config], 1)
    while "step 4/6  train/" not in job.output():
        assert processes.alive(job.pids[0]), job.output()
        time.sleep(0.001)
    job.signal(signal.SIGKILL)
    job.wait()
    second = int(time.time())
    while int(time.time()) == second:  # wandb names its folders by the second
        time.sleep(0.01)
    ended = processes.command(TRAIN, [config], 1).wait()
    assert ended.codes == [0], ended.log
    run = config.with_suffix("")
    lines = history(run)
    assert [line["step"] for line in lines if "train/rec_loss" in line] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "val/psnr" in line] == [0, 3, STEPS]
    assert [array.step for array in arrays.read(run)] == [0, 3, STEPS]
    identities, rows = synced(run)
    assert len(identities) == 1
    assert [row["_step"] for row in rows] == list(range(STEPS + 1))
    losses = {line["step"]: line["train/rec_loss"] for line in lines if "train/rec_loss" in line}
    assert {row["_step"]: row["train/rec_loss"] for row in rows if "train/rec_loss" in row} == losses
