"""From a `.npz` file of a network's outputs to a table of decisions: the command `embedood score`."""

from __future__ import annotations

import os
import zipfile
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from embedood import metrics
from embedood.detector import Decisions, Detector
from embedood.outputs import HEAD, Outputs
from embedood.scorers import make
from embedood.scorers._base import check_known
from embedood.splits import UNSEEN

Arrays = dict[str, np.ndarray]

PARTS = ("train", "validation", "outliers", "test")
AXES = {"logits": 2, "embeddings": 2, "labels": 1, "head_weight": 2, "head_bias": 1}
SUFFIXES = (".csv", ".parquet")


def score_file(
    path: str | Path, scorer: str = "energy", false_alarm: float = 0.05
) -> tuple[pd.DataFrame, str]:
    """Return a line for each test row of a file, and a summary in a few lines.

    Columns: row, class (−1 = unseen; missing where a row is accepted and the file has no
    test_logits), score, threshold, p_value. The summary judges what test_labels, if there, allow.
    Raises `ValueError` for an unknown scorer, a rate that cannot be held and a file that lacks
    something, which it names.
    """
    arrays = load(path, scorer)
    parts, labels = _parts(arrays), _test_labels(arrays)
    detector = Detector(make(scorer))
    if "train" in detector.scorer.needs:
        detector.fit(parts["train"])
    check_known(parts["validation"], "validation")
    detector.calibrate(parts["validation"], parts.get("outliers"), false_alarm=false_alarm)
    decisions, has_classes = detector.decide(parts["test"]), "test_logits" in arrays
    rows = len(detector.known_scores_)
    told = f"{scorer}: threshold {decisions.threshold:.6g} from {rows} known validation rows"
    judged = _judged(decisions, labels, has_classes)
    return _table(decisions, has_classes), "\n".join([told, *judged])


def read(path: str | Path, scorer: str = "energy") -> dict[str, Outputs]:
    """Return the parts of a file by name: validation and test, train and outliers where it has them.

    An array that the file lacks and the scorer does not look at is filled with zeros, test labels
    with −1, so the parts are for this scorer. Raises `ValueError` as `score_file` does.
    """
    return _parts(load(path, scorer))


def needed(scorer: str) -> list[str]:
    """Return the names of the arrays that a file must hold for a scorer.

    Raises `ValueError` for an unknown scorer and for one that needs the network itself.
    """
    needs, reads = make(scorer).needs, make(scorer).reads
    if "gradient" in needs or "decoder" in needs:
        what = "a gradient with respect to the image" if "gradient" in needs else "reconstructions"
        raise ValueError(f"{scorer} needs {what}, which a file of outputs cannot give; try energy")
    learns_from = [part for part in PARTS if part in needs]
    fields = [field for field in reads if field not in HEAD]
    parts = [part for part in PARTS if part in {*learns_from, "validation", "test"}]
    names = [f"{part}_{field}" for part in parts for field in fields]
    names += [f"{part}_labels" for part in learns_from if part != "outliers"]
    return names + [field for field in reads if field in HEAD]


def load(path: str | Path, scorer: str) -> Arrays:
    """Return the arrays of a file whose names are ours, checked one by one and against each other.

    Nothing is ever unpickled. Raises `ValueError` for a file that is missing, broken or lacks an
    array that the scorer needs, and for arrays of the wrong type, number of axes, rows or columns.
    """
    wanted = needed(scorer)
    if not zipfile.is_zipfile(path):
        there = Path(path).is_file()
        told = "is no .npz file, or only a part of one" if there else "does not exist as a file"
        raise ValueError(f"{path} {told}")
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in wanted if name not in file.files]
        if missing:
            raise ValueError(
                f"{scorer} needs {', '.join(missing)}; {path} holds {', '.join(file.files) or 'nothing'}"
            )
        ours = [*HEAD, *(f"{p}_{f}" for p in PARTS for f in ("logits", "embeddings", "labels"))]
        arrays = {name: _array(file, name) for name in ours if name in file.files}
    for part in PARTS:
        _refuse_unequal(arrays, [name for name in arrays if name.startswith(f"{part}_")], "rows")
    for field in ("logits", "embeddings"):
        _refuse_unequal(arrays, [f"{part}_{field}" for part in PARTS], "columns")
    _refuse_other_head(arrays)
    return arrays


def _refuse_other_head(arrays: Arrays) -> None:
    """The head must have a row, and a bias, for each class, and a column for each embedding's."""
    classes, width = _columns(arrays, "logits"), _columns(arrays, "embeddings")
    for name in (name for name in HEAD if name in arrays):
        right = (classes, width)[: AXES[name]]
        shape = arrays[name].shape
        if any(expected not in (0, size) for expected, size in zip(right, shape, strict=True)):
            hint = "; its transpose would be right" if shape == right[::-1] != right else ""
            raise ValueError(
                f"{name} must have the shape {right}, as logits and embeddings have, got {shape}{hint}"
            )


def _array(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        array = np.asarray(file[name])
    except (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{name} cannot be read, save it as plain numbers: {error}") from error
    field = next(field for field in AXES if name.endswith(field))
    kinds, wanted = ("iu", "integers") if field == "labels" else ("iuf", "real numbers")
    if array.dtype.kind not in kinds:
        raise ValueError(f"{name} must hold {wanted}, got {array.dtype}")
    if array.ndim != AXES[field]:
        raise ValueError(f"{name} must have {AXES[field]} axes, got shape {array.shape}")
    if not array.size:
        raise ValueError(f"{name} is empty, its shape is {array.shape}")
    return array


def _refuse_unequal(arrays: Arrays, names: list[str], what: str) -> None:
    axis = ("rows", "columns").index(what)
    sizes = {name: arrays[name].shape[axis] for name in names if name in arrays}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"the numbers of {what} must be equal: {told}")


def _parts(arrays: Arrays) -> dict[str, Outputs]:
    there = [part for part in PARTS if any(name.startswith(f"{part}_") for name in arrays)]
    return {part: _part(arrays, part) for part in there}


def _part(arrays: Arrays, name: str) -> Outputs:
    """One part of the file; zeros, or test labels of −1, stand for what no scorer let in here reads."""
    found = {field: arrays.get(f"{name}_{field}") for field in ("logits", "embeddings", "labels")}
    rows = next(len(array) for array in found.values() if array is not None)
    classes = _classes(arrays)
    width = _columns(arrays, "embeddings") or _columns(arrays, "head_weight") or 1
    zeros: Arrays = {
        "logits": np.zeros((rows, classes)),
        "embeddings": np.zeros((rows, width)),
        "labels": np.full(rows, UNSEEN if name == "test" else 0),
        "head_weight": np.zeros((classes, width)),
        "head_bias": np.zeros(classes),
    }
    found |= {field: arrays.get(field) for field in HEAD}
    return Outputs(**{f: zeros[f] if array is None else array for f, array in found.items()})


def _classes(arrays: Arrays) -> int:
    """C, from the logits, else the head, else the training labels."""
    if columns := _columns(arrays, "logits"):
        return columns
    if "head_weight" in arrays:
        return len(arrays["head_weight"])
    return int(arrays["train_labels"].max(initial=1)) + 1


def _columns(arrays: Arrays, field: str) -> int:
    return next((a.shape[1] for name, a in arrays.items() if name.endswith(field)), 0)


def _test_labels(arrays: Arrays) -> np.ndarray | None:
    labels, classes = arrays.get("test_labels"), _classes(arrays)
    if labels is not None and not np.isin(labels, np.arange(UNSEEN, classes)).all():
        raise ValueError(
            f"test_labels must be −1 (unseen) or 0 … {classes - 1}, got {np.unique(labels).tolist()}"
        )
    return labels


def _table(decisions: Decisions, has_classes: bool) -> pd.DataFrame:
    classes = pd.array(decisions.labels, dtype="Int64")
    if not has_classes:
        classes[~decisions.is_unseen] = pd.NA
    return pd.DataFrame(
        {
            "row": np.arange(len(classes)),
            "class": classes,
            "score": decisions.scores,
            "threshold": decisions.threshold,
            "p_value": decisions.p_values,
        }
    )


def _judged(decisions: Decisions, labels: np.ndarray | None, has_classes: bool) -> list[str]:
    """What the test shows, a line each: everything that its labels allow to say."""
    decided, rejected = decisions.labels, decisions.is_unseen
    if labels is None:
        return [f"test: {len(decided)} rows, {rejected.mean():.1%} decided unseen"]
    is_unseen = labels == UNSEEN
    told = [f"test: {(~is_unseen).sum()} known rows, {is_unseen.sum()} unseen"]
    if is_unseen.any() and not is_unseen.all():
        auroc = metrics.auroc_unseen(decisions.scores, is_unseen)
        lost = metrics.fpr_at_95_tpr_unseen(decisions.scores, is_unseen)
        told.append(f"AUROC, unseen positive           {auroc:.4f}")
        told.append(f"known rejected, were 95 % found  {lost:.1%}")
    if is_unseen.any():
        found = metrics.detection_rate(decided, is_unseen)
        told.append(f"unseen found                     {found:.1%}")
    if not is_unseen.all():
        told.append(f"known rejected                   {rejected[~is_unseen].mean():.1%}")
        if has_classes:
            right = metrics.accepted_accuracy(decided, labels, is_unseen)
            told.append(f"known accepted and right         {right:.1%}")
    return told


def refuse_bad_target(path: Path) -> None:
    """Raise `ValueError` unless a table can be written there: its suffix, its folder, pyarrow."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} of {path.name} does not exist")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ValueError("Parquet needs pyarrow: pip install pyarrow, or choose a name in .csv")


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or Parquet, by the suffix, in one move; nothing is left on failure."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
