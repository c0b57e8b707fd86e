"""What a run will take: ``smalti plan CONFIG --nodes 8 --gpus 8 --memory 80``. Nothing is started.

Needs no GPU and no data, only the config; for a prior, its tokenizer's folder or ``--codes``. ``--sbatch FILE`` writes
the job script for SLURM; ``--prefetch`` downloads what training downloads, for nodes without a network.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ..models.vqgan.autoencoder import VQGANConfig
from ..trainer import config as configs
from ..trainer.checkpoint import model_files
from ..trainer.checkpoint.loading import resolve_weights
from ..trainer.exit_code import ExitCode
from ..trainer.files import write_whole
from ..trainer.jobs.run import Run
from ..trainer.planning.costs import Costs, measure
from ..trainer.planning.plan import GIB, Fit, Machines, Plan, plan
from ..trainer.prior.config import PriorRun
from ..trainer.vqgan import frozen_losses
from . import command

SCRIPT = Path(__file__).parent / "slurm" / "train.sbatch"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call. 0: it fits; 1: it does not; 2: something is wrong with what was asked."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.prefetch:
            for path in frozen_losses.prefetch():
                print(f"there: {path}")
            if asked.config is None:
                return 0
        if asked.config is None:
            raise ValueError("name a config, or --prefetch")
        run: Run = configs.read(Run, asked.config, asked.set)
        machines = Machines(asked.nodes, asked.gpus, asked.memory, asked.teraflops, asked.mfu)
        costs = measure(run, _tokenizers(run, asked.codes))
        planned = plan(run, costs, machines)
        _print(run, costs, machines, planned)
        if asked.sbatch and planned.chosen is not None:
            _write_script(asked.sbatch, asked.config, asked.set + planned.settings(costs.networks), machines)
    except (OSError, ValueError, RuntimeError) as error:
        return command.fail(error)
    return ExitCode.DONE if planned.chosen is not None else ExitCode.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("plan", __doc__, "smalti plan vqgan_imagenet_f16_16384 --nodes 8 --gpus 8 --memory 80")
    parser.add_argument("config", nargs="?", help="a YAML file, or the name of a packaged config")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="override a value; repeatable")
    parser.add_argument("--nodes", type=int, default=1, help="machines (1)")
    parser.add_argument("--gpus", type=int, default=8, help="of a node (8)")
    parser.add_argument("--memory", type=float, default=80.0, metavar="GIB", help="of a GPU (80)")
    parser.add_argument("--teraflops", type=float, default=989.0, help="of a GPU at its best (989, an H100 in bf16)")
    parser.add_argument("--mfu", type=float, default=0.35, help="share of it that training reaches (0.35)")
    parser.add_argument("--codes", type=int, metavar="K", help="of a prior's tokenizer, where its folder is not here")
    parser.add_argument(
        "--sbatch", type=Path, metavar="FILE", help="write the job script for SLURM with these settings"
    )
    parser.add_argument("--prefetch", action="store_true", help="download the frozen networks of the losses now")
    return parser


def _tokenizers(run: Run, codes: int | None) -> dict[str, VQGANConfig]:
    """The tokenizers of a prior's run, from their metadata."""
    if not isinstance(run, PriorRun):
        return {}
    if codes is not None:
        return {"image": _with_codes(codes)}
    found = {}
    for field, folder in {"image": run.tokenizer, **run.condition_tokenizers}.items():
        try:
            place = resolve_weights(Path(folder))
        except ValueError as error:
            raise ValueError(f"{error}; or give the number of its codes with --codes") from None
        found[field] = configs.from_mapping(
            VQGANConfig, model_files.read_metadata(place, "vqgan")["model"], str(place), saved=True
        )
    return found


def _with_codes(codes: int) -> VQGANConfig:
    default = configs.to_mapping(VQGANConfig())
    quantizer = {**default["quantizer"], "codebook_size": codes}
    built: VQGANConfig = configs.from_mapping(VQGANConfig, {**default, "quantizer": quantizer}, "--codes")
    return built


def _print(run: Run, costs: Costs, machines: Machines, planned: Plan) -> None:
    print(f"{run.task} on {machines.nodes} node(s) of {machines.gpus} GPUs with {machines.memory:g} GiB each\n")
    for network in costs.networks:
        print(f"  {network.section:24} {network.parameters / 1e6:10.1f} M parameters")
    print(f"  {'frozen networks':24} {costs.frozen / GIB:10.2f} GiB")
    print(
        f"  {'one sample':24} {costs.sample.bytes / GIB:10.2f} GiB of activations, {costs.sample.flops / 1e9:.0f} GFLOP"
    )
    header = (
        "GiB a rank:",
        "weights",
        "gradients",
        "masters",
        "moments",
        "average",
        "buffers",
        "host",
        "largest micro",
    )
    print(f"\n  {header[0]:50}" + "".join(f"{name:>11}" for name in header[1:-1]) + f"{header[-1]:>15}")
    for fit in planned.fits:
        print(f"  {fit.name:50}" + "".join(f"{part / GIB:11.2f}" for part in fit.held) + f"{_largest(fit):>15}")
    print(f"\n  {planned.steps} steps, {planned.samples:.3g} samples, {planned.tokens:.3g} codes")
    pace = f"{machines.mfu:.0%} of {machines.teraflops:g} TFLOP/s"
    print(f"  {planned.flops:.3g} FLOP: {_duration(planned.seconds)} at {pace}")
    print(f"  {planned.checkpoint / GIB:.2f} GiB a checkpoint, {run.keep_last} are kept\n")
    for reason in planned.reasons:
        print(f"  - {reason}")
    settings = " ".join(f"--set {shlex.quote(setting)}" for setting in planned.settings(costs.networks))
    if settings:
        print(f"\n  recommended: {settings}")


def _largest(fit: Fit) -> str:
    return f"{fit.micro} (of {fit.largest})" if fit.micro != fit.largest else str(fit.micro)


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} days"


def _write_script(path: Path, config: str, settings: Sequence[str], machines: Machines) -> None:
    """The packaged job script with the numbers of this plan filled in; its first argument is the config no more."""
    text = SCRIPT.read_text()
    for before, after in (
        ("--nodes=1\n", f"--nodes={machines.nodes}\n"),
        ("--ntasks-per-node=8\n", f"--ntasks-per-node={machines.gpus}\n"),
        ("--gres=gpu:8\n", f"--gres=gpu:{machines.gpus}\n"),
        (
            '"$@"',
            " ".join(map(shlex.quote, (config, *(part for word in settings for part in ("--set", word))))) + ' "$@"',
        ),
    ):
        text = text.replace(before, after)
    write_whole(path, text.encode())
    print(f"\n  sbatch {path}")


if __name__ == "__main__":
    sys.exit(main())
