"""``deepspeed --hostfile`` on two nodes: one is cut off in mid-training, and the run goes on on the other."""

import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import two_nodes
from fixtures.runs import write_prior

from smalti.trainer.checkpoint import storage
from smalti.trainer.jobs import hosts
from smalti.trainer.training import metrics

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(two_nodes.missing()), reason=two_nodes.missing())]

TIMEOUT_S = 60  # of the config: a collective that waits longer ends the job
PATIENCE_S = 600.0  # only a starved machine needs it
STEPS = 80
LOOP = {"max_steps": STEPS, "log_every": 1, "preview_every": 1000, "eval_every": 1000, "save_every": 10}


def start(cluster: two_nodes.Nodes, config: Path, output: Path) -> subprocess.Popen[bytes]:
    variables = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
    (cluster.folder / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    hostfile = ["--hostfile", str(cluster.folder / "hosts")]
    supervisor = [sys.executable, "-m", "smalti.launch.supervise", "--max-restarts", "1", *hostfile, "--"]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", *hostfile, "--launcher", "pdsh", "--no_ssh_check"]
    address = ["--master_addr", two_nodes.NODES[two_nodes.FIRST], "--master_port", str(processes.free_port())]
    train = ["--module", "smalti.launch.train", str(config)]
    return cluster.start([*supervisor, *launcher, *address, *train], variables, output)


def wait_for(job: subprocess.Popen[bytes], output: Path, mark: str) -> str:
    """What was said until the mark."""
    deadline = time.monotonic() + PATIENCE_S
    while mark not in (said := output.read_text()):
        assert job.poll() is None and time.monotonic() < deadline, said
        time.sleep(0.1)
    return said


def test_a_job_that_loses_a_node_ends_names_it_and_goes_on_on_the_other(tmp_path):
    config = write_prior(tmp_path, loop=LOOP, timeout_s=TIMEOUT_S)
    run, output = config.with_suffix(""), tmp_path / "output.txt"
    with two_nodes.nodes(tmp_path / "nodes") as cluster:
        job = start(cluster, config, output)
        before = wait_for(job, output, "step 25/")
        cluster.cut(two_nodes.SECOND)
        cut = time.monotonic()
        said = wait_for(job, output, "supervise: the job ended")
        ended_s = time.monotonic() - cut
        code = job.wait(PATIENCE_S)
        said = output.read_text()
    assert code == 0, said
    assert f"{two_nodes.SECOND}: ssh exited" in said[len(before) :], said  # the lost host, by its name
    assert ended_s < TIMEOUT_S + 90, said  # the launcher gives a rank 30 s, and ssh is waited for 15 s
    verdict = next(line for line in said.splitlines() if line.startswith("supervise: "))
    assert "(ssh has lost a host, see above); restart 1 of 1 from the checkpoint of step " in verdict
    assert f", without {two_nodes.SECOND} (no answer by ssh)" in verdict
    assert hosts.listed(run / "remaining-hosts.txt") == [two_nodes.FIRST]
    assert "1 rank(s) on 1 host(s)" in said and "which 2 rank(s) saved" in said
    assert [line["step"] for line in metrics.history(run) if "train/nll" in line] == [*range(1, STEPS + 1)]
    last = storage.latest_valid(run)
    assert last is not None and last.step == STEPS
