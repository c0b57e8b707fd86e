"""A named pipe in the place of any file that a command reads is refused: nobody may ever write into it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.shards import write_images

from smalti.launch import __main__ as launch

SECONDS = 60


@pytest.fixture
def pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of pipes in the place of all kinds of files; who waits for one is stopped."""

    def stop(*_: object) -> None:
        raise AssertionError("it waits for somebody to write")

    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    for name in ("f.pt", "f.png", "f.csv", "f.txt", "f.tar", "f.yaml", "f.ckpt", "f.safetensors", "model/config.json"):
        os.mkfifo(name)
    Path("weights.ckpt").write_bytes(b"no weights")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "asked",
    [
        "annotate edges f.png out",
        "annotate segmentation images out --network f.pt",
        "edit model model --image f.png --segmentation f.png --edited f.png --out out",
        "evaluate model images --size 16",
        "export model out",
        "import f.ckpt out",
        "import f.safetensors out",
        "import model out",
        "import weights.ckpt out --config f.yaml",
        "index f.tar",
        "pack f.txt out",
        "pack images out --labels f.csv",
        "palette f.tar out",
        "plan f.yaml",
        "prepare ffhq f.tar out",
        "prepare ffhq images out --lists f.txt",
        "prepare coco_boxes images out --keep-classes f.txt",
        "reconstruct model images --out out",
        "sample model model --size 16x16 --out out",
        "train f.yaml",
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_refused(asked: str, pipes: Path, capsys: pytest.CaptureFixture[str]):
    write_images(pipes / "images", 4)
    files = {path for path in pipes.rglob("*") if "images" not in path.parts}
    try:
        code: object = launch.main(asked.split())
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said and ("error: " in said or "no index: " in said), said
    assert {path for path in pipes.rglob("*") if "images" not in path.parts} == files
