"""Tiles give what their manner says: the whole image's numbers, or overlapping images that fade into each other."""

from itertools import pairwise, product

import pytest
import torch

from smalti.models.quantizers import VQConfig
from smalti.models.vqgan import exact_tiling, tiling
from smalti.models.vqgan.autoencoder import VQGANConfig
from smalti.models.vqgan.blocks import ResidualBlock, SpatialAttention
from smalti.models.vqgan.masking import Unchanged
from smalti.models.vqgan.seams import Seams, seam

GRIDS = [(5, 7), (12, 3), (4, 4), (9, 11)]


def network(attention=(), middle=True, dtype=torch.float32, labels=None, groups=4, padding="zeros"):
    torch.manual_seed(0)
    config = VQGANConfig(
        num_labels=labels,
        channels=8,
        channel_multipliers=(1, 2, 2),
        num_res_blocks=1,
        attention_resolutions=attention,
        mid_attention=middle,
        resolution=32,
        z_channels=6,
        embed_dim=6,
        norm_groups=groups,
        padding=padding,
        quantizer=VQConfig(codebook_size=20),
    )
    vqgan = config.build().eval().requires_grad_(False)
    for module in vqgan.modules():  # fresh norms would hide a wrong scale or shift
        if isinstance(module, torch.nn.GroupNorm):
            torch.nn.init.normal_(module.weight, mean=1.0, std=0.3)
            torch.nn.init.normal_(module.bias, std=0.3)
    vqgan.quantize.embedding.weight.normal_()  # a fresh book is so small that every code looks the same
    return vqgan.to(dtype)


def grid(size, batch=1):
    """Codes that lie differently in every part of the grid, so that tiles' own statistics would be wrong."""
    rows, columns = size
    drift = torch.arange(rows)[:, None] * 20 // rows + torch.arange(columns) * 10 // columns
    noise = torch.randint(6, (batch, rows, columns), generator=torch.Generator().manual_seed(1))
    return (drift + noise) % 20


@pytest.mark.parametrize("attention", [(), (8,), (16,), (32, 8)])
@pytest.mark.parametrize("kept_bytes", [0, 20_000, 1 << 30])
def test_tiles_that_share_statistics_decode_to_the_whole_image(attention, kept_bytes):
    vqgan = network(attention)
    for size in GRIDS:
        codes = grid(size, batch=2)
        tiled = torch.cat(list(exact_tiling.bands(vqgan, codes, 3, kept_bytes)), dim=2)
        torch.testing.assert_close(tiled, vqgan.decode_codes(codes), rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", [(), (8,), (16,), (32, 8)])
@pytest.mark.parametrize("kept_bytes", [0, 20_000, 1 << 30])
def test_tiles_that_share_statistics_encode_to_the_whole_images_latents(attention, kept_bytes):
    vqgan = network(attention)
    for rows, columns in GRIDS:
        images = torch.rand(2, 3, 4 * rows, 4 * columns) * torch.linspace(-1, 1, 4 * columns)
        tiled = exact_tiling.latents(vqgan, images, 3, kept_bytes)
        torch.testing.assert_close(tiled, vqgan.latents(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("groups", [4, 0])
def test_tiles_of_a_network_that_replicates_its_borders_are_the_whole_image_too(groups):
    vqgan, codes, images = network(groups=groups, padding="replicate"), grid((9, 11)), torch.rand(1, 3, 20, 28)
    tiled = torch.cat(list(exact_tiling.bands(vqgan, codes, 3, 20_000)), dim=2)
    torch.testing.assert_close(tiled, vqgan.decode_codes(codes), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact_tiling.latents(vqgan, images, 3, 20_000), vqgan.latents(images), rtol=0, atol=1e-4)


def test_a_network_without_norms_has_nothing_to_measure():
    vqgan, codes = network(groups=0), grid((9, 11))
    tiled = torch.cat(list(exact_tiling.bands(vqgan, codes, 3)), dim=2)
    torch.testing.assert_close(tiled, vqgan.decode_codes(codes), rtol=1e-4, atol=1e-4)
    images = torch.rand(1, 3, 20, 28)
    torch.testing.assert_close(exact_tiling.latents(vqgan, images, 3), vqgan.latents(images))


@pytest.mark.parametrize("manner", ["shared", "blended"])
def test_maps_are_encoded_in_tiles_too(manner):
    vqgan = network(labels=5)
    maps = torch.randint(6, (2, 20, 28))
    maps[maps == 5] = 255  # no label
    if manner == "shared":
        torch.testing.assert_close(exact_tiling.latents(vqgan, maps, 3), vqgan.latents(maps), rtol=0, atol=1e-4)
    assert tiling.encode(vqgan, maps, 5, 1, manner).shape == (2, 5, 7)


def test_tiles_of_their_own_statistics_are_another_image():
    """Else the tests of shared statistics would prove nothing."""
    vqgan, codes = network(), grid((9, 11))
    blended = tiling.decode(vqgan, codes, tile=5, halo=1)
    assert (blended - vqgan.decode_codes(codes)).abs().max() > 0.05


def test_no_middle_attention_is_fine_and_double_precision_too():
    vqgan, codes = network(middle=False, dtype=torch.float64), grid((5, 7))
    tiled = torch.cat(list(exact_tiling.bands(vqgan, codes, 3, 0)), dim=2)
    torch.testing.assert_close(tiled, vqgan.decode_codes(codes).float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kept_bytes", "halo"), [(0, 8), (1 << 30, 1)])
def test_pixels_are_computed_for_no_more_than_a_tile_and_its_halo(kept_bytes, halo, monkeypatch):
    vqgan, widest = network(), 0
    plain = torch.nn.Conv2d.forward

    def watched(self, x):
        nonlocal widest
        widest = max(widest, x.shape[-1])
        return plain(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    list(exact_tiling.bands(vqgan, grid((6, 80)), 3, kept_bytes))
    # What is computed as a whole has 80 columns. A tile has 3 codes of 4 pixels, with the halo of all convolutions
    # where nothing is kept: 4.25 codes at the lowest level, half and a quarter of about that at the two above.
    assert widest == max(80, 4 * (3 + 2 * halo))


def test_every_manner_gives_one_tile_alike():
    vqgan, codes = network((8,)), grid((4, 5))
    whole = tiling.decode(vqgan, codes, 8, 1, "whole")
    assert torch.equal(whole, vqgan.decode_codes(codes))
    assert torch.equal(tiling.decode(vqgan, codes, 8, 1, "blended"), whole)
    torch.testing.assert_close(tiling.decode(vqgan, codes, 8, 1, "shared"), whole, rtol=0, atol=1e-4)
    images = whole.clamp(-1, 1)
    expected = vqgan.encode(images).indices
    for manner in ("whole", "shared", "blended"):
        assert torch.equal(tiling.encode(vqgan, images, 8, 1, manner), expected)


def without_a_view_of_the_whole(vqgan):
    """The network's convolutions alone: then a tile's middle is the whole image's, whatever its statistics."""
    for module in vqgan.modules():
        if isinstance(module, ResidualBlock):
            module.norm1 = module.norm2 = Unchanged()
        if isinstance(module, SpatialAttention):
            module.forward = lambda x: x
    vqgan.encoder.norm_out = vqgan.decoder.norm_out = Unchanged()
    return vqgan


@pytest.mark.parametrize("size", [(30, 23), (13, 40), (24, 24)])
def test_blended_tiles_of_a_network_that_looks_near_are_the_whole_image(size):
    vqgan, codes = without_a_view_of_the_whole(network()), grid(size)
    # The decoder's convolutions look 1 + 4 + 4 codes far at its lowest level, and less above: 20 are enough.
    whole = vqgan.decode_codes(codes)
    torch.testing.assert_close(tiling.decode(vqgan, codes, 60, 24), whole, rtol=1e-4, atol=1e-4)
    tiled = tiling.decode(vqgan, codes, 22, 10)
    inner = (tiled - whole).abs().mean() / whole.abs().mean()
    assert inner < 0.01  # what the outer quarter of a halo leaves out


@pytest.mark.parametrize(("length", "tile", "halo"), [(20, 8, 2), (9, 8, 3), (41, 10, 0), (8, 8, 2), (17, 7, 3)])
def test_fades_sum_to_one_everywhere_and_the_borders_of_tiles_count_nothing(length, tile, halo):
    tiles = list(tiling.spans(length, tile, halo))
    total = torch.zeros(length * 4)
    for (seen, _, _), weight in zip(tiles, tiling.fades(tiles, halo, 4), strict=True):
        total[seen.start * 4 : seen.stop * 4] += weight
        assert weight.min() >= 0
        if halo and seen.start > 0:
            assert weight[: halo * 2].max() == 0
        if halo and seen.stop < length:
            assert weight[-halo * 2 :].max() == 0
    torch.testing.assert_close(total, torch.ones(length * 4))


@pytest.mark.parametrize(("length", "tile", "halo"), [(20, 8, 2), (9, 8, 3), (41, 10, 0), (3, 8, 2), (8, 8, 2)])
def test_tiles_keep_every_code_once_and_see_all_around_it(length, tile, halo):
    kept = []
    for seen, keep, inside in tiling.spans(length, tile, halo):
        assert seen.stop - seen.start == min(tile, length) and seen.start >= 0 and seen.stop <= length
        assert list(range(length))[seen][inside] == list(range(length))[keep]
        assert seen.start <= max(keep.start - halo, 0) and seen.stop >= min(keep.stop + halo, length)
        kept += list(range(length))[keep]
    assert kept == list(range(length))


def test_a_halo_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="more than twice the halo, got tile 4 and halo 2"):
        tiling.decode(network(), grid((9, 9)), tile=4, halo=2)


@pytest.mark.parametrize("manner", ["whole", "shared", "blended"])
def test_bands_are_the_image_from_top_to_bottom(manner):
    vqgan, codes = network(), grid((13, 6), batch=2)
    bands = list(tiling.bands(vqgan, codes, 5, 1, manner))
    assert torch.equal(torch.cat(bands, dim=2), tiling.decode(vqgan, codes, 5, 1, manner))
    assert len(bands) == {"whole": 1, "shared": 3, "blended": 5}[manner]


def test_the_seam_is_the_step_at_borders_over_the_step_elsewhere():
    smooth = torch.arange(12.0).expand(1, 3, 8, 12)  # a step of 1 from column to column, none from row to row
    assert seam(smooth, [], [4, 8]) == pytest.approx(11 * 1.0 / (9 * 1.0 + 7 * 0) * 16 / 11)
    broken = smooth.clone()
    broken[..., 4:] += 5
    # 2 borders step 6 and 1; the other 9 columns step 1 and the 7 rows 0.
    assert seam(broken, [], [4, 8]) == pytest.approx(3.5 / (9 / 16))
    assert seam(broken.mT, [4, 8], []) == pytest.approx(3.5 / (9 / 16))


def test_seams_of_bands_are_those_of_the_whole_image():
    image = torch.rand(2, 3, 20, 13)
    seams = Seams(20, 13, [5, 12], [4])
    for rows in (slice(0, 5), slice(5, 6), slice(6, 20)):
        seams.add(image[:, :, rows])
    assert seams.seam_ratio() == pytest.approx(seam(image, [5, 12], [4]), rel=1e-12)


def test_borders_lie_where_a_tile_gives_way_to_the_next():
    assert tiling.borders(20, 8, 2, "whole") == []
    assert tiling.borders(20, 8, 2, "shared") == [8, 16]
    assert tiling.borders(20, 8, 2, "blended") == [4, 8, 12, 16]  # tiles keep 8 - 2 * 2 codes each
    assert tiling.borders(8, 8, 2, "shared") == tiling.borders(8, 8, 2, "blended") == []  # one tile sees it all


def test_between_two_hard_borders_lies_what_one_tile_decodes_to():
    vqgan, codes = network(), grid((12, 18))
    image = tiling.decode(vqgan, codes, 6, 0, "blended")
    rows, columns = ([0, *tiling.borders(length, 6, 0, "blended"), length] for length in (12, 18))
    assert (rows, columns) == ([0, 6, 12], [0, 6, 12, 18])
    for (top, bottom), (left, right) in product(pairwise(rows), pairwise(columns)):
        alone = vqgan.decode_codes(codes[:, top:bottom, left:right])
        assert torch.equal(image[..., 4 * top : 4 * bottom, 4 * left : 4 * right], alone)


def test_a_seam_needs_a_border_inside_of_the_image():
    image = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match="there is one tile"):
        seam(image, [], [])
    with pytest.raises(ValueError, match=r"in 1 to 7, got \[8\]"):
        seam(image, [8], [])
