"""A new bundle whose graph never ends: it holds up nobody, and the daemon ends in time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeadapt.daemon.lifecycle import bundle_trial
from edgeadapt.demo.sample import Sample
from edgeadapt.errors import BundleError, StateError

onnx = pytest.importorskip("onnx")
Made = Callable[..., Any]
READ = "graphs/read.onnx"


def endless(data: bytes) -> bytes:
    """The graph with a loop before its first output that goes on for as long as true is true."""
    model = onnx.load_from_string(data)
    graph, helper = model.graph, onnx.helper
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
        node.input[:] = ["before" if name == output else name for name in node.input]
    carried = [helper.make_tensor_value_info(name, 1, None) for name in ("came", "went")]
    truth = [helper.make_tensor_value_info(name, 9, []) for name in ("so", "still")]
    turn = helper.make_tensor_value_info("turn", 7, [])
    steps = [
        helper.make_node("Identity", ["so"], ["still"]),
        helper.make_node("Abs", ["came"], ["went"]),
    ]
    body = helper.make_graph(steps, "body", [turn, truth[0], carried[0]], [truth[1], carried[1]])
    graph.initializer.append(helper.make_tensor("true", 9, [], [True]))
    graph.node.append(helper.make_node("Loop", ["", "true", "before"], [output], body=body))
    return bytes(model.SerializeToString())


@pytest.fixture
def never(successor: Made, tmp_path: Path) -> Path:
    """A bundle, whole and newer, that is never done."""
    return Path(successor(tmp_path / "never.edge", edit={READ: endless}, version=2))


def test_a_graph_that_never_ends_is_refused_and_the_next_swap_goes_through(
    serve: Made,
    sample: Sample,
    tmp_path: Path,
    successor: Made,
    never: Path,
    until: Made,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundle_trial, "LONGEST_S", 2.0)
    service, told = serve(), []

    def swap() -> None:
        try:
            service.swap(never)
        except BundleError as error:
            told.append(str(error))

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    until(lambda: any("never.edge is being tried" in note for note in service.health()["notes"]))
    assert service.observe(sample.x[:1])[0].id
    thread.join(8.0)
    assert told == ["never.edge: its graphs did not end within 2 s"]
    assert service.health()["problems"] == [f"swap: {told[0]}"] and not service.health()["notes"]
    monkeypatch.undo()
    assert service.swap(successor(tmp_path / "new.edge", version=2))["version"] == 2
    assert service.health()["problems"] == []


def test_the_end_does_not_wait_for_a_bundle_that_is_tried(
    serve: Made, never: Path, until: Made
) -> None:
    service, told = serve(), []

    def swap() -> None:
        try:
            service.swap(never)
        except StateError as error:
            told.append(str(error))

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    until(lambda: service.context.trying is not None)
    started = time.monotonic()
    assert service.stop(), "the last checkpoint was taken"
    assert time.monotonic() - started < 2.0
    thread.join(5.0)
    assert told == ["the daemon stops"]


def test_a_process_that_is_ended_while_it_tries_is_told_of(
    successor: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeadapt.bundle import read_bundle

    good = read_bundle(successor(tmp_path / "good.edge", version=2))
    bundle_trial.try_out(good, "float32", "auto", lambda: False)
    start = bundle_trial.confined.start

    def killed(*arguments: Any) -> Any:
        child = start(*arguments)
        child.send_signal(signal.SIGSEGV)
        return child

    monkeypatch.setattr(bundle_trial.confined, "start", killed)
    with pytest.raises(
        BundleError, match=r"good\.edge: running its graphs once ended .* signal 11"
    ):
        bundle_trial.try_out(good, "float32", "auto", lambda: False)
