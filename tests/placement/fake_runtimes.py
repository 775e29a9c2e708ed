"""Runtimes that do not exist: ONNX Runtime with tensors of its own, and one thing that is wrong
with it.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from edgeadapt_onnxruntime import OnnxRuntime

from edgeadapt.errors import DeviceError, RuntimeUnavailable
from edgeadapt.runtime import GraphFile, Signature, Tensors
from edgeadapt.testing import _runtime as models

ROWS, COLUMNS = 256, 64


class OutOfMemory(DeviceError):
    """As a runtime of its own would name it."""


class Engine:
    """A loaded graph of a made-up runtime."""

    def __init__(self, runtime: MadeUp, name: str, run: Any) -> None:
        self._runtime, self._name, self._run = runtime, name, run

    @property
    def signature(self) -> Signature:
        return self._run.signature

    def __call__(self, ports: Mapping[str, Any], tensors: Tensors) -> Any:
        runtime = self._runtime
        runtime.calls += 1
        runtime.before_call(self._name, ports)
        return runtime.after_call(self._name, *self._run(ports, tensors))


class MadeUp(OnnxRuntime):
    """Tensors lie on a device of their own, and cross by copies as on a GPU. Fast, right and in no
    way broken: the others differ.
    """

    name = "made-up"
    opened: list[MadeUp]

    def __init__(self) -> None:
        super().__init__(device="cpu")
        self.calls = self.loads = self.uploads = 0
        self.is_broken = False
        type(self).opened = [*type(self).opened, self]

    @classmethod
    def probe(cls) -> str:
        return "made up"

    def load(self, graph: GraphFile, constants: Any = None) -> Any:
        self.loads += 1
        self.before_load(graph, constants)
        return Engine(self, graph.name, super().load(graph, constants))

    def upload(self, values: Mapping[str, Any]) -> Tensors:
        self.uploads += 1
        self.before_upload()
        return super().upload(values)

    def download(self, tensors: Tensors, names: Any = None) -> Any:
        if self.is_broken:
            raise DeviceError("cudaErrorIllegalAddress (700)")
        return super().download(tensors, names)

    def before_load(self, graph: GraphFile, constants: Any) -> None: ...
    def before_upload(self) -> None: ...

    def before_call(self, name: str, ports: Mapping[str, Any]) -> None:
        if self.is_broken:
            raise DeviceError("cudaErrorIllegalAddress (700)")

    def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
        return outputs, written

    def changed(self, outputs: Any, written: Tensors, change: Callable[[Any], Any]) -> Any:
        """The results with every float array changed."""
        values = {name: buffer.numpy() for name, buffer in written.items()}
        return {name: change(value) for name, value in outputs.items()}, OnnxRuntime.upload(
            self, {name: change(value) for name, value in values.items()}
        )


class Slow(MadeUp):
    def before_call(self, name: str, ports: Mapping[str, Any]) -> None:
        time.sleep(0.02)


class SlowOnSmall(MadeUp):
    """Five milliseconds, however large the batch."""

    def before_call(self, name: str, ports: Mapping[str, Any]) -> None:
        time.sleep(0.005)


class Wrong(MadeUp):
    """By a hundredth of every number."""

    def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
        return self.changed(
            outputs, written, lambda value: (value * np.float32(1.01)).astype(value.dtype)
        )


class WrongLater(MadeUp):
    """The third call of a graph is wrong."""

    def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
        return (
            self.changed(outputs, written, lambda value: value + np.float32(1))
            if self.calls > 15
            else (outputs, written)
        )


class WrongInTheEnd(MadeUp):
    """Right until it is told otherwise."""

    is_wrong = False

    def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
        return (
            self.changed(outputs, written, lambda value: value * np.float32(1.05))
            if self.is_wrong
            else (outputs, written)
        )


class WrongChange(MadeUp):
    """What it writes is right to a hundredth of a percent, and the change is wrong by a
    hundredth.
    """

    def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
        return outputs, self.changed({}, written, lambda value: value + np.float32(0.01))[1]


class NotANumber(MadeUp):
    def after_call(self, name: str, outputs: Any, written: Tensors) -> Any:
        def spoil(value: Any) -> Any:
            value = np.array(value)
            value.reshape(-1)[-1:] = np.nan
            return value

        return self.changed(outputs, written, spoil)


class DoesNotLoad(MadeUp):
    def before_load(self, graph: GraphFile, constants: Any) -> None:
        raise RuntimeUnavailable("the parser does not know TopK")


class DoesNotOpen(MadeUp):
    def __init__(self) -> None:
        raise OSError("libmadeup.so.1: cannot open shared object file")


class NoMemory(MadeUp):
    """It loads, and has no room for tensors."""

    def before_upload(self) -> None:
        raise OutOfMemory("no room for 65536 bytes on the device")


class NoMemoryToLoad(MadeUp):
    def before_load(self, graph: GraphFile, constants: Any) -> None:
        raise OutOfMemory("no room for 65536 bytes on the device")


class SlowToUpload(MadeUp):
    def before_upload(self) -> None:
        time.sleep(0.03)


class Hangs(MadeUp):
    """Its build does not end before it is let go."""

    let_go, began = threading.Event(), threading.Event()

    def before_load(self, graph: GraphFile, constants: Any) -> None:
        self.began.set()
        assert self.let_go.wait(60)


class BuildsForABatch(MadeUp):
    """A batch above 32 is a build inside the call, under a lock that every call takes."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.let_go, self.builds = threading.Lock(), threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def before_call(self, name: str, ports: Mapping[str, Any]) -> None:
        with self.lock:
            self.sizes.append(len(ports["x"]))
            if len(ports["x"]) > 32 and not self.let_go.is_set():
                self.builds.set()
                assert self.let_go.wait(30)


class BuildsConstants(MadeUp):
    """Another set of constants is a build."""

    def before_load(self, graph: GraphFile, constants: Any) -> None:
        if constants:
            time.sleep(0.3)


def predict_graph() -> GraphFile:
    """y (B, 64) = x (B, 256) @ w.table (256, 64)."""
    return GraphFile("check-predict", base64.b64decode(models._PREDICT))


def learn_graph() -> GraphFile:
    """w.table.next = w.table + amount, count = w.count + amount."""
    return GraphFile("check-learn", base64.b64decode(models._LEARN))


def scale_graph() -> GraphFile:
    """y (B, 3) = x (B, 3) * k.scale, a frozen tensor."""
    return GraphFile(
        "check-scale", base64.b64decode(models._SCALE), {"k.scale": np.array([1, 2, 3], np.float32)}
    )


def table(seed: int = 0, offset: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "w.table": (offset + rng.standard_normal((ROWS, COLUMNS))).astype(np.float32),
        "w.count": np.array(0, np.float32),
    }


def batch(size: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((size, ROWS)).astype(np.float32)
