"""Steps flush denormals; the thread that opens and calls them does not, before or after."""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from edgeadapt_onnxruntime import OnnxRuntime
from onnx import helper, numpy_helper
from tiny_models import build, predict_graph

from edgeadapt.runtime import GraphFile

SMALL = np.float32(1e-39)
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the floating-point mode is known on x86-64 and aarch64 Linux only",
)


def has_denormals() -> bool:
    return bool((np.full(64, SMALL) * np.float32(0.5)).all())


def decay() -> GraphFile:
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    return GraphFile(
        "decay",
        build(
            [helper.make_node("Mul", ["m.v", "half"], ["m.v.next"])],
            {"m.v": [64]},
            {"m.v.next": [64]},
            [half],
        ),
    )


def anew(call: Callable[[], None]) -> None:
    """On a thread of its own that keeps denormals, whatever other tests did to the one that it
    begins as.
    """
    raised: list[BaseException] = []

    def run() -> None:
        ctypes.CDLL(None).fesetenv(ctypes.c_void_p(-1))  # FE_DFL_ENV
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_a_step_makes_them_zero_and_the_thread_keeps_them() -> None:
    def check() -> None:
        assert has_denormals()
        runtime = OnnxRuntime()
        step = runtime.load(decay())
        assert has_denormals(), "opening a session changed the mode of its thread"
        _, written = step({}, runtime.upload({"m.v": np.full(64, SMALL)}))
        assert has_denormals(), "a step changed the mode of its thread"
        assert not written["m.v"].numpy().any()
        with pytest.raises(Exception, match="reads tensor"):
            step({}, runtime.upload({}))
        assert has_denormals(), "a step that failed changed the mode of its thread"

    anew(check)


def test_a_prediction_computes_as_its_thread_does() -> None:
    def check() -> None:
        runtime = OnnxRuntime()
        tensors = runtime.upload({"W.w": np.full((1, 1), 0.5, np.float32)})
        assert runtime.load(predict_graph(1, 1))({"x": np.full((64, 1), SMALL)}, tensors)[0][
            "y"
        ].all()

    anew(check)
