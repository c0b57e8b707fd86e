"""``deepspeed --hostfile`` on two nodes: one is cut off in mid-training, and the run goes on on the other."""

import json
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import two_nodes
from made_runs import write_prior

from smalti.trainer import checkpoints

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(two_nodes.missing()), reason=two_nodes.missing())]

TIMEOUT_S = 60  # of the config: a collective that waits longer ends the job
PATIENCE_S = 600.0  # only a starved machine needs it
STEPS = 80
LOOP = {"steps": STEPS, "log_every": 1, "preview_every": 1000, "evaluate_every": 1000, "save_every": 10}


def start(cluster: two_nodes.Nodes, config: Path, output: Path) -> subprocess.Popen[bytes]:
    variables = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
    (cluster.folder / ".deepspeed_env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(cluster.folder / "hosts")]
    address = ["--master_addr", two_nodes.NODES[two_nodes.FIRST], "--master_port", str(processes.free_port())]
    options = ["--launcher", "pdsh", "--no_ssh_check", *address, "--module", "smalti.launch.train", str(config)]
    return cluster.start([*launcher, *options], variables, output)


def trained(config: Path) -> int:
    lines = config.with_suffix("").joinpath("metrics.jsonl")
    return json.loads(lines.read_text().splitlines()[-1])["step"] if lines.exists() else 0


def test_a_job_that_loses_a_node_ends_names_it_and_goes_on_on_the_other(tmp_path):
    config = write_prior(tmp_path, loop=LOOP, timeout_s=TIMEOUT_S)
    output = tmp_path / "output.txt"
    with two_nodes.nodes(tmp_path / "nodes") as cluster:
        job = start(cluster, config, output)
        deadline = time.monotonic() + PATIENCE_S
        while trained(config) < 25:
            assert job.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        before = len(output.read_text())
        cluster.cut(two_nodes.SECOND)
        cut = time.monotonic()
        code = job.wait(PATIENCE_S)
        said = output.read_text()
        assert code != 0, said
        assert time.monotonic() - cut < 2 * TIMEOUT_S + 60, said  # the launcher leaves a minute after its rank
        assert f"{two_nodes.SECOND}: ssh exited" in said[before:], said  # the lost host, by its name
        cluster.end_all()
    found = checkpoints.newest(tmp_path / "run")
    assert found is not None and found.step >= 20
    ended = processes.command("smalti.launch.train", [config], 1, {"OMP_NUM_THREADS": "1"}, PATIENCE_S).wait()
    assert ended.codes == [0], ended.log
    last = checkpoints.newest(tmp_path / "run")
    assert last is not None and last.step == STEPS
