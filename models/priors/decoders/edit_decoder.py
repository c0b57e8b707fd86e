"""Fills the masked codes of a grid with an ``Editor``, row by row, with a cache of every row's keys and values.

The encoder reads what is known once for all candidates of an edit. Where a block is entered, the keys of the blocks
that it looks at are gathered once for each layer; then each row is one step, on CUDA a captured graph. Runs of blocks
without masked codes are read at once. Nothing behind the last masked code is computed.

Every image has a lane of a forward of fixed size, by its number alone, as in ``window_decoder``: so its codes have the
same bits whatever is sampled beside it, wherever kernels are deterministic.

Shapes: B images, L lanes, N blocks of s codes, C channels, D channels of a head, K codes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ...conditions import Fields
from ...conditions.edit import GUIDE, MASKED
from ...transformer.block_layers import DecoderLayer
from ...transformer.block_sparse import BlockGrid
from ..block_choice import BlockChoice, Looks
from ..decoding import Cell, DecodingRequest, Logits
from .edit_cache import EditCache, RowPlace
from .step_graph import StepGraph


class EditPrior(Protocol):
    """What the decoder needs of a prior; an ``Editor`` has it."""

    codes: int
    choice: BlockChoice
    decoder_layers: nn.ModuleList

    @property
    def decoder_end(self) -> nn.Module:
        """The norm before the head."""

    @property
    def head(self) -> nn.Module:
        """Features to logits."""

    def grid(self, indices: Tensor) -> BlockGrid:
        """How codes are cut into blocks."""

    def encode(self, indices: Tensor, fields: Fields, dropped: Tensor | None, grid: BlockGrid, looks: Looks) -> Any:
        """Read the known codes and the map."""

    def reads(self, codes: Tensor) -> Tensor:
        """What the rows of blocks read."""

    def embed(self, read: Tensor, places: Tensor, blocks: Tensor) -> Tensor:
        """The decoder's input."""


class Lanes(NamedTuple):
    """The images of one forward."""

    images: list[int]  # their rows in the request
    lanes: list[int]  # their places in the forward


class EditDecoder:
    """Samples with an ``Editor``; see ``Decoder``."""

    rows_at_once = 1
    reads_given = False
    barriers: frozenset[int] = frozenset()

    def __init__(self, prior: EditPrior, request: DecodingRequest) -> None:
        masked = request.fields[MASKED]
        if masked.shape[1:] != request.size:
            raise ValueError(
                f"the field {MASKED!r} must be of the grid's {request.size} codes, got {tuple(masked.shape[1:])}"
            )
        self.prior, self.request = prior, request
        self.grid = prior.grid(masked)
        numbers = torch.arange(masked[0].numel()).view(1, *request.size)
        order = self.grid.to_blocks(numbers).flatten().tolist()
        self.order: Sequence[Cell] = [Cell(*divmod(number, request.size[1])) for number in order]
        self.steps = {cell: divmod(step, self.grid.cells) for step, cell in enumerate(self.order)}
        self.masked = self.grid.to_blocks(masked)  # (B, N, s)
        self.groups: list[LaneGroup] = []

    def reach(self, column: int) -> int:
        """All of them."""
        return self.request.size[1] - 1

    def prepare(self, codes: Tensor, cells: Sequence[Cell]) -> Iterator[None]:
        """What the encoder reads, once, before the first cell."""
        if not self.groups:
            self.groups = self._groups(codes)
            yield

    def logits(self, codes: Tensor, cells: Sequence[Cell]) -> Logits:
        """See ``Decoder``; there is one cell."""
        for _ in self.prepare(codes, cells):
            pass
        (cell,) = cells
        block, row = self.steps[cell]
        found = codes.new_zeros(len(codes), self.prior.codes, dtype=torch.float32)
        for group in (each for each in self.groups if each.masked[block][row]):
            logits = group.logits(codes, block, row).index_select(0, group.in_forward)
            found.index_copy_(0, group.in_request, logits.float())
        return Logits(found, None)

    def skip(self, codes: Tensor, cells: Sequence[Cell]) -> None:
        """Nothing: rows are read when a later one is asked for, in the same steps."""

    def _groups(self, codes: Tensor) -> list["LaneGroup"]:
        if bool((codes.masked_fill(self.request.fields[MASKED], 0) < 0).any()):
            raise ValueError("every code outside the mask must be given; encode the image that is edited")
        size = self.request.config.lanes
        places = [(*divmod(number, size), image) for image, number in enumerate(self.request.image_ids)]
        together: dict[tuple[int, bytes], list[tuple[int, int]]] = defaultdict(list)
        for forward, lane, image in places:
            together[forward, self.masked[image].cpu().numpy().tobytes()].append((lane, image))
        groups = []
        for members in together.values():
            lanes, images = zip(*members, strict=True)
            groups.append(LaneGroup(self, Lanes(list(images), list(lanes)), codes))
        return groups


class LaneGroup:
    """Images of one mask in a forward of L lanes, and what is remembered of them; other lanes hold zeros."""

    def __init__(self, decoder: EditDecoder, lanes: Lanes, codes: Tensor) -> None:
        prior, request = decoder.prior, decoder.request
        self.prior, self.lanes, self.grid = prior, lanes, decoder.grid
        self.masked = decoder.masked[lanes.images[0]].tolist()
        self.open = [any(block) for block in self.masked]
        self.size = request.config.lanes
        self.layers = [layer for layer in prior.decoder_layers if isinstance(layer, DecoderLayer)]
        self.in_request, self.in_forward = (torch.tensor(places, device=codes.device) for places in lanes)
        fields = {name: field[self.in_request] for name, field in request.fields.items()}
        memory, self.places = self._read(codes[self.in_request], fields)  # places (L, N, s + 1, C)
        tables, cells, device = prior.choice.tables(fields, codes.device), self.grid.cells, codes.device
        masks = (
            prior.choice.mask(True, cells + 1, cells + 1, device),
            prior.choice.mask(False, cells + 1, cells, device),
        )
        self.caches = [
            EditCache(layer.cross.keys_and_values(memory), (self._spread(own), self._spread(cross)), masks, self.size)
            for layer, own, cross in zip(self.layers, tables.decoder, tables.cross, strict=True)
        ]
        self.block, self.row = 0, 0  # the next row to be read
        self.numbers = torch.arange(self.grid.blocks * (cells + 1), device=device)
        self.graph = StepGraph(self._step)

    def _read(self, codes: Tensor, fields: Fields) -> tuple[Tensor, Tensor]:
        """What the encoder makes of the images: once, (1, N, s, C), for images that are alike; and the places."""
        deciding = [codes.masked_fill(fields[MASKED], 0)]
        deciding += [field for name, field in fields.items() if name not in GUIDE[1:]]
        alike = all(torch.equal(each, each[:1].expand_as(each)) for each in deciding)
        found = []
        for image in range(1 if alike else len(codes)):
            own = {name: field[image : image + 1] for name, field in fields.items()}
            looks = self.prior.choice.looks(own, self.grid.cells, codes.device)
            found.append(self.prior.encode(codes[image : image + 1], own, None, self.grid, looks))
        read, places = torch.cat([each.codes for each in found]), torch.cat([each.places for each in found])
        return (read if alike else self._spread(read)), self._spread(places)

    def _spread(self, rows: Tensor) -> Tensor:
        """(images, ...) as (L, ...), or (1, ...) in every lane."""
        if len(rows) == 1:
            return rows.expand(self.size, *rows.shape[1:])
        whole = rows.new_zeros(self.size, *rows.shape[1:])
        return whole.index_copy_(0, self.in_forward, rows)

    def logits(self, codes: Tensor, block: int, row: int) -> Tensor:
        """(L, K) logits of code ``row`` of a block, after all rows before it have been read."""
        given = codes.index_select(0, self.in_request)
        read = self._spread(self.prior.reads(self.grid.to_blocks(given).clamp(min=0)))  # (L, N, s + 1)
        while self.block < block:
            end = self.block + 1
            if self.open[self.block]:
                self._step_to(read, self.grid.cells)
            else:
                while end < block and not self.open[end]:
                    end += 1
                self._read_blocks(read, slice(self.block, end))
            self.block, self.row = end, 0
        return self._step_to(read, row)

    def _read_blocks(self, read: Tensor, run: slice) -> None:
        """Read blocks of known codes at once, image by image."""
        for lane in self.lanes.lanes:
            x = self.prior.embed(read[lane : lane + 1, run], self.places[lane : lane + 1, run], self.numbers[run])
            for layer, cache in zip(self.layers, self.caches, strict=True):
                attend, look = (partial(each, lane=lane, run=run) for each in (cache.attend_blocks, cache.look_blocks))
                x = layer.run(x, attend, look)

    def _step_to(self, read: Tensor, last: int) -> Tensor:
        """Read the rows of the block up to one of them, and give its logits, (L, K)."""
        if not self.row:
            for cache in self.caches:
                cache.enter(self.block)
        logits = read.new_zeros(0, dtype=torch.float32)
        for row in range(self.row, last + 1):
            at, of_all = slice(row, row + 1), self.block * (self.grid.cells + 1) + row
            logits = self.graph(
                read[:, self.block, at],
                self.places[:, self.block, at],
                self.numbers[self.block : self.block + 1],
                self.numbers[at],
                self.numbers[of_all : of_all + 1],
            )
        self.row = last + 1
        return logits

    def _step(self, read: Tensor, place: Tensor, block: Tensor, row: Tensor, of_all: Tensor) -> Tensor:
        """Read a row of a block: what it reads (L, 1), its place (L, 1, C), and where it stands, (1,) each."""
        x, at = self.prior.embed(read[:, None], place[:, None], block), RowPlace(row, of_all)
        for layer, cache in zip(self.layers, self.caches, strict=True):
            x = layer.run(x, partial(cache.attend_row, place=at), partial(cache.look_row, place=at))
        logits: Tensor = self.prior.head(self.prior.decoder_end(x))
        return logits[:, 0, 0]
