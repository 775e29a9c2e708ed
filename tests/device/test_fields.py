"""What a user sets in Python is held to the types and ranges that the daemon's file is held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeadapt._toml import to_struct
from edgeadapt.daemon.config.schema import BudgetSection, KeepSection, PolicySection
from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.resources.budget import Budget
from edgeadapt.errors import BudgetError, InputError, RecipeError

SECTIONS = {Policy: PolicySection, Keep: KeepSection, Budget: BudgetSection}
BAD: list[tuple[type, str, Any, str]] = [
    (Policy, "new_classes", "ad", r"Policy.new_classes is 'add' or 'refuse', got 'ad'"),
    (Policy, "new_classes", True, "'add' or 'refuse', got True"),
    (Policy, "adapt", "Act", "Policy.adapt is 'act' or 'advise' or 'off' or None, got 'Act'"),
    (
        Policy,
        "questions_per_day",
        -1,
        "Policy.questions_per_day is a whole number >= 0 or None, got -1",
    ),
    (Policy, "questions_per_day", True, "whole number >= 0 or None, got True"),
    (Policy, "questions_per_day", 2.5, "whole number >= 0 or None, got 2.5"),
    (Policy, "questions_per_day", "3", "whole number >= 0 or None, got '3'"),
    (Keep, "pending_s", float("nan"), "Keep.pending_s is a number >= 0, got nan"),
    (Keep, "features_days", "30", "Keep.features_days is a number >= 0, got '30'"),
    (Keep, "rows", 99, "Keep.rows is a whole number >= 100, got 99"),
    (Keep, "rows", 1e6, "Keep.rows is a whole number >= 100, got 1000000.0"),
    (Keep, "commits", True, "Keep.commits is a whole number >= 100, got True"),
    (Budget, "busy_fraction", 0, r"Budget.busy_fraction is a number > 0 and <= 1, got 0"),
    (Budget, "busy_fraction", True, "got True"),
    (Budget, "memory_mib", "256", "Budget.memory_mib is a number > 0, got '256'"),
    (Budget, "temperature_c", -5.0, "Budget.temperature_c is a number > 0 or None, got -5.0"),
    (Budget, "power_w", [5], r"Budget.power_w is a number > 0 or None, got \[5\]"),
]


@pytest.mark.parametrize(("kind", "name", "value", "match"), BAD)
def test_a_value_is_refused_by_name_with_what_is_allowed_and_by_the_daemon_too(
    kind: type, name: str, value: Any, match: str
) -> None:
    with pytest.raises(BudgetError if kind is Budget else InputError, match=match):
        kind(**{name: value})
    with pytest.raises(RecipeError, match=f"{name} = "):
        to_struct(Path("edge.toml"), {name: value}, SECTIONS[kind])


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_field_is_checked_and_the_sections_of_the_daemon_are_allowed_in_python(
    kind: type,
) -> None:
    for name in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        with pytest.raises((BudgetError, InputError), match=f"{kind.__name__}.{name} is "):
            kind(**{name: object()})
    section = msgspec.structs.asdict(SECTIONS[kind]())
    assert kind(**{name: value for name, value in section.items() if name != "p99_ratio"}) == kind()


def test_numpy_scalars_and_whole_numbers_for_fractions_are_taken() -> None:
    kept = Keep(
        pending_s=np.float32(2), rows=np.int64(200), features_days=30, raw_per_class=np.uint8(3)
    )
    assert (kept.rows, kept.pending_s, kept.raw_per_class) == (200, 2.0, 3)
    assert Budget(busy_fraction=1, memory_mib=float("inf")).busy_fraction == 1
