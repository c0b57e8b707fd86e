"""Exporting holds one copy of the weights in memory at most, whatever the format and however they were sharded."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import processes
import pytest
import torch
import torch.distributed as dist

from smalti.models.conditions import ClassConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.trainer.checkpoint import model_files, sealed, storage
from smalti.trainer.config import to_mapping
from smalti.trainer.distributed import engine as engines
from smalti.trainer.distributed import ranks, sharded_parameters
from smalti.trainer.distributed.engine import EngineConfig
from smalti.trainer.distributed.optimizer import OptimizerConfig

CODES, CLASSES = 64, 5
LARGE = GPTConfig(layers=16, heads=8, width=512, window=(4, 4))  # 202 MB in fp32, a 16th of them in a layer
SMALL = GPTConfig(layers=1, heads=1, width=8, window=(4, 4))
ALLOWED = 1.25  # copies of the weights; the rest is buffers and the table that is being turned

EXPORT = """
import sys
import time
from contextlib import suppress
from smalti.launch import export

small, large, out, *options = sys.argv[1:]
assert export.main([small, out + "-small", *options]) == 0  # imports and threads are not what is measured
print("ready", flush=True)
sys.stdin.readline()
sys.exit(export.main([large, out, *options]))
"""


def save(config: GPTConfig, run: Path, zero: int) -> None:
    """A checkpoint of a prior, on every rank, as a run leaves it before its first step."""
    torch.manual_seed(0)
    condition = ClassConfig(classes=CLASSES)
    engine = engines.build(config.build(CODES, condition), EngineConfig(zero_stage=zero), OptimizerConfig(1e-3), 1, 1)
    folder = run / storage.FOLDER / "step-00000000"
    (folder / "prior").mkdir(parents=True, exist_ok=True)
    for file in engines.save(engine, folder / "prior"):
        torch.save(file.content, file.path)
    weights = sharded_parameters.full_state_dict(engine.module)
    dist.barrier()
    if ranks.rank() == 0:
        said = {"task": "prior", "model": to_mapping(config), "condition": to_mapping(condition), "codes": CODES}
        model_files.write(folder, weights, said | {"factor": 4, "tokenizer": "0" * 64})
        files = {str(path.relative_to(folder)): storage.described(path) for path in folder.rglob("*") if path.is_file()}
        manifest = {"step": 0, "ranks": ranks.world(), "zero": {"prior": zero}, "data": {}, "files": files}
        (folder / storage.MANIFEST).write_text(sealed.sealed(manifest))


def save_both(place: str, zero: int) -> None:
    """A large checkpoint and a small one."""
    for name, config in (("large", LARGE), ("small", SMALL)):
        save(config, Path(place) / name, zero)


def copies_held(place: Path, *options: str) -> float:
    """The most memory that an export of the large checkpoint has taken, over the bytes of its weights.

    Memory is what cannot be dropped: pages of files that are mapped, and can be read again, do not count.
    """
    out = place / ("out" + "-".join(options))
    line = [sys.executable, "-c", EXPORT, str(place / "small"), str(place / "large"), str(out), *options]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        while "ready" not in (said := process.stdout.readline()):
            assert said, "the small export has failed"
        before = most = held_by(process.pid)
        process.stdin.write("go\n")
        process.stdin.close()
        while process.poll() is None:
            most = max(most, held_by(process.pid))
            time.sleep(0.002)
    assert process.returncode == 0
    return (most - before) / (place / "large" / storage.FOLDER / "step-00000000" / model_files.WEIGHTS).stat().st_size


def held_by(process: int) -> int:
    """Bytes of a process that belong to no file; 0 once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    return 0


FORMATS = {
    "as they are": (),
    "bf16 in shards": ("--dtype", "bf16", "--shard-bytes", "50000000"),
    "raw": ("--weights", "raw"),
    "raw for transformers": ("--weights", "raw", "--format", "transformers"),
    "transformers": ("--format", "transformers"),
}


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_an_export_of_200_megabytes_takes_no_more_memory_than_they_do(tmp_path, zero, capsys):
    processes.run(save_both, 2, str(tmp_path), zero)
    for name, options in FORMATS.items():
        copies = copies_held(tmp_path, *options)
        with capsys.disabled():
            print(f"\nZeRO {zero}, two ranks, {name}: {copies:.2f} copies of the weights in memory")
        assert copies < ALLOWED, name
