"""Lanes: nodes read shards of their own, and every other property of the order stays."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.shards import write_images
from fixtures.streams import make, same

from smalti.trainer.data.collate import Batch
from smalti.trainer.data.config import DataConfig, SourceConfig
from smalti.trainer.data.sampler import ShardOrder, lane
from smalti.trainer.shards.index import SampleLocation


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("shards"), 50)


def global_batches(folder: Path, steps: int, world: int, micro: int, start: int = 0, **options) -> list[Batch]:
    """The batches of all ranks in the order of their rows: a rank's micro-batches follow each other."""
    streams = [make(folder, rank, world, micro, lanes=True, **options).train_batches(start) for rank in range(world)]
    whole = []
    for _ in range(steps):
        parts = [part for stream in streams for part in next(stream)]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "key"}
        whole.append(joined | {"key": [key for part in parts for key in part["key"]]})
    return whole


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize(("world", "micro", "workers"), [(1, 2, 0), (2, 4, 1), (2, 2, 0), (4, 1, 0), (4, 2, 0)])
def test_ranks_workers_and_accumulation_change_no_global_batch(folder, window, world, micro, workers):
    steps = 9 if workers == 0 else 3
    made = global_batches(folder, steps, world, micro, shuffle_window=window, num_workers=workers)
    assert same(made, global_batches(folder, steps, 1, 8, shuffle_window=window))


def test_the_world_may_change_in_mid_epoch_and_a_state_says_whether_there_are_lanes(folder):
    pieces = global_batches(folder, 2, 2, 2, shuffle_window=3) + global_batches(folder, 3, 4, 2, 2, shuffle_window=3)
    pieces += global_batches(folder, 4, 1, 4, 5, shuffle_window=3)
    assert same(pieces, global_batches(folder, 9, 1, 8, shuffle_window=3))
    with_lanes, without = make(folder, lanes=True), make(folder)
    with_lanes.validate_state(make(folder, 1, 4, 2, lanes=True).state_dict(3))
    with pytest.raises(ValueError, match="lanes was False and is True"):
        with_lanes.validate_state(without.state_dict(3))
    before_there_were_lanes = {name: value for name, value in without.state_dict(3).items() if name != "lanes"}
    without.validate_state(before_there_were_lanes)
    with pytest.raises(ValueError, match="lanes was False and is True"):
        with_lanes.validate_state(before_there_were_lanes)


def test_a_mixture_has_no_lanes():
    with pytest.raises(ValueError, match="lanes need one data set"):
        DataConfig(mixture=(SourceConfig(("a",)), SourceConfig(("b",))), lanes=True)


@pytest.mark.parametrize("window", [0, 1, 3, 100])
@pytest.mark.parametrize("rows", [1, 4, 7, 64])
def test_each_epoch_holds_every_sample_once_in_an_order_of_its_own(window, rows):
    counts = [5, 0, 7, 1, 30, 2]
    order = ShardOrder(counts, seed=1, window=window, rows=rows)
    epochs = [[order.place(epoch, position) for position in range(45)] for epoch in range(3)]
    every = {SampleLocation(shard, sample) for shard, count in enumerate(counts) for sample in range(count)}
    assert all(set(epoch) == every for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("length", [0, 1, 5, 6, 7, 40])
@pytest.mark.parametrize("first_row", [0, 2, 5])
def test_lanes_are_as_long_as_their_rows_come_up_and_fill_the_line(length, first_row):
    turns = Counter((first_row + position) % 6 for position in range(length))
    place = 0
    for row in range(6):
        assert lane(row, first_row, 6, length) == (place, turns[row])
        place += turns[row]
    assert place == length


def rows_of(nodes: int, rows: int) -> list[range]:
    """The rows of each node, as even as can be."""
    ends = [node * rows // nodes for node in range(nodes + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends)]


def test_what_a_node_reads_is_what_its_rows_visit():
    order = ShardOrder([3, 11, 7, 2, 9, 14, 6], seed=4, window=3, rows=8)
    for epoch in range(3):
        for rows in rows_of(3, 8):
            visits = [t for t in range(epoch * order.length, (epoch + 1) * order.length) if t % 8 in rows]
            seen = {order.place(epoch, t - epoch * order.length).shard for t in visits}
            assert seen == {shard for window in order.read_by(epoch, rows) for shard in window}


@pytest.mark.parametrize("nodes", [1, 8, 100, 128])
@pytest.mark.parametrize("window", [0, 2048])
def test_nodes_read_each_shard_about_once_between_them(nodes, window):
    draws = np.random.default_rng(0)
    order = ShardOrder(draws.integers(500, 1500, 10_000).tolist(), seed=2, window=window, rows=4096)
    read = [{shard for part in order.read_by(1, rows) for shard in part} for rows in rows_of(nodes, 4096)]
    assert set().union(*read) == set(range(10_000))
    assert sum(map(len, read)) <= 1.1 * 10_000
    assert max(map(len, read)) <= 1.2 * 10_000 / nodes + 6  # and none more than its share


def epochs_of(order: ShardOrder, count: int, each: int) -> list[np.ndarray]:
    """The samples that epochs visit, numbered through all shards."""
    visits = [[order.place(epoch, position) for position in range(order.length)] for epoch in range(count)]
    return [np.array([place.shard * each + place.sample for place in epoch]) for epoch in visits]


def serial_z(values: np.ndarray, lag: int) -> float:
    """How many standard errors the correlation of values with those before them is away from none."""
    centered = values - values.mean()
    return float((centered[:-lag] * centered[lag:]).sum() / (np.square(centered).mean() * np.sqrt(len(values) - lag)))


def test_a_shuffle_in_lanes_is_as_good_as_a_random_one():
    """By chi-square and serial correlation: 100 shards of 160 samples, batches of 64; bounds of 4.5 standard errors."""
    shards, each, rows = 100, 160, 64
    order = ShardOrder([each] * shards, seed=3, rows=rows)
    first, second = epochs_of(order, 2, each)
    times = [np.argsort(epoch) for epoch in (first, second)]  # when each sample is visited

    # Every tenth of a shard comes up evenly over an epoch.
    table = np.zeros((10, 10))
    np.add.at(table, (np.arange(order.length) % each * 10 // each, times[0] * 10 // order.length), 1)
    expected = order.length / table.size
    chi_square = ((table - expected) ** 2 / expected).sum()
    assert abs(chi_square - 9 * 9) < 4.5 * np.sqrt(2 * 9 * 9)

    # The mean of a batch, of values that depend on the shard and on the sample, has no memory of those before it, and
    # spreads no more than that of random draws.
    draws = np.random.default_rng(0)
    values = np.repeat(draws.normal(size=shards), each) + draws.normal(size=shards * each)
    means = values[first].reshape(-1, rows).mean(1)
    assert all(abs(serial_z(means, lag)) < 4.5 for lag in range(1, 9))
    assert means.var() < values.var() / rows * (1 + 4.5 * np.sqrt(2 / len(means)))

    # Nor has an epoch a memory of the one before it: neither when a sample is visited, nor at which row.
    assert abs(np.corrcoef(*times)[0, 1]) * np.sqrt(order.length) < 4.5
    of_shards = [(epoch % rows).reshape(shards, each).mean(1) for epoch in times]
    assert abs(np.corrcoef(*of_shards)[0, 1]) * np.sqrt(shards) < 4.5


def test_in_its_lane_a_row_goes_through_the_samples_as_if_drawn():
    each, rows = 160, 8
    order = ShardOrder([each] * 40, seed=5, window=10, rows=rows)
    visited = epochs_of(order, 1, each)[0].reshape(4, -1, rows)  # windows, steps, rows
    assert visited.shape == (4, 200, rows)
    for lag in range(1, 9):
        z = [serial_z(visited[window, :, row] % each, lag) for window in range(4) for row in range(rows)]
        assert abs(np.mean(z)) * np.sqrt(len(z)) < 4.5 and 0.5 < np.std(z) < 1.5
    assert all(len(np.unique(window[:, row])) == 200 for window in visited for row in range(rows))
