"""Evaluate a network on a data set: ``deepspeed --module smalti.launch.evaluate RUN_OR_EXPORT SHARDS``.

A tokenizer by what it rebuilds, a prior by the likelihood of codes and, on shards of images, by what it samples under
their conditions; a folder of images of any size, as ``smalti sample`` leaves them, by crops and by
their seams. Every sample counts exactly once, on any number of ranks. The figures are printed with the protocol that
they hold under: data, crop, filter, rounding, networks, weights, sampling.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...trainer.exit_code import ExitCode
from .. import command

TIMEOUT_S = 7200.0  # ranks wait for the slowest one's samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = parser().parse_args(arguments)
    return command.ended(lambda: _evaluate(asked))


def _evaluate(asked: argparse.Namespace) -> int:
    from ...trainer.distributed import ranks  # torch is slow to import

    with ranks.process_group(TIMEOUT_S):
        return command.agreed(lambda: _evaluate_here(asked))


def _evaluate_here(asked: argparse.Namespace) -> int:
    """This rank's share of the samples."""
    from ...trainer.distributed import ranks
    from ...trainer.evaluation import results
    from ...trainer.evaluation.evaluate import EvaluationRequest, evaluate
    from ...trainer.files import check_own

    out: Path | None = asked.out
    if out is not None:
        ranks.agreed(partial(check_own, out, results.MARK))
    words = {name: value for name, value in vars(asked).items() if name not in ("out", "local_rank")}
    found = evaluate(ranks.agreed(lambda: EvaluationRequest(**words)), command.note)
    if ranks.rank() == 0:
        for line in results.lines(found):
            command.say(line)
        if out is not None:
            results.write(out, found)
    return ExitCode.DONE


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    made = command.parser(
        "evaluate", __doc__, "smalti evaluate runs/vqgan data/photos/val --size 256x256 --out vqgan.json"
    )
    made.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a VQGAN's or prior's run, of an export, or of images"
    )
    made.add_argument("shards", nargs="+", help="folders of shards of images (of codes, for priors), patterns or URLs")
    made.add_argument("--out", type=Path, metavar="FILE", help="a JSON file for all that is printed (none)")
    command.add_local_rank(made)
    cut = made.add_argument_group("which pixels (else as the run validates itself)")
    cut.add_argument(
        "--size",
        type=command.side,
        default=0,
        metavar="HEIGHTxWIDTH",
        help="the largest square of each image, brought to this size with antialiasing; of a folder of images, the "
        "crops that cover them",
    )
    cut.add_argument(
        "--resize",
        type=command.count,
        metavar="N",
        help="as taming-transformers: the shortest side to N, bilinear, not antialiased, then the middle --size",
    )
    cut.add_argument(
        "--seams",
        type=command.count,
        metavar="N",
        help="in a folder of images: how visible borders every N pixels are (none)",
    )
    judges = made.add_argument_group("frozen networks that compare images")
    judges.add_argument(
        "--features",
        default="inception",
        metavar="FILE",
        help="a TorchScript file for the Frechet distance, the published Inception, or none (inception)",
    )
    judges.add_argument(
        "--inception-weights", type=Path, metavar="FILE", help="torch-fidelity's weights of it (torch's cache)"
    )
    judges.add_argument(
        "--lpips",
        choices=("vgg16", "random", "none"),
        default="vgg16",
        help="trunk of LPIPS; random is for tests (vgg16)",
    )
    judges.add_argument(
        "--lpips-weights", type=Path, metavar="FILE", help="torchvision's weights of VGG16 (torch's cache)"
    )
    sets = made.add_argument_group("what the rebuilt images are compared with (the real ones of the same samples)")
    sets.add_argument("--reference", type=Path, metavar="FILE", help="statistics of other real images, a .npz")
    sets.add_argument(
        "--save-statistics", type=Path, metavar="FILE", help="write those of these real images, a .npz, for --reference"
    )
    _add_priors(made.add_argument_group("priors"))
    going = made.add_argument_group("how to go about it")
    going.add_argument(
        "--batch", type=command.count, default=16, metavar="N", help="samples a network sees at once (16)"
    )
    going.add_argument(
        "--num-workers",
        type=command.processes,
        default=0,
        metavar="N",
        help="processes of each rank that read images (0)",
    )
    going.add_argument(
        "--max-bad-fraction", type=command.share, default=0.01, metavar="SHARE", help="of samples left out (0.01)"
    )
    return made


def _add_priors(group: "argparse._ArgumentGroup") -> None:
    for option, field in (
        ("--tokenizer", "images"),
        ("--segmentation-tokenizer", "maps"),
        ("--depth-tokenizer", "depths"),
    ):
        group.add_argument(option, type=Path, metavar="FOLDER", help=f"tokenizer of the {field} (the one of the run)")
    group.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the prior (fp32)")
    group.add_argument("--seed", type=command.seed, default=0, metavar="N", help="decides the sampled images (0)")
    command.add_drawing_options(group)
    group.add_argument(
        "--segmenter", type=Path, metavar="FILE", help="TorchScript that labels pixels, for mean IoU with the maps"
    )


if __name__ == "__main__":
    sys.exit(main())
