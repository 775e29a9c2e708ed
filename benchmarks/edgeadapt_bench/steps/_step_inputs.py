"""What every system of ``edgeadapt bench steps`` is given: start, inputs, our compiled graph, and
where the steps must end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from edgeadapt.host.compile import MakePorts, compile_step
from edgeadapt_bench.harness.child.step_protocol import StepInputs
from edgeadapt_bench.harness.step_reference import Arrays, Reference
from edgeadapt_bench.steps import adaptor_step, entropy_step
from edgeadapt_bench.steps._step_worker_torch import Eager

if TYPE_CHECKING:
    from torch import Tensor

ADAPTOR_TOLERANCE, ADAPTOR_WALKS = 1e-4, (1, 6)
"""Walks, and steps of each: enough for the momentum to matter."""

ENTROPY_TOLERANCE, ENTROPY_WALKS = 2e-2, (7, 2)
"""49 layers on batch statistics amplify rounding where a ReLU6 mask flips: torch's own float32 is
1e-5 to 1e-2 of the way off float64 after two steps, and more after each further one. So many short
walks, and their median; a step without momentum is a third off."""

_INPUTS = {"adaptor": 64, "entropy": 16}


@dataclass(frozen=True)
class Prepared:
    """A folder that a system loads, the reference, and what making it cost; ``named`` gives our
    tensors the reference's names.
    """

    folder: Path
    reference: Reference
    named: Callable[[Arrays], Arrays]
    compile_s: float
    graph_bytes: int
    nodes: int


def adaptor(folder: Path, batch: int, *, is_batch_free: bool = False, seed: int = 0) -> Prepared:
    """The adaptor step at one batch size, compiled for it or for every batch size.

    Raises:
        CompileError: the compiler refuses the step.
    """
    learn, make_ports, tensors = adaptor_step.step(seed)
    started = time.perf_counter()
    graph = compile_step(
        "adaptor",
        learn,
        make_ports,
        tensors,
        dynamic_batch=is_batch_free,
        batch=8 if is_batch_free else batch,
    )
    compile_s = time.perf_counter() - started
    settings = {
        "step": "adaptor",
        "graph": "step.onnx",
        "loss": "loss",
        "width": adaptor_step.WIDTH,
        "bottleneck": adaptor_step.BOTTLENECK,
        "classes": adaptor_step.CLASSES,
        "eps": adaptor_step.EPS,
        "learning_rate": adaptor_step.LEARNING_RATE,
        "beta": adaptor_step.BETA,
    }
    _write(folder, graph.model, adaptor_step.parameters(seed), tensors, make_ports, batch, settings)

    def named(held: Arrays) -> Arrays:
        values = adaptor_step.named({name: torch.from_numpy(value) for name, value in held.items()})
        return {name: value.numpy() for name, value in values.items()}

    return Prepared(
        folder,
        reference(folder, ADAPTOR_TOLERANCE, ADAPTOR_WALKS),
        named,
        compile_s,
        len(graph.model),
        graph.nodes,
    )


def entropy(folder: Path, batch: int, *, seed: int = 0) -> Prepared:
    """The entropy step at one batch size.

    Raises:
        CompileError: the compiler refuses the step.
        RuntimeUnavailable: the network's packages are not installed.
    """
    learn, make_ports, tensors = entropy_step.step(seed)
    frozen = entropy_step.frozen(tensors)
    started = time.perf_counter()
    graph = compile_step(
        "entropy", learn, make_ports, tensors, frozen=frozen, dynamic_batch=False, batch=batch
    )
    compile_s = time.perf_counter() - started
    settings = {
        "step": "entropy",
        "graph": "step.onnx",
        "loss": "entropy",
        "learning_rate": entropy_step.LEARNING_RATE,
        "beta": entropy_step.BETA,
    }
    start = {entropy_step.AFFINE: tensors[entropy_step.AFFINE]}
    state = {name: value for name, value in tensors.items() if name not in frozen}
    _write(folder, graph.model, start, state, make_ports, batch, settings)
    save_file(
        {name: tensors[name].contiguous() for name in graph.frozen}, folder / "frozen.safetensors"
    )
    np.savez(
        folder / "head.npz",
        weight=tensors["head.weight"].numpy(),
        bias=tensors["head.bias"].numpy(),
    )

    def named(held: Arrays) -> Arrays:
        return {name: held[name] for name in start}

    return Prepared(
        folder,
        reference(folder, ENTROPY_TOLERANCE, ENTROPY_WALKS),
        named,
        compile_s,
        len(graph.model),
        graph.nodes,
    )


def reference(
    folder: Path, tolerance: float, walks: tuple[int, int], beta: float | None = None
) -> Reference:
    """Torch's own modules, autograd and optimiser in float64, on the folder's inputs; ``beta``
    replaces the momentum.
    """
    step_inputs = StepInputs(folder)
    if beta is not None:
        step_inputs.settings["beta"] = beta
    exact = Eager(step_inputs, dtype=torch.float64)
    count, steps = walks
    ends = []
    for walk in range(count):
        exact.reset()
        for index in range(walk * steps, (walk + 1) * steps):
            exact.step(index)
        ends.append(exact.parameters())
    return Reference(step_inputs.start, tuple(ends), steps, tolerance)


def _write(
    folder: Path,
    model: bytes,
    start: dict[str, Tensor],
    state: dict[str, Tensor],
    make_ports: MakePorts,
    batch: int,
    settings: dict[str, Any],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [
        make_ports(torch.Generator().manual_seed(1000 + index), batch)
        for index in range(_INPUTS[settings["step"]])
    ]
    (folder / settings["graph"]).write_bytes(model)
    for name, values in (("start.npz", start), ("state.npz", state)):
        np.savez(folder / name, **{key: value.numpy() for key, value in values.items()})
    np.savez(
        folder / "inputs.npz",
        **{name: torch.stack([ports[name] for ports in drawn]).numpy() for name in drawn[0]},
    )
    (folder / "settings.json").write_text(json.dumps(settings))
