"""Whole encoders in evaluation mode, against torch.

EfficientNet-Lite0 and MobileNetV2 carry the ImageNet weights that their packages ship. All others
have random weights: for them this is parity and nothing else.
"""

from __future__ import annotations

import time

import pytest
from edgeadapt_bench.steps import entropy_step
from gallery import HEAVY, every_layer_of_the_demo_network

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.host.compile import compile_step

STEP_SECONDS = 60.0
QUICK = ("demo network", "small vision transformer", "one-dimensional network")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in HEAVY]
)
def test_an_encoder_computes_what_torch_computes(name):
    try:
        entry = HEAVY[name]()
    except (ImportError, RuntimeUnavailable) as error:
        pytest.skip(f"{name}: {error}")
    graph = entry.compile()
    parity = graph.parity
    assert parity.cases >= 8 and parity.median_error <= 1e-5
    assert parity.worst_error <= parity.tolerance or parity.arbiter == "float64"
    assert graph.writes == () and graph.reads == () and set(graph.frozen) <= set(entry.tensors)
    assert len(graph.model) < 400_000  # the weights are elsewhere
    assert [port.shape[0] for port in (*graph.ports, *graph.outputs)] == [None, None]


@pytest.mark.slow
def test_a_step_through_every_layer_of_the_demo_network():
    entry = every_layer_of_the_demo_network()
    graph, seconds = timed(entry.compile)
    assert seconds <= STEP_SECONDS
    assert set(graph.writes) == set(entry.tensors) - set(entry.frozen)
    assert graph.parity.median_error <= graph.parity.tolerance / 2


@pytest.mark.slow
def test_the_entropy_step_through_lite0_compiles_in_a_minute():
    try:
        step, make_ports, tensors = entropy_step.step()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    graph, seconds = timed(
        lambda: compile_step(
            "entropy",
            step,
            make_ports,
            tensors,
            frozen=entropy_step.frozen(tensors),
            batch=2,
            dynamic_batch=False,
        )
    )
    assert seconds <= STEP_SECONDS
    assert set(graph.writes) == set(tensors) - set(entropy_step.frozen(tensors))


def timed(work):
    """Result and seconds of the process, which has one thread: what others do on the machine does
    not count.
    """
    start = time.process_time()
    return work(), time.process_time() - start
