"""The measurement of checkpoints runs, and its figures are those that it promises."""

import json

import processes


def test_the_figures_are_there():
    ended = processes.command("smalti.launch.bench", ["checkpoint", "--megabytes", "4", "--saves", "1"]).wait()
    assert ended.codes == [0], ended.log
    figures = json.loads(ended.outputs[0].splitlines()[-1])
    assert figures["stall_ratio"] == figures["stalled_s"] / figures["torch_save_s"] > 0
    assert figures["write_gb_s"] > 0
    assert 0.015 < figures["gigabytes"] < 0.025  # weights, masters and two moments of 4 MiB each
