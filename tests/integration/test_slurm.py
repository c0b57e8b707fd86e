"""launch/slurm/train.sbatch under a real SLURM: two nodes, put back into the queue by hand and by priority."""

import json
import sys
import time
from pathlib import Path

import processes
import pytest
import slurm
from fixtures.runs import write_prior

from smalti.trainer.checkpoint import model_files, storage
from smalti.trainer.training import metrics

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing())]

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm" / "train.sbatch"
ENVIRONMENT = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
STEPS = 150
EVERY = {"max_steps": STEPS, "log_every": 1, "preview_every": 1000, "eval_every": 1000, "save_every": 1000}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with slurm.cluster(tmp_path / "slurm") as made:
        made.environment |= ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}:{made.environment['PATH']}"}
        yield made


def submit(cluster: slurm.Slurm, config: Path, *options: str) -> int:
    placed = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gres=none", "--partition=low", "--time=50"]
    return cluster.submit(*placed, f"--output={config.with_suffix('.log')}", *options, SCRIPT, config)


def trained(config: Path) -> int:
    """The last step that the run has written down."""
    lines = config.with_suffix("").joinpath("metrics.jsonl")
    return json.loads(lines.read_text().splitlines()[-1])["step"] if lines.exists() else 0


def wait_for_step(config: Path, step: int, patience_s: float = 90.0) -> int:
    deadline = time.monotonic() + patience_s
    while (now := trained(config)) < step:
        assert time.monotonic() < deadline, f"step {now}, not {step}\n{config.with_suffix('.log').read_text()[-3000:]}"
        time.sleep(0.02)
    return now


def digest(config: Path) -> str:
    found = storage.latest_valid(config.with_suffix(""))
    assert found is not None and found.step == STEPS
    return model_files.read_metadata(found.folder)["digest"]


def test_a_job_that_is_put_back_twice_ends_with_the_weights_of_an_undisturbed_one(tmp_path, cluster):
    calm = write_prior(tmp_path, name="calm", loop=EVERY)
    ended = processes.command("smalti.launch.train", [calm], 2, {"OMP_NUM_THREADS": "1"}).wait()
    assert ended.codes == [0, 0], ended.log

    config = write_prior(tmp_path, name="queued", loop=EVERY)
    job = submit(cluster, config)
    first = wait_for_step(config, 20)
    cluster.command("scontrol", "requeue", job)
    cluster.wait(job, "PENDING")
    assert storage.latest_valid(config.with_suffix("")).step >= first  # the ranks have saved before they left

    cluster.wait(job, "RUNNING")
    second = wait_for_step(config, 70)
    urgent = cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait(urgent, "COMPLETED")
    assert storage.latest_valid(config.with_suffix("")).step >= second

    cluster.wait(job, "COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED")
    log = config.with_suffix(".log").read_text()
    assert cluster.field(job, "JobState") == "COMPLETED", log
    assert [f"start {number}, on n[1-2]" in log for number in range(4)] == [True, True, True, False]
    assert digest(config) == digest(calm)
    steps = [line["step"] for line in metrics.history(config.with_suffix("")) if "train/nll" in line]
    assert steps == list(range(1, STEPS + 1))  # each once, whatever was done again
