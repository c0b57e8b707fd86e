"""Paint pictures: ``python -m smalti.launch.sample PRIOR TOKENIZER --map map.png --seed 1 --out folder``."""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..models.sampling import GuidanceConfig, Painting, SamplingConfig
from ..trainer.encoding import Settings
from ..trainer.gallery import check_pair, develop, paint, save, wish
from ..trainer.inference import load_prior, load_tokenizer


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    asked = _parser().parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        prior, tokenizer = load_prior(asked.prior, device), load_tokenizer(asked.tokenizer, device)
        check_pair(prior, tokenizer)
        wanted = wish(prior, asked.size, asked.map, asked.label, asked.seed)
        config = SamplingConfig(
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            greedy=asked.greedy,
            guidance=GuidanceConfig(scale=asked.guidance),
            mode=asked.mode,
            stride=asked.stride,
            lanes=asked.lanes,
        )
        for number in range(asked.count):
            codes = paint(prior, wanted, number, config, _progress())
            picture = develop(tokenizer, codes, Settings(asked.tile, asked.halo))
            path = asked.out / f"seed-{asked.seed}-{number:04d}.png"
            made = {"seed": asked.seed, "picture": number, "prior": prior.card["digest"]}
            save(picture, path, made | {"tokenizer": tokenizer.card["digest"], "sampling": repr(config)})
            print(f"{path}: {picture.height} x {picture.width}", flush=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m smalti.launch.sample", description=(__doc__ or "").split(":")[0])
    parser.add_argument("prior", type=Path, help="folder of the prior's run, or of its export")
    parser.add_argument("tokenizer", type=Path, help="folder of the VQGAN's run, or of its export")
    parser.add_argument("--size", type=_size, help="rows x columns in pixels, such as 1024x2048; else the map's")
    parser.add_argument("--map", type=Path, help="a PNG of labels, for priors of maps")
    parser.add_argument("--class", dest="label", type=int, help="number of the class, for priors of classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1, help="pictures to paint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the PNG files")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-k", type=int, help="only the k likeliest codes")
    parser.add_argument("--top-p", type=float, help="only the fewest codes that hold this probability")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest code")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale of classifier-free guidance; 1 is none")
    parser.add_argument("--mode", choices=("wavefront", "serial"), default="wavefront")
    parser.add_argument("--stride", type=int, default=1, help="codes of a row that share one window; 1 is exact")
    parser.add_argument("--lanes", type=int, default=4, help="windows in a forward; the same lanes, the same bits")
    parser.add_argument("--tile", type=int, default=16, help="codes a side that the decoder sees at once (16)")
    parser.add_argument("--halo", type=int, default=2, help="codes at a tile's border that are seen but not kept (2)")
    return parser


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"a size is rows x columns such as 1024x2048, got {text!r}")
    return int(match[1]), int(match[2])


def _progress(every_s: float = 5.0) -> Callable[[Painting], None]:
    """A line every few seconds with codes a second and the time left."""
    began = last = time.monotonic()

    def say(painting: Painting) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s or painting.painted == painting.cells:
            last = now
            pace = painting.painted / (now - began)
            left = (painting.cells - painting.painted) / pace
            print(f"{painting.painted}/{painting.cells} codes  {pace:.0f} codes/s  left {left:.0f} s", flush=True)

    return say


if __name__ == "__main__":
    sys.exit(main())
