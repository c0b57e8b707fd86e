"""The run in wandb that belongs to a run's folder: one and the same after every restart, with the folder's history.

A job that goes on from a checkpoint begins before lines that wandb may have; one that was killed may have left wandb
without its last lines, as an offline file is written in blocks. So wandb's run is rewound to the step up to which it
surely has everything, and the lines from there on are logged again.

    RUN/wandb/            wandb's own files; offline ones are sent by ``wandb sync``, the oldest first
    RUN/wandb-sent.txt    that step

The only import of wandb.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..files import write_text
from .arrays import gray_levels

PATIENCE_S = 30.0  # for a server that does not answer
_SENT = "wandb-sent.txt"
_HEAD_BYTES = 7  # of an offline file without records


@dataclass(frozen=True)
class WandbConfig:
    """Where a run is watched. Offline runs are sent later with ``wandb sync``."""

    project: str = "smalti"
    mode: Literal["offline", "online"] = "offline"
    name: str | None = None
    group: str | None = None  # of runs that are compared with each other
    tags: tuple[str, ...] = ()


class WandbRun:
    """Logs to wandb what goes into the run's metrics file. Rank 0 makes one, when it is known where training goes on.

    Args:
        run: the run's folder.
        config: where the run is watched.
        settings: the resolved config of the whole run, as a mapping.
        identity: the number under which wandb knows the run.
        step: from which training goes on.
        lines: of the run's metrics up to that step, the oldest first.
    """

    def __init__(
        self,
        run: Path,
        config: WandbConfig,
        settings: Mapping[str, Any],
        identity: str,
        step: int,
        lines: Sequence[Mapping[str, float]],
    ) -> None:
        self._place = run / _SENT
        sent = min(_sent(self._place), step)
        write_text(self._place, f"{sent}\n")  # what was sent beyond is history that did not happen
        begun = _begun(run, config, identity)
        self._name = re.sub(r"[^\w.-]", "_", config.name or run.name)
        about = {
            "project": config.project, "name": config.name or run.name, "group": config.group, "tags": config.tags,
            "dir": str(run), "config": dict(settings),
        }  # fmt: skip
        self._run = _started(config, identity, sent if begun else None, about)
        self._step = sent
        for line in lines:
            if line["step"] > sent or not sent:
                values = {name: value for name, value in line.items() if name not in ("step", "seconds")}
                self.log(int(line["step"]), values)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step; several calls for one step make one row."""
        self._run.log(dict(values), step=step)
        self._step = step

    def show(self, step: int, images: Mapping[str, Tensor]) -> None:
        """Image grids of a step, uint8 (H, W, 3)."""
        from wandb import Image

        self._run.log({name: Image(image.cpu().numpy()) for name, image in images.items()}, step=step)
        self._step = step

    def describe(self, step: int, arrays: Mapping[str, Tensor]) -> None:
        """Small arrays of a step: one axis as a histogram, whose bins are numbered, a grid as gray levels."""
        from wandb import Histogram, Image

        shown = {
            name: Histogram(np_histogram=(array.tolist(), list(range(len(array) + 1))))
            if array.dim() == 1
            else Image(gray_levels(array).numpy())
            for name, array in arrays.items()
        }
        self._run.log(shown, step=step)
        self._step = step

    def alert(self, step: int, title: str, text: str) -> None:
        """An alert that begins, which a server may send on by mail."""
        self._run.alert(title=title, text=f"step {step}: {text}", level="WARN")

    def saved(self, step: int, checkpoint: Path) -> None:
        """A checkpoint is on the disk: wandb gets a reference to its folder, and nothing of what is in it."""
        from wandb import Artifact

        artifact = Artifact(f"{self._name}-checkpoint", type="checkpoint", metadata={"step": step})
        artifact.add_reference(checkpoint.resolve().as_uri(), name=checkpoint.name, checksum=False)
        self._run.log_artifact(artifact, aliases=[f"step-{step}"])

    def finish(self) -> None:
        """Everything logged is in wandb's files, or sent."""
        self._run.finish()
        write_text(self._place, f"{self._step}\n")


def _sent(place: Path) -> int:
    """The step up to which wandb has everything; 0 where nobody knows, and all is logged again."""
    try:
        return max(int(place.read_text(encoding="utf-8")), 0)
    except (OSError, ValueError):
        return 0


def _begun(run: Path, config: WandbConfig, identity: str) -> bool:
    """Whether wandb has anything of this run yet. A file of a job that was killed early has no records."""
    files = (run / "wandb").glob(f"*run-*-{identity}/*.wandb")
    return any(config.mode == "online" or file.stat().st_size > _HEAD_BYTES for file in files)


def _started(config: WandbConfig, identity: str, rewind: int | None, about: dict[str, Any]) -> Any:
    """wandb's run, a new one or rewound to a step; offline when the network does not answer."""
    import wandb

    quiet = {"silent": True}  # it would print 40 lines at its end
    fresh: dict[str, Any] = {"id": identity, "resume": "allow"}
    begin = fresh if rewind is None else {"resume_from": f"{identity}?_step={rewind}"}
    if config.mode == "online":
        if rewind is not None:
            try:
                return wandb.init(mode="online", settings=quiet, **begin, **about)
            except wandb.errors.Error as error:  # not every server can
                print(f"wandb did not rewind the run to step {rewind} ({error}); old lines stay", file=sys.stderr)
        try:
            return wandb.init(mode="online", settings={"init_timeout": PATIENCE_S, **quiet}, **fresh, **about)
        except wandb.errors.Error as error:  # no network, no key, a key that the server does not know
            print(
                f"wandb cannot be reached ({str(error).splitlines()[0]}); going on offline, for `wandb sync`",
                file=sys.stderr,
                flush=True,
            )
            wandb.teardown()  # the process that waits for the server would refuse the offline run too
    print(f"wandb: offline run {identity}; send it with: wandb sync {about['dir']}/wandb/offline-run-*", flush=True)
    return wandb.init(mode="offline", settings=quiet, **begin, **about)
