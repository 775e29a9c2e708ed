"""A loaded graph: ports by pointer in, fresh memory out, no lock and no state between calls.

Every call hands ONNX Runtime one vector of inputs and one of outputs. Outputs are always memory
that nobody else holds: a numpy array for the caller, or a buffer from the pool for a tensor that is
written. Because nothing is bound to the session, any number of threads may call at once. Measured
against the alternatives on one port, five tensors and four outputs (onnxruntime 1.32, x86-64):
vectors 6.3 us, a cached ``IOBinding`` 5.3 us before the cost of looking it up and checking it out,
``session.run`` with numpy arrays 8.5 us. Results that ONNX Runtime allocates itself are not used
where it can be helped: one of them keeps all results of its run alive.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import _pybind_state as ort

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.runtime import NEXT, ArrayLike, Port, Signature, Tensors
from edgeadapt_onnxruntime._denormals import flushed
from edgeadapt_onnxruntime._pool import CPU, Layout, Pool, PooledBuffer

_PLANS = 256  # batch shapes remembered per graph
# ONNX Runtime's names that numpy does not share
_DTYPES = {"float": "float32", "double": "float64"}

_NOTHING = Tensors()
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Plan:
    """What to allocate for one combination of port shapes; unsettled if output shapes do not follow
    from them.
    """

    is_settled: bool
    outputs: list[tuple[str, tuple[int, ...], np.dtype[Any]]] = field(default_factory=list)
    writes: list[tuple[str, Layout]] = field(default_factory=list)


class OnnxExecutable:
    """See ``edgeadapt.runtime.Executable``.

    Args:
        name: of the graph, for messages.
        session: the loaded model.
        pool: where written tensors come from.
        frozen: arrays that must live as long as the session.
        is_rare: give the arena's memory back after each run.
    """

    def __init__(
        self,
        name: str,
        session: onnxruntime.InferenceSession,
        pool: Pool,
        frozen: Mapping[str, NDArray[Any]],
        is_rare: bool = False,
    ) -> None:
        self._name = name
        self._session = session
        self._pool = pool
        self._frozen = frozen
        inputs, results = session.get_inputs(), session.get_outputs()
        ports = [node for node in inputs if "." not in node.name]
        reads = [node for node in inputs if "." in node.name]
        outputs = [node for node in results if not node.name.endswith(NEXT)]
        writes = [node for node in results if node.name.endswith(NEXT)]
        self._signature = Signature(
            ports=tuple(_port(node) for node in ports),
            reads=tuple(_port(node) for node in reads),
            outputs=tuple(_port(node) for node in outputs),
            writes=tuple(_port(node, NEXT) for node in writes),
        )
        self._ports = tuple((port.name, np.dtype(port.dtype)) for port in self._signature.ports)
        self._reads = tuple(port.name for port in self._signature.reads)
        self._feed_names = [node.name for node in (*ports, *reads)]
        self._fetch_names = [node.name for node in (*outputs, *writes)]
        self._devices = [CPU] * len(self._fetch_names)
        self._dims = {node.name: tuple(node.shape) for node in (*inputs, *results)}
        self._options = onnxruntime.RunOptions()
        if is_rare:
            self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._run = (
            _flushing(session.run_with_ortvaluevector)
            if writes
            else session.run_with_ortvaluevector
        )
        self._plans: dict[Shapes, _Plan] = {}

    @property
    def signature(self) -> Signature:
        return self._signature

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        """Run once; thread-safe.

        Args:
            ports: exactly one array per port. Shape and dtype as in ``signature``; an array that is
                not C-contiguous is copied first, a Python number is taken in the port's dtype.
            tensors: at least what the graph reads, from this kind of runtime.

        Returns:
            The outputs as arrays the caller owns, and only the tensors that were written.

        Raises:
            InputError: a port or tensor is missing, unknown, or of another dtype or shape.
            RuntimeUnavailable: ONNX Runtime failed while it ran the graph.
        """
        wrap = ort.OrtValue.ortvalue_from_numpy
        feeds = ort.OrtValueVector()
        feed = feeds.push_back
        arrays = []
        for name, dtype in self._ports:
            array = ports.get(name)
            if (
                type(array) is not np.ndarray
                or array.dtype is not dtype
                or not array.flags.c_contiguous
            ):
                array = self._admit(name, dtype, array)
            arrays.append(array)
            feed(wrap(array, CPU))
        shapes = tuple([array.shape for array in arrays])
        plan = self._plans.get(shapes)
        if plan is None or len(ports) != len(arrays):
            plan = self._plan(shapes, ports)
        # ``tensors`` and ``arrays`` stay referenced until this call returns, so nothing it reads
        # can be reused meanwhile.
        try:
            for name in self._reads:
                feed(tensors[name].value)  # type: ignore[attr-defined]
        except (KeyError, AttributeError, TypeError):
            self._refuse(tensors)
        if not plan.is_settled:
            return self._run_unplanned(feeds, tensors)

        results: dict[str, NDArray[Any]] = {}
        fetches = ort.OrtValueVector()
        fetch = fetches.push_back
        for name, shape, dtype in plan.outputs:
            results[name] = array = np.empty(shape, dtype)
            fetch(wrap(array, CPU))
        written = {}
        for name, layout in plan.writes:
            written[name] = buffer = self._pool.take(layout)
            fetch(buffer.value)
        try:
            self._run(
                self._options, self._feed_names, feeds, self._fetch_names, fetches, self._devices
            )
        except Exception as error:
            self._refuse(tensors, error)
        return results, Tensors(written) if written else _NOTHING

    def _run_unplanned(
        self, feeds: Any, tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        """A graph whose output shapes do not follow from its ports: ONNX Runtime allocates, and one
        copy is made.
        """
        fetches = ort.OrtValueVector()
        try:
            self._run(
                self._options, self._feed_names, feeds, self._fetch_names, fetches, self._devices
            )
        except Exception as error:
            self._refuse(tensors, error)
        arrays = {name: fetches[index].numpy() for index, name in enumerate(self._fetch_names)}
        results = {port.name: arrays[port.name].copy() for port in self._signature.outputs}
        written = {}
        for port in self._signature.writes:
            array = arrays[port.name + NEXT]
            written[port.name] = buffer = self._pool.take(
                self._pool.layout(array.dtype, array.shape)
            )
            buffer.value.update_inplace(np.array(array, order="C"))
        return results, Tensors(written)

    def _admit(self, name: str, dtype: np.dtype[Any], value: ArrayLike) -> NDArray[Any]:
        """Check what is seldom given: what is not yet an array of exactly this dtype,
        C-contiguous.
        """
        if value is None:
            raise InputError(
                f"graph {self._name!r}: port {name!r} is missing; it takes {self._wanted(name)}"
            )
        if isinstance(value, (bool, int, float)):
            return self._admit_number(name, dtype, value)
        if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__"):
            # not on the host: let asarray say it
            with contextlib.suppress(BufferError, RuntimeError, TypeError):
                value = np.from_dlpack(value)
        array = np.asarray(value, order="C")
        if array.dtype != dtype:
            raise InputError(
                f"graph {self._name!r}: port {name!r} takes {self._wanted(name)}, got"
                f" {array.dtype}{list(array.shape)}"
            )
        return array

    def _admit_number(self, name: str, dtype: np.dtype[Any], value: float) -> NDArray[Any]:
        """A Python number that the dtype can hold; floats are rounded, integers must be exact."""
        try:
            array = np.asarray(value, dtype)
            fits = dtype.kind == "f" or array == value
        except (ValueError, OverflowError):
            fits = False
        if not fits:
            raise InputError(
                f"graph {self._name!r}: port {name!r} takes {self._wanted(name)}, got {value!r}"
            )
        return array

    def _plan(self, shapes: Shapes, ports: Mapping[str, ArrayLike]) -> _Plan:
        """Check port names and shapes, and settle what to allocate; remembered by shapes."""
        if len(ports) != len(self._ports):
            known = [name for name, _ in self._ports]
            unknown = sorted(set(ports) - set(known))
            raise InputError(
                f"graph {self._name!r} has no port {unknown[0]!r}; its ports:"
                f" {', '.join(known) or 'none'}"
            )
        sizes: dict[str, int] = {}
        for (name, dtype), shape in zip(self._ports, shapes, strict=True):
            wanted = self._dims[name]
            agrees = len(shape) == len(wanted) and all(
                (
                    size == dim
                    if isinstance(dim, int)
                    else dim is None or sizes.setdefault(dim, size) == size
                )
                for size, dim in zip(shape, wanted, strict=True)
            )
            if not agrees:
                known_sizes = "".join(f", {key} = {size}" for key, size in sizes.items())
                raise InputError(
                    f"graph {self._name!r}: port {name!r} takes {self._wanted(name)}, got"
                    f" {dtype}{list(shape)}{known_sizes}"
                )
        plan = self._settle(sizes)
        if len(self._plans) >= _PLANS:
            self._plans = {}
        self._plans[shapes] = plan
        return plan

    def _settle(self, sizes: Mapping[str, int]) -> _Plan:
        fixed: dict[str, tuple[int, ...]] = {}
        for name in self._fetch_names:
            dims = [sizes.get(dim) if isinstance(dim, str) else dim for dim in self._dims[name]]
            if not all(isinstance(dim, int) for dim in dims):
                return _Plan(is_settled=False)
            fixed[name] = tuple(int(dim) for dim in dims if dim is not None)
        return _Plan(
            True,
            [
                (port.name, fixed[port.name], np.dtype(port.dtype))
                for port in self._signature.outputs
            ],
            [
                (port.name, self._pool.layout(np.dtype(port.dtype), fixed[port.name + NEXT]))
                for port in self._signature.writes
            ],
        )

    def _refuse(self, tensors: Tensors, error: Exception | None = None) -> NoReturn:
        """Say what is wrong with the tensors; if nothing is, the engine failed."""
        for port in self._signature.reads:
            if port.name not in tensors:
                held = ", ".join(sorted(tensors)[:8]) or "none"
                raise InputError(
                    f"graph {self._name!r} reads tensor {port.name!r}, which was not given; given:"
                    f" {held}"
                ) from error
            buffer = tensors[port.name]
            if not isinstance(buffer, PooledBuffer):
                raise InputError(
                    f"graph {self._name!r}: tensor {port.name!r} is a {type(buffer).__name__} of"
                    " another runtime; upload it here first"
                ) from error
            fits = len(buffer.shape) == len(port.shape) and all(
                dim is None or dim == size
                for size, dim in zip(buffer.shape, port.shape, strict=True)
            )
            if str(buffer.dtype) != port.dtype or not fits:
                raise InputError(
                    f"graph {self._name!r}: tensor {port.name!r} must be {self._wanted(port.name)},"
                    f" got {buffer.dtype}{list(buffer.shape)}"
                ) from error
        raise RuntimeUnavailable(
            f"graph {self._name!r} failed in ONNX Runtime {onnxruntime.__version__}: {error}"
        ) from error

    def _wanted(self, name: str) -> str:
        port = next(
            port for port in (*self._signature.ports, *self._signature.reads) if port.name == name
        )
        dims = ", ".join("any" if dim is None else str(dim) for dim in self._dims[name])
        return f"{port.dtype}[{dims}]"


def _flushing(run: Callable[..., Any]) -> Callable[..., Any]:
    def run_flushed(*arguments: Any) -> Any:
        with flushed():
            return run(*arguments)

    return run_flushed


def _port(node: Any, suffix: str = "") -> Port:
    """``NodeArg`` as a ``Port``: ``tensor(float)`` is float32; a named or unknown dimension is the
    batch.
    """
    name = node.type.removeprefix("tensor(").removesuffix(")")
    try:
        dtype = np.dtype(_DTYPES.get(name, name)).name
    except TypeError as error:
        raise RuntimeUnavailable(
            f"{node.name!r} has type {node.type}, which numpy cannot hold"
        ) from error
    shape = tuple(dim if isinstance(dim, int) else None for dim in node.shape)
    return Port(node.name.removesuffix(suffix), dtype, shape)
