"""Where the roles of a bundle run."""

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
    found: dict[str, str] = {}
    # several may answer a role: adaptors, and encoders of other precisions, which are not loaded
    for spec in manifest.graphs:
        for role in spec.roles:
            if role not in found or spec.file in loaded:
                found[role] = runtime.where(loaded.get(spec.file))
    return found


def placement_report(roles: Mapping[str, str], runtime: Runtime) -> dict[str, Any]:
    """Why it is so, as plain values; see ``Learner.placement_report``."""
    return {"roles": dict(roles), **runtime.report()}


__all__ = ["placement_of", "placement_report"]
