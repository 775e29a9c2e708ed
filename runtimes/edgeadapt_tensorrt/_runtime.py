"""``TensorRT``: one object owns the device's memory, the compiler with its kept plans, and the
cache of loaded graphs.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from edgeadapt.errors import BundleError, InputError, RuntimeUnavailable
from edgeadapt.onnx_file import OnnxFile
from edgeadapt.runtime import Built, GraphFile, Runtime, Tensors, Watch
from edgeadapt_tensorrt._buffers import DeviceBuffer, Pool
from edgeadapt_tensorrt._cudart import CudaRuntime
from edgeadapt_tensorrt._driver import Device, find_device
from edgeadapt_tensorrt._engine import Compiler, EngineError, Flags, Profile
from edgeadapt_tensorrt._executable import Engines, TensorRTExecutable
from edgeadapt_tensorrt._logger import log
from edgeadapt_tensorrt._model import Shared
from edgeadapt_tensorrt._store import Store, default_folder
from edgeadapt_tensorrt._transfers import Transfers

OLDEST = (10, 3)
CACHED = 16  # loaded graphs kept
_NOTES = 100
_UPLOADABLE = frozenset("?bBhHiIlLqQefd")
_INSTALL = (
    "on a Jetson 'apt install python3-libnvinfer' and a venv with --system-site-packages, elsewhere"
    " pip install 'edgeadapt[tensorrt]'"
)


class TensorRT(Runtime):
    """Runs graphs as TensorRT engines; tensors stay on the GPU; thread-safe.

    Args:
        device: ordinal of the GPU.
        batches: sizes that a free axis usually has, for graphs that bring none of their own; those
            of a bundle do. Kernels are chosen for the middle one.
        largest_batch: what a call may bring at most. Above the largest of a graph's batches an
            engine is built when it is first needed.
        flags: what engines are built with.
        cache: folder of plans and timings; None keeps none. By default systemd's ``CacheDirectory``
            or the user's cache.
        cache_mib: bytes that the folder may have.
        memory_mib: that tensors and scratch memory may have on the device; 0 is no limit.
        chunk_mib: that are allocated at once.
        lanes: calls at once per graph; each has scratch memory of its own, others wait.
        graphs: CUDA graphs kept per lane; 0 records none.
        copy_limit: bytes up to which a tensor is copied into a place of the lane instead of being
            bound where it lies.
        cudart, libcuda: paths of other libraries.

    Attributes:
        cache: the folder of plans; None if nothing is kept.
        notes: the newest of what is worth knowing and no error: plans that were built again, graphs
            that could not be recorded.

    Raises:
        RuntimeUnavailable: there is no driver, no GPU, no CUDA runtime library, or no TensorRT from
            10.3 on with its builder.
    """

    name = "tensorrt"
    refolds_by_input = True
    """Constants that are replaced become inputs: what they scale is not quantised, so a re-folded
    encoder is the float32 or float16 one.
    """

    def __init__(
        self,
        device: int = 0,
        *,
        batches: Sequence[int] = (1, 8, 32),
        largest_batch: int = 4096,
        flags: Flags | None = None,
        cache: str | Path | None = "auto",
        cache_mib: int = 512,
        memory_mib: int = 0,
        chunk_mib: int = 32,
        lanes: int = 2,
        graphs: int = 16,
        copy_limit: int = 64 << 10,
        cudart: str | None = None,
        libcuda: str | None = None,
    ) -> None:
        if not batches or min(batches) < 1 or max(batches) > largest_batch or lanes < 1:
            raise InputError(
                f"batches {list(batches)}, largest_batch {largest_batch}, lanes {lanes}: sizes and"
                " lanes are at least 1, and no batch is above the largest"
            )
        found, cuda, trt = _find(device, cudart, libcuda)
        self.notes: deque[str] = deque(maxlen=_NOTES)
        store = Store(
            default_folder() if cache == "auto" else Path(cache) if cache else None,
            cache_mib << 20,
            self._note,
        )
        self.cache = store.folder
        self.compiler = Compiler(trt, found, flags or Flags(), store, self._note)
        cuda.use()
        self.pool = Pool(cuda, chunk_mib << 20, memory_mib << 20)
        self.transfers = Transfers(cuda)
        """Tensors that crossed between host and device until now; between steps none does."""
        self.pool.transfers = self.transfers
        self._shared = Shared(
            cuda, self.pool, trt, self._note, cuda.reads_host_memory(), copy_limit, graphs, lanes
        )
        self._guest = cuda.stream(is_urgent=True)
        self._batches, self._largest = tuple(batches), largest_batch
        self._loaded: OrderedDict[str, TensorRTExecutable] = OrderedDict()
        # with weights as inputs
        self._open: OrderedDict[tuple[str, tuple[str, ...]], Engines] = OrderedDict()
        self._refolded: WeakValueDictionary[tuple[str, str], TensorRTExecutable] = (
            WeakValueDictionary()
        )
        self._lock = threading.Lock()

    @classmethod
    def probe(cls) -> str:
        """One line: versions and device.

        Raises:
            RuntimeUnavailable: it cannot run here; the message says what is missing.
        """
        device, cuda, trt = _find(0, None, None)
        return f"TensorRT {trt.__version__}, CUDA {cuda.version()}, {device}"

    def load(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None
    ) -> TensorRTExecutable:
        """A runnable graph, cached by its hash; the least recently used of 16 is dropped.

        With constants the weights that they replace become inputs of an engine that is built once,
        so another set of values is an upload and not a build. Where TensorRT wants such a weight to
        be constant, they are built in, which takes a build each time.

        Args:
            graph: the model and its frozen tensors. Those the model does not refer to are ignored.
            constants: values that replace frozen tensors of the same name, dtype and shape. They
                are copied.

        Raises:
            BundleError: a frozen tensor has no value, or one of another dtype or shape; or a
                constant replaces nothing.
            EngineError: TensorRT does not take the graph; the message names the node.
        """
        self._shared.cuda.use()  # a build is for the device of the thread
        with self._lock:
            if constants:
                key = (graph.sha256, GraphFile("constants", b"", constants).sha256)
                refolded = self._refolded.get(key)
                if refolded is None:
                    refolded = self._refolded[key] = self._refold(graph, constants)
                return refolded
            loaded: TensorRTExecutable | None = _recent(self._loaded, graph.sha256)
            if loaded is None:
                file = OnnxFile(graph.name, graph.model)
                model = file.complete(file.frozen(graph.frozen))
                loaded = TensorRTExecutable(self._engines(file, model, (), graph), (), self._guest)
                _keep(self._loaded, graph.sha256, loaded)
        return loaded

    def build(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]] | None = None,
        watch: Watch | None = None,
    ) -> Built:
        """Build the engine that :meth:`load` with the same graph and names of constants needs, and
        keep its plan; nothing is loaded for use.

        Args:
            graph, constants: as for :meth:`load`. Values of constants are no part of the engine.
            watch: is told TensorRT's phases and steps on any thread, and may cancel the build; it
                is not asked by a TensorRT without ``IProgressMonitor``.

        Raises:
            BundleError: see :meth:`load`.
            EngineError: TensorRT does not take the graph; the message names the node.
            RuntimeUnavailable: the plan cannot be kept, or the build was cancelled.
        """
        if self.cache is None:
            raise RuntimeUnavailable(
                f"graph {graph.name!r} is not built ahead: no plans are kept."
                f" {' '.join(self.notes)}".rstrip()
            )
        self._shared.cuda.use()
        file = OnnxFile(graph.name, graph.model)
        names = _replaced(file, constants or {})
        model = file.complete(file.frozen({**(constants or {}), **graph.frozen}), names)
        inputs = [*file.inputs, *(file.external[name] for name in names)]
        try:
            return self.compiler.ahead(
                graph.name,
                model,
                inputs,
                file.outputs,
                Profile.of(graph.batches or self._batches),
                watch,
            )
        except EngineError as error:
            if not names:
                raise
            raise EngineError(f"{_as_inputs(names)}{error}") from error

    def upload(self, values: Mapping[str, NDArray[Any]]) -> Tensors:
        """Copy arrays to the device.

        Raises:
            InputError: a value has a dtype that no tensor can have.
            OutOfDeviceMemory: there is no room.
        """
        self._shared.cuda.use()
        pairs: list[tuple[NDArray[Any], DeviceBuffer]] = []
        for name, value in values.items():
            array = np.asarray(value, order="C")
            if array.dtype.char not in _UPLOADABLE or not array.dtype.isnative:
                raise InputError(f"tensor {name!r} cannot be uploaded: dtype {array.dtype}")
            pairs.append((array, self.pool.take(array.dtype, array.shape)))
        self.transfers.upload(pairs)
        return Tensors({name: buffer for name, (_, buffer) in zip(values, pairs, strict=True)})

    def download(
        self, tensors: Tensors, names: Iterable[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Copies on the host, of all tensors or of those named.

        Raises:
            InputError: a name is not in ``tensors``, or its tensor is of another runtime.
            DeviceError: the run that writes one of them failed.
        """
        wanted = list(tensors if names is None else names)
        buffers = []
        for name in wanted:
            if name not in tensors:
                raise InputError(
                    f"no tensor {name!r} to download; there are:"
                    f" {', '.join(sorted(tensors)[:8]) or 'none'}"
                )
            buffer = tensors[name]
            if not isinstance(buffer, DeviceBuffer) or not buffer.belongs_to(self.pool):
                raise InputError(f"tensor {name!r} is a {type(buffer).__name__} of another runtime")
            buffers.append(buffer)
        return dict(zip(wanted, self.transfers.download(buffers), strict=True))

    def _refold(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]]
    ) -> TensorRTExecutable:
        file = OnnxFile(graph.name, graph.model)
        names = _replaced(file, constants)
        values = file.frozen({**graph.frozen, **constants})
        key = (graph.sha256, names)
        engines = _recent(self._open, key)
        if engines is None:
            # a replaced value is no part of the engine
            fixed = file.frozen({**constants, **graph.frozen})
            try:
                engines = self._engines(file, file.complete(fixed, names), names, graph)
            except EngineError as error:
                self._note(f"graph {graph.name!r}: {_as_inputs(names)}{error}")
                return TensorRTExecutable(
                    self._engines(file, file.complete(values), (), graph), (), self._guest
                )
            _keep(self._open, key, engines)
        uploaded = self.upload({name: values[name] for name in names})
        return TensorRTExecutable(engines, [_ours(uploaded[name]) for name in names], self._guest)

    def _engines(
        self, file: OnnxFile, model: bytes, constants: tuple[str, ...], graph: GraphFile
    ) -> Engines:
        return Engines(
            file,
            model,
            constants,
            self.compiler,
            self._shared,
            batches=graph.batches or self._batches,
            largest=self._largest,
            is_rare=graph.is_rare,
        )

    def _note(self, text: str) -> None:
        log.warning("%s", text)
        self.notes.append(text)


def _replaced(file: OnnxFile, constants: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Names of the weights that become inputs."""
    for name in constants:
        if name not in file.external:
            raise BundleError(
                f"graph {file.name!r} has no frozen tensor {name!r} to replace; it has:"
                f" {', '.join(sorted(file.external)[:8]) or 'none'}"
            )
    return tuple(sorted(constants))


def _as_inputs(names: Sequence[str]) -> str:
    return (
        f"with {', '.join(names[:3])} as inputs it does not build, so each set of values is a build"
        " of its own. "
    )


def _ours(buffer: Any) -> DeviceBuffer:
    assert isinstance(buffer, DeviceBuffer)
    return buffer


def _recent(cache: OrderedDict[Any, Any], key: Any) -> Any:
    if key in cache:
        cache.move_to_end(key)
    return cache.get(key)


def _keep(cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    cache[key] = value
    if len(cache) > CACHED:
        cache.popitem(last=False)


def _find(
    device: int, cudart: str | None, libcuda: str | None
) -> tuple[Device, CudaRuntime, ModuleType]:
    """Driver first: without one, TensorRT must not even be imported."""
    found = find_device(device, libcuda)
    cuda = CudaRuntime(cudart, device)
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise RuntimeUnavailable(f"TensorRT cannot be imported ({error}): {_INSTALL}") from error
    version = str(getattr(trt, "__version__", "unknown"))
    missing = [name for name in ("Builder", "OnnxParser", "Runtime") if not hasattr(trt, name)]
    if missing:
        raise RuntimeUnavailable(
            f"this TensorRT ({version}) has no {missing[0]}; the full one is needed, not the lean"
            f" or dispatch runtime: {_INSTALL}"
        )
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise RuntimeUnavailable(
            f"TensorRT {version} is too old; {OLDEST[0]}.{OLDEST[1]} is the oldest, which JetPack"
            " 6.1 has"
        )
    return found, cuda, trt
