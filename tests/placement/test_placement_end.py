"""How a process ends that never closed its runtime: with its own exit code, whatever is being
built.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

_CHILD = """
import sys, threading, time
sys.path.append(sys.argv[1])
from types import SimpleNamespace
from importlib.metadata import entry_points
import edgeadapt.runtime
from edgeadapt_onnxruntime import OnnxRuntime
from edgeadapt.errors import RuntimeUnavailable
from fake_runtimes import MadeUp, batch, predict_graph, table

began = threading.Event()

def native(seconds, goes_on=lambda: True):
    run, tensors = OnnxRuntime().load(predict_graph()), OnnxRuntime().upload(table())
    x = batch(4096)
    end = time.monotonic() + seconds
    began.set()
    while time.monotonic() < end and goes_on():
        run({"x": x}, tensors)

class Loads(MadeUp):
    def before_load(self, graph, constants):
        native(1.5)

class Builds(MadeUp):
    cache = "somewhere"
    def build(self, graph, constants=None, watch=None):
        native(60, lambda: watch("tactics", 0, 1))
        print("cancelled", flush=True)
        raise RuntimeUnavailable("cancelled")
    def before_load(self, graph, constants):
        print("loads", flush=True)

one = {"loads": Loads, "builds": Builds}[sys.argv[2]]
one.opened = []
ours = [entry for entry in entry_points(group="edgeadapt.runtimes") if entry.name == "onnxruntime"]
made_up = SimpleNamespace(name="made-up", load=lambda: one)
edgeadapt.runtime.entry_points = lambda group: [*ours, made_up]
runtime = edgeadapt.runtime.open_runtime("auto")
run, tensors = runtime.load(predict_graph()), runtime.upload(table())
run({"x": batch(1)}, tensors)
assert began.wait(30)
print(time.monotonic(), flush=True)
"""


def ended(what: str) -> tuple[int, str, str, float]:
    """Exit code, output, errors and seconds from the last line of the main thread to the end."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(Path(__file__).parent), what],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic()
    numbers = [float(line) for line in done.stdout.split() if line[0].isdigit()]
    return done.returncode, done.stdout, done.stderr, end - numbers[-1] if numbers else float("nan")


def test_a_process_that_ends_while_a_graph_is_loaded_elsewhere_waits_for_it() -> None:
    code, _, errors, _ = ended("loads")
    assert (code, errors) == (0, "")


def test_a_build_that_can_be_cancelled_is_when_the_process_ends() -> None:
    code, said, errors, seconds = ended("builds")
    assert (code, errors) == (0, "") and "cancelled" in said and "loads" not in said
    assert seconds < 4  # and not the minute that it takes, nor the whole wait
