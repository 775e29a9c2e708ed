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
    """A source or sink that has more to tell than that it runs."""

    def counters(self) -> Mapping[str, Any]: ...


def ready(running: ServiceContext) -> tuple[bool, str]:
    """Are samples answered now? And if not, why."""
    if running.fatal or running.is_stopping:
        return False, running.fatal or "stopping"
    if why := lost(running):
        return False, why
    if not running.is_ready:
        return False, "starting"
    return (True, "") if running.loop.is_alive else (False, "the loop has ended")


def lost(running: ServiceContext) -> str:
    """Why the process has to be started again: tensors lie in a device that does not answer any
    more. Empty while none do.
    """
    return running.runtime.lost


def health(running: ServiceContext) -> dict[str, Any]:
    """``ok`` while the loop moves; ``problems`` names what does not work as it should, and is tried
    again; ``notes`` what somebody has to do.
    """
    still_s = time.monotonic() - running.loop.last_turn
    has_stopped = running.is_ready and (not running.loop.is_alive or still_s > _STUCK_S)
    sources = [_source(feeder) for feeder in list(running.feeders.values())]
    sinks = [
        _sink(sink, running.sink_errors.get(sink.name, 0)) for sink in list(running.sinks.values())
    ]
    gone = lost(running)
    problems = [why for why in (running.fatal, gone) if why]
    problems += [f"the loop has not turned for {still_s:.0f} s"] if has_stopped else []
    problems += [
        f"source {source['name']}: {source['error']}"
        for source in sources
        if source["state"] == "waiting"
    ]
    problems += [f"sink {sink['name']}: {sink['error']}" for sink in sinks if sink["error"]]
    problems += [f"checkpoint: {running.checkpoint_error}"] if running.checkpoint_error else []
    problems += [f"folders: {running.folders.error}"] if running.folders.error else []
    problems += [f"learning: {running.work_error}"] if running.work_error else []
    problems += [f"labels: {running.labels.held_up_by}"] if running.labels.held_up_by else []
    problems += [f"telemetry: {running.telemetry.error}"] if running.telemetry.error else []
    problems += [running.reload_error] if running.reload_error else []
    problems += [f"swap: {error}"] if (error := running.swap_error) else []
    problems += (
        [certificate.warning]
        if (certificate := running.certificate) and certificate.warning
        else []
    )
    notes = [note for note in (swap_note(running), trial_note(running)) if note]
    return {
        "ok": not (running.fatal or gone or has_stopped),
        "problems": problems,
        "notes": notes,
        "sources": sources,
        "sinks": sinks,
        "loop_still_s": still_s,
        "certificate_days_left": None if certificate is None else certificate.days_left,
    }


def _source(feeder: SourceThread) -> dict[str, Any]:
    counters = dict(feeder.source.counters()) if isinstance(feeder.source, Counting) else {}
    unreadable = counters.get("unreadable", counters.get("malformed", 0))
    return feeder.health() | {
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


def status(running: ServiceContext) -> dict[str, Any]:
    """Everything that a page or ``ctl status`` shows, but for history, decisions and questions."""
    is_ready, reason = ready(running)
    with running.lending.lend() as learner:
        of_learner = _learner(running, learner)
    inbox = running.inbox
    return (
        of_learner
        | health(running)
        | running.series.view()
        | {
            "version": edgeadapt.__version__,
            "ready": is_ready,
            "reason": reason,
            "started_at": running.started_at,
            "is_frozen": running.is_frozen,
            "paused_by": running.holds.reasons,
            "streams": running.loop.streams(),
            "latency": running.pace.latency(),
            "loop": running.loop.counters(),
            "labels": running.labels.counters(),
            "inbox": {
                "waiting": len(inbox),
                "size": inbox.size,
                "drop": inbox.drop,
                "dropped": dict(inbox.dropped),
            },
            "new_classes": running.settings.policy.new_classes,
            "factory_classes": list(running.manifest.classes),
            "budget": msgspec.to_builtins(running.settings.budget),
            "checkpointed_at": running.checkpointed_at,
            "telemetry": running.telemetry.read(),
        }
    )


def _learner(running: ServiceContext, learner: Learner) -> dict[str, Any]:
    counters = learner.counters()
    write_bytes = int(running.settings.budget.write_mib_per_day * 2**20)
    is_short = counters["written_bytes_last_day"] >= _PATIENT_SHARE * write_bytes
    counters["written_bytes_last_day"] += running.folders.written_last_day
    held = {why: why in running.holds.reasons for why in ("user", "latency", "checkpoint")}
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
