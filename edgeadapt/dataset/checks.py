"""Names and JSON in files that came from anywhere."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from edgeadapt._sample_files import check_regular
from edgeadapt.errors import InputError

_MOST_BYTES = 1 << 30
_DRIVE = re.compile("[A-Za-z]:")


def inside(root: Path, name: str, where: str) -> Path:
    """The file that a row names, below ``root``.

    Raises:
        InputError: the name is absolute, goes up, or follows a link that leads out.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    is_plain = name and "\0" not in name and not parts.is_absolute() and ".." not in parts.parts
    if not is_plain or _DRIVE.match(name):
        raise InputError(f"{where}: {name[:200]!r} is not the name of a file below {root}; refused")
    found = root / parts
    if not found.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{where}: {name[:200]!r} is a link that leads out of {root}; refused")
    return found


def bytes_of(path: Path) -> bytes:
    """What a file of text holds.

    Raises:
        InputError: not there, no regular file, or too large.
    """
    check_regular(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1) if path.stat().st_size <= _MOST_BYTES else None
    if data is None or len(data) > _MOST_BYTES:
        raise InputError(
            f"{path}: {path.stat().st_size} bytes, a file of labels has at most {_MOST_BYTES}: "
            "split it into files of fewer rows, and import one after the other"
        )
    return data


def json_of(path: Path) -> Any:
    """Plain values of a JSON file.

    Raises:
        InputError: as ``bytes_of``, or not JSON.
    """
    data = bytes_of(path)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error


def records(found: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects.

    Raises:
        InputError: something else.
    """
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise InputError(f"{where}: expected a list of objects")
    return found


__all__ = ["inside", "json_of", "records"]
