"""What must not happen: kept once per cause, with the smallest input that does it."""

from __future__ import annotations

import hashlib
import traceback
from dataclasses import dataclass, field
from pathlib import Path

_PACKAGE = "edgeadapt"


@dataclass
class Finding:
    """One cause. ``kind`` is ``raised``, ``hang`` or ``crash``; ``cause`` tells causes apart."""

    target: str
    kind: str
    cause: str
    data: bytes
    place: str  # seed, share and number of the execution
    report: str
    count: int = 1

    @property
    def name(self) -> str:
        return f"{self.target}-{hashlib.sha256(self.cause.encode()).hexdigest()[:8]}"


@dataclass
class Findings:
    by_cause: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, found: Finding) -> None:
        known = self.by_cause.setdefault((found.target, found.cause), found)
        if known is found:
            return
        known.count += found.count
        if len(found.data) < len(known.data):
            known.data, known.place, known.report = found.data, found.place, found.report

    def of(self, target: str) -> list[Finding]:
        return [found for (name, _), found in self.by_cause.items() if name == target]

    def write(self, folder: Path) -> list[Path]:
        """``TARGET-HASH.bin``, which ``--replay`` takes, and ``.txt`` with what happened."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for found in self.by_cause.values():
            path = folder / f"{found.name}.bin"
            path.write_bytes(found.data)
            path.with_suffix(".txt").write_text(
                f"{found.target}: {found.kind}, {found.count}"
                f" times\n{found.place}\n{found.cause}\n\n{found.report}\n",
                encoding="utf-8",
                errors="backslashreplace",
            )
            written.append(path)
        return written


def cause_of(error: BaseException) -> str:
    """Type of an error and the innermost line of ours that it came through: one defect, one
    cause.
    """
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"/{_PACKAGE}" in frame.filename] or frames
    last = ours[-1] if ours else None
    where = f"{Path(last.filename).name}:{last.lineno} {last.name}" if last else "nowhere"
    return f"{type(error).__name__} at {where}"
