"""Whatever the mode, the caches and the company, the samplers sample the codes of one plain loop over windows."""

import itertools
import math
import random
import sys

import numpy as np
import pytest
import torch

from smalti.models.conditions import (
    CaptionConfig,
    ClassConfig,
    CodeMapConfig,
    CompositeConfig,
    CoordinateFeaturesConfig,
    CoordinatesConfig,
    CropLocation,
    LowResolutionConfig,
    ObjectsConfig,
    TextConfig,
    UnconditionalConfig,
)
from smalti.models.priors.decoding import strided_start
from smalti.models.priors.gpt import GPTConfig
from smalti.models.priors.neighborhood import NeighborhoodConfig
from smalti.models.priors.orders import OrderConfig
from smalti.models.sampling import (
    UNFILLED,
    GridRequest,
    GuidanceConfig,
    SamplingConfig,
    sample,
    sample_steps,
    score,
    window_start,
)
from smalti.models.sampling.gumbel_noise import cell_keys, gumbel
from smalti.models.sampling.logits import filter_logits
from smalti.models.sampling.wavefront import wavefront

WINDOW = (3, 4)
CODES = 11
SIZES = [(3, 4), (3, 9), (8, 4), (5, 7), (7, 5), (4, 13)]


def tiny(condition=None, window=WINDOW, codes=CODES, **settings):
    torch.manual_seed(0)
    config = GPTConfig(layers=2, heads=2, width=16, window=window, condition_dropout=0.1, **settings)
    prior = config.build(codes, condition or CodeMapConfig(vocab_size=5)).eval()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return prior


def tiny_neighborhood():
    torch.manual_seed(0)
    config = NeighborhoodConfig(layers=1, heads=2, width=16, window=WINDOW, rows_above=2, columns_beside=1)
    prior = config.build(CODES, CodeMapConfig(vocab_size=5)).eval()
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return prior


def fields_of(images, size):
    """Fields of whole images for every kind of condition, each image's own."""
    rows = []
    for image in images:
        generator = torch.Generator().manual_seed(image)
        rows.append(
            {
                "segmentation_codes": torch.randint(5, size, generator=generator),
                "cls": torch.randint(4, (), generator=generator),
                "box": torch.tensor([8.0, 0.0, 8.0 + 16 * size[1], 16.0 * size[0]]),
                "source_size": torch.tensor([16.0 * size[0], 16.0 * size[1] + 16]),
                "flip": torch.tensor(image % 2 == 1),
                "text": torch.randn(3, 6, generator=generator),
                "low": torch.rand(3, 2 * size[0], 2 * size[1], generator=generator) * 2 - 1,
                "object_classes": torch.randint(-1, 9, (5,), generator=generator),
                "object_boxes": torch.tensor([[0.0, 0.0, 20.0, 30.0]] * 5) + 8 * image,
            }
        )
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def splitmix_noise(seed, image, row, column, codes):
    """The keyed noise once more, in Python's integers."""
    mask = (1 << 64) - 1

    def finish(state):
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
        return state ^ (state >> 31)

    key = 0
    for number in (seed, image, row, column):
        key = finish((key + (number + 1) * 0x9E3779B97F4A7C15) & mask)
    uniforms = [(finish((key + n * 0x9E3779B97F4A7C15) & mask) >> 12) + 0.5 for n in range(1, codes + 1)]
    return torch.tensor([-math.log(-math.log(u / 2**52)) for u in uniforms], dtype=torch.float64)


@torch.no_grad()
def plain(prior, fields, size, images, seed, greedy=False, given=None, scale=1.0):
    """The published way: code by code, a whole window each, nothing remembered."""
    rows, columns = prior.window
    grids = []
    for number, image in enumerate(images):
        grid = torch.zeros(size, dtype=torch.int64) if given is None else given[number].clone()
        whole = {name: tensor[number : number + 1] for name, tensor in fields.items()}
        for row, column in itertools.product(range(size[0]), range(size[1])):
            if given is not None and given[number, row, column] >= 0:
                continue
            top = min(max(row - rows // 2, 0), size[0] - rows)
            left = min(max(column - columns // 2, 0), size[1] - columns)
            window = grid[None, top : top + rows, left : left + columns].clamp(min=0)
            cut = prior.condition.cut(whole, CropLocation(top, left, size))
            logits = prior(window, cut).logits[0, row - top, column - left].double()
            if scale != 1:
                absent = prior(window, cut, dropped=torch.tensor([True])).logits[0, row - top, column - left]
                logits = absent + scale * (logits - absent)
            if not greedy:
                logits = logits + splitmix_noise(seed, image, row, column, prior.codes)
            grid[row, column] = logits.argmax()
        grids.append(grid)
    return torch.stack(grids)


def test_windows_of_scenes_begin_where_the_published_script_begins_them():
    for length in range(16, 70):
        theirs = [int(np.clip(place - (16 - 1) // 2, 0, length - 16)) for place in range(length)]
        assert [strided_start(place, length, 16, 1, late=True) for place in range(length)] == theirs


def test_window_starts_are_the_published_ones_for_every_grid():
    for window in range(4, 17):
        half = window // 2
        for length in range(window, 41):
            for position in range(length):
                local = half
                if position <= half:
                    local = position
                elif length - position < window - half:
                    local = window - (length - position)
                assert window_start(position, length, window) == position - local


@pytest.mark.parametrize("window", [4, 5, 16])
def test_strided_windows_hold_their_whole_stretch(window):
    for length in range(window, 41):
        for stride in range(1, window + 1):
            for position in range(length):
                start = strided_start(position, length, window, stride)
                first = position - position % stride
                last = min(first + stride, length) - 1
                assert 0 <= start <= first and last < start + window <= length
                assert start == strided_start(first, length, window, stride)


def test_windows_larger_than_the_grid_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match="at least 16 codes a side, got 12; ask for a larger image"):
        window_start(0, 12, 16)
    with pytest.raises(ValueError, match="at least 4 codes a side, got 3"):
        sample_steps(GridRequest(tiny(), fields_of([0], (3, 3)), (3, 3), [0], 0, SamplingConfig()))


@pytest.mark.parametrize(
    ("size", "steps"), [((16, 16), 256), ((32, 32), 528), ((42, 64), 720), ((64, 64), 1072), ((128, 128), 2160)]
)
def test_wavefronts_take_the_known_number_of_steps(size, steps):
    reach = np.array([window_start(column, size[1], 16) + 15 for column in range(size[1])])
    front = wavefront(np.zeros(size, dtype=bool), -(-size[1] // 16), reach)
    assert len(front) == steps
    cells = sorted(tuple(cell) for step in front for cell in step.tolist())
    assert cells == list(itertools.product(range(size[0]), range(size[1])))


@pytest.mark.parametrize("trial", range(20))
def test_a_wavefront_samples_nothing_before_its_past(trial):
    draw = random.Random(trial)
    size, window = (draw.randint(1, 9), draw.randint(4, 17)), 4
    given = {cell for cell in itertools.product(*map(range, size)) if draw.random() < draw.choice([0, 0.3, 0.9])}

    def reach(column):
        return window_start(column, size[1], window) + window - 1

    done, rows_at_once = set(given), -(-size[1] // window)
    known = np.zeros(size, dtype=bool)
    for cell in given:
        known[cell] = True
    for step in wavefront(known, rows_at_once, np.array([reach(column) for column in range(size[1])])):
        step = [tuple(cell) for cell in step.tolist()]
        top = min(row for row, column in itertools.product(*map(range, size)) if (row, column) not in done)
        assert step and all(top <= row < top + rows_at_once for row, _ in step)  # each row has a lane of its own
        for row, column in step:
            past = {(row, left) for left in range(column)}
            past |= set(itertools.product(range(row), range(reach(column) + 1)))
            assert past <= done and (row, column) not in done
        done |= set(step)
    assert len(done) == size[0] * size[1]


@pytest.mark.parametrize("block", ["gpt2", "llama", "llamagen"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("greedy", [True, False])
def test_both_modes_sample_what_the_plain_loop_samples(block, size, greedy):
    prior, images = tiny(block=block), (3, 4)
    fields = fields_of(images, size)
    expected = plain(prior, fields, size, images, seed=5, greedy=greedy)
    for mode in ("serial", "wavefront"):
        sampled_state = sample(GridRequest(prior, fields, size, images, 5, SamplingConfig(mode=mode, greedy=greedy)))
        assert torch.equal(sampled_state.codes, expected), mode


CONDITIONS = [
    UnconditionalConfig(),
    ClassConfig(classes=4),
    CoordinatesConfig(vocab_size=16),
    CoordinateFeaturesConfig(frequencies=2),
    TextConfig(tokens=3, channels=6),
    CaptionConfig(tokens=3, channels=6),
    LowResolutionConfig(pixels_per_code=2),
    ObjectsConfig(objects=5, classes=9, grid=10),
    CompositeConfig(conditions=(CodeMapConfig(vocab_size=5), ClassConfig(classes=4))),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.kind)
@pytest.mark.parametrize(("batch", "size"), [(1, (3, 4)), (2, (7, 4)), (3, (4, 7))])
def test_every_kind_of_condition_samples_what_the_plain_loop_samples(condition, batch, size):
    prior, images = tiny(condition), range(batch)
    fields = fields_of(images, size)
    sampled_state = sample(GridRequest(prior, fields, size, images, 2, SamplingConfig(lanes=4, prefill=2)))
    assert torch.equal(sampled_state.codes, plain(prior, fields, size, images, 2))


@pytest.mark.parametrize(("lanes", "prefill"), [(1, 1), (3, 1), (4, 2), (8, 8)])
@pytest.mark.parametrize("size", [(3, 4), (5, 11), (6, 4)])
def test_modes_batches_and_ranks_give_the_same_bits(lanes, prefill, size):
    prior, images = tiny(), (0, 1, 2, 3)
    fields = fields_of(images, size)

    def sampled(chosen, mode):
        part = {name: tensor[list(chosen)] for name, tensor in fields.items()}
        config = SamplingConfig(mode=mode, lanes=lanes, prefill=prefill, top_k=7, top_p=0.9)
        return sample(GridRequest(prior, part, size, chosen, 9, config))

    together = sampled(images, "serial")
    for split, mode in ((((0, 1, 2, 3),), "wavefront"), (((0, 2), (1, 3)), "wavefront"), (((3,), (2, 0, 1)), "serial")):
        for chosen in split:
            alone = sampled(chosen, mode)
            assert torch.equal(alone.codes, together.codes[list(chosen)])
            assert torch.equal(alone.scores, together.scores[list(chosen)])  # not close: equal


@pytest.mark.parametrize("make", [tiny, tiny_neighborhood])
@pytest.mark.parametrize("mode", ["serial", "wavefront"])
def test_images_of_one_number_are_sampled_beside_each_other_as_each_alone(make, mode):
    """As those of several classes are, each of which counts from 0."""
    prior, size, numbers = make(), (5, 9), (0, 1, 0, 0, 1)
    fields = fields_of(range(5), size)  # with conditions of their own

    def sampled(rows, lanes):
        part = {name: tensor[list(rows)] for name, tensor in fields.items()}
        chosen = tuple(numbers[row] for row in rows)
        wanted = GridRequest(prior, part, size, chosen, 9, SamplingConfig(mode=mode, lanes=4))
        return sample(wanted._replace(lane_ids=[lanes[row] for row in rows]))

    for lanes in (numbers, (0, 1, 2, 3, 4), (0, 1, 1, 2, 3)):
        together = sampled(range(5), lanes)
        for row in range(5):
            alone = sampled([row], lanes)
            assert torch.equal(alone.codes[0], together.codes[row])
            assert torch.equal(alone.scores[0], together.scores[row])


@pytest.mark.parametrize("make", [tiny, tiny_neighborhood])
def test_even_arithmetic_that_differs_from_lane_to_lane_samples_the_same_codes(make, monkeypatch):
    """As if every row of a matrix product rounded in its own way, a thousandfold coarser than any kernel does."""
    prior, size, images = make(), (5, 11), (0, 1, 2, 5)
    fields = fields_of(images, size)

    def skewed(method):
        def run(*arguments):
            logits = method(*arguments)
            return logits * (1 + torch.arange(len(logits))[:, None] / 5)

        return run

    for name in ("prefill", "step"):
        if hasattr(prior, name):
            monkeypatch.setattr(prior, name, skewed(getattr(prior, name)))

    def sampled(numbers, mode):
        part = {name: tensor[[images.index(number) for number in numbers]] for name, tensor in fields.items()}
        return sample(GridRequest(prior, part, size, numbers, 9, SamplingConfig(mode=mode, lanes=4, prefill=2))).codes

    together = sampled(images, "wavefront")
    assert torch.equal(together, sampled(images, "serial"))
    assert torch.equal(together[[1, 3]], sampled((1, 5), "wavefront"))
    assert torch.equal(together[2:3], sampled((2,), "serial"))


def test_the_likelihood_of_what_was_sampled_is_the_priors():
    prior = tiny()
    fields = fields_of((0, 1), WINDOW)
    sampled_state = sample(GridRequest(prior, fields, WINDOW, (0, 1), 3, SamplingConfig()))
    loss = prior(sampled_state.codes, fields, sampled_state.codes).loss
    torch.testing.assert_close(sampled_state.scores, -loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("mode", ["serial", "wavefront"])
def test_known_codes_score_what_they_scored_when_they_were_sampled(stride, mode):
    prior, size = tiny(), (5, 9)
    fields = fields_of((0, 1), size)
    config = SamplingConfig(stride=stride, mode=mode, guidance=GuidanceConfig(2.0))
    sampled_state = sample(GridRequest(prior, fields, size, (0, 1), 3, config))
    assert torch.equal(score(prior, fields, sampled_state.codes, config), sampled_state.scores)


def test_the_score_of_one_window_is_the_priors_loss():
    prior = tiny()
    fields = fields_of((0, 1), WINDOW)
    codes = torch.randint(CODES, (2, *WINDOW))
    loss = prior(codes, fields, codes).loss
    torch.testing.assert_close(score(prior, fields, codes, SamplingConfig()), -loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_completion_keeps_what_is_given_and_samples_the_rest(size):
    prior = tiny()
    fields = fields_of((0, 1), size)
    generator = torch.Generator().manual_seed(1)
    given = torch.randint(CODES, (2, *size), generator=generator)
    erased = torch.rand(given.shape, generator=generator) < 0.5
    erased[:, size[0] // 2 :] |= torch.rand(size[1], generator=generator) < 0.5
    given[erased] = UNFILLED
    serial, front = (
        sample(GridRequest(prior, fields, size, (0, 1), 4, SamplingConfig(mode=mode), given))
        for mode in ("serial", "wavefront")
    )
    assert torch.equal(serial.codes, front.codes) and torch.equal(serial.scores, front.scores)
    assert torch.equal(serial.codes[~erased], given[~erased]) and (serial.codes >= 0).all()
    assert (serial.scores[~erased] == 0).all() and (serial.scores[erased] < 0).all()
    assert torch.equal(serial.codes, plain(prior, fields, size, (0, 1), 4, given=given))


def test_the_top_half_completes_to_the_same_image_that_it_came_from():
    prior, size = tiny(), (6, 9)
    fields = fields_of((0,), size)
    whole = sample(GridRequest(prior, fields, size, (0,), 4, SamplingConfig())).codes
    top = whole.clone()
    top[:, 3:] = UNFILLED
    assert torch.equal(sample(GridRequest(prior, fields, size, (0,), 4, SamplingConfig(), top)).codes, whole)


def test_a_grid_that_is_given_whole_comes_back():
    given = torch.randint(CODES, (1, *WINDOW))
    sampled_state = sample(GridRequest(tiny(), fields_of((0,), WINDOW), WINDOW, (0,), 0, SamplingConfig(), given))
    assert torch.equal(sampled_state.codes, given) and sampled_state.cells == 0


def uneven(prior, monkeypatch):
    """Steps that round in another way than prefills, a thousandfold coarser than any kernel does."""
    plain = prior.step
    monkeypatch.setattr(prior, "step", lambda *arguments: plain(*arguments) * 1.3)
    return prior


@pytest.mark.parametrize(
    ("make", "stride", "scale"), [(tiny, 1, 1.0), (tiny, 1, 2.0), (tiny, 3, 1.0), (tiny_neighborhood, 1, 1.0)]
)
def test_a_sampling_that_was_stopped_goes_on_to_the_same_bits(make, stride, scale, monkeypatch):
    prior, size = uneven(make(), monkeypatch), (5, 9)
    fields = fields_of((0, 1), size)
    given = torch.full((2, *size), UNFILLED)
    given[:, 2, 3:5] = 1  # known in both images, so passed over
    given[1, 0] = 2

    def config(mode):
        return SamplingConfig(mode=mode, stride=stride, lanes=2, guidance=GuidanceConfig(scale))

    whole = sample(GridRequest(prior, fields, size, (0, 1), 6, config("wavefront"), given))
    front = "wavefront"
    for first, second, stop in ((front, front, 20), ("serial", front, 8), (front, "serial", 33)):
        for sampled_state in sample_steps(GridRequest(prior, fields, size, (0, 1), 6, config(first), given)):
            if sampled_state.filled >= stop:
                break
        stopped = sampled_state._replace(codes=sampled_state.codes.clone(), scores=sampled_state.scores.clone())
        assert (stopped.codes == UNFILLED).any()
        resumed = sample(GridRequest(prior, fields, size, (0, 1), 6, config(second), given), resume_from=stopped)
        assert torch.equal(resumed.codes, whole.codes), (first, second, stop)
        assert torch.equal(resumed.scores, whole.scores)


def test_images_that_were_stopped_at_different_codes_go_on_together(monkeypatch):
    prior, size = uneven(tiny(), monkeypatch), (5, 9)
    fields = fields_of((0, 1), size)
    whole = sample(GridRequest(prior, fields, size, (0, 1), 6, SamplingConfig()))
    stopped = whole._replace(codes=whole.codes.clone())
    stopped.codes[0, 2, 5:] = stopped.codes[0, 3:] = stopped.codes[1, 1, 3:] = stopped.codes[1, 2:] = UNFILLED
    resumed = sample(GridRequest(prior, fields, size, (0, 1), 6, SamplingConfig()), resume_from=stopped)
    assert torch.equal(resumed.codes, whole.codes) and torch.equal(resumed.scores, whole.scores)


def test_what_was_sampled_before_costs_nothing_once_more(monkeypatch):
    prior, size = tiny(), (6, 12)
    fields = fields_of((0,), size)
    stopped = sample(GridRequest(prior, fields, size, (0,), 6, SamplingConfig()))
    stopped.codes[:, 4:] = UNFILLED
    read = []
    plain = prior.prefill
    monkeypatch.setattr(prior, "prefill", lambda *arguments: read.append(1) or plain(*arguments))
    sample(GridRequest(prior, fields, size, (0,), 6, SamplingConfig()), resume_from=stopped)
    assert len(read) <= 2 * 10  # a prefill for each window of two rows, and none for the four above


def test_other_orders_sample_their_own_window_and_nothing_else():
    prior = tiny(order=OrderConfig("spiral_out"))
    fields = fields_of((0,), WINDOW)
    sampled_state = sample(GridRequest(prior, fields, WINDOW, (0,), 1, SamplingConfig(greedy=True)))
    predicted = prior(sampled_state.codes, fields).logits.argmax(-1)
    assert torch.equal(predicted, sampled_state.codes)
    with pytest.raises(ValueError, match="order 'spiral_out' samples grids of its window"):
        sample(GridRequest(prior, fields_of((0,), (3, 5)), (3, 5), (0,), 1, SamplingConfig()))


def test_a_strided_window_agrees_between_modes_and_differs_from_the_exact_one():
    prior, size = tiny(), (5, 12)
    fields = fields_of((0, 1), size)
    exact, serial, front = (
        sample(GridRequest(prior, fields, size, (0, 1), 8, SamplingConfig(stride=stride, mode=mode)))
        for stride, mode in ((1, "serial"), (3, "serial"), (3, "wavefront"))
    )
    assert torch.equal(serial.codes, front.codes) and torch.equal(serial.scores, front.scores)
    assert not torch.equal(serial.codes, exact.codes)


def test_guidance_follows_its_formula():
    prior, size = tiny(), (4, 6)
    fields = fields_of((0, 1), size)
    for lanes in (1, 2):
        config = SamplingConfig(guidance=GuidanceConfig(scale=2.5), lanes=lanes)
        sampled_state = sample(GridRequest(prior, fields, size, (0, 1), 3, config))
        assert torch.equal(sampled_state.codes, plain(prior, fields, size, (0, 1), 3, scale=2.5))


def test_guidance_of_scale_one_equals_none():
    prior, size = tiny(), (4, 6)
    fields = fields_of((0,), size)
    one, none = (
        sample(GridRequest(prior, fields, size, (0,), 3, SamplingConfig(guidance=guidance))).codes
        for guidance in (GuidanceConfig(1.0, "cosine"), GuidanceConfig())
    )
    assert torch.equal(one, none) and torch.equal(one, plain(prior, fields, size, (0,), 3))


def test_guidance_schedules_grow_from_one_to_the_scale():
    assert GuidanceConfig(3.0).scales(3).tolist() == [3, 3, 3]
    assert GuidanceConfig(3.0, "linear").scales(3).tolist() == [1, 2, 3]
    cosine = GuidanceConfig(3.0, "cosine", power=2.0).scales(3).tolist()
    assert cosine[0] == 1 and cosine[2] == 3
    assert cosine[1] == pytest.approx(1 + 2 * (1 - math.cos(math.pi / 4)) / 2)


def test_guidance_without_dropout_in_training_is_refused():
    prior = GPTConfig(layers=1, heads=1, width=8, window=(2, 2)).build(3, UnconditionalConfig()).eval()
    with pytest.raises(ValueError, match="condition_dropout"):
        sample_steps(GridRequest(prior, {}, (2, 2), [0], 0, SamplingConfig(guidance=GuidanceConfig(2.0))))


def test_sampling_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"prior\.eval\(\)"):
        sample_steps(GridRequest(tiny().train(), fields_of((0,), WINDOW), WINDOW, (0,), 0, SamplingConfig()))


@pytest.mark.parametrize("size", [(2, 2), (2, 3)])
@pytest.mark.parametrize("mode", ["serial", "wavefront"])
def test_images_come_as_often_as_the_prior_says(size, mode):
    """Pearson's chi-square over every grid of 2 codes, whose probabilities are products of window conditionals."""
    prior = tiny(UnconditionalConfig(), window=(2, 2), codes=2)
    grids = torch.tensor(list(itertools.product(range(2), repeat=size[0] * size[1]))).view(-1, *size)
    likelihood = torch.zeros(len(grids))
    with torch.no_grad():
        for row, column in itertools.product(*map(range, size)):
            top, left = window_start(row, size[0], 2), window_start(column, size[1], 2)
            logits = prior(grids[:, top : top + 2, left : left + 2], {}).logits.log_softmax(-1)
            code = grids[:, row, column]
            likelihood += logits[torch.arange(len(grids)), row - top, column - left, code]
    expected = 2000 * likelihood.exp()
    assert expected.sum().item() == pytest.approx(2000, rel=1e-4)
    codes = sample(GridRequest(prior, {}, size, range(2000), 11, SamplingConfig(mode=mode, lanes=64, prefill=64))).codes
    numbers = (codes.flatten(1) * 2 ** torch.arange(codes[0].numel()).flip(0)).sum(1)
    seen = torch.bincount(numbers, minlength=len(grids))
    common = expected > 5
    rest = torch.tensor([seen[~common].sum() - expected[~common].sum()])
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    statistic += (rest**2 / expected[~common].sum().clamp(min=1)).sum()
    freedom = int(common.sum())
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)  # four standard deviations


def test_filters_keep_the_right_codes():
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]]).log()

    def kept(**settings):
        return filter_logits(logits, SamplingConfig(**settings)).isfinite().tolist()

    assert kept(top_k=2) == [[False, True, False, True], [True] * 4]  # ties with the second are kept
    assert kept(top_p=0.5) == [[False, True, False, True], [True, True, False, False]]
    assert kept(top_p=0.71) == [[False, True, True, True], [True, True, True, False]]
    assert kept(top_p=1e-9) == [[False, True, False, False], [True, False, False, False]]
    assert kept(top_k=3, top_p=0.8)[0] == [False, True, True, True]  # 0.4 / 0.9 + 0.3 / 0.9 = 0.78 < 0.8
    hot = filter_logits(logits, SamplingConfig(temperature=2.0))
    torch.testing.assert_close(hot, logits.double() / 2)


def test_filters_give_many_rows_the_bits_of_each_alone():
    logits = torch.randn(64, 300, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(top_k=200, top_p=0.8)
    alone = torch.cat([filter_logits(row[None], config) for row in logits])
    assert torch.equal(filter_logits(logits, config), alone)
    kept = alone.isfinite()
    mass = (logits.double().masked_fill(logits < logits.topk(200).values[:, -1:], -torch.inf).softmax(1) * kept).sum(1)
    assert (mass >= 0.8).all() and kept.sum(1).max() < 200


def test_noise_belongs_to_its_place_and_is_gumbels():
    places = [(1, 2, 3, 4), (1, 2, 4, 3), (2, 1, 3, 4), (0, 0, 0, 0)]
    device = torch.device("cpu")
    keys = [cell_keys(seed, [7, image], (5, 5), device)[1, row, column] for seed, image, row, column in places]
    noise = gumbel(torch.stack(keys), 50)
    expected = torch.stack([splitmix_noise(*place, 50) for place in places])
    torch.testing.assert_close(noise, expected, rtol=1e-12, atol=1e-12)
    many = gumbel(cell_keys(0, [0], (1, 200), device).flatten(), 500)
    assert many.isfinite().all()
    assert many.mean().item() == pytest.approx(0.5772, abs=0.02)  # Euler's constant
    assert many.var().item() == pytest.approx(math.pi**2 / 6, abs=0.04)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.5}, {"stride": 0}, {"lanes": 4, "prefill": 3}],
)
def test_bad_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SamplingConfig(**settings)


def test_bad_given_codes_are_refused():
    prior, fields = tiny(), fields_of((0,), WINDOW)
    with pytest.raises(ValueError, match=r"must be \(1, 3, 4\)"):
        sample_steps(
            GridRequest(prior, fields, WINDOW, (0,), 0, SamplingConfig(), torch.zeros(1, 4, 4, dtype=torch.int64))
        )
    with pytest.raises(ValueError, match=r"in \[0, 11\), got 0 to 11"):
        given = torch.zeros(1, *WINDOW, dtype=torch.int64)
        given[0, 0, 0] = 11
        sample_steps(GridRequest(prior, fields, WINDOW, (0,), 0, SamplingConfig(), given))


def test_fields_of_another_batch_are_refused():
    prior = tiny()
    with pytest.raises(ValueError, match="'segmentation_codes' must have a row for each of 3 images, got 2"):
        sample_steps(GridRequest(prior, fields_of((0, 1), WINDOW), WINDOW, (0, 1, 2), 0, SamplingConfig()))
    with pytest.raises(KeyError, match="needs the field 'segmentation_codes'"):
        sample_steps(GridRequest(prior, {}, WINDOW, (0,), 0, SamplingConfig()))


def calls_of_steps(config: GPTConfig | NeighborhoodConfig, images: int) -> list[int]:
    """How many functions of Python every step of sampling so many images calls."""
    torch.manual_seed(0)
    prior = config.build(16, ClassConfig(classes=2)).eval()
    lanes = images * prior.rows_at_once(12)
    sampling = SamplingConfig(lanes=lanes, prefill=lanes, top_p=0.9)
    fields = {"cls": torch.zeros(images, dtype=torch.int64)}
    steps = sample_steps(GridRequest(prior, fields, (12, 12), range(images), 1, sampling))
    next(steps)  # plans all of them
    counts: list[int] = []

    def count(frame: object, event: str, _: object) -> None:
        counts[-1] += event == "call"

    while True:
        counts.append(0)
        sys.setprofile(count)
        try:
            next(steps)
        except StopIteration:
            return counts[:-1]
        finally:
            sys.setprofile(None)


@pytest.mark.parametrize("config", [
    GPTConfig(layers=1, heads=2, width=16, window=(4, 4)),
    NeighborhoodConfig(layers=1, heads=2, width=16, window=(4, 4), rows_above=2, columns_beside=2),
], ids=["wavefront", "windowed"])  # fmt: skip
def test_python_does_no_work_for_each_cell_of_an_image(config):
    for images in (1, 9):
        calls_of_steps(config, images)  # what is imported or cached at first does not count
    one, many = calls_of_steps(config, 1), calls_of_steps(config, 9)
    assert one == many  # nine times the cells of a step, and not a call more
