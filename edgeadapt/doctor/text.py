"""Findings for people: one line each, and under those that are not well why and what to do."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from edgeadapt.doctor.examination import Section
from edgeadapt.doctor.finding import Finding, is_well

_WORDS = {"ok": "ok", "note": "note", "missing": "MISSING", "broken": "BROKEN"}
_ABSENT = {"missing": "absent", "broken": "broken"}  # where it is not needed
_STATE, _NAME = 7, 12


def page(sections: Sequence[Section], width: int = 120) -> str:
    """All sections and a last line with the verdict."""
    findings = [finding for section in sections for finding in section.findings]
    parts = [
        "\n".join(
            [
                section.title,
                *(line for finding in section.findings for line in lines(finding, width)),
            ]
        )
        for section in sections
    ]
    return "\n\n".join([*parts, verdict(findings)])


def lines(finding: Finding, width: int) -> list[str]:
    """The line, and two under it if the finding is not ``ok``."""
    word = _WORDS[finding.state] if finding.is_needed else _ABSENT.get(finding.state, finding.state)
    first = f"  {word:<{_STATE}}  {finding.name:<{_NAME}} "
    margin = " " * len(first)
    out = _wrapped(first, margin, finding.found, width)
    if finding.state != "ok":
        out += _wrapped(margin, margin, finding.why, width) if finding.why else []
        # never broken: it may be a command
        out += [f"{margin}-> {finding.todo}"] if finding.todo else []
    return out


def verdict(findings: Sequence[Finding]) -> str:
    stops = [finding.name for finding in findings if finding.stops]
    notes = sum(finding.state != "ok" for finding in findings) - len(stops)
    rest = f"; {notes} other{'' if notes == 1 else 's'} to look at" if notes else ""
    if is_well(findings):
        return f"Everything that is needed is here{rest}."
    return f"Something that is needed is missing: {', '.join(stops)}{rest}."


def _wrapped(first: str, then: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


__all__ = ["lines", "page", "verdict"]
