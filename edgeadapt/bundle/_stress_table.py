"""The stress card as a table for people: for ``edgeadapt inspect`` and the exporter."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

_WIDTH = 160
_HEAD = f"{'stream':<26} {'learner':>8} {'frozen':>7} {'change':>7} {'refreshes':>9}"


def row_line(name: str, learner: float, frozen: float, refreshes: int) -> str:
    """One stream: accuracies in percent, the change in points."""
    return (
        f"{name:<26} {learner:>8.1%} {frozen:>7.1%} {100 * (learner - frozen):>+7.1f}"
        f" {refreshes:>9}"
    )


def stress_table(card: Mapping[str, Any]) -> list[str]:
    """The lines of a bundle's table of stress streams; none if it was not stress-tested.

    Args:
        card: ``bundle.card``. One of another version, or that says something else, gets one line
            that says so.
    """
    stress = card.get("stress")
    if stress is None:
        return []
    try:
        return _lines(stress)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return [
            "the stress card is not one that this version can show; inspect --json prints it as"
            " it is"
        ]


def _lines(stress: Mapping[str, Any]) -> list[str]:
    lines = [_HEAD]
    for row in stress["rows"]:
        lines.append(_row_line(row))
    if long := stress.get("long"):
        row = long["row"]
        lines.append(_row_line(row))
        phases = [
            100 * (float(phase["learner"]) - float(phase["frozen"])) for phase in long["phases"]
        ]
        lines.append(
            f"long run: {int(row['samples'])} feature vectors one at a time, worst of {len(phases)}"
            f" phases {min(phases):+.1f}; at most {int(long['tensor_bytes']) / 1024:.0f} of"
            f" {int(long['tensor_bytes_declared']) / 1024:.0f} KiB of tensors,"
            f" {int(long['pending'])} samples kept, {int(long['conditions'])} conditions; resident"
            f" memory {float(long['resident_growth_mib']):+.1f} MiB in the last quarter"
        )
    kind, distinct = stress.get("kind", "full"), stress.get("distinct")
    drawn = f", streams of {int(distinct)} different held-out samples" if distinct else ""
    for trial in stress.get("trials", ()):
        head = (
            f"tried {trial['method']} at strength {float(trial['strength']):g}:"
            f" {100 * float(trial['gain']):+.1f} under shift, {trial['mode']}: "
        )
        lines += textwrap.wrap(head + str(trial["reason"]), _WIDTH, subsequent_indent="  ")
    lines += textwrap.wrap(f"{kind} card{drawn}: {stress['mode']}: {stress['reason']}", _WIDTH)
    return lines


def _row_line(row: Mapping[str, Any]) -> str:
    condition, order = str(row["condition"]), str(row["order"])
    name = condition if condition == order else f"{condition} {order}"
    return row_line(name, float(row["learner"]), float(row["frozen"]), int(row["refreshes"]))
