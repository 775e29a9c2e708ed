"""Where the roles of a bundle run. Most runtimes are the one place for all; one that places graphs
says ``where``, and has a ``report``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeadapt.bundle.schema import Manifest
from edgeadapt.runtime import Executable, Runtime


def placement_of(
    manifest: Manifest, runtime: Runtime, loaded: Mapping[str, Executable]
) -> dict[str, str]:
    """Role -> name of the runtime that serves it now; names joined by ``+`` where batches of
    different sizes run in different ones.

    Args:
        loaded: graphs by file; one that is missing was not needed so far.
    """
    where = getattr(runtime, "where", None)
    if where is None:
        return {role: runtime.name for spec in manifest.graphs for role in spec.roles}
    found: dict[str, str] = {}
    # several may answer a role: adaptors, and encoders of other precisions, which are not loaded
    for spec in manifest.graphs:
        for role in spec.roles:
            if role not in found or spec.file in loaded:
                found[role] = where(loaded.get(spec.file))
    return found


def placement_report(roles: Mapping[str, str], runtime: Runtime) -> dict[str, Any]:
    """Why it is so, as plain values; see ``Learner.placement_report``."""
    report = getattr(runtime, "report", None)
    if report is not None:
        return {"roles": dict(roles), **report()}
    alone = {runtime.name: {"state": "serves", "why": "it is the only one"}}
    return {
        "roles": dict(roles),
        "runtimes": alone,
        "graphs": [],
        "copies": [],
        "notes": [],
        "doing": "",
        "lost": "",
    }
