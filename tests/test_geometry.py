"""Compactness and separation by hand and by loops; what does not change them; what is refused."""

import numpy as np
import pytest

from embedood import geometry

Z = np.array([[0.0, 0], [2, 0], [10, 0], [10, 4]])
Y = np.array([0, 0, 5, 5])  # labels may have gaps


def test_by_hand():
    """Means (1, 0) and (10, 2): 1, 1, 4, 4 within; each mean √(4.5² + 1) from the middle."""
    assert geometry.within_spread(Z, Y) == pytest.approx(2.5)
    assert geometry.between_spread(Z, Y) == pytest.approx(4.5**2 + 1)
    assert geometry.fisher_ratio(Z, Y) == pytest.approx(21.25 / 2.5)


def test_within_and_between_add_up_to_the_spread_of_all():
    draw = np.random.default_rng(0)
    z, y = draw.normal(size=(50, 4)), draw.integers(0, 3, 50)
    total = np.square(z - z.mean(0)).sum(1).mean()
    assert geometry.within_spread(z, y) + geometry.between_spread(z, y) == pytest.approx(total)


def test_the_ratio_does_not_see_scale_shift_and_rotation():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(2, 2)))[0]
    assert geometry.fisher_ratio(3 * Z @ turn + 7, Y) == pytest.approx(geometry.fisher_ratio(Z, Y))


def test_classes_that_are_points_have_an_infinite_ratio():
    assert geometry.fisher_ratio(np.array([[0.0], [0], [1], [1]]), Y) == np.inf


@pytest.mark.parametrize(
    ("z", "y", "message"),
    [
        (Z, np.array([0, 0, 0, 0]), r"two known classes or more, got the labels \[0\]"),
        (Z, np.array([0, 0, 1, -1]), r"two known classes or more, got the labels \[-1, 0, 1\]"),
        (Z, Y[:3], r"got \(4, 2\), \(3,\)"),
        (np.full((4, 2), np.nan), Y, "finite embeddings"),
        (np.ones((4, 2)), Y, "all embeddings are one point"),
    ],
)
def test_what_has_no_geometry_is_refused(z, y, message):
    with pytest.raises(ValueError, match=message):
        geometry.fisher_ratio(z, y)
