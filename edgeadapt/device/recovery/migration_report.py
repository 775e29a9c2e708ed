"""What a migration carried over, class by class, and what it could not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ClassCarried:
    """One class.

    Attributes:
        name: of the class. is_new: the new bundle does not know it: it lives by what was carried.
        labels: that counted in the old state, or waited to be learned.
        kept: of them with what a new encoder needs.
        carried: learned or held out in the new state. waiting: carried, and still to be learned.
        refused: by the guard, with the reasons.
        judged: held-out samples in the new state.
        before, after: share of them that the new bundle answers right as shipped, and with what was
            carried; None without any.
    """

    name: str
    is_new: bool
    labels: int
    kept: int
    carried: int
    waiting: int
    refused: int
    reasons: tuple[str, ...]
    judged: int
    before: float | None
    after: float | None

    @property
    def lost(self) -> int:
        """Labels that could not be carried over: what the encoder took was not kept."""
        return self.labels - self.kept

    def line(self) -> str:
        parts = [f"{self.carried} of {self.labels} labels carried over"]
        parts += [f"{self.waiting} waiting"] if self.waiting else []
        parts += [f"{self.lost} could not be"] if self.lost else []
        parts += [f"{self.refused} refused ({'; '.join(self.reasons)})"] if self.refused else []
        parts += (
            [f"held-out {self.before:.0%} -> {self.after:.0%} of {self.judged}"]
            if self.before is not None and self.after is not None
            else []
        )
        parts += (
            ["new to this bundle, unknown until it gets labels"]
            if self.is_new and not self.carried
            else []
        )
        return f"{self.name}: {', '.join(parts)}"


@dataclass(frozen=True)
class MigrationReport:
    """What :func:`edgeadapt.migrate` did.

    Attributes:
        outcome: ``migrated``; ``nothing to do``: the bundle opens the state as it is; ``refused``:
            the bundle is better as shipped than with what was carried, and nothing was changed.
        why: of a refusal.
        state: the folder with the new state.
        kept: the old database, if it was replaced in place.
        old, new: bundle name and feature space of each.
        by: what was learned again, ``raw inputs`` or, in the same space, ``features``.
        converted: raw inputs that were brought into the form of the new encoder.
        classes: one each, in slot order.
        accuracy: (samples, new bundle as shipped, with what was carried).
        conditions, commits, decisions: of the old state, which are not carried over.
    """

    outcome: Literal["migrated", "nothing to do", "refused"]
    state: str
    old: tuple[str, str]
    new: tuple[str, str]
    why: str = ""
    kept: str = ""
    by: str = ""
    converted: int = 0
    classes: tuple[ClassCarried, ...] = ()
    accuracy: tuple[tuple[str, float, float], ...] = ()
    conditions: tuple[str, ...] = ()
    commits: int = 0
    decisions: int = 0

    def as_dict(self) -> Mapping[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "classes": [asdict(found) | {"lost": found.lost} for found in self.classes]
        }

    def lines(self) -> list[str]:
        """For people."""
        where = (
            f"{self.state}: {self.old[0]!r} (space {self.old[1][:12]}) -> {self.new[0]!r} (space"
            f" {self.new[1][:12]})"
        )
        if self.outcome == "nothing to do":
            return [where, "  nothing to do: the bundle opens this state as it is"]
        lines = [where, *(f"  {found.line()}" for found in self.classes)]
        if self.by == "raw inputs" and any(found.lost for found in self.classes):
            lines.append(
                "  what could not be carried over has no raw input: Keep(raw_per_class=20) keeps 20"
                " of a class"
            )
        lines += (
            [f"  {self.converted} raw inputs were converted to what the new encoder takes"]
            if self.converted
            else []
        )
        lines += [
            f"  {name}: {before:.1%} as shipped, {after:.1%} with what was carried"
            for name, before, after in self.accuracy
        ]
        lost = [f"conditions {', '.join(self.conditions)}"] if self.conditions else []
        lost += [f"{self.commits} commits of history", f"{self.decisions} decisions"]
        lines.append(f"  not carried over: {', '.join(lost)}")
        if self.outcome == "refused":
            return [*lines, f"  refused, nothing was changed: {self.why}"]
        return (
            [
                *lines,
                (
                    f"  the old state is kept as {self.kept}; forgetting does not reach into it:"
                    " delete it when you need it no more"
                ),
            ]
            if self.kept
            else lines
        )


__all__ = ["ClassCarried", "MigrationReport"]
