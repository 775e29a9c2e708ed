"""``onnxruntime-cuda`` and ``onnxruntime-tensorrt``: ONNX Runtime on NVIDIA's GPUs, with tensors that stay there between steps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.runtime import GraphFile
from edgeadapt_onnxruntime._probe import require
from edgeadapt_onnxruntime._provider_child import preload, wanted_tensorrt
from edgeadapt_onnxruntime._providers import CPU, CUDA, TENSORRT, Options, profile
from edgeadapt_onnxruntime._runtime import OnnxRuntime

_MIB = 1 << 20


class CudaRuntime(OnnxRuntime):
    """Runs graphs with the CUDA provider; thread-safe. Nodes that it does not have run on the CPU.

    Args:
        device_id: number of the GPU.
        memory_mib: most memory of one loaded graph's arena; None for no limit. Tensors are not counted.
        options: of the provider, by ONNX Runtime's names; they replace ours (docs/onnxruntime_gpu.md).
        intra_op_threads: threads of the nodes on the CPU.

    Raises:
        RuntimeUnavailable: the provider does not compute here; the message says why and what to do.
        InputError: an option that the provider does not have.
    """

    name = "onnxruntime-cuda"
    provider = CUDA

    def __init__(self, device_id: int = 0, memory_mib: int | None = None, options: Mapping[str, Any] | None = None, intra_op_threads: int = 1) -> None:
        require(self.provider, device_id)
        _preload()
        super().__init__(intra_op_threads, [(CUDA, _cuda(device_id, memory_mib) | dict(options or {})), CPU])

    @classmethod
    def probe(cls) -> str:
        """One line: version and GPU.

        Raises:
            RuntimeUnavailable: onnxruntime is too old, or the provider does not compute here.
        """
        return f"{super().probe().partition(',')[0]}, {require(cls.provider)}"


class TensorrtRuntime(CudaRuntime):
    """Runs graphs with the TensorRT provider, and what TensorRT does not take with CUDA's; thread-safe.

    A re-folded encoder (``load`` with constants) runs with CUDA: its weights are part of an engine, and building one takes longer than it would be used.

    Args:
        device_id: number of the GPU.
        memory_mib: most memory of one loaded graph's CUDA arena; None for no limit. Tensors are not counted.
        workspace_mib: most memory that TensorRT may use to build and run one engine.
        cache: folder of engines and timings, made when missing; None keeps none. By default systemd's ``CacheDirectory`` or the user's cache.
        batches: those that calls will have, as ``manifest.batches`` says. An engine is then built once for all from the smallest to the largest,
            and another batch fails. None: an engine is built again whenever a batch goes beyond those before.
        options: of the providers, by ONNX Runtime's names; those that begin with ``trt_`` go to TensorRT, the others to CUDA. They replace ours.
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
        OnnxRuntime.__init__(self, intra_op_threads, [(TENSORRT, engine), (CUDA, _cuda(device_id, memory_mib) | rest), CPU])
        self.cache = _default_cache() if cache == "auto" else Path(cache) if cache else None
        self.batches = batches

    def _providers(self, graph: GraphFile, constants: Mapping[str, NDArray[Any]]) -> list[tuple[str, Options]]:
        (name, options), *rest = super()._providers(graph, constants)
        if constants:
            return rest
        own = {**self._kept(graph), **(profile(graph.model, self.batches) if self.batches else {})}
        return [(name, {**options, **own, **self._given[0][1]}), *rest]

    def _kept(self, graph: GraphFile) -> Options:
        """Where this graph's engine is kept. ONNX Runtime names engines by the names in a graph, not by its weights: each needs a folder of its own."""
        if self.cache is None:
            return {}
        folder = self.cache / graph.sha256[:32]
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise RuntimeUnavailable(f"the folder of TensorRT's engines cannot be made: {error}") from error
        return {
            "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(self.cache),
        }  # fmt: skip


def _cuda(device_id: int, memory_mib: int | None) -> dict[str, Any]:
    return {"device_id": device_id} | ({"gpu_mem_limit": memory_mib * _MIB} if memory_mib else {})


def _preload() -> None:
    preload(onnxruntime, wanted_tensorrt(Path(onnxruntime.__file__).parent / "capi"))


def _default_cache() -> Path:
    service = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    return Path(service or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeadapt") / "onnxruntime-tensorrt"


__all__ = ["CudaRuntime", "TensorrtRuntime"]
