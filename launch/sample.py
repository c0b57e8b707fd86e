"""Sample images: ``smalti sample PRIOR [TOKENIZER] --segmentation map.png --seed 1 --out folder``.

The same seed gives the same images, whatever the batch, the mode and the number of ranks. A run that was killed goes
on when the same command is given again. ``deepspeed --module smalti.launch.sample ...`` shares the images out.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer.exit_code import ExitCode
from . import command

TIMEOUT_S = 7 * 24 * 3600.0  # ranks wait for the slowest one's images


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    return command.ended(lambda: _sample(asked))


def _sample(asked: argparse.Namespace) -> int:
    from ..trainer.distributed import ranks  # torch is slow to import

    with ranks.process_group(TIMEOUT_S):
        _sample_here(asked)
    return ExitCode.DONE


def _sample_here(asked: argparse.Namespace) -> None:
    """This rank's share of the images."""
    from ..models.sampling import GuidanceConfig, SamplingConfig
    from ..models.vqgan.tiling import Tiling
    from ..trainer.checkpoint.loading import find_tokenizer, load_prior, load_tokenizer
    from ..trainer.distributed import ranks
    from ..trainer.sampling import condition_files
    from ..trainer.sampling.condition_fields import ConditionEncoder
    from ..trainer.sampling.image_files import IMAGES, DecodeConfig, check_replaceable, contact_sheet
    from ..trainer.sampling.job import SamplingJob, check_pair
    from ..trainer.sampling.progress import SamplingJobConfig
    from ..trainer.sampling.request import Completion, build_request, class_folders, read_photo, with_label

    device = ranks.device()
    prior = load_prior(asked.prior, device, asked.precision or ("bf16" if device.type == "cuda" else "fp32"))
    named = asked.tokenizer or find_tokenizer(asked.prior, _tokenizer_of(asked.prior), prior.metadata["tokenizer"])
    tokenizer = load_tokenizer(named, device)
    check_pair(prior, tokenizer)
    decode = DecodeConfig(asked.decode, asked.tile, asked.halo, asked.format)
    config = SamplingJobConfig(asked.batch, asked.save_every, asked.preview)
    named_tokenizers = (("segmentation", asked.segmentation_tokenizer), ("depth", asked.depth_tokenizer))
    others = {name: load_tokenizer(folder, device) for name, folder in named_tokenizers if folder is not None}
    labels = asked.classes or [asked.label]
    given = condition_files.ConditionInputs(
        labels[0], asked.segmentation, asked.depth, asked.low_resolution, asked.text, asked.objects, others
    )
    condition_files.check_inputs(prior, given)
    folders = class_folders(prior.model.condition, asked.out, asked.classes) if asked.classes else [asked.out]
    tiles = Tiling(asked.tile, asked.halo)
    conditions = ConditionEncoder(prior, others, tiles)
    values = condition_files.read(given)
    completion = None if asked.init_image is None else Completion(read_photo(asked.init_image), asked.keep_rows)
    sizes = asked.size or [None]
    stem = f"{_named(asked)}seed-{asked.seed}"
    requests = [build_request(tokenizer, conditions, values, size, tiles, completion) for size in sizes]
    sheets = [asked.out / f"{stem}{_several(size, sizes)}-grid.png" for size in sizes]
    if asked.grid:
        for sheet in sheets:
            check_replaceable(sheet, IMAGES)
    for size, wanted, sheet in zip(sizes, requests, sheets, strict=True):
        many = device.type == "cuda"
        lanes, prefill = lanes_and_prefill(asked, prior.model.rows_at_once(wanted.size[1]), many)
        sampling = SamplingConfig(
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            greedy=asked.greedy,
            guidance=GuidanceConfig(asked.guidance, asked.guidance_schedule),
            mode=asked.mode,
            stride=asked.stride,
            lanes=lanes,
            prefill=prefill,
        )
        job = SamplingJob(prior, tokenizer, asked.seed, sampling, decode, config, command.say)
        several = _several(size, sizes)
        tasks = [
            job.image_job(with_label(wanted, label), number, folder, f"{stem}-{number:04d}{several}")
            for label, folder in zip(labels, folders, strict=True)
            for number in range(asked.count)
        ]
        # Images that are sampled together are neighbors in this list; together they fill the lanes of a forward.
        own = [task for place, task in enumerate(tasks) if place // asked.batch % ranks.world() == ranks.rank()]
        job.run(own)
        ranks.barrier()
        if asked.grid and ranks.rank() == 0:
            contact_sheet([task.path for task in tasks], sheet)


def _several(size: tuple[int, int] | None, sizes: Sequence[tuple[int, int] | None]) -> str:
    """What tells the images of one size from those of the others, at the end of their names."""
    return "" if size is None or len(sizes) == 1 else f"-{size[0]}x{size[1]}"


def _named(asked: argparse.Namespace) -> str:
    """What is asked of the images, as the beginning of their names: two requests in one folder do not meet."""
    said = [] if asked.label is None else [f"class-{asked.label}"]
    said += [
        re.sub(r"[^\w.-]", "_", file.stem)[:60]
        for file in (asked.segmentation, asked.depth, asked.low_resolution, asked.text, asked.objects, asked.init_image)
        if file is not None
    ]
    return "".join(f"{part}-" for part in said)


def _tokenizer_of(run: Path) -> str:
    """The folder that a prior's run names as its tokenizer, as seen from where it was trained."""
    from ..trainer import config  # with the runs comes DeepSpeed, which takes seconds to import
    from ..trainer.jobs.run_dir import RESOLVED, resolved_config
    from ..trainer.prior.config import PriorRun

    if not resolved_config(run).is_file():
        raise ValueError(
            f"{run} is not a run with a {RESOLVED}, so it does not tell its tokenizer; name that behind it"
        )
    return config.read(PriorRun, resolved_config(run), saved=True).tokenizer


def lanes_and_prefill(asked: argparse.Namespace, rows_at_once: int, many: bool) -> tuple[int, int]:
    """Lanes and prefill: on a CPU few, on a GPU as many as the images that are sampled together can use."""
    lanes, prefill = asked.lanes, asked.prefill
    if lanes is None:
        lanes = -(-asked.batch * rows_at_once // 16) * 16 if many else 4
    if prefill is None:
        prefill = max(size for size in range(1, min(lanes, 32) + 1) if lanes % size == 0) if many and lanes > 0 else 1
    return lanes, prefill


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "sample", __doc__, "smalti sample runs/prior --segmentation map.png --size 1024x1024 --seed 1 --out samples"
    )
    parser.add_argument("prior", type=Path, help="folder of the prior's run, or of its export")
    parser.add_argument("tokenizer", type=Path, nargs="?", help="folder of the VQGAN's run or export; else the run's")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the images")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides the images, with the settings below (0)"
    )
    parser.add_argument("--count", type=int, default=1, metavar="N", help="images of each size and class (1)")
    command.add_local_rank(parser)
    _add_what(parser.add_argument_group("what to sample"))
    _add_drawing(parser.add_argument_group("how codes are drawn"))
    changing = "of these --stride, --lanes, --prefill and --precision change codes"
    _add_going(parser.add_argument_group(f"how to go about it; {changing}"))
    _add_decoding(parser.add_argument_group("how codes become pixels"))
    return parser


def _add_what(group: "argparse._ArgumentGroup") -> None:
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
        "--class", dest="label", type=int, metavar="N", help="number of the class, for priors of classes"
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
        type=float,
        metavar="SHARE",
        help="share of the photo's rows to keep, from the top (0.5 if it is whole)",
    )


def _add_drawing(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--temperature", type=float, default=1.0, metavar="T", help="divides the logits (1)")
    group.add_argument("--top-k", type=int, metavar="K", help="only the k likeliest codes")
    group.add_argument("--top-p", type=float, metavar="P", help="only the fewest codes that hold this probability")
    group.add_argument("--greedy", action="store_true", help="always the likeliest code")
    group.add_argument(
        "--guidance", type=float, default=1.0, metavar="SCALE", help="scale of classifier-free guidance; 1 is none"
    )
    group.add_argument(
        "--guidance-schedule",
        choices=("constant", "linear", "cosine"),
        default="constant",
        help="how the scale grows from 1 over the codes of an image (constant: it does not)",
    )


def _add_going(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--mode",
        choices=("wavefront", "serial"),
        default="wavefront",
        help="codes that do not need each other at once, or one by one (wavefront)",
    )
    group.add_argument(
        "--stride", type=int, default=1, metavar="CODES", help="codes of a row that share one window; 1 is exact"
    )
    group.add_argument("--lanes", type=int, metavar="N", help="windows in a forward (4; on GPUs what --batch needs)")
    group.add_argument(
        "--prefill", type=int, metavar="N", help="windows read anew at once (1; on GPUs up to 32 of the lanes)"
    )
    group.add_argument("--precision", choices=("fp32", "bf16"), help="of the prior (bf16 on GPUs, fp32 on a CPU)")
    group.add_argument("--batch", type=int, default=1, metavar="N", help="images sampled together (1)")
    group.add_argument(
        "--save-every", type=float, default=30.0, metavar="SECONDS", help="seconds of work that a kill may cost (30)"
    )
    group.add_argument(
        "--preview", type=float, metavar="SECONDS", help="seconds between looks at what is there so far; else none"
    )


def _add_decoding(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--decode",
        choices=("whole", "shared", "blended"),
        default="blended",
        help="tiles: none, of shared statistics, or faded into each other (blended)",
    )
    group.add_argument(
        "--tile", type=int, default=16, metavar="CODES", help="codes a side that the decoder sees at once (16)"
    )
    group.add_argument(
        "--halo", type=int, default=2, metavar="CODES", help="codes at a tile's border that fade into the next one (2)"
    )
    group.add_argument(
        "--format", choices=("auto", "png", "tiff"), default="auto", help="auto: TIFF from 67 megapixels"
    )
    group.add_argument("--grid", action="store_true", help="all images of a size, small, in one more")


if __name__ == "__main__":
    sys.exit(main())
