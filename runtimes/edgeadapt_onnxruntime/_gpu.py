"""``onnxruntime-cuda`` and ``onnxruntime-tensorrt``: ONNX Runtime on NVIDIA's GPUs, with tensors
that stay there between steps.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.onnx_file import OnnxFile
from edgeadapt.runtime import Built, GraphFile, Watch
from edgeadapt_onnxruntime._probe import require
from edgeadapt_onnxruntime._provider_child import preload, wanted_tensorrt
from edgeadapt_onnxruntime._providers import CPU, CUDA, TENSORRT, Options, profile
from edgeadapt_onnxruntime._runtime import OnnxRuntime

_MIB = 1 << 20
# words of ONNX Runtime's provider
_REFUSED, _IN_PARTS = (
    "could not deserialize engine from cache",
    "dynamic shape inputs with associated profiles",
)
log = logging.getLogger("edgeadapt.onnxruntime")


class CudaRuntime(OnnxRuntime):
    """Runs graphs with the CUDA provider; thread-safe. Nodes that it does not have run on the CPU.

    Args:
        device_id: number of the GPU.
        memory_mib: most memory of one loaded graph's arena; None for no limit. Tensors are not
            counted.
        options: of the provider, by ONNX Runtime's names; they replace ours
            (docs/onnxruntime_gpu.md).
        intra_op_threads: threads of the nodes on the CPU.

    Raises:
        RuntimeUnavailable: the provider does not compute here; the message says why and what to do.
        InputError: an option that the provider does not have.
    """

    name = "onnxruntime-cuda"
    provider = CUDA

    def __init__(
        self,
        device_id: int = 0,
        memory_mib: int | None = None,
        options: Mapping[str, Any] | None = None,
        intra_op_threads: int = 1,
    ) -> None:
        require(self.provider, device_id)
        _preload()
        super().__init__(
            intra_op_threads, [(CUDA, _cuda(device_id, memory_mib) | dict(options or {})), CPU]
        )

    @classmethod
    def probe(cls) -> str:
        """One line: version and GPU.

        Raises:
            RuntimeUnavailable: onnxruntime is too old, or the provider does not compute here.
        """
        return f"{super().probe().partition(',')[0]}, {require(cls.provider)}"


class TensorrtRuntime(CudaRuntime):
    """Runs graphs with the TensorRT provider, and what TensorRT does not take with CUDA's;
    thread-safe.

    A re-folded encoder (``load`` with constants) runs with CUDA: its weights are part of an engine,
    and building one takes longer than it would be used.

    Args:
        device_id: number of the GPU.
        memory_mib: most memory of one loaded graph's CUDA arena; None for no limit. Tensors are not
            counted.
        workspace_mib: most memory that TensorRT may use to build and run one engine.
        cache: folder of engines and timings, made when missing; None keeps none. By default
            systemd's ``CacheDirectory`` or the user's cache.
        batches: those that calls will have, for graphs that bring none of their own; those of a
            bundle do. An engine is then built once, when the graph is loaded, for all from one
            sample to the largest, and a larger batch fails. None: an engine is built again whenever
            a batch goes beyond those before.
        options: of the providers, by ONNX Runtime's names; those that begin with ``trt_`` go to
            TensorRT, the others to CUDA. They replace ours.
        intra_op_threads: threads of the nodes on the CPU.

    Raises:
        RuntimeUnavailable: the provider does not compute here, or the folder cannot be made.
        InputError: an option that the provider does not have, or batches that are not positive.
    """

    name = "onnxruntime-tensorrt"
    provider = TENSORRT

    def __init__(
        self,
        device_id: int = 0,
        memory_mib: int | None = None,
        workspace_mib: int = 256,
        cache: str | Path | None = "auto",
        batches: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        intra_op_threads: int = 1,
    ) -> None:
        if batches is not None and not (batches and min(batches) > 0):
            raise InputError(f"batches must be positive, got {list(batches)}")
        require(self.provider, device_id)
        _preload()
        own = {key: value for key, value in (options or {}).items() if key.startswith("trt_")}
        rest = {key: value for key, value in (options or {}).items() if key not in own}
        engine = {"device_id": device_id, "trt_max_workspace_size": workspace_mib * _MIB} | own
        OnnxRuntime.__init__(
            self,
            intra_op_threads,
            [(TENSORRT, engine), (CUDA, _cuda(device_id, memory_mib) | rest), CPU],
        )
        self.cache = _default_cache() if cache == "auto" else Path(cache) if cache else None
        self.batches = batches
        self._in_parts: set[str] = set()  # hashes of graphs that get no profile

    def _providers(
        self, graph: GraphFile, constants: Mapping[str, NDArray[Any]]
    ) -> list[tuple[str, Options]]:
        (name, options), *rest = super()._providers(graph, constants)
        if constants:
            return rest
        batches = None if graph.sha256 in self._in_parts else graph.batches or self.batches
        own = {
            **self._kept(graph),
            **(profile(OnnxFile(graph.name, graph.model).free_inputs, batches) if batches else {}),
        }
        return [(name, {**options, **own, **self._given[0][1]}), *rest]

    def build(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]] | None = None,
        watch: Watch | None = None,
    ) -> Built:
        """Load a graph once and let it go: ONNX Runtime builds its engines then, and keeps them.

        Args:
            graph, constants: as for ``load``; with constants there is nothing to build.
            watch: is not asked, as the provider does not say how far it is.

        Raises:
            BundleError, RuntimeUnavailable: see ``load``; or nothing is kept.
        """
        if self.cache is None:
            raise RuntimeUnavailable(
                f"graph {graph.name!r} is not built ahead: cache=None keeps no engines"
            )
        if constants:
            return Built(False, (), 0, "no engine: a re-folded encoder runs with CUDA")
        with self._lock:
            before = _engines(self._folder(self.cache, graph))
            self._load(graph, {})
            after = _engines(self._folder(self.cache, graph))
        size = sum(nbytes for _, nbytes in after.values())
        return Built(
            bool(after) and before == after,
            tuple(sorted(after)),
            size,
            (
                ""
                if after
                else "no engine: TensorRT takes no part of it, or one whose sizes only a run shows"
            ),
        )

    def _session(
        self,
        graph: GraphFile,
        constants: Mapping[str, NDArray[Any]],
        options: onnxruntime.SessionOptions,
    ) -> onnxruntime.InferenceSession:
        """Again where the provider refuses what there is a way around, each way once.

        A kept engine: ONNX Runtime writes the file in place, so a kill leaves a part of it, and
        another TensorRT takes none; it is built again. A profile: where TensorRT takes a graph in
        parts, their inputs are inside the graph and have none; engines are then built at the first
        run.
        """
        is_rebuilt = False
        while True:
            try:
                return super()._session(graph, constants, options)
            except RuntimeUnavailable as error:
                if (
                    self.cache is not None
                    and not constants
                    and _REFUSED in str(error)
                    and not is_rebuilt
                ):
                    log.warning(
                        "graph %r: the kept engine is refused, and built again. %s",
                        graph.name,
                        error,
                    )
                    shutil.rmtree(self._folder(self.cache, graph))
                    is_rebuilt = True
                elif _IN_PARTS in str(error) and graph.sha256 not in self._in_parts:
                    log.warning(
                        "graph %r: TensorRT takes it in parts, so its engines are built when it"
                        " runs, for the batches that come. %s",
                        graph.name,
                        error,
                    )
                    self._in_parts.add(graph.sha256)
                else:
                    raise

    @staticmethod
    def _folder(cache: Path, graph: GraphFile) -> Path:
        return cache / graph.sha256[:32]

    def _kept(self, graph: GraphFile) -> Options:
        """Where this graph's engine is kept. ONNX Runtime names engines by the names in a graph,
        not by its weights: each needs a folder of its own.
        """
        if self.cache is None:
            return {}
        folder = self._folder(self.cache, graph)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise RuntimeUnavailable(
                f"the folder of TensorRT's engines cannot be made: {error}"
            ) from error
        return {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(self.cache),
        }


def _engines(folder: Path) -> dict[Path, tuple[int, int]]:
    """Engines in a folder, with the time of their last change in ns and their bytes."""
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.glob("*.engine")
    }


def _cuda(device_id: int, memory_mib: int | None) -> dict[str, Any]:
    return {"device_id": device_id} | ({"gpu_mem_limit": memory_mib * _MIB} if memory_mib else {})


def _preload() -> None:
    preload(onnxruntime, wanted_tensorrt(Path(onnxruntime.__file__).parent / "capi"))


def _default_cache() -> Path:
    service = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return (
        Path(
            service
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeadapt"
        )
        / "onnxruntime-tensorrt"
    )


__all__ = ["CudaRuntime", "TensorrtRuntime"]
