"""``OnnxRuntime``: one object owns the options, the pool of buffers and the cache of loaded
graphs.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgeadapt.errors import BundleError, EdgeadaptError, InputError, RuntimeUnavailable
from edgeadapt.onnx_file import OnnxFile
from edgeadapt.runtime import GraphFile, Runtime, Tensors
from edgeadapt_onnxruntime._denormals import kept
from edgeadapt_onnxruntime._device_pool import DevicePool, Transfers
from edgeadapt_onnxruntime._executable import OnnxExecutable
from edgeadapt_onnxruntime._pool import Pool, PooledBuffer
from edgeadapt_onnxruntime._providers import CPU, CUDA, TENSORRT, Given, Options, defaults, given

OLDEST = (1, 23)
CACHED = 16  # loaded graphs kept
IDLE_LIMIT = 64 << 20  # bytes of idle buffers kept for reuse
# bytes; from about 700 nodes on the memory pattern costs more memory than it saves time
_LARGE_MODEL = 64 << 10
# words of errors that are not the graph's fault
_OF_A_PROVIDER = ("provider option", "CUDA", "CUDNN", "CUBLAS", "TensorRT")
_UPLOADABLE = frozenset("?bBhHiIlLqQefd")


class OnnxRuntime(Runtime):
    """Runs graphs in ONNX Runtime; thread-safe.

    Args:
        intra_op_threads: threads inside one call. With 1, no thread is started: a call runs where
            it is made.
        providers: ONNX Runtime execution providers, best first, each a name or a name with options.
            Options are laid over our defaults (docs/onnxruntime_gpu.md). One that is left out when
            a graph is loaded is an error.
        device: where tensors lie between steps: ``cpu``, ``cuda`` or ``cuda:N``. By default the GPU
            of a CUDA or TensorRT provider; with other providers the host, where arrays are used as
            they are. ``cpu`` does on the CPU what a GPU would do, copies included.

    Raises:
        RuntimeUnavailable: onnxruntime is too old, or a provider is not in this build.
        InputError: an option that a provider does not have, or a device that does not exist.
    """

    name = "onnxruntime"

    def __init__(
        self, intra_op_threads: int = 1, providers: Given = (CPU,), device: str | None = None
    ) -> None:
        self.probe()
        self._given = given(providers)
        self.providers = tuple(name for name, _ in self._given)
        missing = [
            name for name in self.providers if name not in onnxruntime.get_available_providers()
        ]
        if missing:
            raise RuntimeUnavailable(
                f"onnxruntime {onnxruntime.__version__} has no {missing[0]}; it has"
                f" {', '.join(onnxruntime.get_available_providers())}"
            )
        self.intra_op_threads = intra_op_threads
        self.device = device or _gpu_of(self._given)
        self.pool: Pool = DevicePool(IDLE_LIMIT, self.device) if self.device else Pool(IDLE_LIMIT)
        _share_arena()
        self._loaded: OrderedDict[str, OnnxExecutable] = OrderedDict()
        self._refolded: WeakValueDictionary[tuple[str, str], OnnxExecutable] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def runs_where_called(self) -> bool:
        """A call computes on the thread that makes it, and on no other."""
        return self.intra_op_threads == 1 and self.providers == (CPU,)

    @property
    def transfers(self) -> Transfers | None:
        """Copies between host and device until now; None where tensors lie on the host."""
        return self.pool.transfers if isinstance(self.pool, DevicePool) else None

    @classmethod
    def probe(cls) -> str:
        """One line: version, and the providers that were compiled in. Whether one of a GPU loads,
        its own runtime says.

        Raises:
            RuntimeUnavailable: the installed onnxruntime is older than 1.23.
        """
        version = onnxruntime.__version__
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            raise RuntimeUnavailable(
                f"onnxruntime {version} is too old; install {OLDEST[0]}.{OLDEST[1]} or newer"
            )
        return (
            f"onnxruntime {version}, built with {', '.join(onnxruntime.get_available_providers())}"
        )

    def load(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]] | None = None
    ) -> OnnxExecutable:
        """A runnable graph, cached by its hash; the least recently used of 16 is dropped. With
        constants it is shared for as long as somebody holds it.

        Args:
            graph: the model and its frozen tensors. Those the model does not refer to are ignored.
            constants: values that replace frozen tensors of the same name, dtype and shape. They
                are copied.

        Raises:
            BundleError: a frozen tensor has no value, or one of another dtype or shape; a constant
                replaces nothing; or ONNX Runtime refuses the model.
        """
        with self._lock:
            if constants:
                key = (graph.sha256, _digest(constants))
                refolded = self._refolded.get(key)
                if refolded is None:
                    refolded = self._refolded[key] = self._load(graph, constants)
                return refolded
            loaded = self._loaded.get(graph.sha256)
            if loaded is None:
                loaded = self._loaded[graph.sha256] = self._load(graph, {})
                if len(self._loaded) > CACHED:
                    self._loaded.popitem(last=False)
            else:
                self._loaded.move_to_end(graph.sha256)
        return loaded

    def upload(self, values: Mapping[str, NDArray[Any]]) -> Tensors:
        """Copy arrays into buffers.

        Raises:
            InputError: a value has a dtype that no tensor can have.
        """
        buffers = {}
        for name, value in values.items():
            array = np.asarray(value, order="C")
            if array.dtype.char not in _UPLOADABLE or not array.dtype.isnative:
                raise InputError(f"tensor {name!r} cannot be uploaded: dtype {array.dtype}")
            buffers[name] = self._put(array)
        return Tensors(buffers)

    def download(
        self, tensors: Tensors, names: Iterable[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Copies on the host, of all tensors or of those named.

        Raises:
            InputError: a name is not in ``tensors``.
        """
        wanted = list(tensors if names is None else names)
        for name in wanted:
            if name not in tensors:
                raise InputError(
                    f"no tensor {name!r} to download; there are:"
                    f" {', '.join(sorted(tensors)[:8]) or 'none'}"
                )
        return {name: tensors[name].numpy() for name in wanted}

    def _put(self, array: NDArray[Any]) -> PooledBuffer:
        if isinstance(self.pool, DevicePool):
            return self.pool.put(array, self.pool.transfers.uploads)
        buffer = self.pool.take(self.pool.layout(array.dtype, array.shape))
        buffer.value.update_inplace(array)
        return buffer

    def _load(self, graph: GraphFile, constants: Mapping[str, NDArray[Any]]) -> OnnxExecutable:
        file = OnnxFile(graph.name, graph.model)
        for name in constants:
            if name not in file.external:
                known = ", ".join(sorted(file.external)[:8]) or "none"
                raise BundleError(
                    f"graph {graph.name!r} has no frozen tensor {name!r} to replace; it has:"
                    f" {known}"
                )
        private = {name: np.array(value, order="C") for name, value in constants.items()}
        frozen = file.frozen({**graph.frozen, **private})
        options = self._options()
        options.enable_mem_pattern = len(graph.model) <= _LARGE_MODEL
        if frozen:
            # Not add_initializer: an optimised graph was seen to compute with zeros; 1.23.2 and
            # 1.32 refuse the model instead.
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in frozen.values()]
            options.add_external_initializers(list(frozen), values)
        try:
            with kept():
                session = self._session(graph, constants, options)
            _return_freed_memory()
            if isinstance(self.pool, DevicePool):
                from edgeadapt_onnxruntime._device_executable import DeviceExecutable

                return DeviceExecutable(graph.name, session, self.pool, frozen, graph.is_rare)
            return OnnxExecutable(graph.name, session, self.pool, frozen, graph.is_rare)
        except EdgeadaptError:
            raise
        except Exception as error:
            raise BundleError(
                f"ONNX Runtime {onnxruntime.__version__} refuses graph {graph.name!r}: {error}"
            ) from error

    def _session(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]],
        options: onnxruntime.SessionOptions,
    ) -> onnxruntime.InferenceSession:
        """A session on every provider that was asked for: ONNX Runtime goes on without one that
        does not load, and that must not pass.
        """
        wanted = self._providers(graph, constants)
        names = [name for name, _ in wanted]
        try:
            session = onnxruntime.InferenceSession(
                graph.model,
                options,
                names,
                [values for _, values in wanted],
                enable_fallback=0,
                disabled_optimizers=self._left_out(graph),
            )
        except Exception as error:
            if any(sign in str(error) for sign in _OF_A_PROVIDER):
                raise RuntimeUnavailable(
                    f"graph {graph.name!r}: {names[0]} failed in ONNX Runtime"
                    f" {onnxruntime.__version__}: {error}"
                ) from error
            raise
        if left_out := [name for name in names if name not in session.get_providers()]:
            raise RuntimeUnavailable(
                f"graph {graph.name!r}: ONNX Runtime left {left_out[0]} out and would compute with"
                f" {session.get_providers()[0]}; edgeadapt runtimes says why"
            )
        return session

    def _left_out(self, graph: GraphFile) -> list[str] | None:
        """Optimisers that stay off: on x86 a value has an int8 kernel for each of its readers only
        while each has a quantisation of its own.
        """
        is_quantised = b"QuantizeLinear" in graph.model and self.providers == (CPU,)
        return ["CommonSubexpressionElimination"] if is_quantised else None

    def _providers(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]]
    ) -> list[tuple[str, Options]]:
        """With all options, for one graph."""
        return [(name, {**defaults(name), **options}) for name, options in self._given]

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        options.add_session_config_entry("session.use_env_allocators", "1")
        return options


def _gpu_of(providers: list[tuple[str, Options]]) -> str | None:
    """``cuda:0`` where the first provider computes on a GPU; None for the host."""
    name, options = providers[0] if providers else (CPU, {})
    return f"cuda:{options.get('device_id', '0')}" if name in (CUDA, TENSORRT) else None


_arena_lock = threading.Lock()
_arena_is_shared = False


def _share_arena() -> None:
    """One arena for the activations of all sessions of the process: a re-folded encoder does not
    bring its own.

    Ten re-folded encoders kept 320 MB resident with an arena each, and less than half of it with
    one. It grows by steps that double from 1 to 16 MB: grown by what is asked for, a step through
    EfficientNet-Lite0 at 8 images left it in pieces, 147 MB where 40 are in use at once, and now
    101.
    """
    global _arena_is_shared
    with _arena_lock:
        if _arena_is_shared:
            return
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu",
            onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
            0,
            onnxruntime.OrtMemType.DEFAULT,
        )
        growth = {
            "arena_extend_strategy": 0,  # the next power of two
            "initial_growth_chunk_size_bytes": 1 << 20,
            "max_power_of_two_extend_bytes": 16 << 20,
            "max_dead_bytes_per_chunk": 64 << 10,
        }
        try:
            onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(growth))
        except Exception as error:
            if "already" not in str(error):  # the application registered one: that one is shared
                raise RuntimeUnavailable(
                    f"onnxruntime {onnxruntime.__version__} cannot share an arena: {error}"
                ) from error
        _arena_is_shared = True


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's function of that name; other C libraries have none, and return memory by themselves
    or not at all.
    """
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _return_freed_memory() -> None:
    """Give back what ONNX Runtime needed to optimise a graph: 70 of 180 MB for a step through
    EfficientNet-Lite0.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def _digest(constants: Mapping[str, NDArray[Any]]) -> str:
    return GraphFile("constants", b"", constants).sha256
