"""Schedules: substitutes for bad samples, and the keys of crops."""

import pickle

from smalti.trainer.data.sampler import Schedule


def test_substitutes_are_of_the_same_source_and_epoch_and_differ_by_attempt():
    schedule = Schedule([[40, 40], [30]], [1.0, 1.0], seed=1, window=0)
    for number in range(0, 500, 50):
        first = schedule.visit(number)
        tried = [first]
        for _ in range(5):
            tried.append(schedule.substitute(number, tried[-1]))
        assert {(visit.source, visit.epoch) for visit in tried} == {(first.source, first.epoch)}
        assert [visit.attempt for visit in tried] == [0, 1, 2, 3, 4, 5]
        assert len({visit.place for visit in tried}) > 3
        assert tried[1] == schedule.substitute(number, first)


def test_keys_of_crops_differ_by_all_that_makes_a_crop():
    schedule = Schedule([[40]], [1.0], seed=1, window=0)
    visit = schedule.visit(3)
    keys = [
        schedule.crop_key(visit, "a", 0),
        schedule.crop_key(visit, "b", 0),
        schedule.crop_key(visit, "a", 1),
        schedule.crop_key(visit._replace(epoch=1), "a", 0),
        schedule.crop_key(visit._replace(attempt=1), "a", 0),
        Schedule([[40]], [1.0], seed=2, window=0).crop_key(visit, "a", 0),
    ]
    assert len(set(keys)) == 6
    assert keys[0] == schedule.crop_key(schedule.visit(3), "a", 0)


def test_a_schedule_is_the_same_in_another_process():
    schedule = Schedule([[40, 10], [30]], [1.0, 2.0], seed=1, window=1)
    again = pickle.loads(pickle.dumps(schedule))
    assert [again.visit(number) for number in range(200)] == [schedule.visit(number) for number in range(200)]
