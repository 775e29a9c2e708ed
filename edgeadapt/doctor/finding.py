"""What a probe found, as lines for people: one each, and under those that are not well why and what
to do. Nothing about the user leaves.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "note", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """What one probe found.

    Attributes:
        name: short and stable; scripts may rely on it.
        state: ``ok``; ``note``: it works, and there is something to know; ``missing``: it is not
            here; ``broken``: it is here and does not work.
        found: what is here.
        why: why it matters; empty where everything is well.
        todo: what to do about it: one command where there is one, else a sentence.
        is_needed: edgeadapt does not work here without it.
    """

    name: str
    state: State
    found: str
    why: str = ""
    todo: str = ""
    is_needed: bool = False

    @property
    def stops(self) -> bool:
        """Nothing works before this is mended."""
        return self.is_needed and self.state in ("missing", "broken")


def is_well(findings: Iterable[Finding]) -> bool:
    """True if nothing that is needed is missing or broken."""
    return not any(finding.stops for finding in findings)


def ok(name: str, found: str, is_needed: bool = False) -> list[Finding]:
    return [Finding(name, "ok", found, is_needed=is_needed)]


def note(name: str, found: str, why: str, todo: str, is_needed: bool = False) -> list[Finding]:
    return [Finding(name, "note", found, why, todo, is_needed)]


def missing(name: str, found: str, why: str, todo: str, is_needed: bool = False) -> list[Finding]:
    return [Finding(name, "missing", found, why, todo, is_needed)]


def broken(name: str, found: str, why: str, todo: str, is_needed: bool = False) -> list[Finding]:
    return [Finding(name, "broken", found, why, todo, is_needed)]


@dataclass(frozen=True)
class Section:
    """What the probes of a group found."""

    title: str
    findings: list[Finding] = field(default_factory=list)


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


_SYSTEM = (
    "/proc/",
    "/sys/",
    "/etc/",
    "/usr/",
    "/dev/",
    "/run/",
    "/lib/",
    "/opt/edgeadapt",
    "/var/lib/edgeadapt",
    "/var/lib/nvpmodel",
)
_PATH = re.compile(r"(?<![\w.:/>-])(?:~|/)[^\s'\"`(),;]*/[^\s'\"`(),;:]+")


def without_places(text: str) -> str:
    """``.../learner.db`` of ``/home/ada/state/learner.db``; paths that every machine has are
    kept.
    """
    return _PATH.sub(
        lambda found: (
            found[0] if found[0].startswith(_SYSTEM) else f".../{found[0].rpartition('/')[2]}"
        ),
        text,
    )


__all__ = [
    "Finding",
    "Section",
    "State",
    "broken",
    "is_well",
    "lines",
    "missing",
    "note",
    "ok",
    "page",
    "verdict",
    "without_places",
]
