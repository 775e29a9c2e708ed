"""Labelled images for training and calibration: Fashion-MNIST, a folder per class, or one ``.npz``.
Signals are in ``sensor_data``.

Images are ``uint8`` with values in [0, 255]: ``(N, H, W)`` when gray, ``(N, H, W, 3)`` RGB when in
colour.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError
from edgeadapt.host.data.class_numbers import are_names, class_names, class_numbers
from edgeadapt.host.data.labelled import Labelled, Labels, require_memory

FASHION_MNIST_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ImageData(Labelled):
    """Labelled images.

    Args:
        x: (N, H, W) or (N, H, W, C) uint8.
        y: (N,) int64, an index into ``classes``.
        classes: distinct names.
        groups: (N,) group of every image, or None, as in ``Labelled``.

    Raises:
        InputError: shapes, dtypes or labels do not fit together; the message has the offending
            value.
    """

    x: Images
    noun: ClassVar[str] = "image"

    def _check_inputs(self) -> None:
        if self.x.dtype != np.uint8 or self.x.ndim not in (3, 4) or 0 in self.x.shape[1:]:
            raise InputError(
                f"images must be uint8 (N, H, W) or (N, H, W, C); got {self.x.dtype} {self.x.shape}"
            )

    @property
    def channels(self) -> int:
        """1 for gray images, else the last axis."""
        return 1 if self.x.ndim == 3 else int(self.x.shape[3])


def read_idx(path: str | Path) -> NDArray[Any]:
    """One array in the IDX format of MNIST, gzipped or plain, in native byte order.

    Raises:
        InputError: the file is missing, not IDX, or shorter or longer than its header says; the
            message names it.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if len(data) < 4 or data[:2] != b"\x00\x00" or data[2] not in _IDX_DTYPES:
        raise InputError(
            f"{path}: not an IDX file; it begins with {data[:4].hex(' ') or 'nothing'}"
        )
    rank, dtype = data[3], np.dtype(_IDX_DTYPES[data[2]])
    start = 4 + 4 * rank
    if len(data) < start:
        raise InputError(
            f"{path}: the IDX header promises {rank} dimensions, but the file has {len(data)} bytes"
        )
    shape = tuple(np.frombuffer(data, ">u4", rank, 4).tolist())
    wanted = start + dtype.itemsize * math.prod(shape)
    if len(data) != wanted:
        raise InputError(
            f"{path}: the IDX header promises shape {shape}, {wanted} bytes; the file has"
            f" {len(data)}"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def load_fashion_mnist(
    directory: str | Path | None = None,
) -> tuple[Images, Labels, Images, Labels]:
    """``(train_x, train_y, test_x, test_y)``: uint8 (60000, 28, 28), int64 (60000,), and 10,000 of
    each for the test.

    Args:
        directory: where the four IDX files are, gzipped or plain; by default where Debian's
            ``dataset-fashion-mnist`` puts them.

    Raises:
        InputError: a file is missing (the message says how to get it) or damaged.

    Source: Xiao, Rasul and Vollgraf, arXiv 1708.07747; MIT licence.
    """
    folder = FASHION_MNIST_DIRECTORY if directory is None else Path(directory)
    train_x, train_y = _fashion_part(folder, "train")
    test_x, test_y = _fashion_part(folder, "t10k")
    return train_x, train_y, test_x, test_y


def fashion_mnist(directory: str | Path | None = None) -> tuple[ImageData, ImageData]:
    """``(training, test)`` of Fashion-MNIST with its ten class names; see
    ``load_fashion_mnist``.
    """
    train_x, train_y, test_x, test_y = load_fashion_mnist(directory)
    return ImageData(train_x, train_y, FASHION_MNIST_CLASSES), ImageData(
        test_x, test_y, FASHION_MNIST_CLASSES
    )


def _fashion_part(folder: Path, part: str) -> tuple[Images, Labels]:
    images = read_idx(_fashion_file(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_fashion_file(folder, f"{part}-labels-idx1-ubyte"))
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InputError(
            f"{folder}: the {part} files hold {images.dtype} {images.shape} and labels"
            f" {labels.shape}; not Fashion-MNIST"
        )
    return images, labels.astype(np.int64)


def _fashion_file(folder: Path, name: str) -> Path:
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"{folder / name}.gz: Fashion-MNIST is not here; `apt-get install dataset-fashion-mnist`,"
        " or `--data DIR` with the four idx files"
    )


def load_folder(path: str | Path, size: int | tuple[int, int], colour: str = "rgb") -> ImageData:
    """Images from one folder per class; the folders' names, sorted, are the classes.

    Args:
        path: the folder of folders. Hidden ones are skipped, and so is what has no image suffix.
        size: (height, width) in pixels, or one number for both; images are resized bilinearly
            without cropping.
        colour: ``"rgb"`` -> (N, H, W, 3), ``"gray"`` -> (N, H, W).

    Raises:
        InputError: no such folder, fewer than two classes, a class without images, or an unreadable
            image.
    """
    from PIL import Image, UnidentifiedImageError  # late: only this loader needs Pillow

    folder = Path(path)
    height, width = (size, size) if isinstance(size, int) else size
    if colour not in ("rgb", "gray") or height < 1 or width < 1:
        raise InputError(
            f"colour must be 'rgb' or 'gray' and size positive; got {colour!r}, {size}"
        )
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(names) < 2:
        raise InputError(
            f"{folder}: needs one folder per class, at least two; found"
            f" {', '.join(names) or 'none'}"
        )
    files = [
        (label, file) for label, name in enumerate(names) for file in _image_files(folder / name)
    ]
    shape = (len(files), height, width) if colour == "gray" else (len(files), height, width, 3)
    require_memory(math.prod(shape), f"{folder}: {len(files):,} images of {height} x {width}")
    images = np.empty(shape, np.uint8)
    for row, (_, file) in enumerate(files):
        try:
            with Image.open(file) as picture:
                images[row] = picture.convert("RGB" if colour == "rgb" else "L").resize(
                    (width, height), Image.Resampling.BILINEAR
                )
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise InputError(f"{file}: cannot be read as an image: {error}") from error
    return ImageData(images, np.array([label for label, _ in files], np.int64), tuple(names))


def _image_files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.glob("[!.]*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{folder}: no images; suffixes read here: {', '.join(IMAGE_SUFFIXES)}")
    return files


def load_npz(path: str | Path, groups: str | None = None) -> ImageData:
    """Images from one ``.npz`` with ``x`` uint8, ``y`` whole numbers, and optionally ``classes``
    (text) and ``groups`` (text or whole numbers).

    ``groups`` names the array of the groups: None is ``"groups"`` where it is there, ``""`` none.
    Without ``classes`` the names are the labels' numbers, ``"0"`` to the largest. Pickled arrays
    are refused.

    Raises:
        InputError: missing or damaged file, missing array, or arrays that do not fit together; the
            message names the file.
    """
    x, y, classes, of_row = read_npz(path, "uint8 images", groups)
    try:
        return ImageData(x, y, classes, of_row)
    except InputError as error:
        hint = (
            "; float32 signals and vectors are read with load_sensors"
            if x.dtype.kind == "f"
            else ""
        )
        raise InputError(f"{path}: {error}{hint}") from error


def read_npz(
    path: str | Path, what: str, groups: str | None = None
) -> tuple[NDArray[Any], Labels, tuple[str, ...], NDArray[Any] | None]:
    """The arrays ``x`` as it is, ``y`` as int64, the class names and the groups of one ``.npz``.

    Args:
        what: says in messages what ``x`` should be.
        groups: the array of the groups; None is ``"groups"`` where it is there, ``""`` none.

    Raises:
        InputError: missing or damaged file, missing array, labels that are neither names nor whole
            numbers, or more than memory can hold.
    """
    path = Path(path)
    arrays: dict[str, NDArray[Any]] = {}
    of_row = "groups" if groups is None else groups
    try:
        with np.load(path, allow_pickle=False) as archive:
            if groups and groups not in archive.files:
                raise InputError(
                    f"{path}: has no array {groups!r} for groups; it has {', '.join(archive.files)}"
                )
            for name in {"x", "y", "classes", of_row}:
                if name in archive.files:
                    require_memory(archive.zip.getinfo(f"{name}.npy").file_size, f"{path}: {name}")
                    arrays[name] = archive[name]
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(f"{path}: cannot be read as .npz: {error}") from error
    for name in ("x", "y"):
        if name not in arrays:
            raise InputError(f"{path}: has no array {name!r}; needed are x ({what}) and y (labels)")
    labels = arrays["y"]
    if are_names(labels):
        given = arrays.get("classes")
        known = class_names(labels) if given is None else tuple(str(name) for name in given)
        return arrays["x"], class_numbers(labels, known), known, arrays.get(of_row)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise InputError(
            f"{path}: y must be one class name or whole number per sample; got {labels.dtype}"
            f" {labels.shape}"
        )
    names = arrays["classes"].tolist() if "classes" in arrays else range(int(labels.max()) + 1)
    return (
        arrays["x"],
        labels.astype(np.int64),
        tuple(str(name) for name in names),
        arrays.get(of_row),
    )


__all__ = [
    "FASHION_MNIST_CLASSES",
    "FASHION_MNIST_DIRECTORY",
    "ImageData",
    "fashion_mnist",
    "load_fashion_mnist",
    "load_folder",
    "load_npz",
    "read_idx",
    "read_npz",
]
