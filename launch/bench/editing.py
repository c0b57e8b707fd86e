"""Attention of an editor and its candidates, beside what they replace: seconds and memory.

The contestants take turns inside of one process, so that a busy machine slows all alike. Attention is the published
pattern: 16 x 4 blocks in a strip, 3 neighbors and 3 picks, 16 heads of 64 channels. ``scores written out`` is dense
attention that keeps its scores for the backward pass. ``one, no row cache`` computes the whole block anew for every
code of one candidate, with the keys of earlier blocks at hand (ASSET, Liu et al. 2022): eight candidates one after
another have its codes a second. Memory is that of tensors, above what rested before.

On a GPU it also fills half of an image of 1024 x 1024 pixels, guide included and tokenizers not, with the published
editor, and takes a training step at 2048 x 2048.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...models.conditions import CodeMapConfig, Fields
from ...models.priors.decoders.edit_decoder import EditDecoder
from ...models.priors.decoding import DecodingRequest, Schedule
from ...models.priors.editor import Editor, EditorConfig
from ...models.sampling import UNFILLED, GridRequest, SamplingConfig, sample, sample_steps
from ...models.transformer.block_sparse import BlockPattern, block_attention, dense_attention
from .. import command
from .timing import Contestant, wait

CODES, SIDE = 1024, 64
STRIP = (16, 4)
CANDIDATES = 8
KNOWN_BLOCKS = 8  # before the one that is filled
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own notes would stand between the tables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement."""
    parser.add_argument("--heads", type=command.count, default=16, help="of attention, of 64 channels each (16)")
    parser.add_argument(
        "--layers", type=command.count, default=3, help="of the decoder whose candidates are sampled (3)"
    )
    parser.add_argument("--tokens", type=command.count, default=4096, help="of an image, a multiple of 1024 (4096)")
    parser.add_argument("--rounds", type=command.count, default=5, help="turns of every contestant (5)")


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure; prints the tables."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens, heads = arguments.tokens, arguments.heads
    print(f"attention over {tokens} tokens, {heads} heads, {device}, {torch.get_num_threads()} threads\n")
    figures: dict[str, float] = {}
    for name, causal in (("both_ways", False), ("causal", True)):
        figures |= _forward(name, causal, tokens, heads, arguments.rounds, device)
    figures |= _memory(tokens, heads, device)
    figures |= _candidates(arguments.layers, heads, arguments.rounds, device)
    if device.type == "cuda":
        figures |= _on_a_gpu(device)
    return figures


class Attention:
    """Random queries, keys and values, and the published blocks that look at each other.

    Args:
        tokens: of the image, in blocks of 64.
    """

    def __init__(self, tokens: int, heads: int, causal: bool, device: torch.device) -> None:
        pattern = BlockPattern(tokens // 64 // STRIP[1], STRIP[1], "strip", 3, causal)
        draws = torch.Generator(device).manual_seed(0)
        self.parts = [
            torch.randn(1, heads, pattern.blocks, 64, 64, generator=draws, device=device, requires_grad=True)
            for _ in range(3)
        ]
        affinity = torch.rand(1, heads, pattern.blocks, pattern.blocks, generator=draws, device=device)
        self.table, self.mask = pattern.select(affinity), pattern.mask(64, 64).to(device)
        self.causal = causal

    def sparse(self) -> Tensor:
        """Over the blocks of the table."""
        query, key, value = self.parts
        return block_attention(query, key, value, self.table, self.mask)

    def dense(self) -> Tensor:
        """Over all, fused."""
        query, key, value = self.parts
        return dense_attention(query, key, value, self.causal)

    def written_out(self) -> Tensor:
        """Over all, by scores that are kept."""
        query, key, value = (part.flatten(2, 3) for part in self.parts)
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        mixed: Tensor = scores.softmax(-1) @ value
        return mixed


def _forward(name: str, causal: bool, tokens: int, heads: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Seconds of attention without gradients, sparse beside dense."""
    attention = Attention(tokens, heads, causal, device)

    def work(call: Callable[[], Tensor]) -> Iterator[int]:
        while True:
            with torch.no_grad():
                call()
            yield tokens

    sides = [Contestant("block-sparse", work(attention.sparse), 2), Contestant("dense", work(attention.dense), 2)]
    _take_turns(sides, rounds, device)
    sparse, dense = (tokens / side.rate for side in sides)
    print(f"{name:9}  block-sparse {sparse * 1e3:8.1f} ms   dense {dense * 1e3:8.1f} ms   {dense / sparse:5.2f} x")
    return {f"attention_{name}": dense / sparse}


def _memory(tokens: int, heads: int, device: torch.device) -> dict[str, float]:
    """Memory of a forward and a backward pass, and how it grows."""

    def taken(count: int, which: str) -> int:
        attention = Attention(count, heads, False, device)
        return peak_bytes(lambda: torch.autograd.backward(getattr(attention, which)().sum()), device)

    sizes = [tokens // 4, tokens // 2, tokens]
    sparse = [taken(count, "sparse") for count in sizes]
    written = taken(tokens, "written_out")
    growth = max(larger / smaller for smaller, larger in pairwise(sparse))
    print("\nforward and backward    tokens     MiB")
    for count, size in zip(sizes, sparse, strict=True):
        print(f"block-sparse          {count:8} {size / 2**20:7.1f}")
    print(f"scores written out    {tokens:8} {written / 2**20:7.1f}   {written / sparse[-1]:.1f} x\n", flush=True)
    return {"attention_training_memory": written / sparse[-1], "attention_memory_growth": growth}


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """The most memory that tensors take during a call, above what they took before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())), default=0)


def _candidates(layers: int, heads: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Codes a second of all candidates together, and of one whose block is computed anew for every code."""
    config = EditorConfig(
        encoder_layers=1, decoder_layers=layers, heads=heads, width=heads * 64, window=(SIDE, SIDE), blocks=STRIP,
        neighbors="strip", attention="static",
    )  # fmt: skip
    prior, fields, codes = _edit(config, device)
    known = codes.masked_fill(fields["masked"], UNFILLED)
    steps = sample_steps(
        GridRequest(
            prior, _repeated(fields, CANDIDATES), (SIDE, SIDE), range(CANDIDATES), 1,
            SamplingConfig(lanes=CANDIDATES, top_k=100), known.expand(CANDIDATES, -1, -1),
        )
    )  # fmt: skip
    for _ in range(4):  # the encoder, the known blocks, and what a GPU does before it captures a step
        next(steps)
    sides = [
        Contestant(f"{CANDIDATES} candidates", _counted(steps), 2),
        Contestant("one, no row cache", _computed_anew(prior, fields, codes), 2),
    ]
    _take_turns(sides, rounds, device)
    together, alone = (side.rate for side in sides)
    print(f"a decoder of {layers} x {heads} x {config.width}, {SIDE} x {SIDE} codes")
    for side in sides:
        print(f"{side.name:18} {side.rate:8.2f} codes/s")
    return {"candidates_vs_single": together / alone}


def _edit(config: EditorConfig, device: torch.device, masked_from: int = KNOWN_BLOCKS) -> tuple[Editor, Fields, Tensor]:
    """An editor with random weights, and an image whose first blocks are known."""
    torch.manual_seed(0)
    with torch.device(device):
        prior = config.build(CODES, CodeMapConfig(vocab_size=CODES))
    prior = prior.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).eval()
    codes = torch.randint(CODES, (1, *config.window), device=device)
    grid = prior.grid(codes)
    blocks = torch.zeros(1, grid.blocks, grid.cells, dtype=torch.bool, device=device)
    blocks[:, masked_from:] = True
    return prior, {"segmentation_codes": codes.flip(1), "masked": grid.from_blocks(blocks)}, codes


def _repeated(fields: Fields, count: int) -> Fields:
    return {name: field.expand(count, *field.shape[1:]) for name, field in fields.items()}


def _counted(steps: Iterator[object]) -> Iterator[int]:
    for _ in steps:
        yield CANDIDATES


@torch.no_grad()
def _computed_anew(prior: Editor, fields: Fields, codes: Tensor) -> Iterator[int]:
    """One candidate without a cache of its block's rows; a code at every turn."""
    decoder = EditDecoder(prior, DecodingRequest(fields, (SIDE, SIDE), (0,), SamplingConfig(lanes=1)))
    first = next(cell for cell, (block, _) in decoder.steps.items() if block == KNOWN_BLOCKS)
    drawn = np.zeros((1, SIDE, SIDE), dtype=bool)
    schedule = Schedule([np.array([first])], drawn[0], drawn)
    for _ in decoder.run(F.pad(codes.flatten(), (0, 1)), schedule, lambda logits, places: None):
        pass
    group, run = decoder.groups[0], slice(KNOWN_BLOCKS, KNOWN_BLOCKS + 1)
    read = prior.reads(decoder.grid.to_blocks(codes))[:, run]
    while True:
        x = prior.embed(read, group.places[:, run], prior.places[run])
        for layer, cache in zip(group.layers, group.caches, strict=True):
            attend, look = (partial(each, lane=0, run=run) for each in (cache.attend_blocks, cache.look_blocks))
            x = layer.run(x, attend, look)
        logits = prior.head(prior.decoder_end(x[:, :, -1:]))
        read[:, :, -1] = logits.float().softmax(-1).view(1, -1).multinomial(1)
        yield 1


def _take_turns(sides: list[Contestant], rounds: int, device: torch.device) -> None:
    for side in sides:  # the first turn loads kernels and does not count
        side.take_turn(device, time.perf_counter)
        side.turns.clear()
    for _ in range(rounds):
        for side in sides:
            side.take_turn(device, time.perf_counter)


def _on_a_gpu(device: torch.device) -> dict[str, float]:
    """The published editor: half of an image with 8 candidates, and a training step at 2048 x 2048."""
    editor = EditorConfig(window=(SIDE, SIDE), blocks=(8, 8), attention="guided")
    seconds = half_edit(editor, EditorConfig(window=(16, 16), blocks=(8, 8)), device)
    large = EditorConfig(window=(128, 128), blocks=(16, 16), attention="static", activation_checkpointing=True)
    prior, fields, codes = _edit(large, device, masked_from=128)
    prior.train()
    taken = peak_bytes(lambda: torch.autograd.backward(_loss(prior, fields, codes)), device)
    print(
        f"half of 1024 x 1024, {CANDIDATES} candidates: {seconds:.1f} s; a step at 2048 x 2048: {taken / 2**30:.1f} GiB"
    )
    return {"seconds_half_edit_1024": seconds, "gib_step_2048": taken / 2**30}


def _loss(prior: Editor, fields: Fields, codes: Tensor) -> Tensor:
    loss = prior(codes, fields, targets=codes).loss
    if loss is None:
        raise AssertionError("targets were given")
    total: Tensor = loss.sum()
    return total


def half_edit(editor: EditorConfig, guide: EditorConfig, device: torch.device) -> float:
    """Seconds until the lower half of an image has all candidates: the guide's small ones, its looks, the editor's."""
    (small, small_fields, small_codes), (large, fields, codes) = (
        _edit(config, device, config.blocks[0] * config.blocks[1] // 2) for config in (guide, editor)
    )
    seconds = 0.0
    for _ in range(2):  # the first time loads kernels
        wait(device)
        began = time.perf_counter()
        sampled = _filled(small, small_fields, small_codes)
        looks = [small.affinities(sampled[image : image + 1], small_fields) for image in range(CANDIDATES)]
        _filled(large, {**fields, **{name: torch.cat([each[name] for each in looks]) for name in looks[0]}}, codes)
        wait(device)
        seconds = time.perf_counter() - began
    return seconds


def _filled(prior: Editor, fields: Fields, codes: Tensor) -> Tensor:
    known = codes.masked_fill(fields["masked"], UNFILLED).expand(CANDIDATES, -1, -1)
    whole = _repeated(fields, CANDIDATES)
    size = (codes.shape[1], codes.shape[2])
    return sample(GridRequest(prior, whole, size, range(CANDIDATES), 1, SamplingConfig(lanes=CANDIDATES), known)).codes
