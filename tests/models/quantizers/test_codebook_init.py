"""Where codes start and where idle ones go."""

import torch

from smalti.models.quantizers.codebook_init import draw, k_means, kmeans_parallel_init, lloyd, replace_dead_codes


def test_k_means_finds_clusters_that_lie_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    rows = centers.repeat_interleave(50, 0) + 0.1 * torch.randn(200, 2, generator=generator)
    book = k_means(rows[torch.randperm(200, generator=generator)], 4, seed=1)
    book = book[torch.cdist(centers, book).argmin(1)]
    torch.testing.assert_close(book, rows.reshape(4, 50, 2).mean(1))


def test_k_means_leaves_no_code_without_features() -> None:
    rows = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    book = k_means(rows, 64, seed=0)
    assert torch.cdist(rows, book).argmin(1).unique().numel() == 64


def test_k_means_draws_no_feature_twice_as_a_seed() -> None:
    rows = torch.arange(40.0)[:, None]
    assert kmeans_parallel_init(rows, 39, seed=0).unique().numel() == 39


def test_a_code_that_no_feature_is_near_to_stays_where_it_is() -> None:
    book = lloyd(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 0.0], [100.0, 100.0]]))
    assert book.tolist() == [[2, 0], [100, 100]]


def test_k_means_of_many_equal_features_still_gives_every_code_a_place() -> None:
    assert k_means(torch.zeros(100, 3), 16, seed=0).shape == (16, 3)


def test_fewer_features_than_codes_are_repeated_with_a_jitter() -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    book = k_means(rows, 12, seed=0)
    assert book.unique(dim=0).shape == (12, 3)
    torch.testing.assert_close(rows[torch.cdist(book, rows).argmin(1)], book, atol=0.1, rtol=0)


def test_a_draw_takes_every_candidate_once_before_any_twice() -> None:
    rows = torch.arange(10.0)[:, None]
    assert sorted(draw(rows, 10, seed=3).flatten().tolist()) == list(range(10))
    assert draw(rows, 4, seed=3).unique().numel() == 4


def test_a_draw_depends_on_its_seed_alone() -> None:
    rows = torch.randn(50, 3)
    assert torch.equal(draw(rows, 20, seed=1), draw(rows, 20, seed=1))
    assert not torch.equal(draw(rows, 20, seed=1), draw(rows, 20, seed=2))


def test_nothing_is_revived_without_idle_codes_or_candidates() -> None:
    book, idle = torch.zeros(3, 2), torch.tensor([0, 5, 9])
    assert replace_dead_codes(book, idle, 9, torch.ones(4, 2), seed=0) is None
    assert replace_dead_codes(book, idle, 2, torch.ones(0, 2), seed=0) is None
    assert replace_dead_codes(book, idle, 5, torch.ones(4, 2), seed=0).tolist() == [[0, 0], [0, 0], [1, 1]]
    assert idle.tolist() == [0, 5, 0]
