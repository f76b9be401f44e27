"""A Gaussian for each class in the embedding space, and how far apart such Gaussians are.

`ClassGaussians` learns means and covariances, at once or as training goes. The divergences take
means C×D and covariances of one of four shapes: C×1 (spherical), C×D (diagonal), C×D×D (full) or
1×D×D (tied: one for all classes), on any device; all but the Monte Carlo ones are meant to be
differentiated. Everything is in nats. They raise `ValueError`, naming sizes and classes, for other
shapes, NaN, fewer than two classes and singular covariances. Use float64: in float32, classes that
nearly coincide are separated by rounding.
"""

from embedood.gaussians.class_gaussians import ClassGaussians
from embedood.gaussians.densities import log_prob
from embedood.gaussians.divergences import (
    bhattacharyya,
    bhattacharyya_coefficient,
    chernoff,
    error_bound,
    geometric_jsd,
    jeffreys,
    kl,
)
from embedood.gaussians.monte_carlo import Estimate, generalised_jsd, jsd

__all__ = [
    "ClassGaussians",
    "Estimate",
    "bhattacharyya",
    "bhattacharyya_coefficient",
    "chernoff",
    "error_bound",
    "generalised_jsd",
    "geometric_jsd",
    "jeffreys",
    "jsd",
    "kl",
    "log_prob",
]
