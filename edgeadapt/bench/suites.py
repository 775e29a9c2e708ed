"""Suites by name. A suite is imported when it runs: listing them costs nothing, and most need the host extra."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from typing import Any

from edgeadapt.bench.measure import Row, Say, report, table, write_json
from edgeadapt.bench.needs import check, needs_of
from edgeadapt.errors import InputError

SUITES = {
    "overhead": "observe against the plain encoder; label to usable prediction; memory; start",
    "steps": "the adaptor and the entropy step beside torch eager, torch.compile and others; --quick, --peers, --passes",
    "heads": "ridge on Fashion-MNIST in five tasks, with EfficientNet-Lite0 features, beside what one could pick instead",
    "detection": "false alarms and detection of the shift axis",
    "noticing": "whether a fall of accuracy is noticed on real transfers, and false alarms; --quick",
    "shift": "label-free adaptation beside published methods: accuracy, worst loss, cost, constant rate; --quick, --members, --foreign, --plots",
    "answers": "recovery from a few labels, and from the questions alone",
    "classes": "new classes from ten labels each",
    "guard": "clean label batches accepted, poisoned ones caught",
    "soak": "memory over 1,000,000 vectors and 10,000 images; opening and recovering 100,000 evidence rows; --quick",
    "interference": "how long predictions take while the worker learns, senses, forgets; --quick",
    "serve": "the daemon while it adapts and learns, beside a bare loop: frame rate, slowest answers, memory; --quick",
    "commit": "a label until durable and until learned, bytes on disk, what forgetting costs; --quick",
    "streams": "heads on class- and domain-incremental streams: accuracy, forgetting, bytes, time; --quick, --plots",
    "key_value": "the key-value bottleneck beside other heads within a budget of bytes; --quick",
    "novelty": "novelty scores on held-out classes, far data and under shift; --quick, --plots",
    "selection": "what is worth keeping: selectors for replay and for an adaptor's training set; --quick, --plots",
    "search": "adaptor candidates ranked without training, against their trained accuracy; --quick, --plots",
    "growth": "a condition's own adaptor against none: gain, what clean images keep, routes, drift; --quick",
    "placement": "every graph in every runtime that works here, beside the CPU: round trips, agreement; --bundle, --quick",
    "precision": "the encoder in float16 and int8 beside float32: answers, novelty, windows, bytes, times; --quick, --bundle",
    "questions": "which samples to ask about, against random asking and the oracle; --quick, --plots",
    "transfer": "learning in the field beside a refit on the same features and labels: real data, pretrained encoders; --quick, --validation",
    "gain": "whether ten labels bring what they are expected to; --quick, --validation",
    "gpu": "the GPU of this machine: CUDA layer, adaptor step, correction, shipped bundle; what cannot run says why (tests/gpu/run_all.sh keeps the result); --quick",
}
"""Name -> one line on what it measures."""

_SEEDS = (0, 1, 2)
_METHODS = ("noticing", "streams", "key_value", "novelty", "selection", "search", "growth", "questions")
_OWN = {name: f"edgeadapt.bench.{name}" for name in ("overhead", "steps", "heads", "shift", "soak", "interference", "serve", "commit", "gpu", "placement", "precision", "transfer", "gain", *_METHODS)}
_OPTIONS = {"steps": ("quick", "peers", "passes"), "shift": ("quick", "members", "foreign"), **dict.fromkeys(("soak", "interference", "serve", "commit", "gpu", "placement", *_METHODS), ("quick",)), "precision": ("quick", "networks"), "transfer": ("quick", "validation"), "gain": ("quick", "validation")}


def run(
    suite: str, *, data: str | os.PathLike[str] | None = None, json_path: str | os.PathLike[str] | None = None, say: Say = print, options: Sequence[str] = (),
    plots: str | os.PathLike[str] | None = None, bundle: str | os.PathLike[str] | None = None, fetch: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run a suite. What it needs and does not find is said before it starts.

    Args:
        suite: a key of ``SUITES``.
        data: folder with the four Fashion-MNIST files; by default where the system's package puts them.
        json_path: the report is written there too.
        say: called with one line per step, and with the table at the end.
        options: switches that this suite has.
        plots: a folder; suites that draw pictures put them there.
        bundle: path of a ``.edge`` file, for suites that measure any.
        fetch: get the data that are missing first.

    Returns:
        The report: ``{"suite", "machine", "versions", "rows": [{"name", "value", "unit", "baseline", "target", "holds"}]}``.

    Raises:
        InputError: no such suite or option, or no data. RuntimeUnavailable: a package that the suite needs is not installed.
    """
    if suite not in SUITES:
        raise InputError(f"no suite called {suite!r}; suites: {', '.join(SUITES)}")
    known = _OPTIONS.get(suite, ())
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"suite {suite!r} has no option --{unknown[0]}; it has: {', '.join('--' + name for name in known) or 'none'}")
    check(needs_of(suite, options, plots is not None), suite, data, say, is_fetching=fetch)
    if json_path is not None:
        open(json_path, "a").close()  # a suite may take hours: a place that cannot be written is said before
    rows = _rows(suite, None if data is None else os.fspath(data), say, {**dict.fromkeys(options, True), **_paths(plots=plots, bundle=bundle)})
    say(table(rows))
    content = report(suite, rows)
    if json_path is not None:
        write_json(json_path, content)
    return content


def _paths(**given: str | os.PathLike[str] | None) -> dict[str, str]:
    return {name: os.fspath(path) for name, path in given.items() if path is not None}


def _rows(suite: str, data: str | None, say: Say, options: dict[str, Any]) -> list[Row]:
    run_suite = getattr(import_module(_OWN.get(suite, "edgeadapt.bench.spine")), f"run_{suite}")
    if "plots" in options and "plots" not in signature(run_suite).parameters:
        raise InputError(f"suite {suite!r} draws no pictures")
    if "bundle" in options and "bundle" not in signature(run_suite).parameters:
        raise InputError(f"suite {suite!r} takes no bundle; it has its own")
    rows: list[Row] = run_suite(data, say, **options) if suite in _OWN else run_suite(data, _SEEDS, say)
    return rows
