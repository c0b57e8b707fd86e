"""The command ``smalti``: ``smalti NAME ...`` runs the module of that name beside this file."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from ..trainer.exit_code import ExitCode
from . import command

COMMANDS: Mapping[str, str] = {
    "pack": "pack images into tar shards",
    "index": "write indexes beside shards that are there",
    "prepare": "pack a published data set by its name",
    "annotate": "make edges, label maps or depths of images",
    "train": "train a VQGAN or a prior",
    "palette": "find a palette of colors, for priors over pixels",
    "encode": "encode image shards into code shards",
    "reconstruct": "write images beside their reconstructions",
    "decode": "write the images of code shards",
    "sample": "sample images from a prior",
    "edit": "make a part of a photo anew from an edited label map",
    "evaluate": "measure a tokenizer or a prior on a data set",
    "search": "search the sampling settings of a prior",
    "experiment": "run one of the paper's comparisons",
    "export": "export a run's weights",
    "import": "import weights of other projects",
    "top": "show how runs stand, on a terminal",
    "report": "write what runs came to into one HTML file",
    "plan": "compute what a run will take, without starting it",
    "supervise": "train to the end, starting failed jobs again",
    "bench": "measure a part of the project on this machine",
}

FOLDERS = ("annotate", "bench", "edit", "evaluate", "experiment", "palette", "prepare", "reconstruct", "search")
MODULES: Mapping[str, str] = {  # of commands that are not called as their modules are
    **{folder: f".{folder}.__main__" for folder in FOLDERS},
    "decode": ".reconstruct.decode",
    "import": ".import_weights",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Find the command and run it; its exit code. Only the module of that command is imported."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return ExitCode.DONE
    if name not in COMMANDS:
        return command.fail(ValueError(f"smalti has no command {name!r}{command.advice(name, COMMANDS)}"))
    code: int = import_module(module_of(name)).main(rest)
    return code


def module_of(name: str) -> str:
    """The module of a command, which a launcher starts."""
    return f"{__package__}{MODULES.get(name, f'.{name}')}"


def _help() -> str:
    lines = [f"  {name:11} {about}" for name, about in COMMANDS.items()]
    return "\n".join(
        [
            "usage: smalti COMMAND ...",
            "",
            "Image tokenizers and autoregressive image priors, trained at any scale.",
            "",
            *lines,
            "",
            "smalti COMMAND --help says more, with an example. Under a launcher, a command is a module:",
            "  deepspeed --num_gpus 8 --module smalti.launch.train demo_vqgan",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
