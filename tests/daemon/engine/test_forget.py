"""What forgetting says of labels that are still on their way, and of samples that nothing is known
of.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeadapt.daemon.config.schema import BudgetSection
from edgeadapt.daemon.messages import LabelArrival
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import CLASSES, Sample
from edgeadapt.errors import InputError
from edgeadapt.testing import inspect_state

Made = Callable[..., Any]
FULL = BudgetSection(write_mib_per_day=0.0001)


def labelled(service: Service, sample: Sample, sources: tuple[str, ...]) -> list[str]:
    """Observe a known sample for each source, and label it for that; returns ids. Their names are
    0.png, 1.png, ...
    """
    rows = np.flatnonzero(sample.y < 6)[: len(sources)]
    ids = [
        answer.id
        for answer in service.observe(
            sample.x[rows], names=[f"{row}.png" for row in range(len(rows))]
        )
    ]
    for row, source in enumerate(sources):
        name = f"{row}.png" if row % 2 else ids[row]
        assert service.context.labels.put(LabelArrival(name, CLASSES[sample.y[rows[row]]], source))
    return ids


def evidence(service: Service) -> int:
    return sum(service.status()["learner"]["evidence"].values())


def makes_room(service: Service) -> None:
    """The day has passed."""
    with service.context.lease.borrow() as learner:
        inspect_state(learner).room.per_day = 1 << 30
    assert service.context.labels.settle(30.0)


@pytest.mark.parametrize(
    "asked",
    [
        {"source": "badge-17"},
        {"samples": ["0.png", "1.png"]},
        {"samples": ["1.png", "ID"], "source": "badge-17"},
    ],
)
def test_labels_that_wait_for_room_are_forgotten_and_counted_and_the_others_are_learned(
    serve: Made, settings: Made, sample: Sample, until: Made, asked: dict[str, Any]
) -> None:
    service = serve(settings(budget=FULL))
    ids = labelled(service, sample, ("badge-17", "badge-17", "ben"))
    until(lambda: service.status()["labels"]["error"])
    if "samples" in asked:
        asked = asked | {"samples": [ids[0] if one == "ID" else one for one in asked["samples"]]}
    receipt = service.forget(**asked)
    assert receipt.removed - receipt_of_pending(asked) == 2 and receipt.unreachable == ()
    makes_room(service)
    assert evidence(service) == 1 and service.forget(source="ben").removed == 1


def receipt_of_pending(asked: dict[str, Any]) -> int:
    """Samples that waited for a label go with them where only samples are asked for."""
    return len(asked["samples"]) if asked.keys() == {"samples"} else 0


def test_a_time_is_not_known_of_labels_that_wait_and_that_is_said(
    serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    service = serve(settings(budget=FULL))
    labelled(service, sample, ("badge-17", "badge-17", "ben"))
    until(lambda: service.status()["labels"]["error"])
    receipt = service.forget(source="badge-17", before=time.time() + 60)
    assert (
        receipt.removed == 0
        and len(receipt.unreachable) == 1
        and receipt.unreachable[0].startswith("2 labels wait")
    )
    with pytest.raises(InputError, match="say what to forget"):
        service.forget()
    makes_room(service)
    assert (
        evidence(service) == 3
        and service.forget(source="badge-17", before=time.time() + 60).removed == 2
    )


def test_names_that_nothing_is_known_of_are_said_to_be_unreachable(
    serve: Made, settings: Made, sample: Sample, until: Made
) -> None:
    service = serve()
    ids = labelled(service, sample, ("anna", "ben"))
    until(lambda: evidence(service) == 2)
    receipt = service.forget(["1.png", "1.pgn"])
    assert receipt.removed == 1 and [line.partition(":")[0] for line in receipt.unreachable] == [
        "1.pgn"
    ]
    assert service.forget(["1.png"]).unreachable == ()  # it is known, and forgotten already
    assert service.stop()
    service = serve()
    receipt = service.forget(["0.png", "0123456789abcdef"])
    assert receipt.removed == 0 and [line.partition(":")[0] for line in receipt.unreachable] == [
        "0.png",
        "0123456789abcdef",
    ]
    assert "say its id" in receipt.unreachable[0]
    assert service.forget([ids[0]]).removed == 1 and evidence(service) == 0
