"""A learner whose guard lets everything pass: how a poisoned commit comes into a state that is then
to be found out.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgeadapt.bundle import Bundle
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.runtime import Runtime
from edgeadapt.testing import inspect_state


@contextlib.contextmanager
def unguarded(bundle: Bundle, state: Path, runtime: Runtime, **settings: Any) -> Iterator[Learner]:
    """The bundle with a margin that nothing exceeds, and no doubt about any source."""
    policy = bundle.manifest.policy
    guard = msgspec.structs.replace(policy.guard, margin=1.0, worst=1.0)
    manifest = msgspec.structs.replace(
        bundle.manifest, policy=msgspec.structs.replace(policy, guard=guard)
    )
    with open_learner(
        dataclasses.replace(bundle, manifest=manifest), state=state, runtime=runtime, **settings
    ) as learner:
        inspect_state(learner).label_worker._updates._noise.of = lambda live, rows: ""  # type: ignore[method-assign]
        yield learner
