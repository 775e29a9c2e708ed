"""Where fetched data lie, and how a file gets there: whole or not at all."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import InputError

Arrays = dict[str, NDArray[Any]]


def data_folder(to: str | os.PathLike[str] | None = None) -> Path:
    """``to``, else ``$EDGEADAPT_DATA``, else ``$XDG_CACHE_HOME/edgeadapt``, else
    ``~/.cache/edgeadapt``. It need not exist.
    """
    if to is not None:
        return Path(to)
    if chosen := os.environ.get("EDGEADAPT_DATA"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "edgeadapt"


def keep(folder: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write ``NAME.npz`` beside its place and move it there once it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{name}-", suffix=".npz", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, folder / f"{name}.npz")
    except BaseException:
        os.unlink(partial)
        raise
    return folder / f"{name}.npz"


def load(name: str, to: str | os.PathLike[str] | None = None) -> Arrays:
    """The arrays of a fetched data set.

    Raises:
        InputError: it is not there, or damaged; the message has the command that fetches it.
    """
    path = data_folder(to) / f"{name}.npz"
    if not path.is_file():
        raise InputError(f"{path}: {name} is not here; `edgeadapt data fetch {name}` gets it")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: damaged ({error}); delete it, and `edgeadapt data fetch {name}` gets it again"
        ) from error
