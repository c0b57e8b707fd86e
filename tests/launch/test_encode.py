"""The command that encodes images: kills in its middle, and its errors."""

import random
import signal
import time
from pathlib import Path

import processes
from fixtures.shards import write_images
from fixtures.tokenizers import write_tokenizer

from smalti.launch import encode
from smalti.trainer.shards.reader import ShardSet


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_encoding_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path):
    images = write_images(tmp_path / "images", 60, per_shard=3)
    tokenizer = write_tokenizer(tmp_path / "vqgan")

    def start(name: str, world: int = 1) -> processes.Job:
        options = ["--size", "16", "--crops", "2", "--seed", "3", "--num-workers", str(world - 1)]
        return processes.command("smalti.launch.encode", [tokenizer, images, tmp_path / name, *options], world)

    assert start("whole").wait().codes == [0]
    undisturbed = files(tmp_path / "whole")
    assert ShardSet.open([str(tmp_path / "whole")]).samples == 120
    assert len(undisturbed) == 42  # with the report and the index of the set

    draws = random.Random(0)
    kills = 0
    for attempt, shards in enumerate((0, 1, 5, 9, 14, 17)):
        job = start("killed", 1 + attempt % 2)
        while processes.alive(job.leader) and len(list((tmp_path / "killed").glob("*.tar.idx"))) <= shards:
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.02))
        job.signal(signal.SIGKILL)
        kills += any(code < 0 for code in job.wait().codes)
    assert kills >= 4 and files(tmp_path / "killed") != undisturbed
    ended = start("killed", 2).wait()
    assert ended.codes == [0, 0], ended.log
    assert files(tmp_path / "killed") == undisturbed
    assert "120 grids in 20 shards, 0 images left out" in ended.outputs[0]


def test_what_is_wrong_is_told_in_a_line(tmp_path, capsys):
    images = write_images(tmp_path / "images", 3)
    assert encode.main([str(tmp_path / "nothing"), str(images), str(tmp_path / "codes")]) == 2
    assert "neither an export" in capsys.readouterr().err
    assert encode.main([str(tmp_path), str(images), str(tmp_path / "codes"), "--crops", "2"]) == 2
    assert "whole images are encoded once" in capsys.readouterr().err
