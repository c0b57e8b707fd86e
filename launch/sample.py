"""Sample images: ``smalti sample PRIOR [TOKENIZER] --segmentation map.png --seed 1 --out folder``.

The same seed gives the same images, whatever the batch, the mode and the number of ranks. A run that was killed goes
on when the same command is given again. ``deepspeed --module smalti.launch.sample ...`` shares the images out. Exit
codes: 0 all is sampled, 1 too many samples of a set were left out, 2 something is wrong with what was asked.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..trainer.exit_code import ExitCode
from . import command

TIMEOUT_S = 7 * 24 * 3600.0  # ranks wait for the slowest one's images
_OF_ONE_IMAGE = {
    "label": "--class",
    "classes": "--classes",
    "segmentation": "--segmentation",
    "depth": "--depth",
    "low_resolution": "--low-resolution",
    "text": "--text",
    "objects": "--objects",
    "init_image": "--init-image",
    "keep_rows": "--keep-rows",
    "grid": "--grid",
}
"""Options that a set of shards leaves no room for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    command.drop_output_that_fails()
    return command.ended(lambda: _sample(asked))


def _sample(asked: argparse.Namespace) -> int:
    from ..trainer.distributed import ranks  # torch is slow to import
    from ..trainer.files import only_command_in

    with ranks.process_group(TIMEOUT_S), ranks.entered_by_rank_0(only_command_in(asked.out)):
        _sample_here(asked)
    return ExitCode.DONE


def _sample_here(asked: argparse.Namespace) -> None:
    """This rank's share of the images."""
    from ..models.sampling import SamplingConfig
    from ..models.vqgan.tiling import Tiling
    from ..trainer.checkpoint.loading import find_tokenizer, load_prior, load_tokenizer
    from ..trainer.distributed import ranks
    from ..trainer.sampling.asked_images import AskedImages, sample_asked
    from ..trainer.sampling.condition_fields import ConditionEncoder
    from ..trainer.sampling.condition_files import ConditionInputs
    from ..trainer.sampling.image_files import DecodeConfig
    from ..trainer.sampling.job import SamplingJob, check_pair
    from ..trainer.sampling.progress import SamplingJobConfig
    from ..trainer.sampling.rejection import load_rejection
    from ..trainer.sampling.sample_archive import check_archive, write_archive
    from ..trainer.sampling.shard_requests import ShardRequests
    from ..trainer.sampling.whole_set import sample_set
    from ..trainer.shards.reader import ShardSet

    device = ranks.device()
    prior = load_prior(asked.prior, device, asked.precision or ("bf16" if device.type == "cuda" else "fp32"))
    named = asked.tokenizer or find_tokenizer(asked.prior, run_of(asked.prior).tokenizer, prior.metadata["tokenizer"])
    tokenizer = load_tokenizer(named, device)
    check_pair(prior, tokenizer)
    named_tokenizers = (("segmentation", asked.segmentation_tokenizer), ("depth", asked.depth_tokenizer))
    others = {name: load_tokenizer(folder, device) for name, folder in named_tokenizers if folder is not None}
    decode = DecodeConfig(asked.decode, asked.tile, asked.halo, asked.format)
    drawn: SamplingConfig = command.sampling_config(
        asked, mode=asked.mode, stride=asked.stride, scene_windows=asked.scene_windows
    )

    def sampling(size: tuple[int, int]) -> SamplingConfig:
        lanes, prefill = lanes_and_prefill(asked, prior.model.rows_at_once(size[1]), device.type == "cuda")
        return replace(drawn, lanes=lanes, prefill=prefill)

    config = SamplingJobConfig(asked.batch, asked.save_every, asked.preview)
    job = SamplingJob(prior, tokenizer, asked.seed, sampling, decode, config, command.say)
    tiles = Tiling(asked.tile, asked.halo)
    rejection = None
    if asked.classifier is not None:
        rejection = load_rejection(asked.classifier, asked.keep_share, device)
    if not asked.shards:
        given = ConditionInputs(
            asked.label, asked.segmentation, asked.depth, asked.low_resolution, asked.text, asked.objects, others
        )
        images = AskedImages(
            asked.out,
            asked.count,
            asked.size or [None],
            given,
            asked.classes or (),
            asked.init_image,
            asked.keep_rows,
            asked.grid,
            asked.npz,
            rejection,
        )
        sample_asked(job, images, tiles)
        return
    conditions = ConditionEncoder(prior, others, tiles)
    requests = ShardRequests(ShardSet.open(asked.shards), prior, tokenizer, conditions, _size_of_a_set(asked))
    archive = asked.out / f"seed-{asked.seed}.npz"
    if asked.npz:
        check_archive(archive)
    report = sample_set(job, requests, asked.count, asked.out, rejection)
    if ranks.rank() == 0:
        if asked.npz and report.images:
            command.say(f"{write_archive(archive, report.images)}: {len(report.images)} images")
        left_out = f"{len(report.left_out)} samples left out"
        command.say(f"{len(report.images)} images of {len(requests)} samples, {left_out}")


def _size_of_a_set(asked: argparse.Namespace) -> tuple[int, int] | None:
    """The one size that may be asked of a set, which tells all else of each image."""
    beside = [option for name, option in _OF_ONE_IMAGE.items() if getattr(asked, name) not in (None, False)]
    if beside:
        raise ValueError(f"--shards tells what each image is to be; omit {', '.join(beside)}")
    sizes: list[tuple[int, int]] = asked.size or []
    if len(sizes) > 1:
        raise ValueError(f"a set is sampled in one size at a time, got {len(sizes)}")
    return sizes[0] if sizes else None


def run_of(folder: Path) -> Any:
    """The config of a prior's run, which names its tokenizers as seen from where it was trained.

    Raises:
        ValueError: the folder is no run's.
    """
    from ..trainer import config  # with the runs comes DeepSpeed, which takes seconds to import
    from ..trainer.jobs.run_dir import RESOLVED, resolved_config
    from ..trainer.prior.config import PriorRun

    if not resolved_config(folder).is_file():
        raise ValueError(
            f"{folder} is not a run with a {RESOLVED}, so it does not tell its tokenizer; name that behind it (and the "
            "guide of a guided editor with --guide FOLDER)"
        )
    return config.read(PriorRun, resolved_config(folder), saved=True)


def lanes_and_prefill(asked: argparse.Namespace, rows_at_once: int, many: bool) -> tuple[int, int]:
    """Lanes and prefill: on a CPU few, on a GPU as many as the images that are sampled together can use."""
    lanes, prefill = asked.lanes, asked.prefill
    if lanes is None:
        lanes = asked.batch * rows_at_once if many else 4  # an empty lane costs as much as a full one
        lanes = lanes if lanes <= 32 else -(-lanes // 16) * 16  # which has a divisor near 32
    if prefill is None:
        prefill = max(size for size in range(1, min(lanes, 32) + 1) if lanes % size == 0) if many and lanes > 0 else 1
    return lanes, prefill


def _parser() -> argparse.ArgumentParser:
    options = command.parser(
        "sample", __doc__, "smalti sample runs/prior --segmentation map.png --size 1024x1024 --seed 1 --out samples"
    )
    options.add_argument("prior", type=Path, help="folder of the prior's run, or of its export")
    options.add_argument("tokenizer", type=Path, nargs="?", help="folder of the VQGAN's run or export; else the run's")
    options.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the images")
    options.add_argument(
        "--seed", type=command.seed, default=0, metavar="N", help="decides the images, with the settings below (0)"
    )
    options.add_argument(
        "--count", type=command.count, default=1, metavar="N", help="images of each size, class or sample (1)"
    )
    command.add_local_rank(options)
    _add_what(options.add_argument_group("what to sample"))
    _add_drawing(options.add_argument_group("how codes are drawn"))
    changing = "of these --stride, --scene-windows, --lanes, --prefill and --precision change codes"
    _add_going(options.add_argument_group(f"how to go about it; {changing}"))
    _add_decoding(options.add_argument_group("how codes become pixels"))
    return options


def _add_what(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--shards",
        nargs="+",
        metavar="SHARDS",
        help="every sample of these shards of codes or images: its map, depth, class, layout, text or small image; "
        "--count images of each, named by its key",
    )
    group.add_argument(
        "--size",
        type=command.size,
        nargs="+",
        metavar="HEIGHTxWIDTH",
        help="in pixels; several are allowed; else the map's, or what the small image becomes",
    )
    group.add_argument(
        "--segmentation", type=Path, metavar="FILE", help="a PNG of labels, of any size, for priors of maps"
    )
    group.add_argument(
        "--segmentation-tokenizer",
        type=Path,
        metavar="FOLDER",
        help="its tokenizer, for priors whose maps were tokenized",
    )
    group.add_argument(
        "--depth", type=Path, metavar="FILE", help="an image or .npy of depths, of any size, for priors of depth"
    )
    group.add_argument("--depth-tokenizer", type=Path, metavar="FOLDER", help="its tokenizer")
    group.add_argument(
        "--low-resolution", type=Path, metavar="FILE", help="a small image, for priors of superresolution"
    )
    group.add_argument(
        "--objects",
        type=Path,
        metavar="FILE",
        help='for priors of objects, JSON: {"size": [height, width], "objects": [{"class": 3, "box": [l, t, r, b]}]}',
    )
    group.add_argument(
        "--text", type=Path, metavar="FILE", help=".npy (tokens, channels) of embeddings, for priors of texts"
    )
    of_classes = group.add_mutually_exclusive_group()
    of_classes.add_argument(
        "--class", dest="label", type=command.natural, metavar="N", help="number of the class, for priors of classes"
    )
    of_classes.add_argument(
        "--classes",
        type=command.numbers,
        metavar="NUMBERS",
        help="several classes, as 0-999 or 1,3,8-11: --count images of each, in a folder a class",
    )
    group.add_argument(
        "--init-image", type=Path, metavar="FILE", help="a photo; where it is transparent or ends, it is completed"
    )
    group.add_argument(
        "--keep-rows",
        type=command.share,
        metavar="SHARE",
        help="share of the photo's rows to keep, from the top (0.5 if it is whole)",
    )


def _add_drawing(group: "argparse._ArgumentGroup") -> None:
    command.add_drawing_options(group)
    group.add_argument(
        "--classifier",
        type=Path,
        metavar="FILE",
        help="TorchScript, images in [-1, 1] to logits: of more images, the --count that it is surest of stay",
    )
    group.add_argument(
        "--keep-share", type=command.share, default=0.05, metavar="SHARE", help="share of them that stays (0.05)"
    )


def _add_going(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--mode",
        choices=("wavefront", "serial"),
        default="wavefront",
        help="codes that do not need each other at once, or one by one (wavefront)",
    )
    group.add_argument(
        "--stride",
        type=command.count,
        default=1,
        metavar="CODES",
        help="codes of a row that share one window; 1 is exact",
    )
    group.add_argument(
        "--scene-windows", action="store_true", help="windows begin one code later, as in the published scenes"
    )
    group.add_argument("--lanes", type=int, metavar="N", help="windows in a forward (4; on GPUs what --batch needs)")
    group.add_argument(
        "--prefill", type=int, metavar="N", help="windows read anew at once (1; on GPUs up to 32 of the lanes)"
    )
    group.add_argument("--precision", choices=("fp32", "bf16"), help="of the prior (bf16 on GPUs, fp32 on a CPU)")
    group.add_argument("--batch", type=command.count, default=1, metavar="N", help="images sampled together (1)")
    command.add_save_every(group)
    group.add_argument(
        "--preview",
        type=command.weight,
        metavar="SECONDS",
        help="seconds between looks at what is there so far; else none",
    )


def _add_decoding(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--decode",
        choices=("whole", "shared", "blended"),
        default="blended",
        help="tiles: none, of shared statistics, or faded into each other (blended)",
    )
    command.add_tile_options(group)
    group.add_argument(
        "--format", choices=("auto", "png", "tiff"), default="auto", help="auto: TIFF from 67 megapixels"
    )
    group.add_argument(
        "--npz", action="store_true", help="all images in one .npz too: arr_0 (N, H, W, 3), arr_1 classes, as of ADM"
    )
    group.add_argument("--grid", action="store_true", help="all images of a size, small, in one more")


if __name__ == "__main__":
    sys.exit(main())
