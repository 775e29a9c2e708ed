"""One labelled sample between a state folder and a file, and one entry of such a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Form = Literal["folder", "csv", "coco", "label-studio"]
FORMS: tuple[str, ...] = get_args(Form)
COUNTING = ("received", "learned", "held_out")
"""Statuses of labels that teach, judge, or wait to."""
PREDICTED_WHEN = ("", "met", "today")
TAKEN_BACK = ("held", "vetoed", "withdrawn")
"""Statuses of labels that teach nothing: put aside, refused by the guard, taken back."""


def _none() -> NDArray[np.float16]:
    return np.zeros(0, np.float16)


@dataclass(eq=False)
class Sample:
    """The newest label of one sample.

    Attributes:
        label: what was said, by ``source``. time: when it was met, seconds since the epoch.
        status, met: as in the journal.
        features: (D + T,) float16 of the feature space ``space``, or (0,) once they have expired.
        raw: the input as the encoder took it, where it is kept.
        predicted: what was answered, "" if nobody asked.
        predicted_when: ``met``, when a question about the sample was asked, ``today`` when it was
            exported, or "".
        is_random: that question was drawn, not chosen.
        confidence: of ``today``'s, else None.
        name: of its picture, without folder and suffix. file: of it, "" if the form has none.
        edited: the file says something else than the state that it came from.
        picture: a foreign one, as a file or as its bytes. where: for messages.
    """

    id: str
    label: str
    source: str
    stream: str = "default"
    domain: str = "source"
    time: float = 0.0
    status: str = "received"
    met: str = "factory"
    trusted: bool = False
    space: str = ""
    features: NDArray[np.float16] = field(default_factory=_none)
    raw: NDArray[Any] | None = None
    predicted: str = ""
    confidence: float | None = None
    predicted_when: str = ""
    is_random: bool = False
    name: str = ""
    file: str = ""
    edited: bool = False
    picture: Path | bytes | None = None
    where: str = ""

    @property
    def counts(self) -> bool:
        return self.status in COUNTING


@dataclass(frozen=True, eq=False)
class Entry:
    """What one row of a file says.

    Attributes:
        where: file and row, for messages. key: the id or the picture's name, "" if there is none.
        label: None where nobody has said. counts: it is a label, and not one that was put aside.
        source: who says so, where the file says it. problem: why the row cannot be read.
    """

    where: str
    key: str = ""
    label: str | None = None
    source: str | None = None
    time: float | None = None
    counts: bool = True
    picture: Path | bytes | None = None
    problem: str = ""


__all__ = ["COUNTING", "FORMS", "PREDICTED_WHEN", "TAKEN_BACK", "Entry", "Form", "Sample"]
