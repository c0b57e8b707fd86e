"""Edit a photo: ``smalti edit PRIOR TOKENIZER --image photo.jpg --segmentation old.png --edited new.png --out folder``.

What differs between the two label maps, and what a mask marks, is made anew in several candidates, ranked by how
likely the editor finds them. Outside of that, every pixel stays as it is in the photo. The same seed gives the same
candidates, whatever their number, and an edit that is killed goes on where it was. With ``--serve`` all of this is
done on a page in the browser.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...trainer.exit_code import ExitCode
from .. import command
from ..sample import run_of

PRINT_EVERY_S = 5.0
SEGMENTATION = "segmentation"
EDITED = "edited"  # of a candidate's metadata: how many pixels were made anew
CANDIDATES = "candidates"  # of a sheet's metadata: their numbers, the likeliest first


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.serve is None and (asked.image is None or asked.segmentation is None):
        parser.error("name the photo with --image and its map with --segmentation, or edit on a page with --serve")
    return command.ended(lambda: _edit(asked) if asked.serve is None else _serve(asked))


def _edit(asked: argparse.Namespace) -> int:
    from ...trainer.editing.photo import read_photo_edit  # torch is slow to import
    from ...trainer.files import only_command_in
    from ...trainer.sampling import partial
    from ...trainer.sampling.image_files import check_replaceable

    job, check, _ = _job(asked)
    edit = read_photo_edit(asked.image, asked.segmentation, asked.edited, asked.mask, check)
    stem = re.sub(r"[^\w.-]", "_", asked.image.stem)[:60] + f"-seed-{asked.seed}"
    paths = [asked.out / f"{stem}-{number:02d}.png" for number in range(asked.candidates)]
    sheet = asked.out / f"{stem}-sheet.png"
    with only_command_in(asked.out):
        made = {"seed": asked.seed, "edit": edit.digest(), **job.made}
        for path in (*paths, sheet):
            check_replaceable(path, EDITED, made)
        for note in edit.notes:
            command.note(note)
        if _finished(made, paths, sheet):
            command.say(f"{sheet}: there already, and so are its candidates")
        else:
            _write(job, edit, made, paths, sheet)
        for path in paths:
            partial.remove(path)
    return ExitCode.DONE


def _serve(asked: argparse.Namespace) -> int:
    if (asked.image is None) != (asked.segmentation is None) or asked.edited is not None or asked.mask is not None:
        raise ValueError(
            "--serve opens a photo with --image and --segmentation, or lets it be chosen on the page; what is to be "
            "made anew is drawn there: leave --edited and --mask out"
        )
    from .gradio_settings import own_folder

    with own_folder(), suppress(KeyboardInterrupt):  # which is how it ends
        try:
            from .page import serve
        except ModuleNotFoundError as error:
            raise ValueError(f"the page needs packages of its own ({error}): pip install 'smalti[serve]'") from None
        job, check, known = _job(asked)
        serve(job, known, check, asked.image and (asked.image, asked.segmentation), asked.seed, asked.serve)
    return ExitCode.DONE


def _job(asked: argparse.Namespace) -> tuple[Any, Any, int]:
    """What edits, from all networks; the check of labels, and how many there are."""
    from ...models.vqgan.tiling import Tiling
    from ...trainer.checkpoint.loading import find_guide, find_tokenizer, load_prior, load_tokenizer
    from ...trainer.distributed import ranks
    from ...trainer.editing.job import EditJob, EditJobConfig, editor_of
    from ...trainer.editing.scene import Guide, SceneEncoder
    from ...trainer.images.known_values import only, only_labels
    from ...trainer.sampling.condition_fields import check_tokenizer
    from ...trainer.sampling.image_files import DecodeConfig
    from ...trainer.sampling.job import check_pair

    config = EditJobConfig(asked.candidates, asked.feather, asked.save_every)
    sampling = command.sampling_config(asked, lanes=asked.lanes)
    decode = DecodeConfig(asked.decode, asked.tile, asked.halo)
    device = ranks.device()
    prior = load_prior(asked.prior, device, asked.precision or ("bf16" if device.type == "cuda" else "fp32"))
    editor_of(prior)
    learnt = prior.metadata
    named = asked.tokenizer or find_tokenizer(asked.prior, run_of(asked.prior).tokenizer, learnt["tokenizer"])
    tokenizer = load_tokenizer(named, device)
    check_pair(prior, tokenizer)
    of_maps, place = learnt["condition_tokenizers"].get(SEGMENTATION), asked.segmentation_tokenizer
    if place is None and of_maps is not None:
        place = find_tokenizer(asked.prior, run_of(asked.prior).condition_tokenizers[SEGMENTATION], of_maps)
    maps = None if place is None else load_tokenizer(place, device)
    check_tokenizer(prior, SEGMENTATION, maps)
    encode = SceneEncoder(tokenizer, maps, Tiling(asked.tile, asked.halo))
    place = asked.guide
    if place is None and learnt.get("guide") is not None:
        place = find_guide(asked.prior, run_of(asked.prior).guide, learnt["guide"])
    guide = None if place is None else Guide(load_prior(place, device), encode)
    job = EditJob(prior, tokenizer, encode, guide, sampling, decode, config)
    labels = None if maps is None else maps.model.config.num_labels
    if labels is None:
        known = prior.model.condition.known["segmentation_codes"]
        return job, only(known), known.stop
    return job, only_labels(labels), labels


def _finished(made: dict[str, Any], paths: Sequence[Path], sheet: Path) -> bool:
    """Whether all files of an edit are there; the sheet is written last."""
    from ...trainer.sampling.image_files import read_metadata

    notes = read_metadata(sheet)
    alike = all(notes.get(name) == value for name, value in made.items())
    return alike and sorted(notes[CANDIDATES]) == list(range(len(paths))) and all(path.exists() for path in paths)


def _write(job: Any, edit: Any, made: dict[str, Any], paths: Sequence[Path], sheet: Path) -> None:
    """Sample the candidates and write them, and all of them small in one more."""
    from PIL import Image

    from ...trainer.editing.photo import as_image
    from ...trainer.editing.unfinished import UnfinishedCandidates
    from ...trainer.sampling.image_files import arranged, save

    pixels = int(edit.masked.sum())
    unfinished = UnfinishedCandidates(paths, made, job.config.save_every_s)
    candidates = job.run(edit, made["seed"], _Progress(), unfinished)
    if not candidates:
        save(as_image(edit.photo.colors, edit.photo), paths[0], {**made, EDITED: 0})
        command.say(f"{paths[0]}: the edit changes nothing, so this is the photo as it was")
        return
    before = Image.fromarray(edit.photo.colors)
    shown = [before, _colored(edit.labels)]
    for rank, candidate in enumerate(candidates, start=1):
        image, path = as_image(candidate.colors, edit.photo), paths[candidate.number]
        notes = {**made, EDITED: pixels, "candidate": candidate.number, "rank": rank,
                 "log_likelihood": candidate.likelihood}  # fmt: skip
        save(image, path, notes)
        shown.append(image)
        command.say(f"{path}: rank {rank} of {len(candidates)}, log-likelihood {candidate.likelihood:.1f} nats")
    numbers = [candidate.number for candidate in candidates]
    save(arranged(shown, 256), sheet, {**made, EDITED: pixels, CANDIDATES: numbers})
    command.say(f"{sheet}: the photo, the edited map, and the candidates, the likeliest first")


def _colored(labels: Any) -> Any:
    import torch
    from PIL import Image

    from ...models.pixel_range import to_levels
    from ...trainer.training.color_maps import color_coded

    colors = to_levels(color_coded(torch.from_numpy(labels.astype("int64"))[None]))[0]
    return Image.fromarray(colors.byte().permute(1, 2, 0).numpy())


class _Progress:
    """Says every few seconds how far sampling is."""

    def __init__(self) -> None:
        self.printed = time.monotonic()

    def __call__(self, state: Any) -> None:
        """After every step."""
        if time.monotonic() - self.printed >= PRINT_EVERY_S:
            self.printed = time.monotonic()
            command.note(f"{state.filled}/{state.cells} codes of each of {len(state.codes)} candidates")


def _address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"([^:\s]+):(\d{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise argparse.ArgumentTypeError(f"an address is HOST:PORT, such as 127.0.0.1:7860, got {text!r}")
    return match[1], int(match[2])


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "edit",
        __doc__,
        "smalti edit runs/edit/editor --image photo.jpg --segmentation old.png --edited new.png --seed 1 --out edits",
    )
    parser.add_argument("prior", type=Path, help="folder of the editor's run, or of its export")
    parser.add_argument("tokenizer", type=Path, nargs="?", help="folder of the VQGAN's run or export; else the run's")
    parser.add_argument("--image", type=Path, help="the photo, of any size")
    parser.add_argument("--segmentation", type=Path, help="its label map, of the same size")
    parser.add_argument("--edited", type=Path, help="the map as it is to become; what differs is made anew")
    parser.add_argument("--mask", type=Path, help="what is not black in it is made anew too")
    parser.add_argument("--segmentation-tokenizer", type=Path, metavar="FOLDER", help="of the maps; else the run's")
    parser.add_argument("--guide", type=Path, metavar="FOLDER", help="the editor that guides this one; else the run's")
    parser.add_argument("--candidates", type=command.count, default=8, metavar="N", help="versions of the photo (8)")
    parser.add_argument("--seed", type=command.seed, default=0, help="decides all candidates (0)")
    parser.add_argument("--out", type=Path, default=Path("edits"), metavar="FOLDER", help="for the candidates (edits)")
    parser.add_argument(
        "--feather",
        type=command.weight,
        default=8.0,
        metavar="PIXELS",
        help="in which the new appears; 0: a hard border (8)",
    )
    command.add_save_every(parser)
    parser.add_argument(
        "--serve",
        type=_address,
        nargs="?",
        const=_address("127.0.0.1:7860"),
        metavar="HOST:PORT",
        help="edit on a page in the browser, for this machine alone if no other address is named (127.0.0.1:7860)",
    )
    group = parser.add_argument_group("how codes are drawn")
    command.add_drawing_options(group, top_k=100)
    group.add_argument("--lanes", type=command.count, default=8, metavar="N", help="candidates in a forward (8)")
    group.add_argument("--precision", choices=("fp32", "bf16"), help="of the editor (bf16 on GPUs, fp32 on a CPU)")
    group = parser.add_argument_group("how codes become pixels")
    group.add_argument(
        "--decode", choices=("whole", "shared", "blended"), default="blended", help="tiles, as of smalti sample"
    )
    command.add_tile_options(group)
    return parser


if __name__ == "__main__":
    sys.exit(main())
