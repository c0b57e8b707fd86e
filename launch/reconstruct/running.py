"""What reconstructing and decoding share: their options, and the run on every rank."""

import argparse
from pathlib import Path

from ...trainer.exit_code import ExitCode
from .. import command

TIMEOUT_S = 7200.0


def run(asked: argparse.Namespace, codes: bool) -> int:
    """Write the images of some shards, of images or of codes.

    Raises:
        ValueError: they are of the other kind, or something else is wrong with what was asked.
    """
    from ...models.vqgan.tiling import Manner  # torch is slow to import
    from ...trainer.checkpoint.loading import load_tokenizer
    from ...trainer.data.crops import CropConfig, TamingCropConfig
    from ...trainer.distributed import ranks
    from ...trainer.files import only_command_in
    from ...trainer.sampling.image_files import DecodeConfig
    from ...trainer.sampling.reconstruct import ReconstructConfig, reconstruct_set
    from ...trainer.shards.reader import ShardSet

    crop: CropConfig | TamingCropConfig | None = None
    if not codes and asked.size and asked.resize is not None:
        crop = TamingCropConfig(size=asked.size, resize=asked.resize, flip=0.0)
    elif not codes and asked.size:
        crop = CropConfig(size=asked.size, scale=tuple(asked.scale), flip=0.0)
    manner: Manner = asked.decode or ("blended" if crop is None else "whole")
    config = ReconstructConfig(crop, DecodeConfig(manner, asked.tile, asked.halo), asked.batch)
    shards = ShardSet.open(asked.shards)
    if shards.has_field("codes") != codes:
        raise ValueError(
            f"{shards.names[0]} holds "
            + ("images; smalti reconstruct shows what becomes of them" if codes else "codes; smalti decode shows them")
        )
    with ranks.process_group(TIMEOUT_S), ranks.entered_by_rank_0(only_command_in(asked.out)):
        tokenizer = load_tokenizer(asked.tokenizer, ranks.device())
        report = reconstruct_set(shards, tokenizer, asked.out, config, command.say)
        if ranks.rank() == 0:
            command.say(f"{len(report.images)} images, {len(report.left_out)} samples left out")
    return ExitCode.DONE


def add_options(parser: argparse.ArgumentParser, shards: str, out: str, decode: str) -> None:
    """The options of both: where from, where to, and in which tiles.

    Args:
        parser: gets them.
        shards, out, decode: what their help says.
    """
    parser.add_argument("tokenizer", type=Path, help="folder of the VQGAN's run, or of its export")
    parser.add_argument("shards", nargs="+", help=shards)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=out)
    parser.add_argument(
        "--batch", type=command.count, default=16, metavar="N", help="images that the network sees at once (16)"
    )
    tiles = parser.add_argument_group("tiles, in which the network sees images and codes")
    tiles.add_argument("--decode", choices=("whole", "shared", "blended"), help=decode)
    command.add_tile_options(tiles)
    command.add_local_rank(parser)
