"""Data sets of torchvision by name, from files that are already on this machine."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

from edgeadapt.errors import InputError
from edgeadapt.host.data.images import ImageData
from edgeadapt.host.data.map_style import collect

_PARTS = {True: ("train", "trainval", "training"), False: ("test", "val", "valid")}


def load_torchvision(
    name: str,
    root: str | Path,
    train: bool = True,
    *,
    size: int | tuple[int, int] | None = None,
    colour: str | None = None,
    **options: Any,
) -> ImageData:
    """One part of a data set of torchvision, from files that are already there: nothing is ever
    downloaded.

    Args:
        name: of the class in ``torchvision.datasets``: ``"CIFAR10"``, ``"GTSRB"``.
        root: the folder that torchvision calls so.
        train: the training part, or the test part.
        size, colour: as in ``collect``.
        options: further arguments of the class, such as ``split="balanced"`` of EMNIST.

    Raises:
        InputError: no such class, its files are not there (the message says where it looked), it
            has no such part or is not for classification, or a setting that it refuses.
    """
    import torchvision  # late: only this loader needs it

    known = sorted(
        key
        for key in torchvision.datasets.__all__
        if isinstance(getattr(torchvision.datasets, key), type)
    )
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        raise InputError(
            f"torchvision has no data set {name!r};"
            f" {f'did you mean {close[0]!r}? ' if close else ''}it has {', '.join(known)}"
        )
    if "download" in options:
        raise InputError(
            f"nothing is downloaded here: put the files of {name} into {root} and leave out"
            " download"
        )
    factory = getattr(torchvision.datasets, name)
    accepted = _parameters(factory)
    arguments = {
        key: value for key, value in (("root", str(root)), ("download", False)) if key in accepted
    } | options
    if "train" in accepted:
        arguments["train"] = train
    elif "split" not in accepted and not train:
        raise InputError(f"torchvision's {name} has no test part; hold some of it out")
    splits = (
        _PARTS[train]
        if "split" in accepted and "train" not in accepted and "split" not in options
        else (None,)
    )
    for split in splits:
        try:
            dataset = factory(**arguments, **({} if split is None else {"split": split}))
            break
        except ValueError as error:
            if split is None or split == splits[-1] or "split" not in str(error):
                raise InputError(f"torchvision's {name} refused its arguments: {error}") from error
        except TypeError as error:
            raise InputError(
                f"torchvision's {name} refused its arguments: {error}; options are"
                f" {', '.join(sorted(accepted))}"
            ) from error
        except (RuntimeError, OSError, ImportError) as error:
            reason = str(error).split("You can use download", 1)[0].strip()
            raise InputError(
                f"torchvision's {name} is not here; looked under {_place(factory, Path(root))}:"
                f" {reason} Nothing is downloaded: put its files there"
            ) from error
    data = collect(dataset, f"torchvision's {name}", size=size, colour=colour, groups="")
    if not isinstance(data, ImageData):
        raise InputError(f"torchvision's {name} gives no images")
    return data


def _parameters(factory: type) -> set[str]:
    """Arguments of a class and, where it passes on what it does not know, of its bases."""
    names: set[str] = set()
    for base in factory.__mro__:
        if "__init__" not in vars(base):
            continue
        own = inspect.signature(vars(base)["__init__"]).parameters
        names |= {
            key
            for key, parameter in own.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return names - {"self"}


def _place(factory: type, root: Path) -> Path:
    """Where the class looks inside of its root."""
    if hasattr(factory, "raw_folder"):  # the MNIST family
        return root.absolute() / factory.__name__ / "raw"
    return root.absolute() / str(getattr(factory, "base_folder", "") or "")


__all__ = ["load_torchvision"]
