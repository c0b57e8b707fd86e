"""Import weights of other projects as an export folder: ``smalti import SOURCE DEST``.

Knows checkpoints of taming-transformers, latent diffusion's VQ models, LlamaGen's tokenizers and priors, MaskGIT's
tokenizer, and folders of diffusers and transformers. Every tensor is used, dropped for a reason that is said, or the
import is refused; DEST/import.json lists them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.exchange import importing, networks
from ..trainer.exchange.hints import CONDITIONS, Hints
from ..trainer.exit_code import ExitCode
from ..trainer.files import refuse_present
from . import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    command.drop_output_that_fails()
    return command.ended(lambda: _import(asked))


def _import(asked: argparse.Namespace) -> int:
    refuse_present(asked.destination)
    hints = Hints(asked.heads, asked.condition, asked.window, asked.start, asked.tokenizer)
    found, report = importing.read(asked.source, hints, asked.config)
    for line in networks.write(found, report, asked.destination):
        command.say(line)
    for line in networks.summary(report):
        command.say(line)
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("import", __doc__, "smalti import vqgan_imagenet_f16_1024.ckpt imports/vqgan")
    parser.add_argument("source", type=Path, help="a file of weights, or a folder of safetensors with its config.json")
    parser.add_argument("destination", type=Path, help="a folder that is not there yet")
    parser.add_argument("--config", type=Path, help="of a taming prior: the YAML of its project, for what shapes hide")
    parser.add_argument(
        "--heads", type=command.count, help="of a prior: its heads, where nothing tells; 16 in taming's paper"
    )
    parser.add_argument("--condition", help=f"of a taming prior without maps: one of {', '.join(CONDITIONS)}")
    parser.add_argument("--window", type=command.size, help="of a prior: ROWSxCOLUMNS of codes, where unknown")
    parser.add_argument(
        "--start", type=command.natural, help="of a prior without a condition: the token that begins a sequence"
    )
    parser.add_argument("--tokenizer", type=Path, help="of a prior without one: the folder of the imported tokenizer")
    return parser


if __name__ == "__main__":
    sys.exit(main())
