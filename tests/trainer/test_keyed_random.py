"""Random draws keyed by integers."""

from collections import Counter

from smalti.trainer.keyed_random import Draws, mix, splitmix64, text_key


def test_splitmix64_gives_the_published_sequence():
    # The first outputs for the seed 1234567, from the reference implementation (Vigna, splitmix64.c).
    golden = 0x9E3779B97F4A7C15
    outputs = [splitmix64((1234567 + number * golden) % 2**64) for number in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_the_order_of_parts_matters_and_negative_numbers_are_keys_too():
    assert len({mix(1, 2), mix(2, 1), mix(1), mix(2), mix(-1, 2), mix()}) == 6
    assert 0 <= mix(-5, 10**30) < 2**64


def test_the_key_of_a_text_is_the_same_in_every_process():
    assert text_key("photo") == 8894716921509477751  # recorded; hash() differs from process to process


def test_draws_are_uniform_and_repeatable():
    draws = Draws(7)
    values = [draws.uniform() for _ in range(20000)]
    again = Draws(7)
    assert [again.uniform() for _ in range(5)] == values[:5]
    assert min(values) >= 0 and max(values) < 1
    tenths = Counter(int(value * 10) for value in values)
    assert all(abs(count - 2000) < 5 * 2000**0.5 for count in tenths.values())


def test_below_stays_below():
    draws = Draws(1)
    assert {draws.below(3) for _ in range(100)} == {0, 1, 2}
