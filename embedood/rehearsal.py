"""Which score to use, asked without the answer: known classes play the unseen.

Train a network once more without some of the known classes, and it has never seen them. How well
each score finds *them* is a number that one may look at, unlike how well it finds the unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from embedood import scorers
from embedood.metrics import auroc_unseen
from embedood.outputs import Outputs
from embedood.scorers import Fusion
from embedood.scorers._base import check, check_known
from embedood.splits import UNSEEN


@dataclass(frozen=True)
class Play:
    """What a network says, from whose training some known classes were kept: they play the unseen.

    train, validation: rows of the classes that it knows, as `Scorer.fit` and `calibrate` ask for.
    asked: rows to be told apart, labelled −1 where their class was kept; those of known classes may be
    the validation rows. outliers: pseudo-OOD for the scores that learn from some, or None. Raises
    `ValueError` unless some rows asked are of known classes and others are not, and for arrays that
    are misshapen, not finite or labelled otherwise; `TypeError` for what is not `Outputs`.
    """

    train: Outputs
    validation: Outputs
    asked: Outputs
    outliers: Outputs | None = None

    def __post_init__(self) -> None:
        check_known(self.train, "train")
        check_known(self.validation, "validation")
        check(self.asked, "asked")
        labels, classes = np.asarray(self.asked.labels), np.asarray(self.asked.logits).shape[1]
        strange = np.unique(labels[(labels < UNSEEN) | (labels >= classes)])
        if len(strange):
            raise ValueError(
                f"asked must be labelled 0 … {classes - 1}, or −1 where the class was kept from the "
                f"network; got {strange.tolist()} among {len(labels)} rows"
            )
        kept = int(self.is_unseen.sum())
        if not 0 < kept < len(self.is_unseen):
            raise ValueError(
                "asked must hold rows of known classes and rows of those that were kept from the "
                f"network, labelled −1; of {len(self.is_unseen)} rows {kept} are labelled −1"
            )

    @property
    def is_unseen(self) -> np.ndarray:
        """Which rows of `asked` are of a class that was kept, a mask N."""
        return np.asarray(self.asked.labels) == UNSEEN

    @property
    def serves(self) -> set[str]:
        """What a score may need here: see `Scorer.needs`."""
        given = {
            "outliers": self.outliers,
            "gradient": self.asked.perturbed_logits,
            "decoder": self.asked.mse,
        }
        return {"train", "validation"} | {name for name, it in given.items() if it is not None}

    def auroc(self, name: str) -> float:
        """Return the AUROC of a score of the table for what was kept, in [0, 1].

        Raises `ValueError` where the score refuses these outputs, and for an unknown name.
        """
        scorer = scorers.make(name).fit(self.train).calibrate(self.validation, self.outliers)
        return auroc_unseen(scorer.score(self.asked), self.is_unseen)


@dataclass(frozen=True)
class Comparison:
    """What a rehearsal has shown: aurocs, one a play, of each score, the best mean first.

    refused: why other scores were left out, by name.
    """

    aurocs: dict[str, np.ndarray]
    refused: dict[str, str]

    @property
    def best(self) -> str:
        """The name of the score with the largest mean."""
        return next(iter(self.aurocs))


def compare(plays: Sequence[Play], names: Collection[str] | None = None) -> Comparison:
    """Return how well each score finds the classes that were kept, play by play.

    names: of `scorers.TABLE`; by default all. A score that asks for what a play does not hold, or that
    refuses its outputs, such as negative embeddings, is left out. Raises `ValueError` without a play or
    a name, for an unknown name, and where every score refuses; `TypeError` where `plays` is one play or
    `names` one name instead of a list.

    Source: ours, as in the book's chapters 03 to 06.
    """
    names = list(scorers.TABLE) if names is None else names
    if isinstance(plays, Play) or isinstance(names, str):
        raise TypeError('plays and names are lists, such as [play] and ["energy"]')
    if not plays or not names:
        raise ValueError("a rehearsal needs at least one play and at least one name of a score")
    served = set.intersection(*(play.serves for play in plays))
    found, refused = {}, {}
    for name, needs in {name: scorers.make(name).needs for name in names}.items():
        try:
            _refuse_unserved(set(needs) - served)
            found[name] = np.array([play.auroc(name) for play in plays])
        except ValueError as reason:
            refused[name] = str(reason)
    if not found:
        raise ValueError(
            f"no score takes these outputs: {'; '.join(sorted(set(refused.values())))}"
        )
    ranked = sorted(found, key=lambda name: -found[name].mean())
    return Comparison({name: found[name] for name in ranked}, refused)


def _refuse_unserved(missing: set[str]) -> None:
    if missing:
        raise ValueError(f"asks for {' and '.join(sorted(missing))}, which not every play holds")


CHOICES = (0.001, 0.01, 0.1, 1.0)


def fusion(
    plays: Sequence[Play], names: Sequence[str], choices: Sequence[float] = CHOICES
) -> Fusion:
    r"""Return a fusion of some scores, with weights learned in rehearsal and none of the unseen.

    In each play the scores are standardised on its validation rows. One logistic regression over all
    plays, each of them and each of their sides weighing the same, tells the classes that were kept
    from the known ones; its C, of `choices`, is the one whose weights have the largest mean AUROC in a
    play that did not teach them, so each play must be of another network. To be fitted and calibrated
    like any scorer, on the network in use.
    Raises `ValueError` for fewer than two plays, no name, an unknown one, C ≤ 0, or outputs that a
    score refuses.

    Source: ours; logistic regression of scores: Lee et al., 2018, there on real outliers.
    """
    if len(plays) < 2:
        raise ValueError(
            f"one play judges what the others teach, so two are needed; got {len(plays)}"
        )
    if not names or isinstance(names, str):
        raise ValueError(f"names must be a list of at least one score, got {names!r}")
    if not choices or not min(choices) > 0:
        raise ValueError(f"choices of C must be positive numbers, at least one, got {choices!r}")
    told = [_standardised(i, play, names) for i, play in enumerate(plays)]
    sides = [play.is_unseen for play in plays]
    chosen = (
        max(choices, key=lambda c: _left_out(told, sides, c)) if len(choices) > 1 else choices[0]
    )
    return Fusion(_members(names), "logistic", _weights(told, sides, chosen))


def _members(names: Sequence[str]) -> tuple[scorers.Scorer, ...]:
    return tuple(map(scorers.make, names))


def _standardised(number: int, play: Play, names: Sequence[str]) -> np.ndarray:
    """Scores of what was asked in a play, N×S; `ValueError` that names the play where one refuses."""
    judge = Fusion(_members(names), "logistic", [1.0] * len(names))
    try:
        judge.fit(play.train).calibrate(play.validation, play.outliers)
        return judge.standardised(play.asked).T
    except ValueError as refusal:
        raise ValueError(f"play {number}: {refusal}") from None


def _weights(told: Sequence[np.ndarray], sides: Sequence[np.ndarray], c: float) -> Sequence[float]:
    """The regression's coefficients, S, each play and each of its sides weighing the same."""
    shares = [np.where(side, 0.5 / side.mean(), 0.5 / (~side).mean()) / len(side) for side in sides]
    rows = np.concatenate(shares) * sum(map(len, sides)) / len(sides)
    model = LogisticRegression(C=c, max_iter=2000)
    return model.fit(np.concatenate(told), np.concatenate(sides), rows).coef_[0].tolist()


def _left_out(told: Sequence[np.ndarray], sides: Sequence[np.ndarray], c: float) -> float:
    """Mean AUROC in each play with weights that the others have taught."""
    found = []
    for i, (scores, side) in enumerate(zip(told, sides, strict=True)):
        taught = _weights([*told[:i], *told[i + 1 :]], [*sides[:i], *sides[i + 1 :]], c)
        found.append(auroc_unseen(scores @ np.array(taught), side))
    return float(np.mean(found))
