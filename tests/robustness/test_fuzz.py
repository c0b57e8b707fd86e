"""Two thousand damaged files through the commands that read files from outside.

Whatever the damage: the command ends within ten seconds with an exit code that is documented and without a traceback,
takes no more than a gigabyte for it, and touches nothing outside the folders that it was given.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import time
import traceback
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import processes
import pytest
import torch
from fixtures import published
from fixtures.priors import write_tokenizer
from fixtures.runs import write_vqgan
from fixtures.shards import encoded, photo, write_images
from mutations import mutated, resealed
from safetensors.torch import save_file

from smalti.launch import export, import_weights, index, pack, train
from smalti.launch.command import ended as ended_with_code
from smalti.trainer.checkpoint import storage
from smalti.trainer.data.crops import CropConfig
from smalti.trainer.data.stream import DataConfig, Stream
from smalti.trainer.shards import reader
from smalti.trainer.shards.errors import SampleError, TooManySampleErrorsError

LIMIT_S = 10
LIMIT_BYTES = 1 << 30
CODES = {0, 1, 2, 74}


class Surface(NamedTuple):
    """A kind of file, and the command that reads it."""

    seeds: dict[str, bytes]  # a sound file's bytes, by a name for the file
    command: Callable[[Path, str, bytes], int]  # (an empty folder, the file's name, its bytes) to the exit code
    cases: int


def ended(folder: Path, work: Callable[[], int]) -> tuple[int, str, float]:
    """Exit code, output and seconds of a piece of work in a process of its own, with bounds on memory and time."""
    output, began = folder / "output.txt", time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be(output, work)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output.read_text(errors="replace"), time.monotonic() - began


def _be(output: Path, work: Callable[[], int]) -> None:
    code = 99
    try:
        sys.stdout = sys.stderr = output.open("w", buffering=1)
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + LIMIT_BYTES, now + LIMIT_BYTES))
        signal.alarm(LIMIT_S)
        code = work()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _tars(folder: Path) -> dict[str, bytes]:
    """Tars as our writer, GNU tar and pax write them."""
    found = {"ours.tar": next(write_images(folder / "shards", 3, side=16).glob("*.tar")).read_bytes()}
    for name, form in (("gnu.tar", tarfile.GNU_FORMAT), ("pax.tar", tarfile.PAX_FORMAT)):
        path = folder / name
        with tarfile.open(path, "w", format=form) as tar:
            for number in range(3):
                image = folder / f"{'long' * 30}-{number}.png"
                image.write_bytes(encoded(photo(16, 16, number), "PNG"))
                tar.add(image, arcname=image.name)
        found[name] = path.read_bytes()
    return found


def _index(folder: Path, name: str, data: bytes) -> int:
    (folder / name).write_bytes(data)
    return index.main([str(folder / name), "--processes", "1"])


def _read_with(tar: bytes) -> Callable[[Path, str, bytes], int]:
    """Reads the samples of a sound shard by an index that is not, in both orders."""

    def command(folder: Path, name: str, data: bytes) -> int:
        shards = folder / "shards"
        shards.mkdir()
        (shards / "shard.tar").write_bytes(tar)
        (shards / "shard.tar.idx").write_bytes(resealed(data) if name == "sealed.idx" else data)
        config = DataConfig(shards=(str(shards),), crop=CropConfig(size=8))

        def read() -> int:
            stream = Stream(config, ("image", "segmentation"), global_batch=2, micro_batch=2)
            list(islice(stream.train_batches(), 3))
            list(stream.eval_batches(2))
            return 0

        try:
            return ended_with_code(read)
        except TooManySampleErrorsError as error:
            print(error)
            return 1

    return command


def _read_set(shards: Path) -> Callable[[Path, str, bytes], int]:
    """Opens sound shards by an index of the set that is not, and reads of each."""

    def command(folder: Path, name: str, data: bytes) -> int:
        shutil.copytree(shards, folder / "shards")
        if name == "sealed.index" and len(parts := data.split(b"\n", 1)) == 2:
            data = b"%s %08x\n%s" % (parts[0].rpartition(b" ")[0], zlib.crc32(parts[1]), parts[1])
        (folder / "shards" / "shards.index").write_bytes(data)
        reader.LOOKED_AT = 0

        def read() -> int:
            opened = reader.ShardSet.open([str(folder / "shards")])
            for shard, count in enumerate(opened.counts):
                with suppress(SampleError):
                    opened.read(shard, count - 1, "png")
            return len({opened.fingerprint, opened.order, *opened.provenance, *opened.classes}) * 0

        return ended_with_code(read)

    return command


def _foreign(folder: Path) -> dict[str, bytes]:
    """Another project's weights, in its container and in one of tensors alone."""
    state = published.vqgan_state(published.F8)
    torch.save({"state_dict": state}, folder / "plain.ckpt")
    save_file({name: values.contiguous().clone() for name, values in state.items()}, folder / "weights.safetensors")
    published.lightning(folder / "last.ckpt", state)
    return {name: (folder / name).read_bytes() for name in ("plain.ckpt", "last.ckpt", "weights.safetensors")}


def _import(folder: Path, name: str, data: bytes) -> int:
    (folder / name).write_bytes(data)
    return import_weights.main([str(folder / name), str(folder / "imported")])


def _images() -> dict[str, bytes]:
    pixels = photo(24, 40)
    kinds = {"a.jpg": "JPEG", "a.png": "PNG", "a.webp": "WEBP", "a.tif": "TIFF", "a.bmp": "BMP"}
    found = {name: encoded(pixels, kind) for name, kind in kinds.items()}
    found["b.jpg"] = encoded(pixels, "JPEG", progressive=True)
    found["b.tif"] = encoded(pixels, "TIFF", compression="tiff_lzw")
    return found


def _pack(folder: Path, name: str, data: bytes) -> int:
    source = folder / "images"
    source.mkdir()
    (source / name).write_bytes(data)
    (source / "sound.png").write_bytes(encoded(photo(24, 24, 1), "PNG"))
    return pack.main([str(source), str(folder / "shards"), "--processes", "1"])


def _pack_labels(folder: Path, name: str, data: bytes) -> int:
    source = folder / "images"
    source.mkdir()
    for number in range(3):
        (source / f"p{number}.png").write_bytes(encoded(photo(16, 16, number), "PNG"))
    (folder / name).write_bytes(data)
    return pack.main([str(source), str(folder / "shards"), "--labels", str(folder / name), "--processes", "1"])


def _print_config(folder: Path, name: str, data: bytes) -> int:
    (folder / name).write_bytes(data)
    return train.main([str(folder / name), "--print-config"])


def _export_of(export_folder: Path) -> Callable[[Path, str, bytes], int]:
    """Exports an export again, one of whose files is exchanged."""

    def command(folder: Path, name: str, data: bytes) -> int:
        shutil.copytree(export_folder, folder / "from")
        (folder / "from" / name).write_bytes(data)
        return export.main([str(folder / "from"), str(folder / "to")])

    return command


def _restore_from(run: Path) -> Callable[[Path, str, bytes], int]:
    """Goes on with a run one of whose checkpoint's files is exchanged."""

    def command(folder: Path, name: str, data: bytes) -> int:
        shutil.copytree(run, folder / "run")
        newest = storage.list_checkpoints(folder / "run")[0].folder
        (newest / name).write_bytes(data)
        return export.main([str(folder / "run"), str(folder / "to")])

    return command


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Surface]:
    folder = tmp_path_factory.mktemp("sound")
    write_tokenizer(folder / "export")
    config = write_vqgan(folder, loop__max_steps=2)
    _train_two_steps(config)
    newest = storage.list_checkpoints(config.with_suffix(""))[0].folder
    labels = {
        "labels.csv": b"file,class\np0.png,0\np1.png,1\np2.png,2\n",
        "labels.json": json.dumps({f"p{number}.png": number for number in range(3)}).encode(),
    }
    exported = {name: (folder / "export" / name).read_bytes() for name in ("model.safetensors", "config.json")}
    kept = {name: (newest / name).read_bytes() for name in ("manifest.json", "model.safetensors", "config.json")}
    text = config.read_bytes()
    shards = write_images(folder / "indexed", 4, side=16)
    tar, idx, known = (next(shards.glob(end)).read_bytes() for end in ("*.tar", "*.idx", "*.index"))
    return {
        "tars": Surface(_tars(folder), _index, 300),
        "indexes": Surface({"plain.idx": idx, "sealed.idx": idx}, _read_with(tar), 300),
        "sets": Surface({"plain.index": known, "sealed.index": known}, _read_set(shards), 300),
        "images": Surface(_images(), _pack, 400),
        "labels": Surface(labels, _pack_labels, 150),
        "configs": Surface({"run.yaml": text, "other.yaml": text.replace(b", ", b",\n ")}, _print_config, 250),
        "exports": Surface(exported, _export_of(folder / "export"), 200),
        "checkpoints": Surface(kept, _restore_from(config.with_suffix("")), 200),
        "imports": Surface(_foreign(folder), _import, 200),
    }


def _train_two_steps(config: Path) -> None:
    job = processes.command("smalti.launch.train", [config]).wait()
    assert job.codes == [0], job.log


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tars", "indexes", "sets", "images", "labels", "configs", "exports", "checkpoints", "imports"]
)
def test_damaged_files_end_in_a_sentence(name: str, surfaces: dict[str, Surface], tmp_path: Path, monkeypatch: Any):
    surface = surfaces[name]
    home = tmp_path / "elsewhere"
    home.mkdir()
    (home / "of-the-user.txt").write_text("years of notes")
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    wrong = []
    for case in range(surface.cases):
        draws = random.Random(f"{name} {case}")
        file = draws.choice(sorted(surface.seeds))
        data = mutated(surface.seeds[file], list(surface.seeds.values()), draws)
        folder = tmp_path / f"case-{case}"
        folder.mkdir()
        code, output, seconds = ended(folder, lambda: surface.command(folder, file, data))  # noqa: B023 (called here)
        if code not in CODES or "Traceback" in output or seconds > LIMIT_S:
            wrong.append(f"case {case} of {file}: code {code} after {seconds:.1f} s: {output[-600:]}")
        shutil.rmtree(folder)
        assert [path.name for path in home.iterdir()] == ["of-the-user.txt"], f"case {case} of {file} wrote elsewhere"
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert not wrong, f"{len(wrong)} of {surface.cases}:\n" + "\n".join(wrong[:8])


def test_mutations_are_the_same_for_a_seed_and_differ_between_seeds():
    made = [mutated(b"0123456789" * 20, [b"other"], random.Random(seed)) for seed in range(50)]
    again = [mutated(b"0123456789" * 20, [b"other"], random.Random(seed)) for seed in range(50)]
    assert made == again and len(set(made)) > 40
