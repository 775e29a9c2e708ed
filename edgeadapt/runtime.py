"""What a runtime must offer, and how one is found. Nothing here knows a method or an engine.

A graph is a pure function ``(ports, tensors) -> (outputs, new tensors)``. Names tell the two kinds
of input apart: a *tensor* has a dot in its name (``ridge.gram``), a *port* has none
(``sample_weight``). A graph that writes a tensor has an output called ``<tensor>.next``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import RuntimeUnavailable

ArrayLike = Any  # numpy arrays; a runtime may accept anything with ``__dlpack__``
NEXT = ".next"
GROUP = "edgeadapt.runtimes"
# by name like a registered runtime, though it is none: it chooses among them
CHOOSERS = {"auto": EntryPoint("auto", "edgeadapt.placement:open_auto", GROUP)}


class Buffer(Protocol):
    """One immutable block of memory owned by a runtime; its last holder returns it to the pool."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    def numpy(self) -> NDArray[Any]:
        """A copy on the host that the caller owns."""
        ...


class Tensors(Mapping[str, Buffer]):
    """An immutable set of named buffers: a value, not a place.

    Holding a ``Tensors`` keeps its buffers; publishing a new state is assigning a new ``Tensors``.
    """

    __slots__ = ("_buffers",)

    def __init__(self, buffers: Mapping[str, Buffer] | None = None) -> None:
        self._buffers: dict[str, Buffer] = dict(buffers or {})

    def __getitem__(self, name: str) -> Buffer:
        return self._buffers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)

    def over(self, base: Tensors) -> Tensors:
        """These buffers over ``base``: a step's result over a state, a domain over global ones."""
        if not self._buffers:
            return base
        if not base._buffers:
            return self
        return Tensors({**base._buffers, **self._buffers})

    def only(self, names: Iterable[str]) -> Tensors:
        """The named subset; names that are absent are left out."""
        return Tensors({name: self._buffers[name] for name in names if name in self._buffers})

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{name} {buffer.dtype}{list(buffer.shape)}" for name, buffer in self._buffers.items()
        )
        return f"Tensors({inside})"


@dataclass(frozen=True)
class Port:
    """One input or output of a graph. ``None`` in a shape is the batch, free at run time."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives by value, and which tensors it reads and writes."""

    ports: tuple[Port, ...]
    reads: tuple[Port, ...]
    outputs: tuple[Port, ...]
    writes: tuple[Port, ...]  # named without ``.next``


@dataclass(frozen=True, eq=False)
class GraphFile:
    """An ONNX model and the frozen tensors it refers to.

    Frozen weights are stored once per bundle. In the model they are initialisers marked external
    with the reserved location ``bundle:``; ``frozen`` supplies their values by name. ``is_rare``
    says that it runs now and then only: a runtime may give its working memory back after each run.
    ``batches`` are the sizes that a free axis usually has, and none is above the largest; empty if
    that is not known. A runtime that compiles takes its profile from them, else from settings of
    its own. ``precision`` (``float32``, ``float16``, ``int8``) says what it computes in: kernels of
    two machines agree less in a lower one. None of these is part of ``sha256``.
    """

    name: str
    model: bytes
    frozen: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    is_rare: bool = False
    batches: tuple[int, ...] = ()
    precision: str = "float32"

    @cached_property
    def sha256(self) -> str:
        """Hash of the model and of every frozen value: what executables are cached by."""
        digest = hashlib.sha256(self.model)
        for name in sorted(self.frozen):
            value = np.asarray(self.frozen[name], order="C")
            digest.update(f"\0{name}\0{value.dtype}\0{value.shape}\0".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


Watch = Callable[[str, int, int], bool]
"""Is told the phase of a build, its steps that are done and their number; False cancels the build.
It may be called on any thread.
"""


@dataclass(frozen=True)
class Built:
    """What a runtime that compiles keeps for a graph.

    Attributes:
        was_kept: it was there already.
        files: that hold it; none if the runtime compiles nothing for this graph, and ``note`` says
            why.
        nbytes: of the engines in them.
    """

    was_kept: bool
    files: tuple[Path, ...]
    nbytes: int
    note: str = ""


@runtime_checkable
class BuildsAhead(Protocol):
    """What a :class:`Runtime` has besides if it compiles graphs and keeps what comes out."""

    @property
    def cache(self) -> Path | None:
        """The folder; None if nothing is kept."""
        ...

    def build(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]] | None = None,
        watch: Watch | None = None,
    ) -> Built:
        """Compile what ``load`` with the same arguments needs, and keep it; what is kept already is
        not compiled again.

        Raises:
            RuntimeUnavailable: it does not compile, cannot be kept, or was cancelled; the message
                names the graph.
        """
        ...


class Executable(Protocol):
    """A loaded graph. Thread-safe; writes only fresh buffers; never touches its inputs."""

    @property
    def signature(self) -> Signature: ...

    def __call__(
        self, ports: Mapping[str, ArrayLike], tensors: Tensors
    ) -> tuple[dict[str, NDArray[Any]], Tensors]:
        """Run once.

        Args:
            ports: one array per port, C-contiguous, of the port's dtype and shape.
            tensors: at least what the graph reads; more is fine.

        Returns:
            The outputs as arrays the caller owns, and a ``Tensors`` with only what was written.

        Raises:
            InputError: a port or a tensor is not what the graph takes.
            DeviceError: the device failed or has no room, whatever the call was.
            RuntimeUnavailable: this call failed.
        """
        ...


@runtime_checkable
class Runtime(Protocol):
    """An engine that runs graphs. One object owns threads, memory pools and cached executables.

    ``name``, ``load``, ``upload`` and ``download`` are what every runtime has of its own. For the
    rest a class that derives from this one has defaults, and so has, by ``with_defaults``, one that
    has the four alone.
    """

    @property
    def name(self) -> str: ...

    def load(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None
    ) -> Executable:
        """Make a graph runnable; cached by the hash of graph and constants.

        Args:
            graph: the model and its frozen tensors.
            constants: values that replace frozen tensors of the same name (a re-folded encoder).
        """
        ...

    def upload(self, values: Mapping[str, NDArray[Any]]) -> Tensors: ...

    def download(
        self, tensors: Tensors, names: Iterable[str] | None = None
    ) -> dict[str, NDArray[Any]]: ...

    @property
    def runs_where_called(self) -> bool:
        """A call computes on the thread that makes it, whose CPU time is then what it cost."""
        return False

    @property
    def spent(self) -> Callable[[], float]:
        """A clock: seconds of work of the calling thread, of which only differences mean something.
        Where threads or a GPU that nobody asks do the work, it is the time that passes.
        """
        return time.thread_time if self.runs_where_called else time.perf_counter

    @property
    def refolds_by_input(self) -> bool:
        """Constants that replace frozen tensors become inputs of an engine, so that an encoder in
        int8 cannot be re-folded; the one in float32 is, then.
        """
        return False

    @property
    def lost(self) -> str:
        """Why tensors cannot be read any more, and what to do; empty as long as all can."""
        return ""

    def where(self, executable: Executable | None) -> str:
        """Name of the runtime that serves a graph now; None is a graph that is not loaded."""
        return self.name

    def report(self) -> dict[str, Any]:
        """Which runtime serves what and why, as plain values; see ``Learner.placement_report``."""
        alone = {self.name: {"state": "serves", "why": "it is the only one"}}
        return {
            "runtimes": alone,
            "graphs": [],
            "copies": [],
            "notes": [],
            "doing": "",
            "lost": "",
        }

    def close(self, timeout_s: float = 1.0) -> bool:
        """End what it does in the background; False if that takes longer."""
        return True


_OPTIONAL = ("runs_where_called", "spent", "refolds_by_input", "lost", "where", "report", "close")


def with_defaults(runtime: Any) -> Runtime:
    """The same runtime. Its class is given the defaults of :class:`Runtime` for what it lacks, or
    has as None: it may be older than they are, or not derive from the protocol. A wrapper in its
    place would hide that it is the caller's object, and whether it builds ahead.
    """
    for name in _OPTIONAL:
        if getattr(runtime, name, None) is None:
            setattr(type(runtime), name, vars(Runtime)[name])
    completed: Runtime = runtime
    return completed


@dataclass(frozen=True)
class RuntimeStatus:
    """One line of ``edgeadapt runtimes``."""

    name: str
    is_available: bool
    detail: str


def registered_runtimes() -> dict[str, EntryPoint]:
    """Every registered runtime by name (group ``edgeadapt.runtimes``); nothing is imported."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def available_runtimes() -> list[RuntimeStatus]:
    """Every registered runtime, whether it can run here, and why not."""
    found = []
    for name, entry in sorted(registered_runtimes().items()):
        try:
            detail = entry.load().probe()
            found.append(RuntimeStatus(name, True, detail))
        except (ImportError, AttributeError, RuntimeUnavailable) as error:
            found.append(RuntimeStatus(name, False, f"{type(error).__name__}: {error}"))
    return found


def open_runtime(name: str = "onnxruntime", **options: Any) -> Runtime:
    """The runtime called ``name``.

    Args:
        name: of a registered runtime. ``"auto"``: every graph where its round trip is least, from
            the first moment on ONNX Runtime on the CPU (docs/placement.md); where nothing but the
            CPU could run, that is the plain ``"onnxruntime"``.
        options: of the runtime; of ``"auto"``: ``candidates`` (names of runtimes to be tried),
            ``rules`` (``edgeadapt.placement.Rules``) and those of ``"onnxruntime"``.

    Raises:
        RuntimeUnavailable: no runtime of that name is registered, or it cannot run here.
    """
    if name in CHOOSERS:
        return with_defaults(CHOOSERS[name].load()(**options))
    return open_registered(registered_runtimes(), name, **options)


def open_registered(registered: Mapping[str, EntryPoint], name: str, **options: Any) -> Runtime:
    """As ``open_runtime``, of runtimes that were looked up already: on a full disk that takes as
    long as an import.

    Raises:
        RuntimeUnavailable: none of that name is among them, or it cannot run here.
    """
    if name not in registered:
        raise RuntimeUnavailable(
            f"no runtime called {name!r}; registered here:"
            f" {', '.join(sorted(registered)) or 'none'}"
        )
    try:
        factory = registered[name].load()
        factory.probe()
    except ImportError as error:
        raise RuntimeUnavailable(f"runtime {name!r} cannot be imported: {error}") from error
    return with_defaults(factory(**options))


class Stateful(Protocol):
    """A graph with the tensors it learns, as :func:`read_graph` opens it."""

    @property
    def name(self) -> str: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def state(self) -> dict[str, NDArray[Any]]: ...
    def __call__(self, **ports: ArrayLike) -> dict[str, NDArray[Any]]: ...
    def save_state(self, path: str | Path) -> None: ...


def read_graph(
    path: str | Path,
    *,
    state: str | Path | Stateful | None = None,
    runtime: Runtime | None = None,
) -> Stateful:
    """Open a graph that ``CompiledGraph.save`` wrote: ``step = read_graph("own.onnx"); outputs =
    step(x=x, y=y)``.

    Args:
        path: ``NAME.onnx``; ``NAME.safetensors`` lies beside it.
        state: where to start instead of the values that were saved with it: a file that
            ``save_state`` wrote, or another open graph, whose tensors this one then shares (what a
            step learns, the graph that predicts sees at its next call).
        runtime: by default a new ONNX Runtime on one thread.

    Raises:
        BundleError: a file is missing or damaged, or the two do not belong together.
        StateError: ``state`` belongs to another graph, or is missing or damaged.
        InputError: ``path`` does not end in ``.onnx``, or the graph whose state is shared has a
            tensor of another shape.
        RuntimeUnavailable: there is no runtime here.
    """
    # by name: what reads the file rests on bundles, and those on this module
    opened: Stateful = import_module("edgeadapt._saved_graph").open_graph(
        Path(path), state, runtime
    )
    return opened
