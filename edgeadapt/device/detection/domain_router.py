"""Which known condition is this window? And room for a new one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.detection.window import WindowView
from edgeadapt.device.inference.program import Program
from edgeadapt.device.inference.state import Domain, DomainPrototypes, LearnerState


class RoutingProjection:
    """From the factory encoder's residual space to the directions that separate conditions."""

    def __init__(self, program: Program) -> None:
        self._first, self._last = program.manifest.policy.shift.signature
        self._projection = np.asarray(program.numbers("route.projection"), np.float64)
        self._centre = np.asarray(program.numbers("route.centre"), np.float64)

    @property
    def width(self) -> int:
        return int(self._projection.shape[1])

    def of(
        self, residuals: NDArray[np.float32], factory_slots: NDArray[np.int64], memory: LearnerState
    ) -> NDArray[np.float64]:
        """(W, S): residuals plus the class means they are measured from, centred on the factory
        mean and whitened by class mix.
        """
        columns = slice(self._first, self._last)
        features = residuals[:, columns] + memory.class_means[factory_slots][:, columns]
        projected: NDArray[np.float64] = (features - self._centre) @ self._projection
        return projected


def predicted_in(
    domain: Domain, view: WindowView, program: Program, memory: LearnerState
) -> NDArray[np.int64]:
    """(W,) class slots that a domain's own encoder and correction predict for a window, without its
    adaptor.
    """
    z, taps = view.features(program, domain.encode)
    slots: NDArray[np.int64] = program.forward_head(
        z, taps, program.adaptors.without(domain.tensors).over(memory.tensors)
    ).logits.argmax(axis=1)
    return slots


def nearest_domain(
    projected: NDArray[np.float64],
    view: WindowView,
    program: Program,
    memory: LearnerState,
    but: str,
) -> tuple[str, float]:
    """The known domain whose prototypes are nearest to ``projected`` (W, S) at the class mix that
    its own encoder predicts, and their distance; ``("", inf)`` if there is none.
    """
    best, distance = "", float("inf")
    for name, domain in memory.domains.items():
        if name == but:
            continue
        found = domain.prototypes.distance(projected, predicted_in(domain, view, program, memory))
        if found < distance:
            best, distance = name, found
    return best, distance


def open_domain(memory: LearnerState, program: Program, width: int) -> tuple[LearnerState, Domain]:
    """A provisional domain that corrects nothing yet; the least recently used one makes room,
    provisional ones first.
    """
    while len(memory.domains) >= program.manifest.domain_slots:
        retired = min(memory.domains.values(), key=lambda d: (d.kind == "condition", d.used_at))
        memory = memory.without_domain(retired.name)
    serial = memory.domain_serial + 1
    domain = Domain(
        name=f"condition-{serial}",
        kind="provisional",
        prototypes=DomainPrototypes.empty(len(memory.classes), width),
        tensors=program.factory_domain(),
        used_at=serial,
    )
    return replace(memory.with_domain(domain), domain_serial=serial), domain
