"""One line of the doctor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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


__all__ = ["Finding", "State", "is_well"]
