"""The best of several samples is the best by its judge, image by image."""

import pytest
import torch

from smalti.models.conditions import UnconditionalConfig
from smalti.models.priors.gpt import GPTConfig
from smalti.models.sampling import GridRequest, SamplingConfig, best_of, classifier_score, likelihood, sample
from smalti.models.sampling.gumbel_noise import mix

SIZE = (3, 3)


def prior():
    torch.manual_seed(0)
    built = GPTConfig(layers=1, heads=1, width=8, window=SIZE).build(5, UnconditionalConfig()).eval()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return built


def states(candidates):
    seeds = [4] + [mix(4, candidate) for candidate in range(1, candidates)]
    return [sample(GridRequest(prior(), {}, SIZE, range(8), seed, SamplingConfig())) for seed in seeds]


def test_the_likeliest_candidate_of_every_image_is_kept():
    every = states(4)
    marks = torch.stack([state.scores.sum((1, 2)) for state in every])
    chosen = best_of(GridRequest(prior(), {}, SIZE, range(8), 4, SamplingConfig()), candidates=4)
    assert len(set(marks.argmax(0).tolist())) > 1  # else the test would not tell images apart
    for image, candidate in enumerate(marks.argmax(0).tolist()):
        assert torch.equal(chosen.codes[image], every[candidate].codes[image])
    torch.testing.assert_close(likelihood(chosen), marks.max(0).values)


def test_a_classifier_keeps_what_it_recognizes():
    def count_of_each_code(images):
        return torch.nn.functional.one_hot(images, 5).sum((1, 2)).float()

    wanted = torch.tensor([0, 3, 1, 4, 2, 0, 3, 1])
    judge = classifier_score(lambda codes: codes, count_of_each_code, wanted)
    chosen = best_of(GridRequest(prior(), {}, SIZE, range(8), 4, SamplingConfig()), candidates=6, scorer=judge)
    sure = torch.stack([count_of_each_code(state.codes).softmax(1)[torch.arange(8), wanted] for state in states(6)])
    torch.testing.assert_close(judge(chosen).exp(), sure.max(0).values)


def test_one_candidate_is_what_sample_samples():
    assert torch.equal(
        best_of(GridRequest(prior(), {}, SIZE, range(8), 4, SamplingConfig()), 1).codes, states(1)[0].codes
    )
    with pytest.raises(ValueError, match="candidates must be at least 1"):
        best_of(GridRequest(prior(), {}, SIZE, range(8), 4, SamplingConfig()), 0)
