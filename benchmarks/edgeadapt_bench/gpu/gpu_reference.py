"""The adaptor step in numpy, and what every system of the GPU suite is given: start, inputs, the
compiled graph, and where the steps must end.

Torch is not needed: the reference is written out, forward and backward, in float64. The graph
``gpu_step.onnx`` was compiled from :mod:`edgeadapt_bench.steps.adaptor_step` with a free batch:

    python -c "from edgeadapt_bench.steps import adaptor_step as a; from edgeadapt.host.compile
    import compile_step as c; \
learn, ports, tensors = a.step(); open('benchmarks/edgeadapt_bench/gpu/gpu_step.onnx',
'wb').write(c('adaptor', learn, ports, tensors, dynamic_batch=True, batch=8).model)"
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt_bench.harness.step_reference import Reference

WIDTH, BOTTLENECK, CLASSES = 1280, 64, 20
LEARNING_RATE, BETA, EPS = 0.01, 0.9, 1e-5
GRAPH = Path(__file__).with_name("gpu_step.onnx")
SMALL = "small.vector"
TOLERANCE, STEPS = 1e-4, 6
"""As a share of the update: that of ``edgeadapt bench steps``, after six steps."""

INPUTS = 4  # so few that the graphs of a lane, one for each pair of input and state, are all kept
Arrays = dict[str, NDArray[Any]]
_VECTORS = {
    "norm.gain": WIDTH,
    "norm.offset": WIDTH,
    "down.bias": BOTTLENECK,
    "up.bias": WIDTH,
    "head.bias": CLASSES,
}
_erf = np.vectorize(math.erf, otypes=[np.float64])


def parameters(seed: int = 0) -> Arrays:
    """Starting values by name, float32; linear weights are (out, in)."""
    rng = np.random.default_rng(seed)

    def normal(out: int, into: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (scale * into**-0.5 * rng.standard_normal((out, into))).astype(np.float32)

    zeros = {name: np.zeros(size, np.float32) for name, size in _VECTORS.items()}
    weights = {
        "down.weight": normal(BOTTLENECK, WIDTH),
        "up.weight": normal(WIDTH, BOTTLENECK, 0.1),
        "head.weight": normal(CLASSES, WIDTH),
    }
    return {**zeros, "norm.gain": np.ones(WIDTH, np.float32), **weights}


def tensors(start: Mapping[str, NDArray[Any]]) -> Arrays:
    """The state as the graph has it: vectors in one, and a velocity of zeros for each."""
    own = {name: value for name, value in start.items() if name not in _VECTORS}
    own[SMALL] = np.concatenate([start[name] for name in _VECTORS])
    return {**own, **{f"momentum.{name}": np.zeros_like(value) for name, value in own.items()}}


def named(held: Mapping[str, NDArray[Any]]) -> Arrays:
    """The parameters by their own names, from what a system holds."""
    if SMALL not in held:
        return dict(held)
    parts = np.split(held[SMALL], np.cumsum(list(_VECTORS.values()))[:-1])
    return {
        name: value
        for name, value in held.items()
        if name.endswith(".weight") and not name.startswith("momentum.")
    } | dict(zip(_VECTORS, parts, strict=True))


class Exact:
    """The step with parameters and velocity in place.

    Args:
        start: by name. dtype: float64 for the reference.
        array: numpy, or CuPy for its arrays. erf: that of the array library, elementwise.
    """

    def __init__(
        self,
        start: Mapping[str, NDArray[Any]],
        dtype: Any = np.float64,
        array: Any = np,
        erf: Any = _erf,
    ) -> None:
        self._array, self._erf, self._dtype = array, erf, dtype
        # copies: they are updated in place
        self.values = {name: array.array(value, dtype) for name, value in start.items()}
        self.velocity = {name: array.zeros_like(value) for name, value in self.values.items()}

    def step(self, x: Any, y: Any) -> Any:
        """``x`` (B, 1280), ``y`` (B,): the mean cross-entropy, before the update. The parameters
        have been told to change when it returns.
        """
        loss, slopes = self.gradient(x, y)
        for name, slope in slopes.items():
            self.velocity[name] *= BETA
            self.velocity[name] += slope
            self.values[name] -= LEARNING_RATE * self.velocity[name]
        return loss

    def gradient(self, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
        """The loss, and its slope in every parameter: layer norm, a bottleneck with an exact GELU
        around the identity, a head.
        """
        np_, p, count = self._array, self.values, len(x)
        x = x.astype(self._dtype, copy=False)
        centred = x - x.mean(axis=1, keepdims=True)
        scale = 1 / np_.sqrt((centred * centred).mean(axis=1, keepdims=True) + EPS)
        whitened = centred * scale
        normed = whitened * p["norm.gain"] + p["norm.offset"]
        inner = normed @ p["down.weight"].T + p["down.bias"]
        share = (0.5 * (1 + self._erf(inner * 2**-0.5))).astype(self._dtype, copy=False)
        active = inner * share
        adapted = x + active @ p["up.weight"].T + p["up.bias"]
        logits = adapted @ p["head.weight"].T + p["head.bias"]
        logits = logits - logits.max(axis=1, keepdims=True)
        logs = logits - np_.log(np_.exp(logits).sum(axis=1, keepdims=True))
        rows = np_.arange(count)
        d_logits = np_.exp(logs)
        d_logits[rows, y] -= 1
        d_logits /= count
        d_adapted = d_logits @ p["head.weight"]
        bell = (np_.exp(-0.5 * inner * inner) * (2 * math.pi) ** -0.5).astype(
            self._dtype, copy=False
        )
        d_inner = (d_adapted @ p["up.weight"]) * (share + inner * bell)
        d_normed = d_inner @ p["down.weight"]
        return -logs[rows, y].mean(), {
            "head.weight": d_logits.T @ adapted,
            "head.bias": d_logits.sum(axis=0),
            "up.weight": d_adapted.T @ active,
            "up.bias": d_adapted.sum(axis=0),
            "down.weight": d_inner.T @ normed,
            "down.bias": d_inner.sum(axis=0),
            "norm.gain": (d_normed * whitened).sum(axis=0),
            "norm.offset": d_normed.sum(axis=0),
        }


def write(folder: Path, batch: int) -> Reference:
    """A folder that every system loads, and where its steps must end."""
    folder.mkdir(parents=True, exist_ok=True)
    start = parameters()
    rng = np.random.default_rng(1000 + batch)
    x = rng.standard_normal((INPUTS, batch, WIDTH)).astype(np.float32)
    y = rng.integers(0, CLASSES, (INPUTS, batch))
    np.savez(folder / "start.npz", **start)
    np.savez(folder / "state.npz", **tensors(start))
    np.savez(folder / "inputs.npz", x=x, y=y)
    (folder / "step.onnx").write_bytes(GRAPH.read_bytes())
    settings = {
        "step": "adaptor",
        "graph": "step.onnx",
        "loss": "loss",
        "width": WIDTH,
        "bottleneck": BOTTLENECK,
        "classes": CLASSES,
        "eps": EPS,
        "learning_rate": LEARNING_RATE,
        "beta": BETA,
        "batch": batch,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    exact = Exact(start)
    for index in range(STEPS):
        exact.step(x[index % INPUTS], y[index % INPUTS])
    return Reference(start, (exact.values,), STEPS, TOLERANCE)


def state_bytes() -> int:
    """Of parameters and velocity, once: what a step has to read, and to write."""
    return sum(value.nbytes for value in tensors(parameters()).values())
