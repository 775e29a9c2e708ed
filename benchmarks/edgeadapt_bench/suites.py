"""Suites by name. A suite is imported when it runs: listing them costs nothing, and most need the
host extra.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from edgeadapt.errors import InputError
from edgeadapt_bench.harness.measure import Row, Say, report, table, write_json
from edgeadapt_bench.harness.needs import check, needs_of

_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
        summary: one line on what it measures. module: where ``run_NAME`` is, inside this package.
        options: its options. seeds: those it is handed; none if it has its own.
    """

    summary: str
    module: str
    options: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None


SUITES = {
    "overhead": Suite(
        "observe against the plain encoder; label to usable prediction; memory; start",
        "serving.overhead",
    ),
    "steps": Suite(
        "the adaptor and the entropy step beside torch eager, torch.compile and others",
        "steps.steps",
        ("quick", "peers", "passes"),
    ),
    "heads": Suite(
        "ridge on Fashion-MNIST in five tasks, with EfficientNet-Lite0 features, beside what one"
        " could pick instead",
        "streams.heads",
    ),
    "detection": Suite(
        "false alarms and detection of the shift axis", "shift.detection", seeds=_SEEDS
    ),
    "noticing": Suite(
        "whether a fall of accuracy is noticed on real transfers, and false alarms",
        "shift.accuracy_drop",
        ("quick",),
    ),
    "shift": Suite(
        "label-free adaptation beside published methods: accuracy, worst loss, cost, constant rate",
        "shift.shift",
        ("quick", "members", "foreign", "plots"),
    ),
    "answers": Suite(
        "recovery from a few labels, and from the questions alone", "labels.answers", seeds=_SEEDS
    ),
    "classes": Suite("new classes from ten labels each", "labels.classes", seeds=_SEEDS),
    "guard": Suite(
        "clean label batches accepted, poisoned ones caught", "labels.guard_suite", seeds=_SEEDS
    ),
    "soak": Suite(
        "memory over 1,000,000 vectors and 10,000 images; opening and recovering 100,000 evidence"
        " rows",
        "operations.soak",
        ("quick",),
    ),
    "interference": Suite(
        "how long predictions take while the worker learns, senses, forgets",
        "operations.interference",
        ("quick",),
    ),
    "serve": Suite(
        "the daemon while it adapts and learns, beside a bare loop: frame rate, slowest answers,"
        " memory",
        "serving.serve",
        ("quick",),
    ),
    "commit": Suite(
        "a label until durable and until learned, bytes on disk, what forgetting costs",
        "operations.commit",
        ("quick",),
    ),
    "streams": Suite(
        "heads on class- and domain-incremental streams: accuracy, forgetting, bytes, time",
        "streams.streams",
        ("quick", "plots"),
    ),
    "key_value": Suite(
        "the key-value bottleneck beside other heads within a budget of bytes",
        "streams.key_value",
        ("quick",),
    ),
    "novelty": Suite(
        "novelty scores on held-out classes, far data and under shift",
        "novelty.novelty",
        ("quick", "plots"),
    ),
    "selection": Suite(
        "what is worth keeping: selectors for replay and for an adaptor's training set",
        "coreset.selection",
        ("quick", "plots"),
    ),
    "search": Suite(
        "adaptor candidates ranked without training, against their trained accuracy",
        "adaptors.search",
        ("quick", "plots"),
    ),
    "growth": Suite(
        "a condition's own adaptor against none: gain, what clean images keep, routes, drift",
        "adaptors.growth",
        ("quick",),
    ),
    "placement": Suite(
        "every graph in every runtime that works here, beside the CPU: round trips, agreement",
        "precision.placement",
        ("quick", "bundle"),
    ),
    "precision": Suite(
        "the encoder in float16 and int8 beside float32: answers, novelty, windows, bytes, times",
        "precision.precision",
        ("quick", "networks", "bundle"),
    ),
    "questions": Suite(
        "which samples to ask about, against random asking and the oracle",
        "labels.questions",
        ("quick", "plots"),
    ),
    "transfer": Suite(
        "learning in the field beside a refit on the same features and labels: real data,"
        " pretrained encoders",
        "transfer",
        ("quick", "validation"),
    ),
    "gain": Suite(
        "whether ten labels bring what they are expected to", "labels.gain", ("quick", "validation")
    ),
    "tuning": Suite(
        "deltas inside a pretrained encoder under one budget of bytes, beside a probe and full"
        " tuning",
        "tuning.tuning",
        ("quick", "validation"),
    ),
    "gpu": Suite(
        "the GPU of this machine: CUDA layer, adaptor step, correction, shipped bundle; what cannot"
        " run says why (tests/gpu/run_all.sh keeps the result)",
        "gpu.gpu",
        ("quick",),
    ),
}


def run(
    suite: str,
    *,
    data: str | os.PathLike[str] | None = None,
    json_path: str | os.PathLike[str] | None = None,
    say: Say = print,
    options: Sequence[str] = (),
    plots: str | os.PathLike[str] | None = None,
    bundle: str | os.PathLike[str] | None = None,
    fetch: bool = False,
) -> dict[str, Any]:
    """Run a suite. What it needs and does not find is said before it starts.

    Args:
        suite: a key of ``SUITES``.
        data: folder with the four Fashion-MNIST files; by default where the system's package puts
            them.
        json_path: the report is written there too.
        say: called with one line per step, and with the table at the end.
        options: switches that this suite has.
        plots: a folder; suites that draw pictures put them there.
        bundle: path of a ``.edge`` file, for suites that measure any.
        fetch: get the data that are missing first.

    Returns:
        The report: ``{"suite", "machine", "versions", "rows": [{"name", "value", "unit",
        "baseline", "target", "holds"}]}``.

    Raises:
        InputError: no such suite or option, or no data.
        RuntimeUnavailable: a package that the suite needs is not installed.
    """
    if suite not in SUITES:
        raise InputError(f"no suite called {suite!r}; suites: {', '.join(SUITES)}")
    given = {**dict.fromkeys(options, True), **_paths(plots=plots, bundle=bundle)}
    known = SUITES[suite].options
    if unknown := [name for name in given if name not in known]:
        raise InputError(
            f"suite {suite!r} has no option --{unknown[0]}; it has:"
            f" {', '.join('--' + name for name in known) or 'none'}"
        )
    check(needs_of(suite, options, plots is not None), suite, data, say, is_fetching=fetch)
    if json_path is not None:
        # a suite may take hours: a place that cannot be written is said before
        open(json_path, "a").close()
    rows = _rows(suite, None if data is None else os.fspath(data), say, given)
    say(table(rows))
    content = report(suite, rows)
    if json_path is not None:
        write_json(json_path, content)
    return content


def _paths(**given: str | os.PathLike[str] | None) -> dict[str, str]:
    return {name: os.fspath(path) for name, path in given.items() if path is not None}


def _rows(suite: str, data: str | None, say: Say, options: dict[str, Any]) -> list[Row]:
    chosen = SUITES[suite]
    run_suite = getattr(import_module(f"edgeadapt_bench.{chosen.module}"), f"run_{suite}")
    rows: list[Row] = (
        run_suite(data, say, **options)
        if chosen.seeds is None
        else run_suite(data, chosen.seeds, say)
    )
    return rows
