"""Which labels are meant: by id, class, source and time. Conditions are joined by *and*."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeadapt.errors import InputError
from edgeadapt.inputs import check_number, check_text

_AT_ONCE = 900  # values of one SQL statement


@dataclass(frozen=True)
class Selection:
    """What to forget. ``None`` leaves a condition out.

    Args:
        ids, classes: names.
        source: who said so.
        before, after: seconds since the epoch; when the sample was met.

    Raises:
        InputError: no condition, or one of the wrong kind.
    """

    ids: Sequence[str] | None = None
    source: str | None = None
    classes: Sequence[str] | None = None
    before: float | None = None
    after: float | None = None

    def __post_init__(self) -> None:
        for name in ("ids", "classes"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _names(name, value))
        if self.source is not None:
            check_text(self.source, "source")
        for name in ("before", "after"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, check_number(value, name))
        if all(
            value is None
            for value in (self.ids, self.source, self.classes, self.before, self.after)
        ):
            raise InputError("say what to forget: ids, source, classes, before or after")

    @property
    def is_of_ids_alone(self) -> bool:
        others = (self.source, self.classes, self.before, self.after)
        return self.ids is not None and all(value is None for value in others)

    @property
    def whole_classes(self) -> tuple[str, ...]:
        """Classes of which everything is meant, whoever said it and whenever; none where another
        condition is joined.
        """
        others = (self.ids, self.source, self.before, self.after)
        return tuple(self.classes or ()) if all(value is None for value in others) else ()

    def clauses(self) -> list[tuple[str, list[Any]]]:
        """SQL conditions on the evidence table with their values; the rows of all of them together
        are meant.
        """
        shared: list[str] = []
        values: list[Any] = []
        if self.classes is not None:
            shared.append(f"label IN ({', '.join('?' * len(self.classes))})")
            values += self.classes
        for clause, limit in (
            ("source = ?", self.source),
            ("time < ?", self.before),
            ("time >= ?", self.after),
        ):
            if limit is not None:
                shared.append(clause)
                values.append(limit)
        if self.ids is None:
            return [(" AND ".join(shared), values)]
        parts = [
            list(self.ids[start : start + _AT_ONCE]) for start in range(0, len(self.ids), _AT_ONCE)
        ]
        return [
            (" AND ".join([f"id IN ({', '.join('?' * len(part))})", *shared]), [*part, *values])
            for part in parts
        ]


def _names(what: str, value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if (
        isinstance(listed, (bytes, dict))
        or not isinstance(listed, (Sequence, set, frozenset))
        or not all(isinstance(name, str) for name in listed)
    ):
        raise InputError(f"{what} is a string or a sequence of strings, got {value!r:.80}")
    return tuple(dict.fromkeys(check_text(name, what) for name in listed))
