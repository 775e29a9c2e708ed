"""Which registered runtimes could serve graphs here, found out without starting any of them:
opening must not wait for a GPU.

What is cheap is asked at once: is there a driver, is there the package. What may take seconds, a
child process or a build, happens on the thread of the trials, when the reference serves already. Of
runtimes that are not NVIDIA's nothing is known but their ``probe``, which is asked while opening:
where it fails for all, ``auto`` is the plain reference. So it has to answer at once, and leave what
takes long to the constructor.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.runtime import Runtime, open_registered, registered_runtimes, with_defaults

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from edgeadapt.placement.comparison import Rules
    from edgeadapt.placement.places import Place

log = logging.getLogger("edgeadapt")

REFERENCE_NAME = "onnxruntime"
_DRIVER = "libcuda.so.1"
_VARIABLE = "EDGEADAPT_LIBCUDA"  # path of another one


def open_auto(
    candidates: Sequence[str] | None = None, rules: Rules | None = None, **options: Any
) -> Runtime:
    """ONNX Runtime on the CPU, alone where nothing else could run here, else with the others as
    candidates.

    Args:
        candidates: names of registered runtimes, in the order in which they are tried; by default
            all: NVIDIA's first.
        rules: when a graph may move.
        options: of ONNX Runtime.

    Raises:
        RuntimeUnavailable: ONNX Runtime does not run here; or a candidate that was named is not
            registered.
    """
    registered = registered_runtimes()
    reference = open_registered(registered, REFERENCE_NAME, **options)
    found = possible(candidates, registered)
    if not found:
        return reference
    # where only the CPU serves, nothing is placed
    from edgeadapt.placement.placed_runtime import PlacedRuntime

    return PlacedRuntime(reference, found, rules)


def possible(
    names: Sequence[str] | None = None, registered: Mapping[str, EntryPoint] | None = None
) -> list[Place]:
    """Those that nothing speaks against so far, numbered from 1 on.

    Args:
        names: in this order; by default all, NVIDIA's first.
        registered: looked up here if not given.

    Raises:
        RuntimeUnavailable: a name is not registered.
    """
    registered = registered_runtimes() if registered is None else registered
    if unknown := [
        name for name in names or () if name not in registered or name == REFERENCE_NAME
    ]:
        raise RuntimeUnavailable(
            f"no candidate called {unknown[0]!r}; registered here:"
            f" {', '.join(sorted(set(registered) - {REFERENCE_NAME})) or 'none'}"
        )
    ordered = (
        names
        if names is not None
        else [*_NVIDIA, *sorted(set(registered) - {REFERENCE_NAME, *_NVIDIA})]
    )
    fitting = [name for name in ordered if name in registered and _may_run(name, registered[name])]
    if not fitting:
        return []
    from edgeadapt.placement.places import Place

    return [Place(index, name, _maker(registered[name])) for index, name in enumerate(fitting, 1)]


def _may_run(name: str, entry: Any) -> bool:
    if name in _NVIDIA:
        return _has_driver() and _NVIDIA[name]()
    try:
        entry.load().probe()
    except Exception as error:  # whatever a runtime of others raises, it is not tried
        log.info("placement: %s is not tried: %s: %s", name, type(error).__name__, error)
        return False
    return True


def _maker(entry: Any) -> Callable[[], Runtime]:
    def make() -> Runtime:
        factory = entry.load()
        factory.probe()
        return with_defaults(factory())

    return make


def _has_driver() -> bool:
    """NVIDIA's library loads. Whether there is a device, the runtimes ask."""
    try:
        ctypes.CDLL(os.environ.get(_VARIABLE) or _DRIVER)
    except OSError:
        return False
    return True


def _has_tensorrt() -> bool:
    return "tensorrt" in sys.modules or find_spec("tensorrt") is not None


def _is_built_with(provider: str) -> Callable[[], bool]:
    def asked() -> bool:
        import onnxruntime

        return provider in onnxruntime.get_available_providers()

    return asked


_NVIDIA: dict[str, Callable[[], bool]] = {
    "tensorrt": _has_tensorrt,
    "onnxruntime-tensorrt": _is_built_with("TensorrtExecutionProvider"),
    "onnxruntime-cuda": _is_built_with("CUDAExecutionProvider"),
}

__all__ = ["open_auto", "possible"]
