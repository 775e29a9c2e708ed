"""A table of labels, ``labels.csv``, with the pictures in ``pictures/``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from edgeadapt.dataset.checks import bytes_of, inside
from edgeadapt.dataset.sample import COUNTING, Entry, Sample
from edgeadapt.errors import InputError

NAME, PICTURES = "labels.csv", "pictures"
_COLUMNS = (
    "file",
    "label",
    "source",
    "time",
    "stream",
    "status",
    "trusted",
    "predicted",
    "predicted_when",
    "confidence",
    "id",
)
_FILE = ("file", "filename", "file_name", "image", "path", "picture", "sample")
_LABEL = ("label", "class", "category", "target", "answer")


def write(folder: Path, samples: Sequence[Sample], pictures: Mapping[str, bytes]) -> None:
    """A row of every sample; ``file`` is empty where no picture is kept. Times are UTC."""
    (folder / PICTURES).mkdir()
    with open(folder / NAME, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for s in samples:
            if s.id in pictures:
                s.file = f"{PICTURES}/{s.name}.png"
                (folder / s.file).write_bytes(pictures[s.id])
            sure = "" if s.confidence is None else f"{s.confidence:.6f}"
            table.writerow(
                [
                    s.file,
                    s.label,
                    s.source,
                    moment(s.time),
                    s.stream,
                    s.status,
                    int(s.trusted),
                    s.predicted,
                    s.predicted_when,
                    sure,
                    s.id,
                ]
            )
            s.file = s.file or NAME  # the table has the row: one that is deleted there is left out


def read(path: Path) -> list[Entry]:
    """Rows of a table, with the files that they name beside it.

    The first row names the columns, in any order: ``file`` and ``label`` (or a usual synonym), and,
    where they are there, those of ``write``. Two columns without such a row are file and label.

    Raises:
        InputError: no such table, or a row that names a file elsewhere.
    """
    path = path / NAME if path.is_dir() else path
    data = bytes_of(path)
    try:
        lines = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    if not lines:
        raise InputError(f"{path}: the table is empty")
    first = [name.strip().lower() for name in lines[0]]
    has_header = any(name in first for name in _LABEL) and any(n in first for n in (*_FILE, "id"))
    if not has_header and len(first) != 2:
        raise InputError(f"{path}, line 1: expected names of columns, file and label among them")
    columns = first if has_header else ["file", "label"]
    rows = enumerate(lines[1:], 2) if has_header else enumerate(lines, 1)
    return [_entry(path, number, columns, fields) for number, fields in rows if any(fields)]


def _entry(path: Path, number: int, columns: Sequence[str], fields: Sequence[str]) -> Entry:
    where = f"{path}, line {number}"
    if len(fields) != len(columns):
        return Entry(where, problem=f"has {len(fields)} fields, and {len(columns)} columns")
    row = dict(zip(columns, fields, strict=True))
    name = next((row[key].strip() for key in _FILE if row.get(key, "").strip()), "")
    label = next((row[key] for key in _LABEL if row.get(key)), "")
    picture = inside(path.parent, name, where) if name else None
    key = row.get("id", "") or (picture.stem if picture else "")
    if not label:
        return Entry(where, key, problem="has no label")
    if not key:
        return Entry(where, key, problem="has neither a file nor an id")
    try:
        time = _seconds(row["time"]) if row.get("time") else None
    except (ValueError, OverflowError):
        said = row["time"][:40]
        return Entry(where, key, problem=f"{said!r} is no time: 2026-01-31T12:00:00+00:00")
    counts = row.get("status", "") in ("", *COUNTING)
    return Entry(where, key, label, row.get("source"), time, counts, picture)


def moment(seconds: float) -> str:
    """ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _seconds(text: str) -> float:
    """Since 1970; a time without a zone is UTC."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()


__all__ = ["NAME", "PICTURES", "moment", "read", "write"]
