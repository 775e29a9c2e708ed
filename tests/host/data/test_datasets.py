"""Images and signals from IDX, folders, npz files and map-style data sets, and the errors that name
what is wrong with them.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeadapt.errors import InputError, UnknownClassError
from edgeadapt.host.data import images as datasets
from edgeadapt.host.data import labelled
from edgeadapt.host.data.images import (
    ImageData,
    fashion_mnist,
    load_fashion_mnist,
    load_folder,
    load_npz,
    read_idx,
)
from edgeadapt.host.data.map_style import collect, load_dataset_factory
from edgeadapt.host.data.sensors import SensorData, load_sensors
from edgeadapt.host.data.torchvision_sets import load_torchvision


def write_idx(path: Path, array: np.ndarray, code: int, dtype: str) -> None:
    data = (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
        + array.astype(dtype).tobytes()
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def toy(counts: tuple[int, ...] = (5, 3, 4)) -> ImageData:
    y = np.concatenate([np.full(count, label) for label, count in enumerate(counts)]).astype(
        np.int64
    )
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
def test_a_bad_idx_file_is_named_with_the_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "bad.idx").write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        read_idx(tmp_path / "bad.idx")
    assert "bad.idx" in str(caught.value)


def test_fashion_mnist_reads_plain_and_gzipped_files(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("t10k", 4)):
        write_idx(
            tmp_path / f"{part}-images-idx3-ubyte.gz", np.full((count, 28, 28), count), 0x08, ">u1"
        )
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(count), 0x08, ">u1")
    train_x, train_y, test_x, test_y = load_fashion_mnist(tmp_path)
    assert (
        train_x.shape == (6, 28, 28) and test_x.shape == (4, 28, 28) and train_x.dtype == np.uint8
    )
    assert train_y.dtype == np.int64 and test_y.tolist() == [0, 1, 2, 3]


def test_missing_fashion_mnist_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"apt-get install dataset-fashion-mnist.*--data DIR"):
        load_fashion_mnist(tmp_path)


@pytest.mark.skipif(
    not datasets.FASHION_MNIST_DIRECTORY.is_dir(), reason="dataset-fashion-mnist is not installed"
)
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
    np.savez(
        tmp_path / "a.npz", x=data.x, y=data.y.astype(np.int32), classes=np.array(["p", "q", "r"])
    )
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


def test_data_that_memory_cannot_hold_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "photos")
    np.savez_compressed(
        tmp_path / "a.npz", x=np.zeros((100, 30, 30), np.uint8), y=np.zeros(100, int)
    )
    monkeypatch.setattr(labelled, "physical_memory", lambda: 2**31)
    with pytest.raises(
        InputError, match=r"photos: 6 images of 8000 x 8000: takes 1\.1 GiB .*has 2\.0 GiB"
    ):
        load_folder(tmp_path / "photos", 8000)
    monkeypatch.setattr(labelled, "physical_memory", lambda: 200_000)
    with pytest.raises(InputError, match=r"a\.npz: x: takes"):
        load_npz(tmp_path / "a.npz")
    assert load_folder(tmp_path / "photos", 50).x.nbytes == 6 * 50 * 50 * 3


def signals(counts: tuple[int, ...] = (5, 3, 4)) -> SensorData:
    y = toy(counts).y
    return SensorData(
        np.arange(len(y), dtype=np.float32)[:, None, None] * np.ones((1, 2, 5), np.float32),
        y,
        toy(counts).classes,
    )


def test_sensor_data_is_chosen_split_and_identified_as_images_are() -> None:
    data = signals()
    assert data.channels == 2 and len(data) == 12 and data.counts == (5, 3, 4)
    assert SensorData(data.x[:, :, 0].copy(), data.y, data.classes).channels == 2
    chosen = data.only(("c", "a"))
    assert isinstance(chosen, SensorData) and chosen.x[chosen.y == 0, 0, 0].tolist() == [
        8,
        9,
        10,
        11,
    ]
    rest, held_out = signals((50, 30, 2)).split(0.2, seed=3)
    assert held_out.counts == (10, 6, 1) and np.array_equal(
        held_out.x[:, 0, 0], toy((50, 30, 2)).split(0.2, seed=3)[1].x[:, 0, 0]
    )
    assert not set(rest.x[:, 0, 0]) & set(held_out.x[:, 0, 0])
    assert (
        signals().fingerprint()
        == data.fingerprint()
        != data.take(np.arange(12)[::-1]).fingerprint()
    )
    with pytest.raises(InputError, match="'b' has no sample"):
        signals((5, 0)).require_every_class()


def test_sensor_files_are_read_and_what_is_wrong_with_them_is_named(tmp_path: Path) -> None:
    data, path = signals(), tmp_path / "s.npz"
    np.savez(path, x=data.x.astype(np.float64), y=data.y, classes=np.array(["p", "q", "r"]))
    read = load_sensors(path)
    assert (
        read.x.dtype == np.float32
        and np.array_equal(read.x, data.x)
        and read.classes == ("p", "q", "r")
    )
    np.savez(path, x=data.x, y=data.y)
    with pytest.raises(InputError, match=r"s\.npz.*uint8.*load_sensors"):
        load_npz(path)
    broken = data.x.copy()
    broken[3, 1, 2] = np.nan
    for x, reason in (
        (broken, r"nan at \(3, 1, 2\)"),
        (data.x.astype(np.int16), "int16"),
        (data.x[:, 0, 0], r"\(12,\)"),
        (np.full((12, 2), 1e300), "inf"),
    ):
        np.savez(path, x=x, y=data.y)
        with pytest.raises(InputError, match=rf"s\.npz.*{reason}"):
            load_sensors(path)


def write_mnist_family(root: Path, name: str, count: int) -> np.ndarray:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    x = np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)
    for part in ("train", "t10k"):
        write_idx(folder / f"{part}-images-idx3-ubyte", x, 0x08, ">u1")
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10, 0x08, ">u1")
    return x


def test_a_data_set_of_torchvision_is_read_from_its_files(tmp_path: Path) -> None:
    x = write_mnist_family(tmp_path, "FashionMNIST", 20)
    data = load_torchvision("FashionMNIST", tmp_path, train=False)
    assert np.array_equal(data.x, x) and data.classes[1] == "Trouser" and data.counts == (2,) * 10
    resized = load_torchvision("FashionMNIST", tmp_path, size=(14, 10), colour="rgb")
    assert resized.x.shape == (20, 14, 10, 3) and np.array_equal(
        resized.x[..., 0], resized.x[..., 2]
    )


def test_torchvision_never_downloads_and_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", refused)
    for name, place in (
        ("FashionMNIST", "FashionMNIST/raw"),
        ("CIFAR10", "cifar-10-batches-py"),
        ("OxfordIIITPet", ""),
        ("SBU", ""),
    ):
        with pytest.raises(
            InputError,
            match=(
                rf"{name} is not here; looked under .*{tmp_path.name}/?{place}: .*[Nn]othing is"
                r" downloaded"
            ),
        ):
            load_torchvision(name, tmp_path)
    with pytest.raises(InputError, match="nothing is downloaded here"):
        load_torchvision("CIFAR10", tmp_path, download=True)
    with pytest.raises(InputError, match="did you mean 'CIFAR10'"):
        load_torchvision("CIFAR-10", tmp_path)
    with pytest.raises(InputError, match="has no test part"):
        load_torchvision("Caltech101", tmp_path, train=False)
    with pytest.raises(InputError, match="'split'"):
        load_torchvision("EMNIST", tmp_path)


class Listed:
    """A map-style data set of what it is given."""

    def __init__(
        self, *samples: tuple[object, object], classes: tuple[str, ...] | None = None
    ) -> None:
        self.samples = samples
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[object, object]:
        return self.samples[index]


def test_every_kind_of_image_sample_becomes_the_same_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    picture, tensor = Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)
    data = collect(Listed((picture, 0), (pixels, np.int64(2)), (tensor, torch.tensor(1))), "mixed")
    assert (
        isinstance(data, ImageData)
        and data.y.tolist() == [0, 2, 1]
        and data.classes == ("0", "1", "2")
    )
    assert all(np.array_equal(image, pixels) for image in data.x)
    gray = collect(
        Listed(
            (pixels[..., 0], 0),
            (pixels[..., :1], 1),
            (tensor[:1], 0),
            (picture, 1),
            classes=("p", "q"),
        ),
        "gray",
    )
    assert (
        gray.x.shape == (4, 6, 5)
        and gray.classes == ("p", "q")
        and np.array_equal(gray.x[0], gray.x[2])
    )
    assert np.array_equal(gray.x[3], np.asarray(picture.convert("L")))


def test_float_samples_become_sensor_data_and_a_subset_keeps_its_names() -> None:
    wave = np.arange(12.0).reshape(2, 6)
    data = collect(Listed((wave, 0), (torch.from_numpy(wave).to(torch.bfloat16), 1)), "waves")
    assert (
        isinstance(data, SensorData)
        and data.x.dtype == np.float32
        and np.array_equal(data.x[1], wave)
    )
    subset = torch.utils.data.Subset(
        Listed((wave[0], 0), (wave[1], 1), (wave[1], 1), classes=("low", "high")), [0, 2]
    )  # type: ignore[arg-type]
    part = collect(subset, "part")
    assert part.classes == ("low", "high") and part.x.shape == (2, 6) and part.y.tolist() == [0, 1]


def test_a_sample_that_cannot_be_used_is_named_by_its_number() -> None:
    image, wave = np.zeros((4, 4), np.uint8), np.zeros((2, 6))
    cases: list[tuple[object, str]] = [
        (Listed((image, 0), (image[:3], 1)), r"sample 1 has shape \(3, 4\).*give size="),
        (Listed((wave, 0), (wave[:, :3], 1)), "cut them to one length"),
        (Listed((wave, 0), (image, 1)), "sample 1 is no floating-point signal"),
        (Listed((image, 0), (wave, 1)), r"sample 1 is no Pillow image.*float64 \(2, 6\)"),
        (Listed((np.zeros((3, 4, 4), np.float32), 0)), r"sample 0 .*ToTensor"),
        (Listed((image, "cat")), "label of sample 0 .*'cat'"),
        (Listed((image, 0), (image, 1.5)), "label of sample 1"),
        (Listed((image, 0), (image, -1)), "run from -1"),
        (Listed((image, 5), classes=("p", "q")), "there are 2 classes"),
        (Listed(), "no samples"),
        (iter([(image, 0)]), "no map-style data set"),
        ([image], "sample 0 is no pair"),
    ]
    for dataset, reason in cases:
        with pytest.raises(InputError, match=rf"the set.*{reason}"):
            collect(dataset, "the set")


def test_a_data_set_that_fails_or_is_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Listed):
        def __getitem__(self, index: int) -> tuple[object, object]:
            if index == 2:
                raise OSError("truncated")
            return super().__getitem__(0)

    dataset = Failing(*[(np.zeros((4, 4), np.uint8), 0)] * 3)
    with pytest.raises(InputError, match="sample 2 cannot be read: OSError: truncated"):
        collect(dataset, "the set")
    monkeypatch.setattr(labelled, "physical_memory", lambda: 180)
    with pytest.raises(InputError, match=r"the set: 3 samples of shape \(4, 4\): takes"):
        collect(dataset, "the set")


def test_a_function_of_the_user_makes_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_recordings.py").write_text(
        "import numpy as np\ndef make(count, length=7):\n    return [(np.full((2, length), i,"
        " np.float32), i % 2) for i in range(count)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = load_dataset_factory("my_recordings:make", count=6)
    assert isinstance(data, SensorData) and data.x.shape == (6, 2, 7) and data.counts == (3, 3)
    for spec, options, reason in (
        ("my_recordings:make", {}, "refused its arguments"),
        ("my_recordings:absent", {}, "cannot be imported"),
        ("my_recordings", {}, "'module:function'"),
    ):
        with pytest.raises(InputError, match=reason):
            load_dataset_factory(spec, **options)
