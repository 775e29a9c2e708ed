"""What a placement is, as plain values for people and programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from edgeadapt.placement.buffers import Copies, Exchange
from edgeadapt.placement.executable import PlacedExecutable
from edgeadapt.placement.places import Place
from edgeadapt.placement.routes import Measured, Route


def report_of(
    places: Sequence[Place],
    executables: Iterable[PlacedExecutable],
    exchange: Exchange,
    notes: list[str],
    doing: str,
) -> dict[str, Any]:
    """The whole.

    Returns:
        ``runtimes``: name -> ``{"state": "serves" | "open" | "idle" | "unavailable", "why"}``.
        ``graphs``: rows ``{"graph", "is_refolded", "batch", "where", "why", "calls", "audits",
        "state", "tried": {name: {...}}, "refused": {name: why}}`` where ``state`` is ``settled``,
        ``trying``, ``waiting for a call`` or ``waiting to be built``, and what was tried has ``ms``
        and ``reference_ms`` (median round trips), ``error`` (largest relative difference),
        ``agreed`` (calls). ``audits`` are calls that were compared again, and agreed, since it runs
        there. ``copies``: ``{"from", "to", "count", "bytes", "is_trial"}``. ``notes``, ``doing``
        (what is built or run at this moment), ``lost``.
    """
    rows = [
        row
        for one in sorted(executables, key=lambda one: (one.graph.name, one.constants is not None))
        for row in _rows(places, one)
    ]
    return {
        "runtimes": {place.name: _state(place, rows) for place in places},
        "graphs": rows,
        "copies": [*_copies(exchange.copies, False), *_copies(exchange.tried, True)],
        "notes": notes,
        "doing": doing,
        "lost": exchange.lost,
    }


def _state(place: Place, rows: list[dict[str, Any]]) -> dict[str, str]:
    if place.why_not:
        return {"state": "unavailable", "why": place.why_not}
    if not place.is_open:
        return {"state": "idle", "why": "nothing is tried there now"}
    return {
        "state": "serves" if any(row["where"] == place.name for row in rows) else "open",
        "why": "",
    }


def _rows(places: Sequence[Place], executable: PlacedExecutable) -> list[dict[str, Any]]:
    about = {"graph": executable.graph.name, "is_refolded": executable.constants is not None}
    refused = {places[index].name: why for index, why in executable.refused.items()}
    reference = places[0].name
    return [
        about | _row(route, reference, bool(executable.waiting)) | {"refused": refused}
        for route in executable.routes
    ] or [
        about
        | _row(Route(0, 0), reference, bool(executable.waiting))
        | {
            "refused": refused,
            "batch": "none yet",
        }
    ]


def _row(route: Route, reference: str, is_waiting: bool) -> dict[str, Any]:
    trial = route.trial
    state = "settled"
    if trial is not None and not trial.is_audit:
        state = "trying" if trial.has_sample else "waiting for a call"
    elif is_waiting or route.todo:
        state = "waiting to be built"
    return {
        "batch": route.batches,
        "where": route.where(reference),
        "why": route.why,
        "calls": route.calls,
        "audits": route.audits,
        "state": state,
        "tried": {name: _measured(found) for name, found in route.measured.items()},
    }


def _measured(found: Measured) -> dict[str, Any]:
    error = found.error if math.isfinite(found.error) else None
    return {
        "ms": _ms(found.there_s),
        "reference_ms": _ms(found.here_s),
        "error": error,
        "agreed": found.calls,
        "ties": found.ties,
    }


def _ms(seconds: float) -> float | None:
    return None if math.isnan(seconds) else 1e3 * seconds


def _copies(tallies: dict[tuple[str, str], Copies], is_trial: bool) -> list[dict[str, Any]]:
    return [
        {"from": at, "to": to, "count": tally.count, "bytes": tally.nbytes, "is_trial": is_trial}
        for (at, to), tally in list(tallies.items())
    ]


__all__ = ["report_of"]
