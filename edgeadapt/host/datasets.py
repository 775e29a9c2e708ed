"""Labelled images for training and calibration: Fashion-MNIST, a folder per class, or one ``.npz``.

Images are ``uint8`` with values in [0, 255]: ``(N, H, W)`` when gray, ``(N, H, W, 3)`` RGB when in colour.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError, UnknownClassError

FASHION_MNIST_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images.

    Args:
        x: (N, H, W) or (N, H, W, C) uint8.
        y: (N,) int64, an index into ``classes``.
        classes: distinct names.

    Raises:
        InputError: shapes, dtypes or labels do not fit together; the message has the offending value.
    """

    x: Images
    y: Labels
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.x.dtype != np.uint8 or self.x.ndim not in (3, 4) or 0 in self.x.shape[1:]:
            raise InputError(f"images must be uint8 (N, H, W) or (N, H, W, C); got {self.x.dtype} {self.x.shape}")
        if self.y.dtype != np.int64 or self.y.shape != (len(self.x),):
            raise InputError(f"labels must be int64 ({len(self.x)},), one per image; got {self.y.dtype} {self.y.shape}")
        if len(set(self.classes)) != len(self.classes):
            raise InputError(f"a class is named twice: {', '.join(self.classes)}")
        if len(self.y) and not (int(self.y.min()) >= 0 and int(self.y.max()) < len(self.classes)):
            raise InputError(f"labels run from {self.y.min()} to {self.y.max()}, but there are {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def channels(self) -> int:
        """1 for gray images, else the last axis."""
        return 1 if self.x.ndim == 3 else int(self.x.shape[3])

    @property
    def counts(self) -> tuple[int, ...]:
        """Images per class, in the order of ``classes``."""
        return tuple(np.bincount(self.y, minlength=len(self.classes)).tolist())

    def require_every_class(self) -> None:
        """Data one can train on.

        Raises:
            InputError: no image, fewer than two classes, or a class without an image.
        """
        if len(self.classes) < 2 or not len(self.x):
            raise InputError(f"needs images of at least two classes; got {len(self.x)} of {', '.join(self.classes) or 'no class'}")
        empty = [name for name, count in zip(self.classes, self.counts, strict=True) if not count]
        if empty:
            raise InputError(f"class {empty[0]!r} has no image; leave it out with only(...)")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of names, shape, images and labels."""
        digest = hashlib.sha256(repr((self.classes, self.x.shape)).encode())
        digest.update(np.ascontiguousarray(self.x).data)
        digest.update(np.ascontiguousarray(self.y).data)
        return digest.hexdigest()

    def take(self, rows: NDArray[Any]) -> ImageData:
        """The chosen rows (indices or a mask), with all class names kept."""
        return ImageData(self.x[rows], self.y[rows], self.classes)

    def only(self, classes: Sequence[str]) -> ImageData:
        """The images of some classes, relabelled in the order given; the order of images is kept.

        Raises:
            UnknownClassError: a name that this data does not have.
            InputError: no name at all, or a name given twice.
        """
        for name in classes:
            if name not in self.classes:
                raise UnknownClassError(f"no class called {name!r}; the data has {', '.join(self.classes)}")
        if not classes:
            raise InputError(f"choose at least one class of {', '.join(self.classes)}")
        to_new = np.full(len(self.classes), -1, np.int64)
        for new, name in enumerate(classes):
            to_new[self.classes.index(name)] = new
        labels = to_new[self.y]
        chosen = labels >= 0
        return ImageData(self.x[chosen], labels[chosen], tuple(classes))

    def split(self, fraction: float, seed: int = 0) -> tuple[ImageData, ImageData]:
        """``(rest, held out)``: a random ``fraction`` of every class, at least one image of each, is held out.

        Raises:
            InputError: the fraction is not between 0 and 1, or a class has a single image.
        """
        if not 0.0 < fraction < 1.0:
            raise InputError(f"the held-out fraction must be between 0 and 1, both excluded; got {fraction}")
        draw = np.random.default_rng(seed)
        held_out = np.zeros(len(self.y), bool)
        for index, name in enumerate(self.classes):
            rows = np.flatnonzero(self.y == index)
            if len(rows) == 1:
                raise InputError(f"class {name!r} has one image; holding some out needs at least two")
            if len(rows):
                wanted = min(max(1, round(fraction * len(rows))), len(rows) - 1)
                held_out[draw.permutation(rows)[:wanted]] = True
        return self.take(~held_out), self.take(held_out)


def read_idx(path: str | Path) -> NDArray[Any]:
    """One array in the IDX format of MNIST, gzipped or plain, in native byte order.

    Raises:
        InputError: the file is missing, not IDX, or shorter or longer than its header says; the message names it.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if len(data) < 4 or data[:2] != b"\x00\x00" or data[2] not in _IDX_DTYPES:
        raise InputError(f"{path}: not an IDX file; it begins with {data[:4].hex(' ') or 'nothing'}")
    rank, dtype = data[3], np.dtype(_IDX_DTYPES[data[2]])
    start = 4 + 4 * rank
    if len(data) < start:
        raise InputError(f"{path}: the IDX header promises {rank} dimensions, but the file has {len(data)} bytes")
    shape = tuple(np.frombuffer(data, ">u4", rank, 4).tolist())
    wanted = start + dtype.itemsize * math.prod(shape)
    if len(data) != wanted:
        raise InputError(f"{path}: the IDX header promises shape {shape}, {wanted} bytes; the file has {len(data)}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def load_fashion_mnist(directory: str | Path | None = None) -> tuple[Images, Labels, Images, Labels]:
    """``(train_x, train_y, test_x, test_y)``: uint8 (60000, 28, 28), int64 (60000,), and 10,000 of each for the test.

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
    """``(training, test)`` of Fashion-MNIST with its ten class names; see ``load_fashion_mnist``."""
    train_x, train_y, test_x, test_y = load_fashion_mnist(directory)
    return ImageData(train_x, train_y, FASHION_MNIST_CLASSES), ImageData(test_x, test_y, FASHION_MNIST_CLASSES)


def _fashion_part(folder: Path, part: str) -> tuple[Images, Labels]:
    images = read_idx(_fashion_file(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_fashion_file(folder, f"{part}-labels-idx1-ubyte"))
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InputError(f"{folder}: the {part} files hold {images.dtype} {images.shape} and labels {labels.shape}; not Fashion-MNIST")
    return images, labels.astype(np.int64)


def _fashion_file(folder: Path, name: str) -> Path:
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"{folder / name}.gz: Fashion-MNIST is not here; `apt-get install dataset-fashion-mnist`, or `--data DIR` with the four idx files"
    )


def load_folder(path: str | Path, size: int | tuple[int, int], colour: str = "rgb") -> ImageData:
    """Images from one folder per class; the folders' names, sorted, are the classes.

    Args:
        path: the folder of folders. Hidden ones are skipped, and so is what has no image suffix.
        size: (height, width) in pixels, or one number for both; images are resized bilinearly without cropping.
        colour: ``"rgb"`` -> (N, H, W, 3), ``"gray"`` -> (N, H, W).

    Raises:
        InputError: no such folder, fewer than two classes, a class without images, or an unreadable image.
    """
    from PIL import Image, UnidentifiedImageError  # late: only this loader needs Pillow

    folder = Path(path)
    height, width = (size, size) if isinstance(size, int) else size
    if colour not in ("rgb", "gray") or height < 1 or width < 1:
        raise InputError(f"colour must be 'rgb' or 'gray' and size positive; got {colour!r}, {size}")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{folder}: needs one folder per class, at least two; found {', '.join(names) or 'none'}")
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = sorted(file for file in (folder / name).glob("[!.]*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise InputError(f"{folder / name}: no images; suffixes read here: {', '.join(IMAGE_SUFFIXES)}")
        for file in files:
            try:
                with Image.open(file) as picture:
                    converted = picture.convert("RGB" if colour == "rgb" else "L").resize((width, height), Image.Resampling.BILINEAR)
            except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
                raise InputError(f"{file}: cannot be read as an image: {error}") from error
            images.append(np.asarray(converted, np.uint8))
            labels.append(label)
    return ImageData(np.stack(images), np.array(labels, np.int64), tuple(names))


def load_npz(path: str | Path) -> ImageData:
    """Images from one ``.npz`` with ``x`` uint8, ``y`` whole numbers, and optionally ``classes`` (text).

    Without ``classes`` the names are the labels' numbers, ``"0"`` to the largest. Pickled arrays are refused.

    Raises:
        InputError: missing or damaged file, missing array, or arrays that do not fit together; the message names the file.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name in ("x", "y", "classes")}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as .npz: {error}") from error
    for name in ("x", "y"):
        if name not in arrays:
            raise InputError(f"{path}: has no array {name!r}; needed are x (uint8 images) and y (labels)")
    labels = arrays["y"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise InputError(f"{path}: y must be one whole number per image; got {labels.dtype} {labels.shape}")
    names = arrays["classes"].tolist() if "classes" in arrays else range(int(labels.max()) + 1)
    try:
        return ImageData(arrays["x"], labels.astype(np.int64), tuple(str(name) for name in names))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


__all__ = [
    "FASHION_MNIST_CLASSES", "FASHION_MNIST_DIRECTORY", "ImageData", "fashion_mnist", "load_fashion_mnist", "load_folder", "load_npz",
    "read_idx",
]  # fmt: skip
