"""Permutations and mixtures: which sample a draw number goes to."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from smalti.trainer.data.sampler import Mixture, Schedule, ShardOrder, permute, permute_all, shares
from smalti.trainer.shards.index import SampleLocation


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 17, 100, 257])
def test_a_permutation_meets_every_number_once(length):
    for key in range(5):
        assert sorted(permute(position, length, key) for position in range(length)) == list(range(length))


def test_every_number_comes_first_equally_often_over_the_keys():
    first = Counter(permute(0, 10, key) for key in range(5000))
    assert all(abs(count - 500) < 5 * 500**0.5 for count in first.values())


def test_neighbours_do_not_stay_neighbours():
    images = [permute(position, 1000, 3) for position in range(1000)]
    together = sum(abs(a - b) == 1 for a, b in itertools.pairwise(images))
    assert together < 12  # two are expected


def test_a_position_outside_the_range_is_refused():
    with pytest.raises(ValueError, match=r"position must lie in \[0, 5\), got 5"):
        permute(5, 5, 0)


@pytest.mark.parametrize("window", [0, 1, 3, 100])
def test_each_epoch_holds_every_sample_once_in_an_order_of_its_own(window):
    counts = [5, 0, 7, 1, 30, 2]
    order = ShardOrder(counts, seed=1, window=window)
    epochs = [[order.place(epoch, position) for position in range(45)] for epoch in range(3)]
    every = {SampleLocation(shard, sample) for shard, count in enumerate(counts) for sample in range(count)}
    assert all(set(epoch) == every for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_both_the_shards_and_the_samples_of_a_shard_change_places_from_epoch_to_epoch():
    shards = ShardOrder([1] * 20, seed=1, window=1)
    samples = ShardOrder([20], seed=1)
    for order in (shards, samples):
        epochs = [[tuple(order.place(epoch, position)) for position in range(20)] for epoch in range(3)]
        assert len({tuple(epoch) for epoch in [*epochs, sorted(epochs[0])]}) == 4


def test_another_seed_is_another_order():
    first, second = (ShardOrder([50, 50], seed) for seed in (0, 1))
    assert [first.place(0, p) for p in range(20)] != [second.place(0, p) for p in range(20)]


def test_a_window_bounds_the_shards_in_use():
    order = ShardOrder([10] * 12, seed=5, window=3)
    shards = [order.place(0, position).shard for position in range(120)]
    used = [set(shards[start : start + 30]) for start in range(0, 120, 30)]
    assert [len(window) for window in used] == [3, 3, 3, 3]
    assert set.union(*used) == set(range(12))


def test_without_samples_there_is_no_order():
    with pytest.raises(ValueError, match="no sample"):
        ShardOrder([0, 0], seed=0)


def test_a_mixture_keeps_its_shares_and_each_source_its_epochs():
    mixture = Mixture([10, 100], [1, 3], seed=2)
    turns = [mixture.turn(visit) for visit in range(4096)]
    assert Counter(turn.source for turn in turns[1024:2048]) == {0: 256, 1: 768}
    for source, length in ((0, 10), (1, 100)):
        counted = Counter((turn.epoch, turn.number) for turn in turns if turn.source == source)
        total = 1024 if source == 0 else 3072
        assert set(counted) == {divmod(number, length) for number in range(total)}
        assert set(counted.values()) == {1}


def test_the_sources_of_a_mixture_do_not_come_in_blocks():
    mixture = Mixture([1000, 1000], [1, 1], seed=2)
    sources = [mixture.turn(visit).source for visit in range(1024)]
    changes = sum(a != b for a, b in itertools.pairwise(sources))
    assert 430 < changes < 590  # 512 are expected of a fair order


def test_one_source_is_gone_through_in_order():
    mixture = Mixture([3], [1.0], seed=9)
    assert [tuple(mixture.turn(visit)) for visit in range(5)] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1)]


@pytest.mark.parametrize("weights", [[1, 1], [1, 2, 4], [1e-9, 1], [0.7, 0.2, 0.1], [1] * 1000])
def test_shares_add_up_and_follow_the_weights(weights):
    parts = shares(weights, 1024)
    assert sum(parts) == 1024 and min(parts) >= 1
    whole = sum(map(Fraction, weights))
    exact = [Fraction(weight) / whole * 1024 for weight in weights]
    assert all(abs(part - share) <= 1 for part, share in zip(parts, exact, strict=True))


def test_a_weight_of_nothing_is_refused():
    with pytest.raises(ValueError, match="positive weights"):
        shares([1, 0], 10)


def test_an_epoch_in_windows_of_64_shards_is_as_random_as_a_permutation_of_each():
    shards, each, window = 256, 64, 64
    order = ShardOrder([each] * shards, seed=5, window=window)
    length = window * each
    arranged, _ = order._arrange(0)
    rank = {shard: place for place, shard in enumerate(arranged)}
    places = [order.place(0, position) for position in range(shards * each)]
    numbers = np.array([rank[place.shard] * each + place.sample for place in places]).reshape(-1, length)
    assert len(numbers) == 4
    for first, row in enumerate(numbers):
        inside = row - first * length
        assert sorted(inside) == list(range(length))  # each sample of the window once
        table = np.histogram2d(np.arange(length), inside, bins=64, range=[[0, length], [0, length]])[0]
        chi = ((table - 1) ** 2).sum()  # 64 x 64 cells of 1 on average; 63 x 63 degrees of freedom
        assert abs(chi - 63 * 63) < 5 * (2 * 63 * 63) ** 0.5
        centred = inside - inside.mean()
        for lag in (1, 2, 3, 17, 64, 1024):
            serial = (centred[:-lag] * centred[lag:]).mean() / centred.var()
            assert abs(serial) < 5 / (length - lag) ** 0.5
    later = [order.place(1, position).shard for position in range(length)]
    assert len({place.shard for place in places[:length]} & set(later)) < window  # another epoch, other windows


@pytest.mark.parametrize("length", [1, 2, 9, 16, 17, 1000, 123_457, 10**9])
def test_many_positions_are_permuted_as_each_alone(length):
    positions = sorted(set(np.random.default_rng(1).integers(0, length, 100).tolist()))
    for key in (0, 12345, (1 << 64) - 1):
        alone = [permute(position, length, key) for position in positions]
        assert permute_all(np.array(positions), length, key).tolist() == alone


@pytest.mark.parametrize(("window", "rows"), [(0, 0), (2, 0), (5, 0), (2, 16)])
def test_many_visits_are_those_of_each_number(window, rows):
    schedule = Schedule([[7, 0, 3, 9, 20, 1, 30]], [1.0], 3, window, rows)
    assert schedule.visits(range(40, 180)) == [schedule.visit(number) for number in range(40, 180)]
    assert schedule.visits([3]) == [schedule.visit(3)] and schedule.visits([]) == []


def test_many_visits_of_a_mixture_are_those_of_each_number():
    schedule = Schedule([[7, 3], [20]], [1.0, 2.0], 3, 0)
    assert schedule.visits(range(50)) == [schedule.visit(number) for number in range(50)]
