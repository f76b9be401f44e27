"""Pseudo-subclasses: what a teacher's embedding says of the parts that a class is made of.

Each maker has `fit(outputs)` on the teacher's outputs for training images, and `transform(outputs)`,
which returns $p(s\\mid c,x)$, N×C×S: for each image and each class, a distribution over S subclasses.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import null_space
from scipy.special import softmax

from embedood.outputs import Outputs


class Subclasses:
    """Base of all makers: `subclasses` is S, the same for each class; `seed` is that of all draws.

    `fit` and `transform` take the true fine labels, N whole numbers, which only the oracle reads.
    """

    knows_labels = False  # and goes by them, not by what the teacher says of the class

    def __init__(self, subclasses: int = 1, temperature: float = 1.0, seed: int = 0):
        self.subclasses, self.temperature, self.seed = subclasses, temperature, seed

    def fit(self, outputs: Outputs, fine: np.ndarray | None = None) -> Subclasses:
        """Learn the subclasses of each class from the teacher's outputs; labels say the class.

        Raises `ValueError` for S < 1, a temperature that is not positive, embeddings that are not finite,
        labels that are no columns of the logits, or a class with fewer images than subclasses.
        """
        if self.subclasses < 1 or not self.temperature > 0:
            raise ValueError(
                "subclasses must be 1 or more and their temperature positive, "
                f"got {self.subclasses} and {self.temperature}"
            )
        _refuse_embeddings(outputs, outputs.embeddings.shape[1])
        classes, labels = outputs.logits.shape[1], outputs.labels
        if labels.min() < 0 or labels.max() >= classes:
            raise ValueError(
                f"labels must be 0…{classes - 1}, got {labels.min()} to {labels.max()}"
            )
        counts = np.bincount(labels, minlength=classes)
        if counts.min() < self.subclasses:
            raise ValueError(f"{self.subclasses} subclasses need as many images, got {counts}")
        self.classes_, self.dimensions_ = classes, outputs.embeddings.shape[1]
        self._learn(outputs, fine)
        return self

    def transform(self, outputs: Outputs, fine: np.ndarray | None = None) -> np.ndarray:
        r"""Return $p(s\mid c,x)$, N×C×S; each row of it sums to 1.

        Raises `ValueError` before `fit`, and for embeddings that are not finite or of other dimensions.
        """
        self._refuse_unfitted()
        _refuse_embeddings(outputs, self.dimensions_)
        return self._share(outputs, fine)

    def _refuse_unfitted(self) -> None:
        if not hasattr(self, "classes_"):
            raise ValueError(f"{type(self).__name__} is not fitted; call fit(outputs) first")

    def _learn(self, outputs: Outputs, fine: np.ndarray | None) -> None:
        """Nothing, where nothing is to be learned."""

    def _share(self, outputs: Outputs, fine: np.ndarray | None) -> np.ndarray:
        raise NotImplementedError

    def _one_hot(self, place: np.ndarray) -> np.ndarray:
        """N×C places 0…S−1 to N×C×S."""
        return np.eye(self.subclasses, dtype=np.float32)[place]


def _refuse_embeddings(outputs: Outputs, dimensions: int) -> None:
    z = outputs.embeddings
    if z.shape[1] != dimensions:
        raise ValueError(f"embeddings must be N×{dimensions}, as in fit, got shape {z.shape}")
    if not np.isfinite(z).all():
        raise ValueError(f"embeddings {z.shape} hold NaN or infinite values")


class NoSubclasses(Subclasses):
    """Each class is one subclass, S = 1: what is left is knowledge distillation."""

    def _learn(self, outputs: Outputs, fine: np.ndarray | None) -> None:
        if self.subclasses != 1:
            raise ValueError(f"without a maker there is 1 subclass, not {self.subclasses}")

    def _share(self, outputs: Outputs, fine: np.ndarray | None) -> np.ndarray:
        return np.ones((len(outputs), self.classes_, 1), np.float32)


class LELP(Subclasses):
    r"""Learning from embeddings by linear projections: each class along S directions.

    For each class c, the embeddings of its images are projected on the null space of the teacher's
    output weights, where nothing changes the logits; $V_c$ are their first S principal directions, Q is
    a random rotation, which gives each direction the same expected variance:
    $t=Q^\top V_c^\top P^\top(z-\mu_c)$, divided by its standard deviation over the class, N×C×S, and
    $p(s\mid c,x)=\mathrm{softmax}_s(t/\beta)$ with the `temperature` β.

    Raises `ValueError` in `fit` where the class does not vary in S directions of the null space.

    Source: Loo et al., 2024, "Linear projections of teacher embeddings for few-class distillation";
    that each coordinate is divided by its own deviation is ours.
    """

    def _learn(self, outputs: Outputs, fine: np.ndarray | None) -> None:
        rng = np.random.default_rng(self.seed)
        if outputs.head_weight is None:
            raise ValueError("LELP needs the teacher's output weights, and these outputs have none")
        free = null_space(outputs.head_weight.astype(np.float64))  # D×(D−C), orthonormal
        if not free.shape[1]:
            raise ValueError(
                f"the output weights, {outputs.head_weight.shape}, leave no direction of the embedding "
                "free; LELP needs more dimensions than classes"
            )
        own = [outputs.embeddings[outputs.labels == c] for c in range(self.classes_)]
        fitted = [self._directions(z.astype(np.float64), free, rng) for z in own]
        self.centres_, self.directions_ = (np.stack(parts) for parts in zip(*fitted, strict=True))

    def _directions(
        self, z: np.ndarray, free: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """The mean of one class, D, and its rotated directions D×S, each divided by its deviation."""
        principal = principal_directions(z @ free, self.subclasses)
        directions = free @ principal @ random_rotation(self.subclasses, rng)
        return z.mean(0), directions / (z @ directions).std(0)

    def coordinates(self, outputs: Outputs) -> np.ndarray:
        """Return t, N×C×S: of each image along the directions of each class, deviation 1 within it.

        Raises `ValueError` before `fit`.
        """
        self._refuse_unfitted()
        pairs = zip(self.centres_, self.directions_, strict=True)
        return np.stack([(outputs.embeddings - centre) @ axes for centre, axes in pairs], 1)

    def _share(self, outputs: Outputs, fine: np.ndarray | None) -> np.ndarray:
        return softmax(self.coordinates(outputs) / self.temperature, axis=2).astype(np.float32)


def principal_directions(z: np.ndarray, count: int) -> np.ndarray:
    """Return the first principal directions of z, N×D, as the columns of D×`count`, orthonormal.

    Raises `ValueError` where z does not vary in so many.
    """
    variances, vectors = np.linalg.eigh(np.cov(z.T, bias=True).reshape(z.shape[1], -1))
    varying = int((variances > 1e-9 * variances[-1]).sum())
    if count > varying:
        raise ValueError(
            f"{count} directions were asked for, and the {len(z)} embeddings of a class, "
            f"{z.shape[1]} dimensions beside the output weights, vary in {varying}"
        )
    return vectors[:, ::-1][:, :count]


def random_rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random orthogonal matrix, every direction equally likely: Q of a Gaussian matrix's QR."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))


class ShuffledLELP(LELP):
    """The shares of LELP, dealt out again by lot among the images of each class.

    The control for softness: targets are exactly as soft as those of LELP, and blind to the image.
    """

    def _share(self, outputs: Outputs, fine: np.ndarray | None) -> np.ndarray:
        rng, share = np.random.default_rng(self.seed), super()._share(outputs, fine)
        for c in range(self.classes_):
            own = np.flatnonzero(outputs.labels == c)
            share[own] = share[rng.permutation(own)]
        return share


class KMeansSubclasses(Subclasses):
    """The clusters of k-means of the embeddings of each class, the nearest centre decides: hard."""

    def _learn(self, outputs: Outputs, fine: np.ndarray | None) -> None:
        from sklearn.cluster import KMeans

        own = (outputs.embeddings[outputs.labels == c] for c in range(self.classes_))
        self.kmeans_ = [
            KMeans(self.subclasses, n_init=2, random_state=self.seed).fit(z) for z in own
        ]

    def _share(self, outputs: Outputs, fine: np.ndarray | None) -> np.ndarray:
        return self._one_hot(np.stack([k.predict(outputs.embeddings) for k in self.kmeans_], 1))


class RandomSubclasses(Subclasses):
    """A subclass drawn for each row, blind to the image: the control with the same S."""

    def _share(self, outputs: Outputs, fine: np.ndarray | None) -> np.ndarray:
        drawn = np.random.default_rng(self.seed).integers(self.subclasses, size=len(outputs))
        return self._one_hot(np.repeat(drawn[:, None], self.classes_, 1))


class OracleSubclasses(Subclasses):
    """The true fine classes of each class, which the other makers have to guess.

    The class is the true one as well. In the other classes, where the image has no fine class, all
    subclasses share alike. Raises `ValueError` without fine labels, for a fine class in two classes, or
    for more of them in a class than subclasses.
    """

    knows_labels = True

    def _learn(self, outputs: Outputs, fine: np.ndarray | None) -> None:
        pairs = np.unique(np.stack([_given(fine), outputs.labels]), axis=1)
        if len(np.unique(pairs[0])) < pairs.shape[1]:
            raise ValueError("a fine class lies in two classes; each must lie within one")
        groups = [pairs[0, pairs[1] == c] for c in range(self.classes_)]
        most = max(map(len, groups))
        if most > self.subclasses:
            raise ValueError(f"a class has {most} fine classes, more than S = {self.subclasses}")
        self.fine_classes_ = groups

    def _share(self, outputs: Outputs, fine: np.ndarray | None) -> np.ndarray:
        fine = _given(fine)
        share = np.zeros((len(outputs), self.classes_, self.subclasses), np.float32)
        for c, group in enumerate(self.fine_classes_):
            is_own = fine[:, None] == group
            share[:, c, : len(group)] = np.where(
                is_own.any(1, keepdims=True), is_own, 1 / len(group)
            )
        return share


def _given(fine: np.ndarray | None) -> np.ndarray:
    if fine is None:
        raise ValueError("the oracle needs the true fine labels, N whole numbers")
    return np.asarray(fine)


SUBCLASSES: dict[str, Callable[..., Subclasses]] = {
    "none": NoSubclasses,
    "lelp": LELP,
    "kmeans": KMeansSubclasses,
    "random_partition": RandomSubclasses,
    "shuffled_lelp": ShuffledLELP,
    "oracle": OracleSubclasses,
}


def make(name: str, subclasses: int = 1, temperature: float = 1.0, seed: int = 0) -> Subclasses:
    """Return a maker of `SUBCLASSES`, not fitted; `ValueError` for an unknown name."""
    if name not in SUBCLASSES:
        raise ValueError(f"unknown subclasses {name!r}; they are {', '.join(SUBCLASSES)}")
    return SUBCLASSES[name](subclasses, temperature, seed)
