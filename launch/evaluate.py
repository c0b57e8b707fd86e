"""Evaluate a tokenizer on a data set: ``deepspeed --module smalti.launch.evaluate RUN_OR_EXPORT SHARDS``.

Every sample counts exactly once, on any number of ranks. The figures are printed with the protocol that they hold
under: data, crop, filter, rounding, networks and weights. ``python -m smalti.launch.evaluate`` is one process.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..trainer.exit_code import ExitCode
from . import command

TIMEOUT_S = 7200.0  # ranks wait for the slowest one's samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _evaluate(asked))


def _evaluate(asked: argparse.Namespace) -> int:
    from ..trainer.distributed import ranks  # torch is slow to import

    with ranks.process_group(TIMEOUT_S):
        try:
            _evaluate_here(asked)
        except ranks.AgreedError as error:  # every rank has it, and one says it
            return command.fail(error) if ranks.rank() == 0 else ExitCode.WRONG
    return ExitCode.DONE


def _evaluate_here(asked: argparse.Namespace) -> None:
    """This rank's share of the samples."""
    from ..trainer.checkpoint.loading import load_tokenizer
    from ..trainer.distributed import ranks
    from ..trainer.evaluation import results
    from ..trainer.evaluation.data import EvaluationConfig, crop_of_size, open_data
    from ..trainer.evaluation.image_sets import ReferenceFiles
    from ..trainer.evaluation.judges import Judges, JudgesConfig, load_judges
    from ..trainer.evaluation.tokenizers import checks_of, evaluate_tokenizer, field_of
    from ..trainer.files import check_own

    out: Path | None = asked.out
    if out is not None:
        ranks.agreed(partial(check_own, out, results.MARK))
    config = ranks.agreed(lambda: EvaluationConfig(asked.batch, asked.num_workers, asked.max_bad_fraction))
    asked_crop = ranks.agreed(lambda: crop_of_size(asked.size, asked.resize))
    crop = asked_crop or ranks.agreed(lambda: _validation(asked.run).crop)
    tokenizer = ranks.agreed(lambda: load_tokenizer(asked.run, ranks.device()))
    field = field_of(tokenizer)
    data = open_data(asked.shards, crop, [field], checks_of(tokenizer), config)
    networks = JudgesConfig(asked.features, asked.inception_weights, asked.lpips, asked.lpips_weights)
    judges = Judges() if field == "segmentation" else load_judges(networks, crop.size)
    found = evaluate_tokenizer(
        tokenizer, data, judges, ReferenceFiles(asked.reference, asked.save_statistics), command.note
    )
    if ranks.rank() == 0:
        for line in results.lines(found):
            command.say(line)
        if out is not None:
            results.write(out, found)


def _validation(run: Path) -> Any:
    """The validation data of a run, which say how it cuts images."""
    from ..trainer import config as configs  # with the runs comes DeepSpeed, which takes seconds to import
    from ..trainer.jobs.run import Run
    from ..trainer.jobs.run_dir import resolved_config

    file = resolved_config(run)
    if not file.is_file():
        raise ValueError(
            f"{run} is no run with a {file.name}, so it does not say how images are cut; give --size 256x256"
        )
    return configs.read(Run, file, saved=True).val_data


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "evaluate", __doc__, "smalti evaluate runs/vqgan data/photos/val --size 256x256 --out vqgan.json"
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the VQGAN's run, or of its export")
    parser.add_argument("shards", nargs="+", help="folders of image shards, brace patterns or URLs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a JSON file for all that is printed (none)")
    command.add_local_rank(parser)
    cut = parser.add_argument_group("which pixels (else as the run validates itself)")
    cut.add_argument(
        "--size",
        type=command.side,
        default=0,
        metavar="HEIGHTxWIDTH",
        help="the largest square of each image, brought to this size with antialiasing",
    )
    cut.add_argument(
        "--resize",
        type=int,
        metavar="N",
        help="as taming-transformers: the shortest side to N, bilinear, not antialiased, then the middle --size",
    )
    judges = parser.add_argument_group("frozen networks that compare images")
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
    sets = parser.add_argument_group("what the rebuilt images are compared with (the real ones of the same samples)")
    sets.add_argument("--reference", type=Path, metavar="FILE", help="statistics of other real images, a .npz")
    sets.add_argument(
        "--save-statistics", type=Path, metavar="FILE", help="write those of these real images, a .npz, for --reference"
    )
    going = parser.add_argument_group("how to go about it")
    going.add_argument("--batch", type=int, default=16, metavar="N", help="samples a network sees at once (16)")
    going.add_argument(
        "--num-workers", type=int, default=0, metavar="N", help="processes of each rank that read images (0)"
    )
    going.add_argument(
        "--max-bad-fraction", type=float, default=0.01, metavar="SHARE", help="of samples left out (0.01)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
