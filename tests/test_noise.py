import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embedood import noise, runtime


def images(count=6, height=28, width=28, seed=0):
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(seed))


def test_without_sigma_only_one_square_changes_and_its_side_is_in_range():
    clean = images(200)
    noisy = noise.denoising_noise(clean, runtime.generator(0), sigma=0.0, square=(10, 14))
    for before, after in zip(clean, noisy, strict=True):
        rows, columns = np.nonzero((before != after)[0].numpy())
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height == width
        assert 10 <= height <= 14
        assert len(rows) == height * width
        assert after[0, rows, columns].unique().numel() == 1


def test_sides_and_places_are_uniform():
    mask = noise.square_mask(images(20_000), runtime.generator(0), 10, 14)
    sides = mask.sum((1, 2, 3)).sqrt().round().long()
    counts = torch.bincount(sides, minlength=15)[10:]
    assert counts.sum() == 20_000
    assert (counts - 4000).abs().max() < 5 * (20_000 * 0.2 * 0.8) ** 0.5
    first_rows = mask[sides == 14].any(3)[:, 0].int().argmax(1)
    assert set(first_rows.tolist()) == set(range(15))


def test_gaussian_part_has_the_stated_sigma():
    grey = torch.full((400, 1, 28, 28), 0.5)
    noisy = noise.denoising_noise(grey, runtime.generator(0), sigma=0.05, square=(1, 1))
    assert noisy.sub(0.5).std().item() == pytest.approx(0.05, rel=0.05)


@given(st.integers(1, 40), st.integers(4, 40), st.integers(4, 40), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_squares_always_lie_inside(count, height, width, seed):
    side = min(height, width)
    mask = noise.square_mask(
        images(count, height, width), runtime.generator(seed), side // 2 or 1, side
    )
    assert mask.shape == (count, 1, height, width)
    assert ((side // 2) ** 2 <= mask.sum((1, 2, 3))).all()


def test_a_square_that_does_not_fit_is_refused_with_the_sizes():
    with pytest.raises(ValueError, match="10 to 14 pixels does not fit images of 8×8"):
        noise.denoising_noise(images(2, 8, 8), runtime.generator(0))


@pytest.mark.parametrize("recipe", noise.PSEUDO_OOD)
def test_every_recipe_changes_each_image_and_keeps_range_and_input(recipe):
    clean = images(12)
    before = clean.clone()
    spoiled = noise.spoil(clean, recipe, runtime.generator(0))
    assert torch.equal(clean, before)
    assert spoiled.shape == clean.shape
    assert spoiled.min() >= 0
    assert spoiled.max() <= 1
    assert ((spoiled != clean).flatten(1).any(1)).all()
    assert torch.equal(spoiled, noise.spoil(clean, recipe, runtime.generator(0)))


def test_turns_are_by_90_or_270_degrees_only():
    clean = images(40)
    turned = noise.quarter_turns(clean, runtime.generator(0)).numpy()
    quarter = [np.rot90(clean.numpy(), k, (2, 3)) for k in (1, 3)]
    hits = np.array(
        [[np.array_equal(a, b) for a, b in zip(turned, q, strict=True)] for q in quarter]
    )
    assert (hits.sum(0) == 1).all()
    assert hits.any(1).all()


def test_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'rotate'.*rotated"):
        noise.spoil(images(), "rotate", runtime.generator(0))


def test_shift_moves_whole_pixels_like_a_slow_loop():
    clean = images(30, 6, 6)
    moved = noise.random_shift(clean, runtime.generator(3), 2)
    padded = torch.nn.functional.pad(clean, (2, 2, 2, 2))
    for image, source in zip(moved, padded, strict=True):
        windows = [source[:, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
        assert any(torch.equal(image, window) for window in windows)
    assert noise.random_shift(clean, runtime.generator(3), 0) is clean


def test_affine_maps_stay_within_their_ranges():
    shapes = torch.zeros(200, 1, 33, 33)
    shapes[:, :, 16, 6:27] = 1  # a bar through the centre: its slope tells the angle
    moved = noise.random_affine(shapes, runtime.generator(1), 1.0)
    rows, columns = torch.meshgrid(torch.arange(33) - 16.0, torch.arange(33) - 16.0, indexing="ij")
    weight = moved[:, 0] / moved[:, 0].sum((1, 2), keepdim=True)
    slope = (weight * rows * columns).sum((1, 2)) / (weight * columns**2).sum((1, 2))
    steepest = np.tan(np.radians(15)) / (1 - 0.2 * np.tan(np.radians(15))) * 1.1
    assert slope.abs().max() <= steepest
    assert slope.abs().max() > 0.15
    assert moved.shape == shapes.shape
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-5


def test_affine_of_no_strength_changes_and_draws_nothing():
    clean, generator = images(5), runtime.generator(3)
    state = generator.get_state()
    assert noise.random_affine(clean, generator, 0.0) is clean
    assert torch.equal(generator.get_state(), state)


def test_an_affine_map_is_the_stated_matrix(monkeypatch):
    clean = images(1, 21, 21)
    monkeypatch.setattr(noise, "_uniform", lambda *_: torch.ones(3, 1))  # +15°, × 1.15, shear 0.2
    angle = torch.tensor(np.radians(15.0))
    matrix = torch.tensor([[[angle.cos() / 1.15, 0.2 - angle.sin() / 1.15, 0],
                            [angle.sin() / 1.15, angle.cos() / 1.15, 0]]]).float()  # fmt: skip
    grid = torch.nn.functional.affine_grid(matrix, [1, 1, 21, 21], align_corners=False)
    expected = torch.nn.functional.grid_sample(clean, grid, align_corners=False)
    torch.testing.assert_close(noise.random_affine(clean, runtime.generator(0), 1.0), expected)


def test_photo_crops_hold_nothing_of_the_images_and_are_pieces_of_the_photo():
    first = noise.photo_crops(torch.zeros(4, 1, 28, 28), runtime.generator(5))
    again = noise.photo_crops(images(4), runtime.generator(5))
    other = noise.photo_crops(images(4), runtime.generator(5), "flower.jpg")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, 1, 28, 28)
    assert 0 <= first.min() < first.max() <= 1
    whole = noise.photo_crops(torch.zeros(1, 3, 427, 427), runtime.generator(5), side=427)
    assert torch.equal(whole[:, 0], whole[:, 2])


def test_outliers_of_a_training_are_the_pseudo_ones_and_photos():
    assert set(noise.OUTLIERS) == {*noise.PSEUDO_OOD, "photos"}


def test_turns_are_named_as_they_were_done():
    clean = images(40)
    turned, turns = noise.turn(clean, runtime.generator(0))
    for image, after, how in zip(clean, turned, turns.tolist(), strict=True):
        assert torch.equal(after, image.rot90({1: 1, 2: 3}[how], (1, 2)))


def test_a_flip_mirrors_about_the_given_share_of_images():
    images = torch.rand(400, 1, 2, 3, generator=runtime.generator(1))
    flipped = noise.random_flip(images, runtime.generator(0), 0.25)
    is_mirror = (flipped == images.flip(3)).all((1, 2, 3))
    assert ((flipped == images).all((1, 2, 3)) ^ is_mirror).all()
    assert 60 < is_mirror.sum() < 140  # five standard deviations around 100
    assert noise.random_flip(images, runtime.generator(0), 0.0) is images


def test_a_blend_is_a_share_of_the_image_and_the_rest_of_another_one():
    clean = images(40)
    blended, partner, share = noise.blend(clean, runtime.generator(0))
    assert (partner != torch.arange(40)).all()
    for i, j in enumerate(partner.tolist()):
        by_hand = share[i] * clean[i] + (1 - share[i]) * clean[j]
        torch.testing.assert_close(blended[i], by_hand)


@pytest.mark.parametrize("concentration", [1, 10])
def test_shares_have_the_moments_of_the_symmetric_beta_distribution(concentration):
    shares = noise.blend(torch.zeros(20_000, 1, 1, 1), runtime.generator(0), concentration).share
    variance = 1 / (4 * (2 * concentration + 1))
    assert shares.mean().item() == pytest.approx(0.5, abs=5 * (variance / 20_000) ** 0.5)
    assert shares.var().item() == pytest.approx(variance, rel=0.05)


def test_nine_of_ten_blends_are_between_three_and_seven_tenths():
    shares = noise.blend(torch.zeros(20_000, 1, 1, 1), runtime.generator(0)).share
    assert ((shares > 0.3) & (shares < 0.7)).float().mean().item() == pytest.approx(0.93, abs=0.02)


def test_blends_need_a_concentration_of_one_or_more():
    with pytest.raises(ValueError, match="whole number from 1 on, got 0"):
        noise.blend(images(), runtime.generator(0), 0)
