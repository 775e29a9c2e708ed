"""From an ONNX graph to an engine, for TensorRT 10.3 to 11.4: strongly typed, no TF32, a limit on
scratch memory, a profile of batches.

What differs between versions is asked of the module (has it this flag, this method), not of its
number. TensorRT answers a failure with None and says the reason to its logger, so every None
becomes an error with those lines.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.onnx_file import Value
from edgeadapt.runtime import Built, Watch
from edgeadapt_tensorrt._driver import Device
from edgeadapt_tensorrt._logger import last_words, listening, process_logger
from edgeadapt_tensorrt._monitor import watched
from edgeadapt_tensorrt._store import Key, Store

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


class EngineError(RuntimeUnavailable):
    """TensorRT does not take a graph, or makes something else of it; the message names the node and
    has TensorRT's words.
    """


@dataclass(frozen=True)
class Flags:
    """What an engine is built with besides the graph; part of the key of a plan.

    Args:
        workspace_mib: scratch memory that one operation may ask for. TensorRT's own limit is all
            memory, which on a Jetson is the system's.
        tf32: let matrix products round their inputs to 10 bits of mantissa; off, as a learning step
            wants float32.
        level: 0 to 5, how long the builder looks for faster kernels.
    """

    workspace_mib: int = 256
    tf32: bool = False
    level: int = 3


@dataclass(frozen=True)
class Profile:
    """The sizes that a free axis may have, and the one that kernels are chosen for."""

    usual: int
    largest: int

    @classmethod
    def of(cls, batches: Sequence[int]) -> Profile:
        """The middle and the largest of the usual sizes."""
        return cls(sorted(batches)[len(batches) // 2], max(batches))


class Compiler:
    """Builds engines and reads them back; one per runtime, one build at a time.

    Args:
        trt: the imported ``tensorrt``.
        device: what plans are for.
        store: where plans and timings are kept.
        note: is told what is worth knowing and no error.

    Raises:
        RuntimeUnavailable: TensorRT has no builder here, or cannot start.
    """

    def __init__(
        self,
        trt: ModuleType,
        device: Device,
        flags: Flags,
        store: Store,
        note: Callable[[str], None],
    ) -> None:
        self.trt: Any = trt
        self.build_count = 0
        self._device = device
        self._flags = flags
        self._store = store
        self._note = note
        self._lock = threading.Lock()
        with listening() as lines:
            try:
                self._runtime = self.trt.Runtime(process_logger(trt))
            except TypeError as error:  # up to TensorRT 10: the factory returned nullptr
                raise RuntimeUnavailable(
                    f"TensorRT {self.version} cannot start: {error}.{last_words(lines)}"
                ) from error

    @property
    def version(self) -> str:
        return str(self.trt.__version__)

    def engine(
        self, name: str, model: bytes, inputs: list[Value], outputs: list[Value], profile: Profile
    ) -> Any:
        """The ``ICudaEngine`` of a self-contained model, from the store or built now.

        Raises:
            EngineError: the graph is not supported, does not build, or changes its ports.
        """
        return self._engine(name, model, inputs, outputs, profile, None)[0]

    def ahead(
        self,
        name: str,
        model: bytes,
        inputs: list[Value],
        outputs: list[Value],
        profile: Profile,
        watch: Watch | None,
    ) -> Built:
        """The same, for the store alone. A kept plan is loaded once, too: TensorRT may refuse it.

        Raises:
            EngineError: see :meth:`engine`.
            RuntimeUnavailable: the build was cancelled, or its plan could not be kept.
        """
        engine, plan, was_kept, reason = self._engine(name, model, inputs, outputs, profile, watch)
        del engine
        if reason:
            raise RuntimeUnavailable(
                f"graph {name!r} was built, and its plan is not kept: {reason}"
            )
        return Built(was_kept, self._store.place("plan", self._key(model, profile)), len(plan))

    def _engine(
        self,
        name: str,
        model: bytes,
        inputs: list[Value],
        outputs: list[Value],
        profile: Profile,
        watch: Watch | None,
    ) -> tuple[Any, bytes, bool, str]:
        """The engine, its plan, whether that was kept already, and why it will not be kept."""
        key = self._key(model, profile)
        with self._lock, listening() as lines:
            plan = self._store.read("plan", key)
            engine = self._runtime.deserialize_cuda_engine(plan) if plan is not None else None
            if plan is not None and engine is not None:
                self._check(name, engine, inputs, outputs)
                return engine, plan, True, ""
            if plan is not None:
                self._note(
                    f"graph {name!r}: the kept plan is refused, and built again.{last_words(lines)}"
                )
            lines.clear()
            plan = self._build(name, model, profile, lines, watch)
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise EngineError(
                    f"graph {name!r}: TensorRT {self.version} cannot load the plan that it"
                    f" built.{last_words(lines)}"
                )
            self._check(name, engine, inputs, outputs)
            return engine, plan, False, self._store.write("plan", key, plan)

    def _key(self, model: bytes, profile: Profile) -> Key:
        return {
            **self._machine(),
            "graph": hashlib.sha256(model).hexdigest(),
            "profile": asdict(profile),
            "flags": asdict(self._flags),
        }

    def _machine(self) -> dict[str, Any]:
        capability = "{}.{}".format(*self._device.capability)
        return {
            "tensorrt": self.version,
            "device": self._device.name,
            "capability": capability,
            "driver": self._device.driver,
        }

    def _build(
        self, name: str, model: bytes, profile: Profile, lines: Any, watch: Watch | None = None
    ) -> bytes:
        trt, logger = self.trt, process_logger(self.trt)
        self.build_count += 1
        try:
            builder = trt.Builder(logger)
        except TypeError as error:
            raise RuntimeUnavailable(
                f"TensorRT {self.version} cannot build here: {error}.{last_words(lines)}"
            ) from error
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(model):
            reasons = "; ".join(
                _parser_error(parser.get_error(at)) for at in range(parser.num_errors)
            )
            raise EngineError(
                f"graph {name!r}: TensorRT {self.version} does not take"
                f" {reasons or 'it, without a reason'}.{last_words(lines)}"
            )
        config = builder.create_builder_config()
        if not self._flags.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)  # on by default
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._flags.workspace_mib << 20)
        config.builder_optimization_level = self._flags.level
        self._add_profile(name, builder, network, config, profile)
        timings = self._timings(config)
        with watched(trt, config, watch) as monitor:
            plan = builder.build_serialized_network(network, config)
        if plan is None and monitor.is_cancelled:
            raise RuntimeUnavailable(f"graph {name!r}: its build was cancelled")
        if plan is None:
            raise EngineError(
                f"graph {name!r}: TensorRT {self.version} parsed it and does not build"
                f" it.{last_words(lines)}"
            )
        if timings is not None:
            self._store.write(
                "timing", self._machine(), bytes(config.get_timing_cache().serialize())
            )
        return bytes(plan)

    @staticmethod
    def _add_profile(name: str, builder: Any, network: Any, config: Any, profile: Profile) -> None:
        found = builder.create_optimization_profile()
        is_free = False
        for at in range(network.num_inputs):
            value = network.get_input(at)
            if value.is_shape_tensor:
                raise EngineError(
                    f"graph {name!r}: input {value.name!r} decides a shape, so TensorRT wants it on"
                    " the host; make it a constant"
                )
            shape = tuple(value.shape)
            if -1 in shape:
                is_free = True
                sizes = (1, profile.usual, profile.largest)
                found.set_shape(
                    value.name,
                    *(tuple(size if dim == -1 else dim for dim in shape) for size in sizes),
                )
        if is_free:
            config.add_optimization_profile(found)

    def _timings(self, config: Any) -> Any:
        """Measured kernels of earlier builds on this machine: faster builds, and the same kernels
        again.
        """
        cache = config.create_timing_cache(self._store.read("timing", self._machine()) or b"")
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        self._note("the kept timings are refused; measured again")
        cache = config.create_timing_cache(b"")
        return cache if cache is not None and config.set_timing_cache(cache, False) else None

    def _check(self, name: str, engine: Any, inputs: list[Value], outputs: list[Value]) -> None:
        """Names, types and places as in the graph: parsers rename an input that is an output too,
        and narrow float64 without a word.
        """
        trt = self.trt
        wanted = {(value.name, "INPUT"): value for value in inputs} | {
            (value.name, "OUTPUT"): value for value in outputs
        }
        found = set()
        for at in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(at)
            port = (tensor, engine.get_tensor_mode(tensor).name)
            found.add(port)
            if port not in wanted:
                raise EngineError(
                    f"graph {name!r}: TensorRT {self.version} makes an {port[1].lower()} {tensor!r}"
                    " that the graph does not have"
                )
            dtype = _DTYPES.get(
                engine.get_tensor_dtype(tensor).name, engine.get_tensor_dtype(tensor).name
            )
            if dtype != wanted[port].dtype:
                raise EngineError(
                    f"graph {name!r}: TensorRT {self.version} makes {tensor!r} {dtype} where the"
                    f" graph has {wanted[port].dtype}"
                )
            if engine.get_tensor_location(tensor) != trt.TensorLocation.DEVICE:
                raise EngineError(
                    f"graph {name!r}: TensorRT {self.version} wants {tensor!r} on the host, as it"
                    " decides a shape"
                )
            if (
                port[1] == "OUTPUT"
                and hasattr(engine, "get_aliased_input_tensor")
                and engine.get_aliased_input_tensor(tensor)
            ):
                raise EngineError(
                    f"graph {name!r}: TensorRT {self.version} writes {tensor!r} over its input, and"
                    " inputs are values"
                )
        if missing := sorted(tensor for tensor, _ in set(wanted) - found):
            raise EngineError(
                f"graph {name!r}: the engine of TensorRT {self.version} has no {missing[0]!r}"
            )


def _network_flags(trt: Any) -> int:
    """Strong typing is a flag in TensorRT 10 and the only way in 11; an explicit batch is the only
    way in both.
    """
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parser_error(error: Any) -> str:
    return (
        f"{error.node_operator() or 'the model'} at node {error.node_name()!r}: {error.desc()}"
        f" ({error.code().name})"
    )
