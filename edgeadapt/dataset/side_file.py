"""What a form cannot hold: two files beside it, ``edgeadapt.jsonl`` and ``edgeadapt.npz``.

The first line of the ``.jsonl`` says where it is from; every other line is one sample, without its
arrays. The ``.npz`` has ``features`` (N, D + T) float16, and ``input_K``, the kept input of line K
where no picture holds it bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeadapt._sample_files import check_regular, read_arrays
from edgeadapt.dataset.checks import bytes_of
from edgeadapt.dataset.sample import COUNTING, PREDICTED_WHEN, TAKEN_BACK, Sample
from edgeadapt.errors import InputError

ROWS, ARRAYS, VERSION = "edgeadapt.jsonl", "edgeadapt.npz", 1
_MOST_BYTES = 1 << 31


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    """One line; ``features`` and ``input`` are where its arrays are."""

    id: str
    label: str
    source: str
    stream: str
    domain: str
    time: float
    status: str
    met: str
    trusted: bool
    name: str
    file: str
    predicted: str = ""
    confidence: float | None = None
    predicted_when: str = ""
    random: bool = False
    features: int | None = None
    input: bool = False


class Header(msgspec.Struct):
    """Where the rows are from. ``folders``: class folder -> class, where they differ."""

    edgeadapt_dataset: int
    space: str
    bundle: str = ""
    raw_per_class: int = 0
    folders: dict[str, str] = {}


@dataclass(frozen=True, eq=False)
class SideFile:
    header: Header
    samples: tuple[Sample, ...]


def write(folder: Path, header: Header, samples: Sequence[Sample], whole: set[str]) -> None:
    """Both files. ``whole``: ids of samples whose picture is their input, bit for bit."""
    kept: list[NDArray[np.float16]] = []
    arrays: dict[str, NDArray[Any]] = {}
    lines = [msgspec.json.encode(header)]
    for number, s in enumerate(samples):
        at = None
        if s.features.size:
            at = len(kept)
            kept.append(s.features)
        has_input = s.raw is not None and s.id not in whole
        if s.raw is not None and has_input:
            arrays[f"input_{number}"] = s.raw
        row = _Row(
            s.id,
            s.label,
            s.source,
            s.stream,
            s.domain,
            s.time,
            s.status,
            s.met,
            s.trusted,
            s.name,
            s.file,
            s.predicted,
            s.confidence,
            s.predicted_when,
            s.is_random,
            at,
            has_input,
        )
        lines.append(msgspec.json.encode(row))
    arrays["features"] = np.stack(kept) if kept else np.zeros((0, 0), np.float16)
    (folder / ROWS).write_bytes(b"\n".join(lines) + b"\n")
    np.savez(folder / ARRAYS, **arrays)  # type: ignore[arg-type]


def read(folder: Path) -> SideFile | None:
    """Both files, if they are there.

    Raises:
        InputError: damaged, of a newer version, or one of the two is missing.
    """
    path = folder / ROWS
    if not path.exists():
        return None
    lines = bytes_of(path).splitlines()
    header = _decoded(lines[0] if lines else b"", Header, f"{path}, line 1")
    if header.edgeadapt_dataset != VERSION:
        version = header.edgeadapt_dataset
        raise InputError(f"{path}: version {version} of the format, this one reads {VERSION}")
    rows = [_row(line, f"{path}, line {at}") for at, line in enumerate(lines[1:], 2)]
    arrays = _arrays(folder / ARRAYS, rows)
    samples = tuple(_sample(row, at, arrays, header, folder) for at, row in enumerate(rows))
    if len({s.id for s in samples}) < len(samples):
        raise InputError(f"{path}: an id is there twice")
    return SideFile(header, samples)


def _row(line: bytes, where: str) -> _Row:
    row = _decoded(line, _Row, where)
    if row.status not in (*COUNTING, *TAKEN_BACK):
        raise InputError(f"{where}: there is no status {row.status[:40]!r}")
    if row.met not in ("factory", "shifted", "adapted"):
        raise InputError(f"{where}: no sample is met as {row.met[:40]!r}")
    if row.predicted_when not in PREDICTED_WHEN:
        raise InputError(f"{where}: nothing is predicted when {row.predicted_when[:40]!r}")
    if not math.isfinite(row.time) or row.time < 0:
        raise InputError(f"{where}: the time {row.time} is no moment")
    return row


def _decoded(line: bytes, form: type[Any], where: str) -> Any:
    try:
        return msgspec.json.decode(line, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where}: {error}") from error


def _arrays(path: Path, rows: Sequence[_Row]) -> Mapping[str, NDArray[Any]]:
    wanted = ["features", *(f"input_{at}" for at, row in enumerate(rows) if row.input)]
    check_regular(path)
    if not path.exists():
        raise InputError(f"{path}: missing; it belongs to the {ROWS} beside it")
    arrays = read_arrays(path, dict.fromkeys(wanted, _MOST_BYTES))
    if lacking := [name for name in wanted if name not in arrays]:
        raise InputError(f"{path}: has no array {lacking[0]}")
    features = arrays["features"]
    if features.dtype != np.float16 or features.ndim != 2 or not np.isfinite(features).all():
        raise InputError(f"{path}: features are (N, D) finite float16 numbers")
    return arrays


def _sample(
    row: _Row, at: int, arrays: Mapping[str, NDArray[Any]], header: Header, folder: Path
) -> Sample:
    features = np.zeros(0, np.float16)
    if row.features is not None:
        if not 0 <= row.features < len(arrays["features"]):
            where = f"{folder / ROWS}, line {at + 2}"
            raise InputError(f"{where}: there are no features number {row.features}")
        features = arrays["features"][row.features]
    return Sample(
        row.id,
        row.label,
        row.source,
        row.stream,
        row.domain,
        row.time,
        row.status,
        row.met,
        row.trusted,
        header.space,
        features,
        arrays.get(f"input_{at}"),
        row.predicted,
        row.confidence,
        row.predicted_when,
        row.random,
        row.name,
        row.file,
        where=f"{folder / ROWS}, line {at + 2}",
    )


__all__ = ["ARRAYS", "ROWS", "VERSION", "Header", "SideFile", "read", "write"]
