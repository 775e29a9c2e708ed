"""Class subfolders of pictures, as most training scripts read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from edgeadapt._sample_files import is_image
from edgeadapt.dataset import side_file
from edgeadapt.dataset.checks import inside
from edgeadapt.dataset.sample import Entry, Sample
from edgeadapt.errors import InputError

_LONGEST = 200  # bytes of a folder's name; file systems take 255


def folders_of(labels: Sequence[str]) -> dict[str, str]:
    """Class -> a folder's name that any file system takes; no two share one, whatever the case."""
    found: dict[str, str] = {}
    taken = {side_file.ROWS, side_file.ARRAYS, "readme.txt"}
    for label in labels:
        name = quote(label, safe=" ()+,=@")[:_LONGEST].rstrip(". ") or "class"
        if name.startswith("."):
            name = f"%2E{name[1:]}"
        unique, count = name, 1
        while unique.lower() in taken:
            count += 1
            unique = f"{name}-{count}"
        taken.add(unique.lower())
        found[label] = unique
    return found


def write(folder: Path, samples: Sequence[Sample], pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Pictures of labels that count; returns folder -> class."""
    shown = [s for s in samples if s.counts and s.id in pictures]
    folders = folders_of(sorted({s.label for s in shown}))
    for s in shown:
        s.file = f"{folders[s.label]}/{s.name}.png"
        (folder / folders[s.label]).mkdir(exist_ok=True)
        (folder / s.file).write_bytes(pictures[s.id])
    return {name: label for label, name in folders.items()}


def read(root: Path, folders: Mapping[str, str]) -> list[Entry]:
    """Every picture of every class folder, in order of their names.

    Raises:
        InputError: not a folder, nothing in it, or a link that leads out of it.
    """
    if not root.is_dir():
        raise InputError(f"{root}: not a folder")
    entries: list[Entry] = []
    for place in sorted(root.iterdir()):
        if place.is_dir() and not place.name.startswith("."):
            entries += _class(root, place, folders.get(place.name, place.name))
        elif is_image(place.name):
            entries.append(Entry(str(place), problem="lies in no class folder"))
    return entries


def _class(root: Path, place: Path, label: str) -> list[Entry]:
    entries = []
    for file in sorted(place.iterdir()):
        found = inside(root, f"{place.name}/{file.name}", str(root))
        if found.is_dir():
            entries.append(Entry(str(file), problem="a folder in a class folder is not read"))
        elif is_image(file.name):
            entries.append(Entry(str(file), file.stem, label, picture=found))
    return entries


__all__ = ["folders_of", "read", "write"]
