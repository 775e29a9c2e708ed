"""Options of ONNX Runtime's CUDA and TensorRT providers: defaults that suit learning, and what may
not be given.

ONNX Runtime leaves a provider out without a word if an option is wrong and the provider does not
load. So names are checked here, without a GPU.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from edgeadapt.errors import InputError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

Options = dict[str, str]
Given = Sequence[str | tuple[str, Mapping[str, Any]]]

_CUDA = """
    arena_extend_strategy cudnn_conv1d_pad_to_nc1d cudnn_conv_algo_search
    cudnn_conv_use_max_workspace device_id do_copy_in_default_stream enable_cudnn
    enable_skip_layer_norm_strict_mode fuse_conv_bias gpu_mem_limit prefer_nhwc sdpa_kernel
    tunable_op_enable tunable_op_max_tuning_duration_ms tunable_op_tuning_enable
    use_ep_level_unified_stream use_tf32
"""
_TENSORRT = """
    device_id trt_auxiliary_streams trt_bf16_enable trt_build_heuristics_enable
    trt_builder_optimization_level trt_context_memory_sharing_enable trt_detailed_build_log
    trt_dla_core trt_dla_enable trt_dump_subgraphs trt_engine_hw_compatible
    trt_extra_plugin_lib_paths trt_force_sequential_engine_build trt_force_timing_cache
    trt_fp16_enable trt_int8_calibration_table_name trt_int8_enable
    trt_int8_use_native_calibration_table trt_layer_norm_fp32_fallback trt_max_partition_iterations
    trt_max_workspace_size trt_min_subgraph_size trt_op_types_to_exclude trt_preview_features
    trt_profile_max_shapes trt_profile_min_shapes trt_profile_opt_shapes trt_sparsity_enable
    trt_tactic_sources trt_timing_cache_enable trt_timing_cache_path
"""
KNOWN = {CUDA: frozenset(_CUDA.split()), TENSORRT: frozenset(_TENSORRT.split())}
"""Names in the libraries of onnxruntime-gpu 1.31.1, without those that are refused or that a graph
in memory cannot use.
"""

_STREAM = "a run is over when its call returns, and with a stream of your own it is not"
_CAPTURE = (
    "a captured graph reads and writes the addresses of its first run, and every step here writes"
    " fresh memory"
)
_ENGINES = (
    "ONNX Runtime names a kept engine by the names in its graph, not by its weights; give the"
    " folder as cache=, where each graph has its own"
)
REFUSED = {
    "user_compute_stream": _STREAM,
    "has_user_compute_stream": _STREAM,
    "enable_cuda_graph": _CAPTURE,
    "trt_cuda_graph_enable": _CAPTURE,
    "trt_engine_cache_enable": _ENGINES,
    "trt_engine_cache_path": _ENGINES,
    "trt_engine_cache_prefix": _ENGINES,
    "gpu_external_alloc": "memory comes from ONNX Runtime",
    "gpu_external_free": "memory comes from ONNX Runtime",
    "gpu_external_empty_cache": "memory comes from ONNX Runtime",
    "trt_weight_stripped_engine_enable": (
        "the weights of a bundle are not in a file that an engine could be filled from"
    ),
}


def given(providers: Given) -> list[tuple[str, Options]]:
    """Names with their options as text, as ONNX Runtime wants them.

    Raises:
        InputError: an option that a CUDA or TensorRT provider does not have, or that is refused;
            the message names it.
    """
    pairs = [(one, {}) if isinstance(one, str) else (one[0], dict(one[1])) for one in providers]
    return [
        (name, {key: _text(_allowed(name, key), value) for key, value in options.items()})
        for name, options in pairs
    ]


def _allowed(provider: str, option: str) -> str:
    if option in REFUSED:
        raise InputError(f"{provider}: {option} cannot be given: {REFUSED[option]}")
    if provider in KNOWN and option not in KNOWN[provider]:
        near = difflib.get_close_matches(option, KNOWN[provider], 1, 0.5)
        raise InputError(
            f"{provider} has no option {option!r};"
            f" {f'did you mean {near[0]}?' if near else 'docs/onnxruntime_gpu.md lists them'}"
        )
    return option


def _text(option: str, value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        raise InputError(f"option {option} takes a text or a number, got {value!r}")
    return str(int(value)) if isinstance(value, bool) else str(value)


def defaults(provider: str) -> Options:
    """What is set where nothing was given.

    CUDA: memory grows by what is asked for, since a board shares it with everything else. TF32 is
    off: it keeps 10 bits of a float32's 23, which a step would add up. Convolutions are chosen by
    rule, not by trying all, so that a start is quick and repeats. TensorRT: no 16-bit arithmetic,
    since weak typing would reach an optimiser's sums; engines are not kept until a folder is given.
    """
    return dict(_DEFAULTS.get(provider, {}))


_DEFAULTS: dict[str, Options] = {
    CUDA: {
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
    },
    TENSORRT: {
        "trt_fp16_enable": "0",
        "trt_bf16_enable": "0",
        "trt_int8_enable": "0",
        "trt_max_workspace_size": str(256 << 20),
        "trt_engine_cache_enable": "0",
        "trt_timing_cache_enable": "0",
    },
}


def profile(inputs: Mapping[str, tuple[int | None, ...]], batches: Sequence[int]) -> Options:
    """One sample, the middle and the largest batch for every free dimension, as TensorRT's provider
    writes it: ``x:1x784,y:1``.

    From one sample on, whatever the smallest of ``batches`` is: a rest of a chunk may have any
    size.

    Args:
        inputs: shapes of those with a free dimension, which is None. Without any nothing is left to
            choose.
    """
    ordered = sorted(batches)
    sizes = {"min": 1, "opt": ordered[len(ordered) // 2], "max": ordered[-1]}
    if not inputs:
        return {}
    return {
        f"trt_profile_{which}_shapes": ",".join(
            f"{name}:{'x'.join(str(size if dim is None else dim) for dim in dims)}"
            for name, dims in inputs.items()
        )
        for which, size in sizes.items()
    }


__all__ = [
    "CPU",
    "CUDA",
    "KNOWN",
    "REFUSED",
    "TENSORRT",
    "Given",
    "Options",
    "defaults",
    "given",
    "profile",
]
