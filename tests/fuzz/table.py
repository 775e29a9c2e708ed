"""The outcome of a campaign as a table for people and as JSON."""

from __future__ import annotations

import sys
from typing import Any

from fuzz.campaign import Campaign, Total
from fuzz.lines import SAMPLED_EVERY


def as_text(campaign: Campaign) -> str:
    heads = (
        "target",
        "executions",
        "past header",
        "accepted",
        "refused by name",
        "findings",
        "lines",
        "a second of CPU",
        "slowest CPU ms",
        "peak MiB",
    )
    rows = [heads, *(_row(campaign, total) for total in campaign.totals.values())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    table = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    modules = [
        f"  {module:<40} {reached:>4} of {every:>4} lines  {reached / max(every, 1):.0%}"
        for module, (reached, every) in campaign.coverage().items()
    ]
    watched = "every execution" if SAMPLED_EVERY == 1 else f"one execution in {SAMPLED_EVERY}"
    note = (
        f"lines of functions reached, watched in {watched} (Python"
        f" {sys.version_info[0]}.{sys.version_info[1]}):"
    )
    found = [
        f"{f.target}: {f.kind}, {f.count} times: {f.cause} ({f.place})"
        for f in campaign.findings.by_cause.values()
    ]
    return "\n".join([*table, "", note, *modules, *(["", "findings:", *found] if found else [])])


def _row(campaign: Campaign, total: Total) -> tuple[str, ...]:
    reached = sum(len(lines) for lines in total.reached.values())
    findings = sum(found.count for found in campaign.findings.of(total.target.name))
    refused = ", ".join(f"{count} {name}" for name, count in total.refusals.most_common())
    return (
        total.target.name,
        f"{total.executions}",
        f"{total.past_share:.0%}",
        f"{total.accepted}",
        refused or f"{total.refused}",
        f"{findings}",
        f"{reached}",
        f"{total.rate:.0f}",
        f"{total.slowest_ms:.0f}",
        f"{total.peak_mib:.0f}",
    )


def as_json(campaign: Campaign) -> dict[str, Any]:
    return {
        "targets": {
            name: {
                "executions": total.executions,
                "past_header": round(total.past_share, 4),
                "accepted": total.accepted,
                "refused": total.refused,
                "refusals": dict(total.refusals),
                "findings": sum(found.count for found in campaign.findings.of(name)),
                "rate": round(total.rate, 1),
                "slowest_ms": round(total.slowest_ms, 1),
                "peak_mib": round(total.peak_mib, 1),
            }
            for name, total in campaign.totals.items()
        },
        "lines": {
            module: {"reached": reached, "of": every}
            for module, (reached, every) in campaign.coverage().items()
        },
        "findings": [
            {
                "name": f.name,
                "target": f.target,
                "kind": f.kind,
                "cause": f.cause,
                "count": f.count,
                "place": f.place,
            }
            for f in campaign.findings.by_cause.values()
        ],
    }
