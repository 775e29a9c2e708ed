"""The samples that a recipe names: read, split by rows or by whole groups, and ordered by class."""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np

from edgeadapt.errors import EdgeadaptError, InputError
from edgeadapt.host.data.images import fashion_mnist, load_folder, load_npz
from edgeadapt.host.data.labelled import Labelled
from edgeadapt.host.data.map_style import load_dataset_factory
from edgeadapt.host.data.sensors import load_sensors
from edgeadapt.host.data.torchvision_sets import load_torchvision
from edgeadapt.host.recipe_sections import DataSection, Recipe

FOLDER_SIZE = (96, 96)
# the least number of groups of every class that calibrate: one judges what the other taught
CALIBRATION_GROUPS = 2


def load_data(recipe: Recipe) -> tuple[Labelled, Labelled]:
    """``(training, validation)`` with the known classes first and the new ones after them.

    Either is ``ImageData`` or ``SensorData``; where there are groups, they are whole. Take
    ``data.only(classes)`` of it for the known or the new ones alone.

    Raises:
        InputError: the data cannot be read or split, or has no class of that name.
    """
    data = recipe.data
    training: Labelled
    validation: Labelled
    if data.kind == "fashion-mnist":
        training, validation = fashion_mnist(data.path or None)
    else:
        training = _read(data, data.path, data.options, data.groups)
        if data.validation_path or data.validation_options:
            options = data.validation_options or data.options
            validation = _read(data, data.validation_path or data.path, options, "")
        else:
            if training.groups is not None:
                # first of all, as a class that is left out needs no groups
                training = _chosen(data, training, training.classes)
            training, validation = split_named(
                data, training, data.validation, recipe.seed, kept=1 + CALIBRATION_GROUPS
            )
    names = training.classes
    return _chosen(data, training, names), _chosen(data, validation, names)


def split_named(
    data: DataSection,
    samples: Labelled,
    fraction: float,
    seed: int,
    *,
    held: int = 1,
    kept: int = 1,
) -> tuple[Labelled, Labelled]:
    """``samples.split(...)``, whose refusal names the data and says how to do without groups."""
    try:
        return samples.split(fraction, seed, held=held, kept=kept)
    except InputError as error:
        if samples.groups is None:
            raise
        hint = 'data.groups = "" takes samples as independent'
        raise InputError(f"{data.path or data.kind}: {error}; {hint}") from error


def _chosen(data: DataSection, samples: Labelled, names: tuple[str, ...]) -> Labelled:
    """Those of the known classes, by default all ``names`` but the new, then of the new ones."""
    known = data.classes or tuple(name for name in names if name not in data.new_classes)
    try:
        return samples.only(known + data.new_classes)
    except EdgeadaptError as error:
        raise InputError(f"{data.path or data.kind}: {error}") from error


def _read(data: DataSection, path: str, options: dict[str, Any], groups: str | None) -> Labelled:
    source, _, name = data.kind.partition(":")
    if data.kind == "npz":
        return load_sensors(path, groups) if _has_floats(path) else load_npz(path, groups)
    if data.kind == "folder":
        return load_folder(path, data.size or FOLDER_SIZE, data.colour or "rgb")
    if source == "torchvision":
        return load_torchvision(name, path, size=data.size, colour=data.colour, **options)
    return load_dataset_factory(data.kind, groups, size=data.size, colour=data.colour, **options)


def _has_floats(path: str) -> bool:
    """Whether ``x`` of an ``.npz`` is of floats; the loader names what cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("x.npy") as file:
            form = np.lib.format
            is_first = form.read_magic(file) == (1, 0)
            read = form.read_array_header_1_0 if is_first else form.read_array_header_2_0
            return bool(read(file)[2].kind == "f")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False


__all__ = ["CALIBRATION_GROUPS", "FOLDER_SIZE", "load_data", "split_named"]
