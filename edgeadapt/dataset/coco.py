"""COCO annotations, ``annotations.json``: a category of each image, its box the whole of it.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeadapt.dataset.checks import inside, json_of, records
from edgeadapt.dataset.csv_table import PICTURES, moment
from edgeadapt.dataset.sample import Entry, Sample
from edgeadapt.errors import InputError

NAME = "annotations.json"


def write(folder: Path, samples: Sequence[Sample], pictures: Mapping[str, bytes]) -> None:
    """Images of every kept picture, and an annotation where the label counts."""
    (folder / PICTURES).mkdir()
    shown = [s for s in samples if s.id in pictures]
    numbers = {label: n for n, label in enumerate(sorted({s.label for s in shown if s.counts}), 1)}
    images, annotations = [], []
    for number, s in enumerate(shown, 1):
        s.file = f"{PICTURES}/{s.name}.png"
        (folder / s.file).write_bytes(pictures[s.id])
        width, height = _size(pictures[s.id])
        about = {
            "edgeadapt_id": s.id,
            "predicted": s.predicted,
            "predicted_when": s.predicted_when,
            "confidence": s.confidence,
        }
        images.append(
            {
                "id": number,
                "file_name": s.file,
                "width": width,
                "height": height,
                "date_captured": moment(s.time),
                **about,
            }
        )
        if s.counts:
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": numbers[s.label],
                    "bbox": [0, 0, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [],
                    "source": s.source,
                }
            )
    found = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": label} for label, n in numbers.items()],
    }
    (folder / NAME).write_text(json.dumps(found, indent=1), encoding="utf-8")


def read(path: Path) -> list[Entry]:
    """One entry an image. Its annotations must agree in the category; boxes and masks are not read.

    Raises:
        InputError: not COCO annotations, or an image that lies elsewhere.
    """
    path = path / NAME if path.is_dir() else path
    found = json_of(path)
    if not isinstance(found, dict) or "images" not in found:
        raise InputError(f"{path}: no COCO annotations: it has no 'images'")
    categories = _list(found, "categories", path)
    names = {c["id"]: c.get("name") for c in categories if isinstance(c.get("id"), (int, str))}
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for number, annotation in enumerate(_list(found, "annotations", path), 1):
        image = annotation.get("image_id")
        if not isinstance(image, (int, str)):
            raise InputError(f"{path}, annotation {number}: image_id is no id")
        by_image.setdefault(image, []).append(annotation)
    images = _list(found, "images", path)
    entries = [_entry(path, n, image, by_image, names) for n, image in enumerate(images, 1)]
    known = {image.get("id") for image in images if isinstance(image.get("id"), (int, str))}
    entries += [
        Entry(f"{path}, annotation of image {image!r:.40}", problem="there is no such image")
        for image in by_image
        if image not in known
    ]
    return entries


def _list(found: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    return records(found.get(key, []), f"{path}, {key!r}")


def _entry(
    path: Path,
    number: int,
    image: dict[str, Any],
    by_image: Mapping[Any, list[dict[str, Any]]],
    names: Mapping[Any, Any],
) -> Entry:
    where = f"{path}, image {number}"
    name, image_id = image.get("file_name"), image.get("id")
    if not isinstance(name, str) or not isinstance(image_id, (int, str)):
        return Entry(where, problem="has no file_name or no id")
    file = inside(path.parent, name, where)
    kept = image.get("edgeadapt_id")
    key = kept if isinstance(kept, str) else file.stem
    said = by_image.get(image_id, [])
    categories = [a.get("category_id") for a in said]
    labels = {names.get(c) if isinstance(c, (int, str)) else None for c in categories}
    if not said:
        return Entry(where, key, None, picture=file)
    if len(labels) > 1:
        listed = ", ".join(sorted(map(str, labels)))[:200]
        return Entry(where, key, problem=f"has several categories, one is needed: {listed}")
    label = labels.pop()
    if not isinstance(label, str) or not label:
        return Entry(where, key, problem=f"category_id {categories[0]!r:.40} is no category")
    source = said[0].get("source")
    return Entry(where, key, label, source if isinstance(source, str) else None, picture=file)


def _size(png: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        width, height = picture.size
    return int(width), int(height)


__all__ = ["NAME", "read", "write"]
