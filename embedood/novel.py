"""New classes for a trained network without training it: a class is a direction of its embedding."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, Self
from zipfile import BadZipFile

import numpy as np
from scipy.special import softmax
from sklearn.exceptions import NotFittedError

from embedood.scorers._base import unit

SPACES = ("raw", "centred", "whitened", "adapted")


class Accuracies(NamedTuple):
    """Shares of right answers, in [0, 1].

    joint: of all test rows, when all classes compete; known, new: of the rows of these classes, then;
    disjoint: of the rows of new classes, when only these compete.
    """

    joint: float
    disjoint: float
    known: float
    new: float

    @property
    def harmonic(self) -> float:
        """The harmonic mean of known and new, which one of the two cannot carry alone."""
        return 2 * self.known * self.new / max(self.known + self.new, 1e-12)


def accuracies(
    known: tuple[np.ndarray, np.ndarray],
    new: tuple[np.ndarray, np.ndarray],
    disjoint: np.ndarray,
) -> Accuracies:
    """Return the accuracies of answers; known and new are answers and labels, each N, when all compete.

    `disjoint` are the answers for the rows of new classes when only these compete. Raises `ValueError`
    for no rows, or numbers of them that do not fit.
    """
    right = [np.asarray(answers) == np.asarray(labels) for answers, labels in (known, new)]
    if not right[0].size or not right[1].size or len(disjoint) != right[1].size:
        raise ValueError(
            f"known and new rows are needed, and as many disjoint answers as new ones; got "
            f"{right[0].size} known, {right[1].size} new, {len(disjoint)} disjoint"
        )
    return Accuracies(
        joint=float(np.concatenate(right).mean()),
        disjoint=float((np.asarray(disjoint) == np.asarray(new[1])).mean()),
        known=float(right[0].mean()),
        new=float(right[1].mean()),
    )


def shots(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows of n examples of each class, drawn without replacement, class by class.

    Raises `ValueError` where a class has fewer.
    """
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    fewest = min(map(len, groups), default=0)
    if not 1 <= n <= fewest:
        raise ValueError(f"1 … {fewest} examples of each class can be drawn, not {n}")
    return np.concatenate([rng.choice(group, n, replace=False) for group in groups])


class NovelClassifier:
    r"""Classify by $\ell_c=s\cos(\phi(z),w_c)$; a class is added with the mean direction of examples.

    $w_c=\bar u/\|\bar u\|$, $\bar u$ the mean of $u=\phi(z)/\|\phi(z)\|$ over the class's examples. The
    space says what $\phi$ is:

    - ``raw``: $z$;
    - ``centred``: $z-o$, o the mean of the known classes' means, for embeddings that all point one way;
    - ``whitened``: $\Sigma^{-1/2}(z-o)$, Σ the covariance within the known classes, of which a share
      `shrinkage` is replaced by the sphere of the same trace: what varies within classes counts less;
    - ``adapted``: the same with the mean covariance of the classes that *compete*, Σ for a known class
      and $\frac{D\Sigma+\sum(z-\bar z)(z-\bar z)^\top}{D+n-1}$ for a new one with n examples: one says
      nothing of a spread, far more than D take over. $w_c=\phi(\bar z)/\|\phi(\bar z)\|$ here.

    Attributes after `fit`: `classes_`, C names or numbers in the order of the columns of
    `decision_function`, new ones last; `directions_`, C×D, of length 1; `known_`, how many were fitted.

    Source: `raw`: Qi et al., 2018, "Low-shot learning with imprinted weights", and Pereira et al., 2021;
    `whitened`: Hatch et al., 2006, "Within-class covariance normalization…", there for voices;
    `adapted`: ours, the conjugate prior of a covariance (Gelman et al., 2013, section 3.6).

    Args:
        space: a name of `SPACES`.
        scale: s, for `predict_proba` only; see `models.heads.least_scale`.
        handicap: taken off the cosines of known classes where new ones compete with them. Above 0 it
            moves doubtful rows to the new classes (Chao et al., 2016, calibrated stacking).
        embed: a live network, as a function of images to embeddings N×D. Every method that takes
            embeddings then takes images in their place.
    """

    _fitted_space: str
    _views: dict[bool, tuple[np.ndarray, np.ndarray]]  # of the adapted space, until classes change

    def __init__(
        self,
        space: str = "whitened",
        scale: float = 10.0,
        shrinkage: float = 0.03,
        handicap: float = 0.0,
        embed: Callable[[Any], np.ndarray] | None = None,
    ):
        self.space, self.scale, self.shrinkage = space, scale, shrinkage
        self.handicap, self.embed = handicap, embed

    def fit(self, examples: Any, labels: np.ndarray, directions: np.ndarray | None = None) -> Self:
        """Learn the known classes from examples and the labels of these, N, names or numbers.

        `directions`, C×D in the rising order of the labels, are trained ones to be taken instead of mean
        directions: the weights of a head. Centred, their mean is taken off, which no softmax sees.
        Raises `ValueError` for a setting or an array that cannot be, and for directions in the adapted
        space, where they follow from means.
        """
        learned = copy(self)  # so that a refusal leaves what was learned before
        learned._learn(
            self._embedded(examples), np.asarray(np.asarray(labels).tolist()), directions
        )
        self.__dict__.update(learned.__dict__)
        return self

    def _learn(self, z: np.ndarray, labels: np.ndarray, directions: np.ndarray | None) -> None:
        self._refuse_settings()
        if labels.shape != (len(z),) or labels.dtype.kind not in "iU":
            raise ValueError(
                f"{len(z)} examples need as many labels, all names or all whole numbers, got shape "
                f"{labels.shape}, {labels.dtype}"
            )
        self.classes_, place = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"at least two known classes are needed, got {self.classes_.tolist()}")
        self.known_, self._fitted_space, self._views = len(self.classes_), self.space, {}
        means = _class_means(z, place)
        self.origin_ = np.zeros(z.shape[1]) if self.space == "raw" else means.mean(0)
        self.within_ = self._within(z - means[place])
        self.map_, self.spreads_ = self._matrix(self.within_), np.empty((0, *self.within_.shape))
        self.anchors_ = self._known_anchors(z, place, directions)

    def add(self, name: str | int, examples: Any) -> Self:
        """Add a class with the mean direction of its examples, one or more.

        Nothing else changes, but for the adapted space. Raises `ValueError` for a name that is taken, and
        for examples whose mean has no direction.
        """
        self._refuse_unfitted()
        if (
            np.ndim(name)
            or np.asarray(np.asarray(name).tolist()).dtype.kind != self.classes_.dtype.kind
        ):
            raise ValueError(f"{name!r} is no name like those there are, {self._some_names()}")
        if name in self.classes_.tolist():
            raise ValueError(f"there is a class {name!r} already; remove it first")
        z = self._like_known(examples)
        self._views = {}
        self.anchors_ = np.concatenate([self.anchors_, self._anchor(z, name)[None]])
        if self.space == "adapted":
            self.spreads_ = np.concatenate([self.spreads_, self._spread(z)[None]])
        self.classes_ = np.append(self.classes_, name)
        return self

    def remove(self, name: str | int) -> Self:
        """Take an added class away; the answers are those from before it came.

        Raises `ValueError` for a name that was not added.
        """
        if name not in self.new_classes_.tolist():
            raise ValueError(f"{name!r} was not added; added were {self.new_classes_.tolist()}")
        kept, self._views = self.classes_ != name, {}
        self.classes_, self.anchors_ = self.classes_[kept], self.anchors_[kept]
        self.spreads_ = self.spreads_[kept[self.known_ :][: len(self.spreads_)]]
        return self

    @property
    def new_classes_(self) -> np.ndarray:
        """The added classes, in the order in which they came."""
        self._refuse_unfitted()
        return self.classes_[self.known_ :]

    @property
    def directions_(self) -> np.ndarray:
        """The directions of all classes where all compete, C×D, of length 1."""
        return self._view(disjoint=False)[1]

    def decision_function(self, embeddings: Any, disjoint: bool = False) -> np.ndarray:
        """Return cosines, N×C: to all classes (joint), or to the new ones only (disjoint).

        Those of known classes are less the handicap where new ones compete with them.
        """
        if disjoint and not len(self.new_classes_):
            raise ValueError("no class was added, so there is none to choose from; call add first")
        matrix, directions = self._view(disjoint)
        cosines = unit((self._like_known(embeddings) - self.origin_) @ matrix) @ directions.T
        if len(self.new_classes_) and not disjoint:
            cosines[:, : self.known_] -= self.handicap
        return cosines

    def predict(self, embeddings: Any, disjoint: bool = False) -> np.ndarray:
        """Return the class of the largest cosine, N."""
        best = self.decision_function(embeddings, disjoint).argmax(1)
        return (self.new_classes_ if disjoint else self.classes_)[best]

    def predict_proba(self, embeddings: Any, disjoint: bool = False) -> np.ndarray:
        """Return the softmax of `scale` times the cosines, N×C."""
        return softmax(self.scale * self.decision_function(embeddings, disjoint), axis=1)

    def save(self, path: str | Path) -> None:
        """Write everything but `embed` as one `.npz` file, in one move."""
        self._refuse_unfitted()
        path = Path(path)
        partial = path.with_name(path.name + ".partial.npz")
        settings = {"space": self.space} | {n: float(getattr(self, n)) for n in _SETTINGS[1:]}
        learned = {name: getattr(self, name) for name in _LEARNED}
        np.savez_compressed(partial, settings=json.dumps(settings), **learned)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path, embed: Callable[[Any], np.ndarray] | None = None) -> Self:
        """Read a file of `save`; its live network, if there is one, is to be given again.

        Raises `ValueError` for a file that `save` did not write.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = cls(**json.loads(str(arrays["settings"])), embed=embed)
                for name in _LEARNED:
                    setattr(found, name, arrays[name])
        except (KeyError, TypeError, ValueError, EOFError, BadZipFile) as error:
            raise ValueError(f"{path} was not written by NovelClassifier.save: {error}") from None
        found.known_, found._fitted_space, found._views = int(found.known_), found.space, {}
        return found

    def _view(self, disjoint: bool) -> tuple[np.ndarray, np.ndarray]:
        """What rows are multiplied by, D×D, and the directions of the classes that compete."""
        self._refuse_unfitted()
        competing = self.anchors_[self.known_ if disjoint else 0 :]
        if self.space != "adapted":
            return self.map_, competing
        if disjoint not in self._views:
            known = 0 if disjoint else self.known_
            matrix = self._matrix((known * self.within_ + self.spreads_.sum(0)) / len(competing))
            self._views[disjoint] = matrix, unit(competing @ matrix)
        return self._views[disjoint]

    def _matrix(self, covariance: np.ndarray) -> np.ndarray:
        """The inverse root of a covariance; what rows are multiplied by, D×D."""
        d = len(covariance)
        if self.space in ("raw", "centred"):
            return np.eye(d)
        even = np.trace(covariance) / d * np.eye(d)
        sizes, axes = np.linalg.eigh((1 - self.shrinkage) * covariance + self.shrinkage * even)
        if not sizes[0] > 0:
            raise ValueError(
                "embeddings do not vary within classes in some direction, so they cannot be whitened; "
                "give several examples of each class and a shrinkage above 0"
            )
        return axes / np.sqrt(sizes) @ axes.T

    def _anchor(self, z: np.ndarray, name: Any) -> np.ndarray:
        """What the direction of a class is made of: its mean, or that of its unit rows, of length 1."""
        centred = z - self.origin_
        if self.space == "adapted":
            _mean_direction(centred, name)  # refuses one of no direction
            return centred.mean(0)
        return _mean_direction(unit(centred @ self.map_), name)

    def _known_anchors(
        self, z: np.ndarray, place: np.ndarray, given: np.ndarray | None
    ) -> np.ndarray:
        if given is None:
            return np.stack([self._anchor(z[place == c], n) for c, n in enumerate(self.classes_)])
        given = np.asarray(given, float)
        if self.space == "adapted":
            raise ValueError("in the adapted space directions follow from means; give none")
        if given.shape != (self.known_, z.shape[1]) or not np.isfinite(given).all():
            raise ValueError(
                f"directions must be finite, {self.known_}×{z.shape[1]}, got shape {given.shape}"
            )
        if self.space != "raw":
            given = given - given.mean(0)
        if not given.any(1).all():
            raise ValueError("a direction of zero points nowhere; each class needs one")
        # A logit is wz: where z is multiplied by a matrix, w is divided by it.
        return unit(np.linalg.solve(self.map_, given.T).T)

    def _within(self, rest: np.ndarray) -> np.ndarray:
        """The covariance of rows less their class means, D×D, where the space needs it."""
        needed = self.space in ("whitened", "adapted")
        return rest.T @ rest / len(rest) if needed else np.zeros(2 * rest.shape[1:])

    def _spread(self, z: np.ndarray) -> np.ndarray:
        """The covariance of a new class, the known ones' weighing as much as D examples."""
        rest, d = z - z.mean(0), z.shape[1]
        return (d * self.within_ + rest.T @ rest) / (d + len(z) - 1)

    def _like_known(self, examples: Any) -> np.ndarray:
        """Embeddings with as many dimensions as the known ones have."""
        z = self._embedded(examples)
        if z.shape[1] != len(self.origin_):
            raise ValueError(f"embeddings must have D = {len(self.origin_)}, got shape {z.shape}")
        return z

    def _embedded(self, examples: Any) -> np.ndarray:
        z = np.asarray(self.embed(examples) if self.embed else examples, float)
        if z.ndim != 2 or not z.size:
            raise ValueError(f"embeddings must be N×D, at least one row, got shape {z.shape}")
        bad = np.flatnonzero(~np.isfinite(z).all(1))
        if len(bad):
            raise ValueError(
                f"{len(bad)} embeddings are NaN or infinite, the first in row {bad[0]}"
            )
        return z

    def _refuse_settings(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"the spaces are {', '.join(SPACES)}, got {self.space!r}")
        finite = np.isfinite([self.scale, self.handicap]).all()
        if not 0 <= self.shrinkage <= 1 or not self.scale > 0 or not finite:
            raise ValueError(
                "shrinkage lies in [0, 1], the scale above 0, and both scale and handicap are finite; got "
                f"{self.shrinkage}, {self.scale} and {self.handicap}"
            )

    def _refuse_unfitted(self) -> None:
        if not hasattr(self, "anchors_"):
            raise NotFittedError(
                "NovelClassifier has not been fitted; call fit(examples, labels) first"
            )
        if self.space != self._fitted_space:
            raise ValueError(
                f"it was fitted in the space {self._fitted_space!r}, not {self.space!r}; call fit again"
            )

    def _some_names(self) -> str:
        return ", ".join(map(repr, self.classes_[:3].tolist())) + ", …"


_SETTINGS = ("space", "scale", "shrinkage", "handicap")
_LEARNED = ("classes_", "known_", "origin_", "within_", "map_", "anchors_", "spreads_")


def _class_means(z: np.ndarray, place: np.ndarray) -> np.ndarray:
    sums = np.zeros((place.max() + 1, z.shape[1]))
    np.add.at(sums, place, z)
    return sums / np.bincount(place)[:, None]


def _mean_direction(u: np.ndarray, name: Any) -> np.ndarray:
    """The direction of the mean of unit rows, N×D."""
    mean = u.mean(0)
    length = np.linalg.norm(mean)
    if length < 1e-9:
        raise ValueError(f"the examples of {name!r} have a mean of zero, which has no direction")
    return mean / length
