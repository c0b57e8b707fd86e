"""Fills the masked codes of a grid with an ``Editor``, row by row, with a cache of every row's keys and values.

The encoder reads what is known once for all candidates of an edit. Where a block is entered, the keys of the blocks
that it looks at are gathered once for each layer; then each row is one step, on CUDA a captured graph. Runs of blocks
without masked codes are read at once. Nothing behind the last masked code is computed.

Where an edit is guided, the second half of the lanes reads the same with the map as it was before the edit.

Every image has a lane of a forward of fixed size, by its number alone, as in ``window_decoder``: so its codes have the
same bits whatever is sampled beside it, wherever kernels are deterministic.

Shapes: B images, L lanes, N blocks of s codes, C channels, D channels of a head, K codes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...conditions import Fields
from ...conditions.edit import GUIDE, MASKED
from ...transformer.block_layers import DecoderLayer
from ...transformer.block_sparse import BlockGrid
from ..block_choice import BlockChoice, Looks
from ..decoding import Cell, DecodingRequest, Draw, Schedule
from .edit_cache import EditCache, RowPlace
from .step_graph import StepGraph
from .step_table import Array, Entries, LaneMap, StepTable

_ALONE = np.zeros(1, dtype=np.int64)  # the only row of an image among those that are sampled at once

Asked = tuple[int, int, Cell]
"""A code to be drawn: its block, its row in it, and its cell."""


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

    def run(self, codes: Tensor, schedule: Schedule, draw: Draw) -> Iterator[int]:
        """See ``Decoder``. What the encoder reads is read first; rows are read when a later one is to be drawn."""
        cells = [Cell(row, column) for step in schedule.steps for row, column in step.tolist()]
        asked = [(*self.steps[cell], cell) for cell in cells if not schedule.passed[cell]]
        self.groups = self._groups(codes, asked, schedule.addresses(), draw)
        yield 0
        for number, cell in enumerate(cells):
            if not schedule.passed[cell]:
                for group in self.groups:
                    group.read_to(*self.steps[cell])
            yield number + 1

    def _groups(self, codes: Tensor, asked: Sequence[Asked], written: Array, draw: Draw) -> list["LaneGroup"]:
        grids = codes[:-1].view(-1, *self.request.size)
        if bool((grids.masked_fill(self.request.fields[MASKED], 0) < 0).any()):
            raise ValueError("every code outside the mask must be given; encode the image that is edited")
        forwards, places = LaneMap(self.request.lane_numbers, self.rows_at_once, self.request.config.lanes).of(_ALONE)
        together: dict[tuple[int, bytes], list[tuple[int, int]]] = defaultdict(list)
        for image, (forward, lane) in enumerate(zip(forwards[0].tolist(), places[0].tolist(), strict=True)):
            together[forward, self.masked[image].cpu().numpy().tobytes()].append((lane, image))
        groups = []
        for members in together.values():
            lanes, images = zip(*members, strict=True)
            groups.append(LaneGroup(self, Lanes(list(images), list(lanes)), grids, asked, written, draw))
        return groups


class LaneGroup:
    """Images of one mask in a forward of L lanes, and what is remembered of them; other lanes hold zeros.

    Args:
        decoder: of all images.
        lanes: which images there are, and where.
        grids: (B, H, W) codes of all images; they stay where they are.
        asked: the cells that will be drawn, in their order.
        written: (B, H, W) where each code is written.
        draw: takes the logits.
    """

    def __init__(
        self, decoder: EditDecoder, lanes: Lanes, grids: Tensor, asked: Sequence[Asked], written: Array, draw: Draw
    ) -> None:
        prior, request, device = decoder.prior, decoder.request, grids.device
        self.prior, self.lanes, self.grid, self.grids, self.draw = prior, lanes, decoder.grid, grids, draw
        self.masked = decoder.masked[lanes.images[0]].tolist()
        self.open = [any(block) for block in self.masked]
        self.size, self.branches = request.config.lanes, 2 if request.guided else 1
        self.layers = [layer for layer in prior.decoder_layers if isinstance(layer, DecoderLayer)]
        self.in_request, self.in_forward = (torch.tensor(places, device=device) for places in lanes)
        fields = {name: field[self.in_request] for name, field in request.fields.items()}
        memory, self.places = self._read(grids[self.in_request], fields)
        self.served = self.branches * self.size // len(memory)  # lanes that one of them serves
        tables, cells = prior.choice.tables(fields, device), self.grid.cells
        masks = (
            prior.choice.mask(True, cells + 1, cells + 1, device),
            prior.choice.mask(False, cells + 1, cells, device),
        )
        self.caches = [
            EditCache(
                layer.cross.keys_and_values(memory),
                (self._in_branches(own), self._in_branches(cross)),
                masks,
                self.branches * self.size,
            )
            for layer, own, cross in zip(self.layers, tables.decoder, tables.cross, strict=True)
        ]
        self.block, self.row = 0, 0  # the next row to be read
        self.numbers = torch.arange(self.grid.blocks * (cells + 1), device=device)
        rows = self._rows([each for each in asked if self.masked[each[0]][each[1]]], written)
        if len(rows.forwards):
            self.table = StepTable(rows, self.size, np.zeros(4, dtype=np.int64), device)
        self.graph = StepGraph(self._step, device)

    def _rows(self, asked: Sequence[Asked], written: Array) -> Entries:
        """Every row that ``read_to`` will read, of every lane: where its code is written, and where the row stands."""
        cells, found, places = self.grid.cells, [], []
        idle = np.full(self.size, written.size)
        done = (0, 0)
        for block, row, cell in asked:
            ahead = [before for before in range(done[0], block) if self.open[before]]
            rows = [(before, each) for before in ahead for each in range(cells + 1)]
            rows = [place for place in [*rows, *((block, each) for each in range(row + 1))] if place >= done]
            found += rows
            places += [idle] * (len(rows) - 1) + [idle.copy()]
            places[-1][self.lanes.lanes] = written[self.lanes.images, cell.row, cell.column]
            done = (block, row + 1)
        block, row = np.array(found, dtype=np.int64).reshape(-1, 2).T[:, :, None]
        numbers = np.broadcast_arrays(
            np.array(places, dtype=np.int64).reshape(-1, self.size), block, row, block * (cells + 1) + row
        )
        forward, lane = np.indices(numbers[0].shape)
        return Entries(forward.ravel(), lane.ravel(), np.stack([each.ravel() for each in numbers]))

    def _read(self, codes: Tensor, fields: Fields) -> list[Tensor]:
        """What the encoder makes of the images, and the places, (m, N, s, C) and (m, N, s + 1, C).

        Each of the m serves as many lanes in a row as any other: all of a branch where the images are alike, else one.
        """
        deciding = [codes.masked_fill(fields[MASKED], 0)]
        deciding += [field for name, field in fields.items() if name not in GUIDE[1:]]
        alike = all(torch.equal(each, each[:1].expand_as(each)) for each in deciding)
        read: list[list[Any]] = [[] for _ in range(self.branches)]
        for image in range(1 if alike else len(codes)):
            own = {name: field[image : image + 1] for name, field in fields.items()}
            looks = self.prior.choice.looks(own, self.grid.cells, codes.device)
            for found, map_before in zip(read, (False, True), strict=False):
                dropped = torch.tensor([map_before], device=codes.device)
                found.append(self.prior.encode(codes[image : image + 1], own, dropped, self.grid, looks))
        of_branches = [[torch.cat(parts) for parts in zip(*found, strict=True)] for found in read]
        if not alike:
            of_branches = [[self._in_lanes(rows) for rows in parts] for parts in of_branches]
        return [torch.cat(parts) for parts in zip(*of_branches, strict=True)]

    def _in_lanes(self, rows: Tensor) -> Tensor:
        """(images, ...), or (1, ...) for every lane, as (L, ...)."""
        if len(rows) == 1:
            return rows.expand(self.size, *rows.shape[1:])
        whole = rows.new_zeros(self.size, *rows.shape[1:])
        return whole.index_copy_(0, self.in_forward, rows)

    def _in_branches(self, rows: Tensor) -> Tensor:
        """The same for every branch, as (branches * L, ...)."""
        lanes = self._in_lanes(rows)
        return lanes if self.branches == 1 else torch.cat([lanes] * self.branches)

    def read_to(self, block: int, row: int) -> None:
        """Read all that comes before a code, and let it be drawn; nothing where it is not masked."""
        if not self.masked[block][row]:
            return
        while self.block < block:
            end = self.block + 1
            if self.open[self.block]:
                self._step_to(self.grid.cells)
            else:
                while end < block and not self.open[end]:
                    end += 1
                self._read_blocks(slice(self.block, end))
            self.block, self.row = end, 0
        self._step_to(row)

    def _rows_read(self) -> Tensor:
        """(images, N, s + 1): what every row reads, as far as it is known."""
        given = self.grids.index_select(0, self.in_request)
        return self.prior.reads(self.grid.to_blocks(given).clamp(min=0))

    def _read_blocks(self, run: slice) -> None:
        """Read blocks of known codes at once, image by image."""
        read = self._rows_read()
        for branch, (row, lane) in product(range(self.branches), enumerate(self.lanes.lanes)):
            lane += self.size * branch
            x = self.prior.embed(read[row, None, run], self.places[lane // self.served, None, run], self.numbers[run])
            for layer, cache in zip(self.layers, self.caches, strict=True):
                attend, look = (partial(each, lane=lane, run=run) for each in (cache.attend_blocks, cache.look_blocks))
                x = layer.run(x, attend, look)

    def _step_to(self, last: int) -> None:
        """Read the rows of the block up to one of them."""
        if not self.row:
            for cache in self.caches:
                cache.enter(self.block)
        for _ in range(self.row, last + 1):
            self.graph()
        self.row = last + 1

    def _step(self) -> None:
        """Read the next row of a block in all lanes, and let its code be drawn where it is to be."""
        written, *place = self.table.take()
        block, row, of_all = (number[:1] for number in place)
        read, places = (rows[:, block, row, None] for rows in (self._rows_read(), self.places))
        places = places.repeat_interleave(self.served, dim=0)
        x, at = self.prior.embed(self._in_branches(read), places, block), RowPlace(row, of_all)
        for layer, cache in zip(self.layers, self.caches, strict=True):
            x = layer.run(x, partial(cache.attend_row, place=at), partial(cache.look_row, place=at))
        logits: Tensor = self.prior.head(self.prior.decoder_end(x))
        self.draw(logits.view(self.branches, self.size, -1), written)
