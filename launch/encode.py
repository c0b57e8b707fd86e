"""Encode picture shards into code shards: ``deepspeed --module smalti.launch.encode TOKENIZER SHARDS DEST``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..trainer import ranks
from ..trainer.encoding import Settings, encode
from ..trainer.inference import load_tokenizer
from ..trainer.shards import ShardSet

TIMEOUT_S = 7200.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, build, call."""
    parser = argparse.ArgumentParser(prog="python -m smalti.launch.encode", description=(__doc__ or "").split(":")[0])
    parser.add_argument("tokenizer", type=Path, help="folder of the VQGAN's run, or of its export")
    parser.add_argument("shards", help="folder of picture shards, a brace pattern or a URL")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--tile", type=int, default=16, help="codes a side that the network sees at once (16)")
    parser.add_argument("--halo", type=int, default=2, help="codes at a tile's border that are seen but not kept (2)")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    asked = parser.parse_args(arguments)
    try:
        with ranks.group(TIMEOUT_S):
            tokenizer = load_tokenizer(asked.tokenizer, ranks.device())
            source, settings = ShardSet.open([asked.shards]), Settings(asked.tile, asked.halo)
            asked.destination.mkdir(parents=True, exist_ok=True)
            count = encode(tokenizer, source, asked.destination, settings, lambda line: print(line, flush=True))
            ranks.barrier()
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"rank {ranks.rank()}: " + (", ".join(f"{n} {what}" for what, n in count.items()) or "no shard of its own"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
