"""The demo: six acts on real images, each a schedule that the seed reshuffles."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import edgeadapt
from edgeadapt.demo import picture, report
from edgeadapt.demo.acts import clean, degraded, new_classes, returning
from edgeadapt.demo.mishaps import attacked, killed
from edgeadapt.demo.recorder import now, rss_mib
from edgeadapt.demo.run import BATCH, DemoRun

ACTS = (clean, degraded, returning, new_classes, attacked, killed)


def play_demo(out: Path, seed: int = 0, say: Callable[[str], None] = print) -> report.Report:
    """Play the acts in order, write ``report.json`` and ``report.html`` into ``out``."""
    started = time.perf_counter()
    acts: list[report.Act] = []
    with tempfile.TemporaryDirectory(
        prefix="edgeadapt-demo-", ignore_cleanup_errors=True
    ) as folder:
        run = DemoRun(Path(folder) / "state", seed, say)
        try:
            for act in ACTS:
                first = len(run.recorder.batches)
                title, sentence, facts = act(run)
                last = max(first, len(run.recorder.batches) - 1)
                acts.append(
                    {
                        "id": act.__name__,
                        "title": title,
                        "sentence": sentence,
                        "first_batch": min(first, last),
                        "last_batch": last,
                        "facts": facts,
                    }
                )
                held = sum(f["holds"] is not False for f in facts)
                say(
                    f"act {len(acts)} of 6, {title}: {held} of {len(facts)} facts hold,"
                    f" {time.perf_counter() - started:.0f} s"
                )
            made = _report(run, acts, started)
            say(f"report: {picture.write_report(made, out)}")
            return made
        finally:
            run.close()


def _report(run: DemoRun, acts: list[report.Act], started: float) -> report.Report:
    played = run.recorder.batches
    means = {
        key: float(np.mean([c[key] for c in run.found.conditions]))
        for key in ("frozen", "learner", "oracle")
    }  # type: ignore[literal-required]
    size = [b for b in played if b["size"] == BATCH]
    counters = run.learner.counters()
    shown = [
        run.recorder.questions[i]
        for i in np.linspace(
            0, len(run.recorder.questions) - 1, min(24, len(run.recorder.questions))
        ).astype(int)
    ]
    manifest = run.learner.bundle.manifest
    return {
        "product": {
            "version": edgeadapt.__version__,
            "bundle": manifest.name,
            "runtime": "onnxruntime",
            "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "seed": run.images.seed,
            "date": now(),
        },
        "headline": {
            **means,
            "questions": run.recorder.answers,
            "seconds": time.perf_counter() - started,
        },  # type: ignore[typeddict-item]
        "acts": acts,
        "batches": played,
        "events": run.recorder.events,
        "conditions": run.found.conditions,
        "classes": run.found.classes,
        "questions": shown,
        "safety": run.found.safety,
        "cost": {
            **{
                f"{step}_ms": float(np.median([b[f"{step}_ms"] for b in size]))
                for step in ("encode", "sense", "learn", "record")
            },  # type: ignore[literal-required,typeddict-item]
            "rss_mib": rss_mib(),
            "bundle_kib": run.learner.bundle.bytes / 1024,
            "state_kib": counters["state_bytes"] / 1024,
            "forwards_per_batch": run.found.forwards,
        },
    }
