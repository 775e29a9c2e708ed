"""Two acts of what goes wrong: wrong labels and a stuck camera; a process that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import cast

import numpy as np
from numpy.typing import NDArray

from edgeadapt.demo import report
from edgeadapt.demo.run import BATCH, Act, DemoRun, fact
from edgeadapt.demo.sample import CLASSES, KNOWN, bundle_path
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import StateError


def attacked(run: DemoRun) -> Act:
    rows = run.images.judges()
    before, digest = run.accuracy(rows), run.learner.digest()
    commit = run.learner.history(1)[0].number
    outcome = _burst_of_wrong_labels(run)
    after_burst = run.accuracy(rows)
    constant = _constant_frames(run)
    trickled = _trickle(run)
    damaged = run.accuracy(rows)
    receipt = run.learner.forget(source="night shift")
    run.recorder.event("forgotten", f"{receipt.removed} labels of one source", receipt.removed)
    forgotten = run.accuracy(rows)
    run.learner.rollback(to=commit)
    run.recorder.event("rolled_back", f"to commit {commit}")
    restored = run.accuracy(rows)
    x, y = run.images.streamed(run.images.all_ten(), 6 * BATCH, "shuffled", "clean", 80)
    run.show("attacked", "ten classes", x, y)
    run.found.safety += [
        {
            "what": "64 labels from one source, 80% wrong",
            "outcome": outcome,
            "detail": f"accuracy {before:.1%} before, {after_burst:.1%} after",
        },
        {
            "what": "frames that never change",
            "outcome": "held" if constant == "stuck" else constant,
            "detail": "abstains; no adaptation, no questions",
        },
        {
            "what": "a source that slips in a few wrong labels at a time",
            "outcome": "forgotten",
            "detail": (
                f"{trickled} labels got through: {damaged:.1%}; after forget(source=...):"
                f" {forgotten:.1%}"
            ),
        },
        {
            "what": "rollback to before the attack",
            "outcome": "restored",
            "detail": f"accuracy {restored:.1%}, as before ({before:.1%})",
        },
    ]
    return (
        "An attack, and a stuck camera",
        (
            "A burst of wrong labels is refused, a frozen picture teaches nothing, and what"
            " slips through can be taken back."
        ),
        [
            fact("burst of wrong labels", outcome, outcome in ("held", "vetoed")),
            fact("constant frames", constant, constant == "stuck"),
            fact(
                "after forget(source=...)",
                f"{damaged:.1%} to {forgotten:.1%}, was {before:.1%}",
                abs(forgotten - before) < 0.01,
            ),
            fact("after rollback", f"{restored:.1%}", restored == before),
            fact("digest before the attack", digest[:12], None),
        ],
    )


def _wrong(run: DemoRun, y: NDArray[np.int64], share: float, among: int) -> list[str]:
    wrong = run.rng.random(len(y)) < share
    moved = (y + run.rng.integers(1, among, len(y))) % among
    return [CLASSES[k] for k in np.where(wrong, moved, y)]


def _burst_of_wrong_labels(run: DemoRun) -> str:
    picked = run.rng.choice(run.images.stream, 64, replace=False)
    run.learner.learn(
        run.images.x[picked],
        _wrong(run, run.images.y[picked], 0.8, len(KNOWN)),
        source="line 3",
    )
    run.learner.settle()
    last = run.learner.history(1)[0]
    kind = last.outcome if last.outcome in ("held", "vetoed") else "learned"
    run.recorder.event(
        cast(report.EventKind, kind), str(last.detail.get("why", "64 labels, 80% wrong")), 64
    )
    return kind


def _constant_frames(run: DemoRun) -> str:
    frame = np.repeat(run.images.x[run.images.stream[:1]], BATCH, axis=0)
    for _ in range(3):
        seen = run.recorder.batch(
            frame,
            np.repeat(run.images.y[run.images.stream[:1]], BATCH),
            act="attacked",
            condition="constant frames",
        )
    return seen.reading.axis


def _trickle(run: DemoRun) -> int:
    """Labels of new classes, swapped, four at a time: too few for any test."""
    through = 0
    boots = run.images.new_stream[
        run.images.y[run.images.new_stream] == CLASSES.index("Ankle boot")
    ]
    for start in range(0, 24, 4):
        picked = boots[start : start + 4]
        run.learner.learn(run.images.x[picked], ["Sneaker"] * len(picked), source="night shift")
        run.learner.settle()
        through += run.learner.history(1)[0].outcome == "learned"
    run.recorder.event("learned", "wrong labels of the night shift", 4 * through)
    return 4 * through


def killed(run: DemoRun) -> Act:
    counters = run.learner.counters()
    # the user's own passes, probes, refreshes and the checks of the acts
    run.found.forwards = counters["encoded"] / max(counters["observed"], 1)
    run.learner.close()
    picked = run.images.stream[:16]
    given = json.dumps(
        {
            "x": run.images.x[picked].tolist(),
            "y": [CLASSES[k] for k in run.images.y[picked]],
        }
    )
    started = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-m", "edgeadapt.demo.crash", str(bundle_path()), str(run.state)],
        input=given + "\n",
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    if not child.stdout:
        raise StateError(
            "the child process could not start:"
            f" {child.stderr.strip().splitlines()[-1:] or child.returncode}"
        )
    before = json.loads(child.stdout.splitlines()[0])
    run.recorder.event("killed", f"SIGKILL inside a transaction after commit {before['commit']}")
    reopened = time.perf_counter()
    # the labels that wait are not learned yet, so that the digest is that of the last commit
    run.learner = open_learner(
        bundle_path(), state=run.state, budget=Budget(busy_fraction=1.0), freeze=True
    )
    opened_ms = 1000 * (time.perf_counter() - reopened)
    digest, commit = run.learner.digest(), run.learner.history(1)[0].number
    received = run.learner.counters()["evidence"].get("received", 0)
    run.recorder.learner = run.learner
    run.recorder.event(
        "resumed",
        (
            f"at commit {commit}, same digest"
            if digest == before["digest"]
            else "with another digest"
        ),
    )
    run.learner.freeze(False)
    run.learner.settle()
    learned = run.learner.history(1)[0]
    x, y = run.images.streamed(run.images.all_ten(), 6 * BATCH, "shuffled", "clean", 90)
    run.show("killed", "ten classes", x, y)
    same = digest == before["digest"] and commit == before["commit"]
    run.found.safety.append(
        {
            "what": "SIGKILL inside a transaction",
            "outcome": "resumed",
            "detail": (
                f"commit {commit}, digest {digest[:12]}, {opened_ms:.0f} ms; {received} durable"
                " labels learned after restart"
            ),
        }
    )
    return (
        "Killed in the middle of a write",
        (
            "SIGKILL inside a transaction. It comes back at the last commit, bit for bit, and"
            " learns the labels that were already safe."
        ),
        [
            fact("process ended by", f"signal {-child.returncode}", child.returncode == -9),
            fact("digest", f"{digest[:12]}, same as before" if same else "differs", same),
            fact("back after", f"{opened_ms:.0f} ms", None),
            fact(
                "labels that were safe",
                f"{received}, then {learned.outcome}",
                received == 16 and learned.outcome == "learned",
            ),
            fact("took", f"{time.perf_counter() - started:.1f} s", None),
        ],
    )
