"""Label Studio's JSON: tasks with their pictures in them, predictions and annotations.

Formats: https://labelstud.io/guide/tasks and https://labelstud.io/guide/export (JSON)
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import quoteattr

from edgeadapt._sample_files import is_image
from edgeadapt.dataset.checks import inside, json_of, records
from edgeadapt.dataset.csv_table import moment
from edgeadapt.dataset.sample import Entry, Sample
from edgeadapt.errors import InputError

NAME, CONFIG = "tasks.json", "label_config.xml"
_MOST_BYTES = 64 << 20  # of one picture that a task has in it
_DATA = "data:image/"


def label_config(classes: Sequence[str]) -> str:
    """The labelling interface that the tasks are for: one choice of the classes for an image."""
    choices = "".join(f"\n    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="label" toName="image" choice="single">{choices}\n  </Choices>\n</View>\n'
    )


def choice(label: str, from_name: str = "label", to_name: str = "image") -> dict[str, Any]:
    """One region of a result."""
    named = {"from_name": from_name, "to_name": to_name, "type": "choices"}
    return {**named, "value": {"choices": [label]}}


def write(
    folder: Path, samples: Sequence[Sample], pictures: Mapping[str, bytes], version: str
) -> None:
    """A task of every kept picture; its annotation is the label, if it counts."""
    tasks = []
    shown = [s for s in samples if s.id in pictures]
    for s in shown:
        s.file = NAME
        uri = "data:image/png;base64," + base64.b64encode(pictures[s.id]).decode()
        data = {"image": uri, "edgeadapt_id": s.id, "source": s.source, "met": moment(s.time)}
        task: dict[str, Any] = {"data": data, "annotations": [], "predictions": []}
        if s.counts:
            task["annotations"].append({"result": [choice(s.label)]})
        if s.predicted:
            answer = {"model_version": version, "result": [choice(s.predicted)]}
            sure = {} if s.confidence is None else {"score": s.confidence}
            task["predictions"].append(answer | sure)
            data["predicted_when"] = s.predicted_when
        tasks.append(task)
    (folder / NAME).write_text(json.dumps(tasks), encoding="utf-8")
    classes = sorted({s.label for s in samples if s.counts})
    (folder / CONFIG).write_text(label_config(classes), encoding="utf-8")


def read(path: Path, pictures: Path | None = None) -> list[Entry]:
    """One entry a task of a JSON export: its newest annotation.

    Args:
        path: the export, or a folder that ``write`` made.
        pictures: below it lie the files that tasks name; by default the folder of the export.

    Raises:
        InputError: not a JSON export, or a picture that lies elsewhere.
    """
    path = path / NAME if path.is_dir() else path
    tasks = records(json_of(path), str(path))
    root = pictures or path.parent
    return [entry_of(task, f"{path}, task {n}", root) for n, task in enumerate(tasks, 1)]


def entry_of(task: dict[str, Any], where: str, root: Path) -> Entry:
    """What one task says; its files lie below ``root``."""
    data = task.get("data")
    if not isinstance(data, dict):
        return Entry(where, problem="has no data: export as JSON, not as JSON-MIN")
    kept = data.get("edgeadapt_id")
    key = kept if isinstance(kept, str) else ""
    try:
        picture = picture_of(data, where, root)
        annotation = _newest(task.get("annotations") or [], where)
        label = None if annotation is None else label_of(annotation)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        return Entry(where, key, problem=str(error))
    return Entry(where, key, label, annotation and who(annotation), picture=picture)


def _newest(found: Any, where: str) -> dict[str, Any] | None:
    said = [a for a in records(found, f"{where}, annotations") if not a.get("was_cancelled")]
    return max(said, key=_moment_of, default=None)


def _moment_of(annotation: Mapping[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def label_of(annotation: Mapping[str, Any]) -> str | None:
    """The one choice of an annotation, None if it has none.

    Raises:
        ValueError: several.
    """
    chosen: list[str] = []
    result = annotation.get("result")
    for region in result if isinstance(result, list) else []:
        value = region.get("value") if isinstance(region, dict) else None
        if isinstance(value, dict) and region.get("type") == "choices":
            chosen += [c for c in value.get("choices") or [] if isinstance(c, str)]
    if len(chosen) > 1:
        raise ValueError(f"has several choices, one is needed: {', '.join(chosen)[:200]}")
    return chosen[0] if chosen else None


def who(annotation: Mapping[str, Any]) -> str:
    """Who annotated, as a source that can be forgotten."""
    by = annotation.get("completed_by")
    by = (by.get("email") or by.get("id")) if isinstance(by, dict) else by
    return f"label-studio {by}" if by else "label-studio"


def picture_of(data: Mapping[str, Any], where: str, root: Path) -> Path | bytes | None:
    """The picture of a task: its bytes, or the file below ``root``.

    Raises:
        ValueError: it has none that can be had here.
        InputError: it is a file elsewhere.
    """
    values = [data.get("image"), *data.values()]
    named = next((v for v in values if isinstance(v, str) and _is_picture(v)), None)
    if named is None:
        raise ValueError("has no picture in its data")
    if named.startswith(_DATA):
        return decoded(named)
    parts = urlsplit(named)
    if parts.scheme in ("http", "https", "s3", "gs", "azure-blob"):
        raise ValueError(f"its picture is at {named[:100]}: download it, and name a folder")
    local = parse_qs(parts.query).get("d") if parts.path.startswith("/data/local-files") else None
    name = local[0] if local else unquote(parts.path)
    return inside(root, name.removeprefix("/data/"), where)


def _is_picture(value: str) -> bool:
    name = value.rpartition("d=")[2].replace("\\", "/").rpartition("/")[2]
    return value.startswith(_DATA) or is_image(name)


def decoded(uri: str) -> bytes:
    """The bytes of a ``data:image/...;base64,`` URI.

    Raises:
        ValueError: it is none, or too large.
    """
    head, _, body = uri.partition(",")
    if not head.endswith(";base64") or len(body) * 3 // 4 > _MOST_BYTES:
        raise ValueError(f"its picture is not base64 of at most {_MOST_BYTES} bytes")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its picture is not base64: {error}") from error


__all__ = ["CONFIG", "NAME", "choice", "entry_of", "label_config", "picture_of", "read", "write"]
