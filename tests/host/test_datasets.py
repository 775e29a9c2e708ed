"""Images from IDX, folders and npz files, and the errors that name what is wrong with them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeadapt.errors import InputError, UnknownClassError
from edgeadapt.host import datasets
from edgeadapt.host.datasets import ImageData, fashion_mnist, load_fashion_mnist, load_folder, load_npz, read_idx


def write_idx(path: Path, array: np.ndarray, code: int, dtype: str) -> None:
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.astype(dtype).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def toy(counts: tuple[int, ...] = (5, 3, 4)) -> ImageData:
    y = np.concatenate([np.full(count, label) for label, count in enumerate(counts)]).astype(np.int64)
    x = np.arange(len(y), dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8)
    return ImageData(x, y, tuple("abcdefgh"[: len(counts)]))


@pytest.mark.parametrize("name", ["array.idx", "array.gz"])
@pytest.mark.parametrize(("code", "dtype"), [(0x08, ">u1"), (0x0C, ">i4"), (0x0D, ">f4")])
def test_idx_round_trip(tmp_path: Path, name: str, code: int, dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 255, (3, 4, 5))
    write_idx(tmp_path / name, array, code, dtype)
    read = read_idx(tmp_path / name)
    assert np.array_equal(read, array)
    assert read.dtype == np.dtype(dtype).newbyteorder("=") and read.dtype.isnative


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "nothing"),
        (b"\x89PNG\r\n", "89 50 4e 47"),
        (b"\x00\x00\x08\x03\x00\x00", "promises 3 dimensions"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", r"shape \(5,\), 13 bytes; the file has 11"),
        (b"\x00\x00\x08\x02\xff\xff\xff\xff\xff\xff\xff\xffabc", "4294967295"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
    ],
)
def test_a_bad_idx_file_is_named_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "bad.idx").write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_idx(tmp_path / "bad.idx")
    assert "bad.idx" in str(caught.value)


def test_fashion_mnist_reads_plain_and_gzipped_files(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("t10k", 4)):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", np.full((count, 28, 28), count), 0x08, ">u1")
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(count), 0x08, ">u1")
    train_x, train_y, test_x, test_y = load_fashion_mnist(tmp_path)
    assert train_x.shape == (6, 28, 28) and test_x.shape == (4, 28, 28) and train_x.dtype == np.uint8
    assert train_y.dtype == np.int64 and test_y.tolist() == [0, 1, 2, 3]


def test_missing_fashion_mnist_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"apt-get install dataset-fashion-mnist.*--data DIR"):
        load_fashion_mnist(tmp_path)


@pytest.mark.skipif(not datasets.FASHION_MNIST_DIRECTORY.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_installed_fashion_mnist_is_complete() -> None:
    training, test = fashion_mnist()
    assert training.counts == (6000,) * 10 and test.counts == (1000,) * 10
    assert training.x.mean() == pytest.approx(72.94, abs=0.01)  # the usual 0.2860 of 255


def test_only_relabels_in_the_order_given() -> None:
    chosen = toy().only(("c", "a"))
    assert chosen.classes == ("c", "a")
    assert chosen.counts == (4, 5)
    assert chosen.x[chosen.y == 0, 0, 0].tolist() == [8, 9, 10, 11]


def test_only_refuses_an_unknown_class() -> None:
    with pytest.raises(UnknownClassError, match=r"'z'.*a, b, c"):
        toy().only(("a", "z"))


def test_split_is_stratified_disjoint_and_seeded() -> None:
    data = toy((50, 30, 2))
    rest, held_out = data.split(0.2, seed=3)
    assert held_out.counts == (10, 6, 1) and rest.counts == (40, 24, 1)
    assert sorted([*rest.x[:, 0, 0], *held_out.x[:, 0, 0]]) == list(range(82))
    assert np.array_equal(data.split(0.2, seed=3)[1].x, held_out.x)
    assert not np.array_equal(data.split(0.2, seed=4)[1].x, held_out.x)


def test_split_and_training_refuse_what_they_cannot_use() -> None:
    with pytest.raises(InputError, match=r"1\.5"):
        toy().split(1.5)
    with pytest.raises(InputError, match="'b' has one image"):
        toy((5, 1)).split(0.5)
    with pytest.raises(InputError, match="'b' has no image"):
        toy((5, 0)).require_every_class()


def test_the_fingerprint_sees_images_labels_and_names() -> None:
    data = toy()
    changed = data.x.copy()
    changed[0, 0, 0] += 1
    variants = [
        data,
        ImageData(changed, data.y, data.classes),
        ImageData(data.x, data.y[::-1].copy(), data.classes),
        ImageData(data.x, data.y, ("a", "b", "x")),
    ]
    assert len({variant.fingerprint() for variant in variants}) == 4
    assert toy().fingerprint() == data.fingerprint()


def make_folder(root: Path) -> Path:
    for name, value in (("cat", 200), ("dog", 30)):
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (10, 8), (value, number, 0)).save(root / name / f"{number}.png")
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    return root


def test_folder_has_one_class_per_folder(tmp_path: Path) -> None:
    data = load_folder(make_folder(tmp_path), size=(6, 4))
    assert data.classes == ("cat", "dog") and data.counts == (3, 3) and data.channels == 3
    assert data.x.shape == (6, 6, 4, 3)
    assert data.x[1, 0, 0].tolist() == [200, 1, 0] and data.x[5, 0, 0].tolist() == [30, 2, 0]
    assert load_folder(tmp_path, 6, "gray").x.shape == (6, 6, 6)


def test_folder_errors_name_the_file(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "dog" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    with pytest.raises(InputError, match=r"broken\.png"):
        load_folder(tmp_path, 8)
    (tmp_path / "dog" / "broken.png").unlink()
    (tmp_path / "bird").mkdir()
    with pytest.raises(InputError, match="bird: no images"):
        load_folder(tmp_path, 8)
    with pytest.raises(InputError, match="nowhere"):
        load_folder(tmp_path / "nowhere", 8)
    with pytest.raises(InputError, match="at least two"):
        load_folder(tmp_path / "cat", 8)


def test_npz_with_and_without_names(tmp_path: Path) -> None:
    data = toy()
    np.savez(tmp_path / "a.npz", x=data.x, y=data.y.astype(np.int32), classes=np.array(["p", "q", "r"]))
    np.savez(tmp_path / "b.npz", x=data.x, y=data.y)
    assert load_npz(tmp_path / "a.npz").classes == ("p", "q", "r")
    assert load_npz(tmp_path / "b.npz").classes == ("0", "1", "2")
    assert np.array_equal(load_npz(tmp_path / "b.npz").x, data.x)


def test_npz_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    data, path = toy(), tmp_path / "bad.npz"
    cases = [
        ({"x": data.x}, "no array 'y'"),
        ({"x": data.x, "y": data.y.astype(np.float32)}, "float32"),
        ({"x": data.x.astype(np.float32), "y": data.y}, "uint8"),
        ({"x": data.x, "y": data.y[:-1]}, "one per image"),
        ({"x": data.x, "y": data.y - 1}, "run from -1"),
        ({"x": data.x, "y": np.array([{}] * 12, object)}, "cannot be read"),
    ]
    for arrays, reason in cases:
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=rf"bad\.npz.*{reason}"):
            load_npz(path)
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError, match=r"bad\.npz"):
        load_npz(path)
    with pytest.raises(InputError, match=r"absent\.npz"):
        load_npz(tmp_path / "absent.npz")
