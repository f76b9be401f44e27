"""What a whole stream says of each of its rows: new classes are looked for where known ones are not."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Self

import numpy as np
from scipy.special import expit, logit
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import euclidean_distances

from embedood.detector import Decisions, decisions, false_alarm_threshold
from embedood.outputs import Outputs
from embedood.scorers import Energy, NotFittedError, Scorer
from embedood.scorers._base import check, check_known, class_means, in_double
from embedood.scorers.gaussians import scatter, squared_lengths, whitened, whitening


@dataclass(frozen=True)
class OpenMixture:
    r"""Gaussians of known classes, which stay where they are, and of new ones, in whitened space.

    $p(z)=(1-\rho)\sum_c\pi_c\,\mathcal N(z;\mu_c,s^2I)+\rho\sum_kw_k\,\mathcal N(z;\nu_k,s^2I)$.
    known: $\mu$, C×D; new: $\nu$, K×D; weights: $\pi$ and $w$, C and K; share: $\rho$; variance: $s^2$.
    """

    known: np.ndarray
    new: np.ndarray
    known_weights: np.ndarray
    new_weights: np.ndarray
    share: float
    variance: float

    def log_odds(self, z: np.ndarray) -> np.ndarray:
        """Posterior log-odds of being new, N rows of D, any real number."""
        known, new = (_normalised(side)[0] for side in self._joint(*self._squares(z)))
        return logit(self.share) + new - known

    def step(self, z: np.ndarray) -> OpenMixture:
        """One step of EM on rows N×D, damped: weights and new means count one more row a component,
        where its mean was, so that none can vanish. The known means stay."""
        squares = self._squares(z)
        (known, to_known), (new, to_new) = map(_normalised, self._joint(*squares))
        is_new = expit(logit(self.share) + new - known)[:, None]
        to_known, to_new = to_known * (1 - is_new), to_new * is_new
        rows_known, rows_new = to_known.sum(0) + 1, to_new.sum(0) + 1
        spread = np.vdot(to_known, squares[0]) + np.vdot(to_new, squares[1])
        return OpenMixture(
            known=self.known,
            new=(to_new.T @ z + self.new) / rows_new[:, None],
            known_weights=rows_known / rows_known.sum(),
            new_weights=rows_new / rows_new.sum(),
            share=float(rows_new.sum() / (rows_new.sum() + rows_known.sum())),
            variance=max(float(spread) / z.size, 1e-12),
        )

    def _squares(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squared distances to all means, N×C and N×K."""
        known, new = (euclidean_distances(z, m, squared=True) for m in (self.known, self.new))
        return known, new

    def _joint(self, known: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log of weight × density by squared distances, but for a number that all share."""
        return (
            np.log(self.known_weights) - known / (2 * self.variance),
            np.log(self.new_weights) - new / (2 * self.variance),
        )


def _normalised(joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-sum-exp N and softmax N×K of each row, from one exponential."""
    highest = joint.max(1, keepdims=True)
    powers = np.exp(joint - highest)
    total = powers.sum(1, keepdims=True)
    return (np.log(total) + highest)[:, 0], powers / total


@dataclass
class StreamDetector:
    r"""Which rows of a stream are of no known class, judged by the whole stream.

    `StreamDetector().fit(train).calibrate(validation).decide(stream)`, all of one network. Alone, a row of a
    new class may pass for an odd one of a known class; but its own kind is in the stream as well, and where
    many rows gather, a new class is the better explanation. Known classes are Gaussians at their means in
    training, all of one Σ, which is whitened (estimated as by `scorers.Mahalanobis`, `shrinkage` included);
    `components` new ones, of the same Σ, start by k-means among
    the `suspects`, the share of rows with the highest `scorer` (None: the energy), and follow the stream by
    EM, in `iterations` steps. Known means and the shape of Σ stay as training gave them; the weights of all
    components and the size of Σ are learned from the stream. The score is the log-odds of the new, the
    mean over `restarts`.

    Labels of the stream are not looked at; −1 serves. A `scorer` learns from train alone. The new components
    are not the new classes: more of them did no harm in chapter 11, far fewer did. Nor did a kind that
    sends a few rows gain anything there, so count on some dozens of each, rather a hundred.

    Source: Miller & Browning, 2003, "A mixture model and EM-based algorithm for class discovery, robust
    classification, and outlier rejection…"; ours are the fixed known means, the start and the restarts.
    """

    scorer: Scorer | None = None
    components: int = 20
    suspects: float = 0.3
    restarts: int = 10
    iterations: int = 20
    shrinkage: float | None = None
    seed: int = 0

    @property
    def is_calibrated(self) -> bool:
        """Whether it has validation outputs to hide in a stream."""
        return hasattr(self, "hidden_")

    def fit(self, train: Outputs) -> Self:
        """Learn the known classes from training outputs; validation and stream are forgotten.

        Raises `ValueError` for settings out of range, for a scorer that learns from more than train,
        for a singular Σ, and as `Scorer.fit` does; `TypeError` for what is no scorer.
        """
        self._refuse_settings()
        check_known(train, "train")
        for name in ("mixtures_", "hidden_"):
            self.__dict__.pop(name, None)
        self.scorer_ = copy.deepcopy(self.scorer or Energy()).fit(train)
        train = in_double(train)
        means, places = class_means(train)
        within = scatter(train.embeddings, means, places, np.arange(len(train)))
        self.whitening_ = whitening(within.covariance(self.shrinkage), len(train))
        self.middle_ = means.mean(0)
        self.known_ = whitened(means, self.middle_, self.whitening_)
        self.sizes_ = (train.logits.shape[1], train.embeddings.shape[1])
        return self

    def listen(self, *streams: Outputs) -> Self:
        """Look for new classes in all rows of some outputs, `listen(a, b)`; neither labels nor order matter.

        Raises `NotFittedError`, and `ValueError` for outputs of another network's shape, for none, and
        for fewer suspects than components.
        """
        if not streams:
            raise ValueError("there is nothing to listen to; listen(stream), or listen(a, b)")
        for stream in streams:
            self._refuse(stream, "stream")
        z = np.concatenate([self._white(stream, "stream") for stream in streams])
        own = np.concatenate([self.scorer_.score(stream) for stream in streams])
        order = np.lexsort((*z.T, own))[::-1]
        z, count = z[order], int(np.ceil(self.suspects * len(z)))
        if count < self.components:
            raise ValueError(
                f"{self.components} components start among suspects, and a share of {self.suspects} "
                f"of {len(z)} rows is {count}; fewer components, or more rows, would be right"
            )
        seeds = range(self.seed, self.seed + self.restarts)
        self.mixtures_ = [self._explain(z, z[:count], seed) for seed in seeds]
        return self

    def score(self, outputs: Outputs) -> np.ndarray:
        """Return the log-odds of being new, one float64 per row, whether or not it was listened to."""
        self._refuse(outputs, "outputs")
        if not hasattr(self, "mixtures_"):
            raise NotFittedError("StreamDetector knows no stream; call listen(stream) first")
        z = self._white(outputs, "outputs")
        return np.mean([mixture.log_odds(z) for mixture in self.mixtures_], axis=0)

    def calibrate(
        self, validation: Outputs, outliers: Outputs | None = None, false_alarm: float = 0.05
    ) -> Self:
        r"""Keep known validation outputs, which `decide` hides in the stream, and the rate it promises.

        Nothing may have been trained on them. If the known rows of the stream are drawn like them, **class
        frequencies included**, the mixture cannot tell one from the other, their scores are exchangeable
        and p-values hold: over the draw of both, known rows are rejected with probability ≤ `false_alarm`.
        Few validation rows make few p-values: none is below 1/(n + 1). Many make the unseen rarer in what
        the mixture sees.

        Raises `NotFittedError`, and `ValueError` for rows of no known class, and for `outliers`, the
        pseudo-OOD that a `Detector` may want: the stream takes their place here.

        Source: Marandon et al., 2024, "Adaptive novelty detection with false discovery rate guarantee".
        """
        self._refuse(validation, "validation")
        check_known(validation, "validation")
        if outliers is not None:
            raise ValueError("a StreamDetector learns from the stream, and takes no outliers")
        self.hidden_, self.false_alarm_ = validation, false_alarm
        return self

    def decide(self, stream: Outputs, false_discovery: float | None = None) -> Decisions:
        """Listen to a stream with the validation rows hidden in it, and return class or −1, score and
        p-value of each row.

        With `false_discovery` q, which takes the place of the false-alarm rate: of what is rejected a share
        of at most q is known, in expectation (Benjamini & Hochberg, 1995).

        Raises `NotFittedError`, and `ValueError` as `listen` does, and for fewer validation rows than
        the false-alarm rate needs.
        """
        self._refuse(stream, "stream")
        if not self.is_calibrated:
            raise NotFittedError(
                "StreamDetector has no rows to hide; call calibrate(validation) first"
            )
        self.listen(self.hidden_, stream)
        known, scores = self.score(self.hidden_), self.score(stream)
        given = false_discovery is None
        threshold = false_alarm_threshold(known, self.false_alarm_) if given else np.inf
        return decisions(scores, np.asarray(stream.logits), known, threshold, false_discovery)

    def _explain(self, z: np.ndarray, suspects: np.ndarray, seed: int) -> OpenMixture:
        """The mixture that EM ends with when k-means starts it with a seed."""
        begin = KMeans(self.components, n_init=1, random_state=seed).fit(suspects).cluster_centers_
        nearest = euclidean_distances(z, self.known_, squared=True).min(1)
        known, new = (np.full(len(means), 1 / len(means)) for means in (self.known_, begin))
        variance = max(float(nearest.mean()) / z.shape[1], 1e-12)
        mixture = OpenMixture(self.known_, begin, known, new, self.suspects / 2, variance)
        for _ in range(self.iterations):
            mixture = mixture.step(z)
        return mixture

    def _white(self, outputs: Outputs, name: str) -> np.ndarray:
        """Whitened embeddings, N×D in float64; `ValueError` where their squared length is not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            z = whitened(in_double(outputs).embeddings, self.middle_, self.whitening_)
            far = ~np.isfinite(squared_lengths(z))
        if far.any():
            raise ValueError(
                f"distances overflow float64 at {far.sum()} of {len(z)} rows of {name}; "
                "smaller numbers, such as outputs divided by a constant, would be right"
            )
        return z

    def _refuse(self, outputs: Outputs, name: str) -> None:
        if not hasattr(self, "known_"):
            raise NotFittedError("StreamDetector has not been fitted; call fit(train) first")
        check(outputs, name)
        sizes = (outputs.logits.shape[1], outputs.embeddings.shape[1])
        if sizes != self.sizes_:
            fitted = "C = {}, D = {}".format(*self.sizes_)
            raise ValueError(
                f"StreamDetector was fitted with {fitted}; {name} has C = {sizes[0]}, D = {sizes[1]}"
            )

    def _refuse_settings(self) -> None:
        for name, least in (("components", 1), ("restarts", 1), ("iterations", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{name} must be a whole number of at least {least}, got {value!r}"
                )
        if not isinstance(self.suspects, Real) or not 0 < self.suspects < 1:
            raise ValueError(f"suspects must be a share between 0 and 1, got {self.suspects!r}")
        if self.scorer is None:
            return
        if not isinstance(self.scorer, Scorer):
            raise TypeError(
                f"scorer must be one, such as scorers.make('energy'), got {self.scorer!r}"
            )
        if not set(self.scorer.needs) <= {"train"}:
            raise ValueError(
                f"{self.scorer} needs {', '.join(self.scorer.needs)}; only train is given"
            )
