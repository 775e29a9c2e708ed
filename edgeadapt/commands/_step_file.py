"""A step in a Python file: ``STEP.py:NAME``, and what lies beside it under the names
``make_ports``, ``tensors`` and ``frozen``.

NAME is the step itself, ``(ports, tensors) -> (outputs, new tensors)``; or ``(fn, tensors,
frozen)``, as ``edgeadapt.host.gradient_step`` gives it; or a function without arguments that
returns such a triple.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeadapt.errors import EdgeadaptError, InputError

_EXAMPLES = ("make_ports", "example")


@dataclass(frozen=True)
class StepFile:
    """What ``compile_step`` takes."""

    name: str
    fn: Callable[..., Any]
    make_ports: Callable[..., Any]
    tensors: Mapping[str, Any]
    frozen: tuple[str, ...] | None  # None where neither the file nor the caller says


def read_step(
    step: str, *, example: str | None = None, tensors: str | None = None, frozen: str | None = None
) -> StepFile:
    """Run the file and collect the parts; an argument wins over what the file has.

    Args:
        step: ``FILE.py:NAME``.
        example: ``[FILE.py:]NAME`` of a function ``(generator, batch) -> ports``.
        tensors: ``[FILE.py:]NAME`` of a dict or of a function that gives one, or a ``.safetensors``
            file.
        frozen: names and patterns with commas between them.

    Raises:
        InputError: names the file, and what is missing or of another kind.
    """
    place = _Place.of(step)
    fn, held, fixed = _parts(place)
    if tensors is not None or held is None:
        held = _tensors(tensors, place)
    if frozen is not None:
        fixed = [pattern for pattern in frozen.split(",") if pattern]
    ports = _Place.of(example, place) if example else place.beside(*_EXAMPLES)
    if ports is None:
        raise InputError(
            f"{place.file}: has no example ports; write make_ports(generator, batch) there, or name"
            " a function with --example"
        )
    return StepFile(
        place.name, fn, _example(ports), held, None if fixed is None else _matching(held, fixed)
    )


@dataclass(frozen=True)
class _Place:
    """``FILE.py:NAME``, and the module that the file became."""

    file: Path
    name: str
    module: ModuleType

    @classmethod
    def of(cls, text: str, base: _Place | None = None) -> _Place:
        """From the command line; a bare ``NAME`` lies in the file ``base``."""
        file, _, name = text.rpartition(":")
        if base is not None and file in ("", str(base.file)):
            found = cls(base.file, name, base.module)
        elif file.endswith(".py") and name.isidentifier():
            found = cls(Path(file), name, _run(Path(file)))
        else:
            raise InputError(f"{text!r} is not FILE.py:NAME")
        if not hasattr(found.module, name):
            own = [
                key
                for key, value in vars(found.module).items()
                if not key.startswith("_") and not isinstance(value, ModuleType)
            ]
            raise InputError(
                f"{found.file}: has nothing called {name!r}; it has:"
                f" {', '.join(sorted(own)[:12]) or 'nothing'}"
            )
        return found

    def beside(self, *names: str) -> _Place | None:
        """The first of these names that the file has."""
        return next(
            (_Place(self.file, name, self.module) for name in names if hasattr(self.module, name)),
            None,
        )

    @property
    def value(self) -> Any:
        return getattr(self.module, self.name)

    def call(self, *arguments: Any) -> Any:
        """Call the value; what goes wrong inside is said with the place in front."""
        try:
            return self.value(*arguments)
        except EdgeadaptError as error:
            raise InputError(f"{self}: {error}") from error
        except Exception as error:
            raise InputError(f"{self}: failed: {type(error).__name__}: {error}") from error

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"


def _run(path: Path) -> ModuleType:
    """Run a file as a module; it can import what lies beside it, now and when its functions are
    called.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name, folder = f"edgeadapt_step_{path.stem}", str(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a .py file always has them
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses in the file look themselves up there
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except EdgeadaptError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        raise InputError(f"{path}: cannot be run: {type(error).__name__}: {error}") from error
    return module


def _parts(
    place: _Place,
) -> tuple[Callable[..., Any], Mapping[str, Any] | None, Iterable[str] | None]:
    """``(fn, tensors, frozen)``; tensors are None where the name is a step itself, frozen where
    nothing says it.
    """
    value = place.value
    if callable(value):
        count = sum(
            p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            for p in inspect.signature(value).parameters.values()
        )
        if count == 2:
            fixed = place.beside("frozen")
            return value, None, fixed.value if fixed else None
        if count:
            raise InputError(
                f"{place}: takes {count} arguments; a step takes two, (ports, tensors), and a"
                " function that makes one takes none"
            )
        value = place.call()
    if (
        not isinstance(value, tuple)
        or len(value) != 3
        or not callable(value[0])
        or not isinstance(value[1], Mapping)
    ):
        raise InputError(
            f"{place}: gives a {type(value).__name__}; a step is a function (ports, tensors), or a"
            " triple (fn, tensors, frozen)"
        )
    return value


def _tensors(option: str | None, base: _Place) -> Mapping[str, Any]:
    if option and option.endswith(".safetensors"):
        return _read_safetensors(option)
    place = _Place.of(option, base) if option else base.beside("tensors")
    if place is None:
        return {}
    value = place.call() if callable(place.value) else place.value
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: gives a {type(value).__name__}, not a dict of tensors by name")
    return value


def _read_safetensors(file: str) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: not a safetensors file: {error}") from error


def _example(place: _Place) -> Callable[..., Any]:
    if not callable(place.value):
        raise InputError(
            f"{place}: is a {type(place.value).__name__}, not a function (generator, batch) ->"
            " ports"
        )

    def make_ports(generator: Any, batch: int) -> Any:
        ports = place.call(generator, batch)
        if not isinstance(ports, dict):
            raise InputError(
                f"{place}: gives a {type(ports).__name__} at batch {batch}, not a dict of tensors"
                " by name"
            )
        return ports

    return make_ports


def _matching(tensors: Mapping[str, Any], patterns: Iterable[str]) -> tuple[str, ...]:
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in tensors if fnmatchcase(name, pattern)}
        if not found:
            raise InputError(
                f"no tensor is called {pattern!r}, so none can be frozen; there are:"
                f" {', '.join(sorted(tensors)) or 'none'}"
            )
        chosen |= found
    return tuple(name for name in tensors if name in chosen)
