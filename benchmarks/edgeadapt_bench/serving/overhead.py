"""What learning costs when nothing is learned: ``observe`` against the plain encoder, label to
usable prediction, memory, start.

Baseline: the original encoder as one folded ONNX file with one output, same ONNX Runtime options.
State: no shift, worker idle. Every part is measured in a fresh process with one thread and without
torch, plain and ours in turn.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import KNOWN, bundle_path, load_sample
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt.scenarios.environment import resident_mib
from edgeadapt_bench.datasets.lite0 import LITE0_TAPS, lite0, upscaled
from edgeadapt_bench.datasets.lite0_features import export_plain, plain_session
from edgeadapt_bench.harness.child.job_server import serve
from edgeadapt_bench.harness.measure import Row, Say, at_most, median_ms, p95_ms, paired
from edgeadapt_bench.harness.process import MeasuringProcess, in_child

Frames = NDArray[np.uint8]
Subject = Sequence[str | Path]  # bundle, plain ONNX file, frames.npz (x, and class slots y)
PIXELS, PER_CLASS = 96, 60
LITE0_TARGETS = {1: 1.15, 8: 1.05}
USABLE_MS, ROW_CPU_MS, RSS_MIB, START_S = 150.0, 1.0, 200.0, 0.3
FRAMES = 1000
ROUNDS = 40
LABELS = 40
STARTS = 7
_LABEL_WARM_UP = 3


# -- the parts, in this process --------------------------------------------------------------------
def observe_times(
    subject: Subject, batch: int, rounds: int = ROUNDS, block: int = 16
) -> dict[str, Any]:
    """Seconds per call of the plain encoder and of ``observe``, and the seconds that ``observe``
    spent encoding and sensing.

    Raises:
        InputError: the frames opened a condition, so this is not the state without shift.
    """
    bundle, onnx, frames = subject
    x = np.load(frames)["x"]
    batches = [np.ascontiguousarray(x[i : i + batch]) for i in range(0, len(x) - batch + 1, batch)]
    session = plain_session(onnx)
    parts: list[tuple[float, float]] = []
    with open_learner(bundle) as learner:

        def settle() -> None:
            learner.settle()
            spent = learner.timings()
            parts.append((spent["encode"], spent["sense"]))

        plain, ours = paired(
            lambda i: session.run(None, {"x": batches[i % len(batches)]}),
            lambda i: learner.observe(batches[i % len(batches)]),
            rounds,
            block=block,
            between=settle,
        )
        if learner.domains():
            raise InputError(
                f"clean frames opened {', '.join(learner.domains())}: the bundle was calibrated on"
                " other images"
            )
    changes = np.diff(np.array(parts), axis=0)
    changes = changes[(changes[:, 0] > 0) & (np.arange(len(changes)) >= 2 * block)]
    return {
        "plain": plain.tolist(),
        "observe": ours.tolist(),
        "encode": changes[:, 0].tolist(),
        "sense": changes[:, 1].tolist(),
    }


def label_times(subject: Subject, count: int = LABELS) -> dict[str, Any]:
    """Milliseconds from ``label`` until predictions use it, with an idle worker, and CPU
    milliseconds of ``label`` itself.
    """
    bundle, _, frames = subject
    with np.load(frames) as given:
        x, y = given["x"][: count + _LABEL_WARM_UP], given["y"][: count + _LABEL_WARM_UP]
    usable, cpu = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_learner(bundle, state=Path(folder) / "state") as learner,
    ):
        names = learner.bundle.manifest.classes
        ids: list[str] = []
        for i in range(0, len(x), 8):
            ids += learner.observe(x[i : i + 8]).ids
            learner.settle()
        for sample, slot in zip(ids, y, strict=True):
            started, busy = time.perf_counter(), time.thread_time()
            learner.label(sample, names[slot])
            busy = time.thread_time() - busy
            learner.settle()
            usable.append(1e3 * (time.perf_counter() - started))
            cpu.append(1e3 * busy)
        outcomes = [
            commit.outcome for commit in learner.history(len(ids) + 10) if commit.kind == "learn"
        ]
    if outcomes.count("learned") < len(ids) // 2:
        raise InputError(f"most labels were not learned: {', '.join(sorted(set(outcomes)))}")
    return {"usable": usable[_LABEL_WARM_UP:], "cpu": cpu[_LABEL_WARM_UP:]}


def memory_of_ours(subject: Subject) -> dict[str, Any]:
    """Resident MiB after opening, one prediction and 200 observed frames."""
    x = np.load(subject[2])["x"][:200].copy()  # not a view of all frames
    with open_learner(subject[0]) as learner:
        learner.predict(x[:1])
        for i in range(0, len(x), 8):
            learner.observe(x[i : i + 8])
        learner.settle()
        return {"mib": resident_mib()}


def memory_of_plain(subject: Subject) -> dict[str, Any]:
    """Resident MiB of the plain encoder after the same frames."""
    x = np.load(subject[2])["x"][:200].copy()  # not a view of all frames
    session = plain_session(subject[1])
    for i in range(0, len(x), 8):
        session.run(None, {"x": np.ascontiguousarray(x[i : i + 8])})
    return {"mib": resident_mib()}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "observe": observe_times,
    "label": label_times,
    "memory_of_ours": memory_of_ours,
    "memory_of_plain": memory_of_plain,
}

_START = """
import sys, time
started = time.perf_counter()
import edgeadapt
learner = edgeadapt.open(sys.argv[1])
import numpy
learner.predict(numpy.zeros((1, *learner.bundle.manifest.input.shape), numpy.uint8))
print('{"seconds": %r}' % (time.perf_counter() - started))
"""
_BARE = """
import sys, time
started = time.perf_counter()
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
options.add_session_config_entry("session.set_denormal_as_zero", "1")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
port = session.get_inputs()[0]
kind = {"tensor(uint8)": numpy.uint8, "tensor(float)": numpy.float32}[port.type]
session.run(None, {port.name: numpy.zeros((1, *port.shape[1:]), kind)})
print('{"seconds": %r}' % (time.perf_counter() - started))
"""  # what an answer needs without us: the import, the encoder loaded, one run


# -- fresh processes -------------------------------------------------------------------------------
def of_subject(job: str, subject: Subject, **arguments: int) -> dict[str, Any]:
    """One of ``JOBS`` in a fresh process."""
    return in_child(__name__, job, subject=list(map(str, subject)), **arguments)


def start_times(subject: Subject, count: int = STARTS) -> tuple[list[float], list[float]]:
    """Seconds from import to first answer: ours, and the plain encoder in ONNX Runtime, in turn.

    Modules are compiled once, as an installer does: not the first pair counts.

    Raises:
        RuntimeUnavailable: a process failed; the message has its last line.
    """
    bundle, onnx, _ = map(str, subject)
    with tempfile.TemporaryDirectory() as folder:
        # where compiled modules are kept; an empty value counts as not set
        compiled = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}

        def seconds(code: str, file: str) -> float:
            command = (sys.executable, "-c", code, file)
            with MeasuringProcess("a measuring process failed", command, compiled) as process:
                return float(process.answer()["seconds"])

        pairs = [(seconds(_START, bundle), seconds(_BARE, onnx)) for _ in range(count + 1)]
    return [ours for ours, _ in pairs[1:]], [bare for _, bare in pairs[1:]]


# -- what is measured ------------------------------------------------------------------------------
def demo_subject(folder: Path) -> Subject:
    """The shipped bundle, its encoder alone, and clean images of the six classes it knows."""
    path = bundle_path()
    sample = load_sample()
    rows = sample.rows(KNOWN, np.random.default_rng(0))[:FRAMES]
    onnx, frames = folder / "demo.onnx", folder / "demo.npz"
    plain_from_bundle(read_bundle(path), onnx)
    np.savez(frames, x=sample.x[rows], y=sample.y[rows])
    return path, onnx, frames


def plain_from_bundle(bundle: Bundle, path: Path) -> None:
    """The encode graph with its weights inside and the feature as its one output; ONNX Runtime
    folds the batch-norms when it loads it.
    """
    try:
        import onnx
    except ImportError as error:
        raise RuntimeUnavailable(f"{error}: pip install 'edgeadapt[host]'") from error

    spec = bundle.manifest.graphs_for("encode")[0]
    model = onnx.load_model_from_string(bundle.graph(spec.file))
    for initializer in model.graph.initializer:
        if initializer.name in spec.frozen:
            initializer.CopyFrom(
                onnx.numpy_helper.from_array(bundle.frozen[initializer.name], initializer.name)
            )
    wanted, nodes = {"z"}, []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    outputs = [output for output in model.graph.output if output.name == "z"]
    kept = [initializer for initializer in model.graph.initializer if initializer.name in wanted]
    for field, values in (
        (model.graph.node, nodes[::-1]),
        (model.graph.output, outputs),
        (model.graph.initializer, kept),
    ):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    onnx.save(model, str(path))


def lite0_subject(folder: Path, data: str | None, say: Say) -> Subject:
    """EfficientNet-Lite0 at 96 px, exported on the spot; its original as one file; clean test
    images.

    Raises:
        RuntimeUnavailable: its packages or the host extra are not installed.
        InputError: Fashion-MNIST is not here.
    """
    module = lite0()
    from edgeadapt.host import export
    from edgeadapt.host.data.images import fashion_mnist

    training, test = fashion_mnist(data)
    rows = np.concatenate(
        [np.flatnonzero(training.y == k)[:PER_CLASS] for k in range(len(training.classes))]
    )
    bundle, onnx, frames = folder / "lite0.edge", folder / "lite0.onnx", folder / "lite0.npz"
    calibration = (upscaled(training.x[rows], PIXELS), training.y[rows])
    export(
        bundle,
        module,
        calibration,
        training.classes,
        name="lite0",
        stress=False,
        taps=LITE0_TAPS,
        progress=lambda line: say(f"lite0: {line}"),
    )
    export_plain(module, onnx, PIXELS)
    np.savez(frames, x=upscaled(test.x[:FRAMES], PIXELS), y=test.y[:FRAMES])
    return bundle, onnx, frames


def observe_rows(name: str, batch: int, times: dict[str, Any], target: float | None) -> list[Row]:
    """The ratio of medians, shares of ``observe`` and tails."""
    plain, ours = median_ms(times["plain"]), median_ms(times["observe"])
    end = f"{name}/b{batch}"
    return [
        at_most(f"observe_ratio/{end}", ours / plain, "x plain", target, 1.0),
        Row(f"observe_ms/{end}", ours, "ms", plain),
        Row(f"observe_p95_ms/{end}", p95_ms(times["observe"]), "ms", p95_ms(times["plain"])),
        Row(f"encode_share/{end}", median_ms(times["encode"]) / ours, "of observe"),
        Row(f"sense_share/{end}", median_ms(times["sense"]) / ours, "of observe"),
    ]


def run_overhead(data: str | None, say: Say) -> list[Row]:
    """Item by item, each in processes of its own."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        demo, large = demo_subject(Path(scratch)), lite0_subject(Path(scratch), data, say)
        for name, subject in (("lite0", large), ("demo", demo)):
            for batch in (1, 8):
                say(f"overhead: observe, {name}, batch {batch}")
                times = of_subject(
                    "observe",
                    subject,
                    batch=batch,
                    rounds=ROUNDS if batch == 1 or name == "demo" else ROUNDS // 2,
                )
                rows += observe_rows(
                    name, batch, times, LITE0_TARGETS[batch] if name == "lite0" else None
                )
        say("overhead: labels, memory, start")
        times = of_subject("label", large)
        usable, cpu = float(np.median(times["usable"])), float(np.median(times["cpu"]))
        ours = of_subject("memory_of_ours", large)["mib"]
        plain = of_subject("memory_of_plain", large)["mib"]
        rows += [
            at_most("label_usable_ms", usable, "ms", USABLE_MS),
            Row("label_usable_p95_ms", float(np.quantile(times["usable"], 0.95)), "ms"),
            at_most("label_row_cpu_ms", cpu, "ms", ROW_CPU_MS),
            at_most("rss_mib", ours, "MiB", RSS_MIB, plain),
        ]
        for name, subject, target in (
            ("start_over_ort_s", demo, START_S),
            ("start_over_ort_s/lite0", large, None),
        ):
            whole, bare = (float(np.median(times)) for times in start_times(subject))
            rows.append(at_most(name, whole - bare, "s", target, bare))
    return rows


if __name__ == "__main__":
    serve(JOBS)
