"""Looking inside a daemon that runs: is it ready, is it well, and what does it do? Nothing here
changes anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

import edgeadapt
from edgeadapt.daemon.engine.context import ServiceContext
from edgeadapt.daemon.engine.learner_lease import identity
from edgeadapt.daemon.io.source_thread import SourceThread
from edgeadapt.daemon.lifecycle.reload import swap_note, trial_note
from edgeadapt.daemon.messages import Sink
from edgeadapt.device.learner import Learner

_STUCK_S = 60.0  # a loop that has not turned for so long is not healthy
_PATIENT_SHARE = 0.8  # of the day's writes: from there on the learner writes labels only


@runtime_checkable
class Counting(Protocol):
    """A source or sink that has counters of its own."""

    def counters(self) -> Mapping[str, Any]: ...


def ready(context: ServiceContext) -> tuple[bool, str]:
    """Are samples answered now? And if not, why."""
    if context.fatal or context.is_stopping:
        return False, context.fatal or "stopping"
    if why := lost(context):
        return False, why
    if not context.is_ready:
        return False, "starting"
    return (True, "") if context.loop.is_alive else (False, "the loop has ended")


def lost(context: ServiceContext) -> str:
    """Why the process has to be started again: tensors lie in a device that does not answer any
    more. Empty while none do.
    """
    return context.runtime.lost


def health(context: ServiceContext) -> dict[str, Any]:
    """``ok`` while the loop moves; ``problems`` names what does not work as it should, and is tried
    again; ``notes`` what somebody has to do.
    """
    still_s = time.monotonic() - context.loop.last_turn
    has_stopped = context.is_ready and (not context.loop.is_alive or still_s > _STUCK_S)
    sources = [_source(thread) for thread in list(context.source_threads.values())]
    sinks = [
        _sink(sink, context.sink_errors.get(sink.name, 0)) for sink in list(context.sinks.values())
    ]
    gone = lost(context)
    found = [
        ("", context.fatal),
        ("", gone),
        ("", f"the loop has not turned for {still_s:.0f} s" if has_stopped else ""),
        *(
            (f"source {one['name']}: ", one["error"])
            for one in sources
            if one["state"] == "waiting"
        ),
        *((f"sink {sink['name']}: ", sink["error"]) for sink in sinks),
        ("checkpoint: ", context.checkpoint_error),
        ("folders: ", context.folders.error),
        ("learning: ", context.work_error),
        ("labels: ", context.labels.held_up_by),
        ("telemetry: ", context.telemetry.error),
        ("", context.reload_error),
        ("swap: ", context.swap_error),
        ("", "" if (certificate := context.certificate) is None else certificate.warning),
    ]
    problems = [f"{what}{why}" for what, why in found if why]
    notes = [note for note in (swap_note(context), trial_note(context)) if note]
    return {
        "ok": not (context.fatal or gone or has_stopped),
        "problems": problems,
        "notes": notes,
        "sources": sources,
        "sinks": sinks,
        "loop_still_s": still_s,
        "certificate_days_left": None if certificate is None else certificate.days_left,
    }


def _source(thread: SourceThread) -> dict[str, Any]:
    counters = dict(thread.source.counters()) if isinstance(thread.source, Counting) else {}
    unreadable = counters.get("unreadable", counters.get("malformed", 0))
    return thread.health() | {
        "unreadable": unreadable,
        "reconnects": counters.get("reconnects", 0),
        "counters": counters,
    }


def _sink(sink: Sink, errors: int) -> dict[str, Any]:
    found = dict(sink.counters()) if isinstance(sink, Counting) else {}
    return (
        {"waiting": 0, "written": 0, "failures": 0, "error": ""}
        | found
        | {"name": sink.name, "dropped": sink.dropped, "errors": errors}
    )


def status(context: ServiceContext) -> dict[str, Any]:
    """Everything that a page or ``ctl status`` shows, but for history, decisions and questions."""
    is_ready, reason = ready(context)
    with context.lease.borrow() as learner:
        of_learner = _learner(context, learner)
    inbox = context.inbox
    return (
        of_learner
        | health(context)
        | context.series.view()
        | {
            "version": edgeadapt.__version__,
            "ready": is_ready,
            "reason": reason,
            "started_at": context.started_at,
            "is_frozen": context.is_frozen,
            "paused_by": context.pause_reasons.reasons,
            "streams": context.loop.streams(),
            "latency": context.governor.latency(),
            "loop": context.loop.counters(),
            "labels": context.labels.counters(),
            "inbox": {
                "waiting": len(inbox),
                "size": inbox.size,
                "drop": inbox.drop,
                "dropped": dict(inbox.dropped),
            },
            "new_classes": context.settings.policy.new_classes,
            "factory_classes": list(context.manifest.classes),
            "budget": msgspec.to_builtins(context.settings.budget),
            "checkpointed_at": context.checkpointed_at,
            "telemetry": context.telemetry.read(),
        }
    )


def _learner(context: ServiceContext, learner: Learner) -> dict[str, Any]:
    counters = learner.counters()
    write_bytes = int(context.settings.budget.write_mib_per_day * 2**20)
    is_short = counters["written_bytes_last_day"] >= _PATIENT_SHARE * write_bytes
    counters["written_bytes_last_day"] += context.folders.written_last_day
    held = {why: why in context.pause_reasons.reasons for why in ("user", "latency", "checkpoint")}
    return {
        "bundle": identity(learner.bundle),
        "precision": learner.precision,
        "thresholds": {"shift": 1.0, "novel_share": learner.manifest.policy.novelty.window_share},
        "classes": list(learner.classes),
        "domains": learner.domains(),
        "learner": counters,
        "labelled": learner.labelled(),
        "timings": learner.timings(),
        "is_paused": learner.is_paused,
        "questions": len(learner.questions(1 << 20)),
        "throttled": held | {"heat": bool(counters["too_hot"]), "writes": is_short},
        "write_budget_bytes": write_bytes,
        "placement": learner.placement_report(),
    }


__all__ = ["Counting", "health", "lost", "ready", "status"]
