"""A ``tensorrt`` module for versions 10.3 to 11.4, as far as the runtime uses it, that computes for
real.

What each version has and lacks was read in the names of its Python bindings; how it fails, in the
recorded behaviour: failures are None or False with the reason in the first logger of the process,
later loggers are ignored, float64 at the boundary becomes float32, an input that is an output too
is renamed. Progress is told in the phases that TensorRT for RTX 1.7.1 was seen to have, on a thread
of its own, as its header allows; a callback that raises is printed by the bindings and answered
with False. Numbers come from ONNX Runtime, on the fake device's memory, when the stream gets there.

Stricter than TensorRT where its documentation calls something undefined: a graph whose context was
changed after capture, scratch memory used by two runs at once, overlapping inputs and outputs, and
memory that was never written, are violations.
"""

from __future__ import annotations

import ctypes
import enum
import gc
import json
import threading
import time
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_device import FakeDevice
from onnx import TensorProto, helper

VERSIONS = ("10.3.0", "10.13.3.9", "10.16.2.10", "11.4.1.9")
SCRATCH = 1 << 14
UNSUPPORTED = {
    "NonZero",
    "Compress",
    "Unique",
    "Bernoulli",
    "Det",
    "BitShift",
    "MatMulInteger",
    "StringNormalizer",
}
_MAGIC = b"fake plan\n"
_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.DOUBLE: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT64: "INT64",
    TensorProto.INT32: "INT32",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}
_HOST_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class HostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class Behaviour(SimpleNamespace):
    """What a test turns on, and what it reads afterwards."""

    def __init__(self) -> None:
        super().__init__(
            builds=0,
            built=[],
            contexts=0,
            enqueued=0,
            loggers=[],
            refuses_to_build=False,
            refuses_to_load=False,
            refuses_context="",
            refuses_capture=False,
            refuses_inputs=set(),
            aliases={},
            on_host=set(),
            fails_at=0,
            timings_used=[],
            step_s=0.0,
            slow_from=1,
            raised=[],
        )


def make(version: str, device: FakeDevice) -> ModuleType:
    """The module; ``module.fake`` is its :class:`Behaviour`."""
    major, minor = (int(part) for part in version.split(".")[:2])
    since = (major, minor)
    trt: Any = ModuleType("tensorrt")
    trt.__version__, trt.fake = version, Behaviour()
    # others look for it: torch does when it is imported
    trt.__spec__ = ModuleSpec("tensorrt", None)
    fake: Behaviour = trt.fake
    has_driver = device.library.cuInit(0) == 0

    def say(severity: Severity, text: str) -> None:
        if fake.loggers:
            fake.loggers[0].log(severity, text)

    def register(logger: Any) -> None:
        if not fake.loggers:
            fake.loggers.append(logger)
        elif fake.loggers[0] is not logger:
            say(
                Severity.WARNING,
                "The logger passed into createInferBuilder differs from one already registered for"
                " an existing builder, runtime, or refitter; ignored",
            )

    class ILogger:
        def __init__(self) -> None:
            pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]
    flags = {"STRONGLY_TYPED": 1} | ({"EXPLICIT_BATCH": 0} if major < 11 else {})
    builder_flags = (
        {"TF32": 7, "REFIT": 4}
        | ({"FP16": 0, "INT8": 1, "BF16": 17} if major < 11 else {})
        | ({"DISTRIBUTIVE_INDEPENDENCE": 26} if since >= (10, 13) else {})
    )
    trt.ILogger = ILogger
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", flags)  # type: ignore[misc]
    trt.BuilderFlag = enum.IntEnum("BuilderFlag", builder_flags)  # type: ignore[misc]
    trt.MemoryPoolType = enum.IntEnum("MemoryPoolType", ["WORKSPACE", "TACTIC_DRAM"])
    trt.TensorLocation = enum.IntEnum("TensorLocation", ["DEVICE", "HOST"])
    trt.TensorIOMode = enum.IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    trt.DataType = enum.IntEnum(
        "DataType",
        ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64", "INT4"],
    )
    trt.ExecutionContextAllocationStrategy = enum.IntEnum(
        "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
    )

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

    def tell(monitor: Any, network: Network) -> bool:
        """Whether the build went through all its phases."""
        assert isinstance(monitor, IProgressMonitor)
        goes_on = [True]

        def call(name: str, *arguments: Any) -> Any:
            try:
                return getattr(monitor, name)(*arguments)
            except BaseException as error:
                fake.raised.append(error)
                return False

        def phase(name: str, parent: str | None, steps: int, inner: tuple[str, ...] = ()) -> None:
            call("phase_start", name, parent, steps)
            for step in range(steps):
                if step < len(inner) and goes_on[0]:
                    phase(inner[step], name, max(1, len(network.inputs)))
                time.sleep(fake.step_s if fake.builds >= fake.slow_from else 0.0)
                goes_on[0] = goes_on[0] and bool(call("step_complete", name, step))
                if not goes_on[0]:
                    break
            call("phase_finish", name)

        thread = threading.Thread(
            target=phase,
            args=(
                "Building engine",
                None,
                4,
                (
                    "Cloning network graph",
                    "Computing profile costs",
                    "Building engine from subgraph",
                ),
            ),
        )
        thread.start()
        thread.join()
        return goes_on[0]

    trt.IProgressMonitor = IProgressMonitor

    class Builder:
        def __init__(self, logger: Any) -> None:
            register(logger)
            if not has_driver:
                say(
                    Severity.WARNING,
                    "CUDA initialization failure with error: 35. Please check your CUDA"
                    " installation",
                )
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, mask: int = 0) -> Network:
            return Network(
                major >= 11
                or bool(mask & 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            )

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
            fake.builds += 1
            fake.built.append(SimpleNamespace(network=network, config=config))
            inputs = {value.name for value in network.inputs}
            if fake.refuses_to_build or inputs & fake.refuses_inputs:
                say(
                    Severity.ERROR,
                    "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not"
                    " find any implementation for node {ForeignNode[...]}.)",
                )
                return None
            missing = [
                value.name
                for value in network.inputs
                if -1 in value.shape
                and (not config.profiles or value.name not in config.profiles[0].shapes)
            ]
            if missing:
                say(
                    Severity.ERROR,
                    "Error Code 4: Internal Error (Network has dynamic or shape inputs, but no"
                    f" optimization profile has been defined: {missing})",
                )
                return None
            if config.progress_monitor is not None and not tell(config.progress_monitor, network):
                say(
                    Severity.ERROR,
                    "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled (Build canceled"
                    " by user)",
                )
                return None
            profile = config.profiles[0].shapes if config.profiles else {}
            head = {"version": version, "profile": profile, "renamed": network.renamed}
            return HostMemory(_MAGIC + json.dumps(head).encode() + b"\n" + network.model)

    class Network:
        def __init__(self, is_strong: bool) -> None:
            self.is_strong = is_strong
            self.model = b""
            self.inputs = []
            self.outputs = []
            self.renamed = {}

        num_inputs = property(lambda self: len(self.inputs))
        num_outputs = property(lambda self: len(self.outputs))

        def get_input(self, at: int) -> Any:
            return self.inputs[at]

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            register(logger)
            self._network, self._errors = network, []

        num_errors = property(lambda self: len(self._errors))

        def get_error(self, at: int) -> Any:
            return self._errors[at]

        def parse(self, model: bytes) -> bool:
            proto = onnx.load_model_from_string(model)
            for node in proto.graph.node:
                reduces = any(
                    attribute.name == "reduction" and attribute.s != b"none"
                    for attribute in node.attribute
                )
                if node.op_type in UNSUPPORTED or (node.op_type.startswith("Scatter") and reduces):
                    self._errors.append(
                        _error(
                            node,
                            "UNSUPPORTED_NODE",
                            (
                                f"Plugin not found for operator {node.op_type}"
                                if not reduces
                                else "reduction is not supported"
                            ),
                        )
                    )
            if self._errors:
                return False
            inside = {tensor.name for tensor in proto.graph.initializer}
            results = {value.name for value in proto.graph.output}
            deciding = {
                name
                for node in proto.graph.node
                if node.op_type in ("Reshape", "Expand")
                for name in node.input[1:2]
            }
            for value in proto.graph.input:
                if value.name not in inside:
                    name = f"__{value.name}" if value.name in results else value.name
                    if name != value.name:
                        self._network.renamed[value.name] = name
                    self._network.inputs.append(
                        SimpleNamespace(
                            name=name, shape=_dims(value), is_shape_tensor=value.name in deciding
                        )
                    )
            self._network.outputs, self._network.model = list(results), model
            return True

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, list[list[int]]] = {}

        def set_shape(
            self,
            name: str,
            smallest: tuple[int, ...],
            usual: tuple[int, ...],
            largest: tuple[int, ...],
        ) -> None:
            self.shapes[name] = [list(smallest), list(usual), list(largest)]

    class Config:
        def __init__(self) -> None:
            self.flags, self.limits, self.profiles, self.timings = {"TF32"}, {}, [], None
            self.builder_optimization_level = 3
            self.progress_monitor: Any = None

        def clear_flag(self, flag: Any) -> None:
            self.flags.discard(flag.name)

        def set_flag(self, flag: Any) -> None:
            self.flags.add(flag.name)

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self.limits[pool.name] = size

        def add_optimization_profile(self, profile: Profile) -> int:
            self.profiles.append(profile)
            return len(self.profiles) - 1

        def create_timing_cache(self, blob: bytes) -> Any:
            if blob and not blob.startswith(b"timings "):
                say(Severity.ERROR, "ITimingCache: the serialized cache is corrupted")
                return None
            return TimingCache(bytes(blob))

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            if (
                cache.blob
                and not cache.blob.startswith(f"timings {version} ".encode())
                and not ignore_mismatch
            ):
                say(Severity.WARNING, "The timing cache will not be used: mismatched header")
                return False
            fake.timings_used.append(cache.blob)
            self.timings = cache
            return True

        def get_timing_cache(self) -> TimingCache:
            return self.timings

    class TimingCache:
        def __init__(self, blob: bytes) -> None:
            self.blob = blob

        def serialize(self) -> HostMemory:
            return HostMemory(
                self.blob + b"one more; " if self.blob else f"timings {version} ".encode()
            )

    class Runtime:
        def __init__(self, logger: Any) -> None:
            register(logger)
            if not has_driver and major < 11:
                say(
                    Severity.WARNING,
                    "CUDA initialization failure with error: 35. Please check your CUDA"
                    " installation",
                )
                raise TypeError("pybind11::init(): factory function returned nullptr")
            if not has_driver:
                say(
                    Severity.ERROR,
                    "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure"
                    " with error: 35)",
                )

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            if not has_driver:
                raise AssertionError("a real interpreter is gone here: SIGSEGV")
            if fake.refuses_to_load or not bytes(plan).startswith(_MAGIC):
                say(
                    Severity.ERROR,
                    "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization"
                    " assertion header.magicTag == kEXPECTED_MAGIC_TAG failed.)",
                )
                return None
            head, _, model = bytes(plan)[len(_MAGIC) :].partition(b"\n")
            described = json.loads(head)
            if described["version"] != version:
                say(
                    Severity.ERROR,
                    "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization"
                    " error: version tag does not match)",
                )
                return None
            return Engine(described, model)

    class Engine:
        def __init__(self, described: Mapping[str, Any], model: bytes) -> None:
            proto = onnx.load_model_from_string(model)
            inside = {tensor.name for tensor in proto.graph.initializer}
            self.profile = described["profile"]
            self.inputs = {
                described["renamed"].get(v.name, v.name): v
                for v in proto.graph.input
                if v.name not in inside
            }
            self.outputs = {v.name: v for v in proto.graph.output}
            self.device_memory_size_v2 = SCRATCH
            if major < 11:
                self.device_memory_size = SCRATCH
            if since >= (10, 15):
                self.get_aliased_input_tensor = lambda name: fake.aliases.get(name, "")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
            self.names = [*self.inputs, *self.outputs]

        num_io_tensors = property(lambda self: len(self.names))

        def get_tensor_name(self, at: int) -> str:
            return self.names[at]

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if name in self.inputs else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return trt.DataType[
                _TYPES[(self.inputs | self.outputs)[name].type.tensor_type.elem_type]
            ]

        def get_tensor_location(self, name: str) -> Any:
            return trt.TensorLocation.HOST if name in fake.on_host else trt.TensorLocation.DEVICE

        def create_execution_context(self, strategy: Any = None) -> Any:
            if fake.refuses_context:
                say(Severity.ERROR, fake.refuses_context)
                return None
            fake.contexts += 1
            return Context(self)

    class Context:
        def __init__(self, engine: Engine) -> None:
            self.engine, self.changes, self.is_warm = engine, 0, False
            self.shapes = {name: _dims(value) for name, value in engine.inputs.items()}
            self.addresses: dict[str, int] = {}
            self.scratch = (0, 0)

        def _changed(self) -> None:
            self.changes += 1
            self.is_warm = False

        def set_device_memory(self, address: int, size: int) -> None:
            self._changed()
            self.scratch = (address, size)

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            smallest, _, largest = self.engine.profile[name]
            if not all(
                low <= size <= high
                for low, size, high in zip(smallest, shape, largest, strict=True)
            ):
                say(
                    Severity.ERROR,
                    f"IExecutionContext::setInputShape: Error Code 3: API Usage Error ({name}:"
                    f" {shape} is not in the profile {smallest}..{largest})",
                )
                return False
            self._changed()
            self.shapes[name] = tuple(shape)
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            if name in self.shapes:
                return self.shapes[name]
            dims = [
                pair
                for key, value in self.engine.inputs.items()
                for pair in zip(value.type.tensor_type.shape.dim, self.shapes[key], strict=True)
            ]
            sizes = {dim.dim_param: size for dim, size in dims if dim.dim_param}
            found = self.engine.outputs[name].type.tensor_type.shape.dim
            return tuple(
                sizes.get(dim.dim_param, -1) if dim.dim_param else dim.dim_value for dim in found
            )

        def set_tensor_address(self, name: str, address: int) -> bool:
            if address % 256 or not address:
                say(
                    Severity.ERROR,
                    f"IExecutionContext::setTensorAddress: Error Code 3: API Usage Error ({name}:"
                    f" {address:#x} is not aligned to 256 bytes)",
                )
                return False
            self._changed()
            self.addresses[name] = address
            return True

        def infer_shapes(self) -> list[str]:
            return [name for name, shape in self.shapes.items() if -1 in shape]

        def execute_async_v3(self, stream: int) -> bool:
            fake.enqueued += 1
            if fake.enqueued == fake.fails_at:
                say(
                    Severity.ERROR,
                    "IExecutionContext::enqueueV3: Error Code 1: Cask (Cask convolution execution)",
                )
                return False
            missing = [name for name in self.engine.names if name not in self.addresses]
            if missing or self.infer_shapes():
                say(
                    Severity.ERROR,
                    "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (Address is not"
                    f" set for {missing or self.infer_shapes()})",
                )
                return False
            if self.scratch[1] < SCRATCH:
                say(
                    Severity.ERROR,
                    "IExecutionContext::enqueueV3: Error Code 3: API Usage Error (device memory is"
                    " not set)",
                )
                return False
            is_captured = bool(device.library.fake_is_capturing(stream))
            if is_captured and (fake.refuses_capture or not self.is_warm):
                device.library.cudaStreamSynchronize(ctypes.c_void_p(stream))
                say(
                    Severity.ERROR,
                    "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (operation not"
                    " permitted when stream is capturing)",
                )
                return False
            self.is_warm = self.is_warm or not is_captured
            shapes = {name: self.get_tensor_shape(name) for name in self.engine.names}
            job = Job(
                self,
                self.changes if is_captured else None,
                dict(self.addresses),
                shapes,
                self.scratch[0],
            )
            device.library.cudaLaunchHostFunc(
                ctypes.c_void_p(stream),
                ctypes.cast(call, ctypes.c_void_p),
                ctypes.c_void_p(enlist(job)),
            )
            return True

    class Job:
        """One enqueued run: addresses and shapes as they were then."""

        def __init__(
            self,
            context: Context,
            changes: int | None,
            addresses: dict[str, int],
            shapes: dict[str, tuple[int, ...]],
            scratch: int,
        ) -> None:
            self.context = context
            self.changes = changes
            self.addresses = addresses
            self.shapes = shapes
            self.scratch = scratch

        def __call__(self) -> None:
            engine = self.context.engine
            if self.changes not in (None, self.context.changes):
                device.violate("a graph runs whose context was changed after capture")
            with lock:
                if self.scratch in busy:
                    device.violate("two runs at once use the same scratch memory")
                busy.add(self.scratch)
            device.view(self.scratch, SCRATCH)
            feeds, ranges = {}, []
            for name, value in engine.inputs.items():
                array, place = self._window(name, value)
                if array is None:
                    return
                if array.nbytes >= 8 and bool(np.all(array.reshape(-1).view(np.uint8) == 0xCD)):
                    device.violate(f"{name} is read and was never written")
                feeds[value.name] = array.copy()
                ranges.append(place)
            results = engine.session.run(list(engine.outputs), feeds)
            for (name, value), result in zip(engine.outputs.items(), results, strict=True):
                array, (start, end) = self._window(name, value)
                if array is None:
                    return
                if any(start < high and low < end for low, high in ranges):
                    device.violate(f"{name} is written over an input or another output")
                array[...] = result
                ranges.append((start, end))
            with lock:
                busy.discard(self.scratch)

        def _window(self, name: str, value: Any) -> Any:
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            nbytes = int(np.prod(self.shapes[name], dtype=np.int64)) * dtype.itemsize
            raw = device.view(self.addresses[name], nbytes)
            return (None if raw is None else raw.view(dtype).reshape(self.shapes[name])), (
                self.addresses[name],
                self.addresses[name] + nbytes,
            )

    jobs: dict[int, Job] = {}
    busy: set[int] = set()
    lock = threading.Lock()

    def enlist(job: Job) -> int:
        with lock:
            jobs[len(jobs) + 1] = job
            return len(jobs)

    running: list[int] = []

    def run(number: int) -> None:
        """No garbage is collected meanwhile: a finaliser of another test's runtime would wait, on
        this thread, for the stream that runs this. A GPU has no Python.
        """
        with lock:
            running.append(number)
            gc.disable()
        try:
            jobs[number]()
        except Exception as error:
            device.violate(f"a run raised {type(error).__name__}: {error}")
        finally:
            with lock:
                running.remove(number)
                if not running:
                    gc.enable()

    call = _HOST_CALL(run)
    trt.fake.keep, trt.fake.forget = call, jobs.clear
    trt.Builder, trt.OnnxParser, trt.Runtime = Builder, OnnxParser, Runtime
    return trt


def _dims(value: Any) -> tuple[int, ...]:
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else -1
        for dim in value.type.tensor_type.shape.dim
    )


def _error(node: Any, code: str, text: str) -> Any:
    return SimpleNamespace(
        node_name=lambda: node.name,
        node_operator=lambda: node.op_type,
        desc=lambda: text,
        code=lambda: SimpleNamespace(name=code),
        node=lambda: 0,
    )
