"""A run as a table and as curves: ``metrics.csv``, and TensorBoard events where its package is
installed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from edgeadapt._durable import replace_file
from edgeadapt.errors import StateError
from edgeadapt.host.training.records import LogRow

FILE = "metrics.csv"
COLUMNS = ("epoch", "step", "lr", "loss", "validation_accuracy", "seconds")
ROWS_PER_EPOCH = 10


class RunLog:
    """Rows of a run, kept in memory for the checkpoint and written to a folder if there is one.

    Args:
        folder: made if it is missing; None keeps the rows only. A ``metrics.csv`` that is there is
            replaced by the rows of this run.
        rows: those before a resume.
        say: told once where TensorBoard is not installed.

    Raises:
        StateError: the folder cannot be made, or the file not be written.
    """

    def __init__(
        self, folder: Path | None, rows: Sequence[LogRow], say: Callable[[str], None]
    ) -> None:
        self.rows = list(rows)
        self._file: io.TextIOWrapper | None = None
        self._board: Any = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(
                folder / FILE, "".join(map(_line, (COLUMNS, *map(_values, self.rows)))).encode()
            )
            self._file = open(folder / FILE, "a", encoding="utf-8", newline="")  # noqa: SIM115, closed by close()
        except OSError as error:
            raise StateError(f"{folder}: the log cannot be written: {error}") from error
        self._board = _board(folder, self.rows[-1].step + 1 if self.rows else 1, say)

    def write(self, row: LogRow) -> None:
        """Append a row, at once.

        Raises:
            StateError: it cannot be written.
        """
        self.rows.append(row)
        if self._file is None:
            return
        try:
            self._file.write(_line(_values(row)))
            self._file.flush()
            if self._board is not None:
                self._board.add_scalar("loss", row.loss, row.step)
                self._board.add_scalar("learning_rate", row.lr, row.step)
                if row.accuracy is not None:
                    self._board.add_scalar("validation_accuracy", row.accuracy, row.step)
                    self._board.flush()
        except OSError as error:
            raise StateError(f"{self._file.name}: the log cannot be written: {error}") from error

    def close(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, first_step: int, say: Callable[[str], None]) -> Any:
    """TensorBoard's writer; events of an earlier run in this folder count as undone from
    ``first_step`` on.
    """
    try:
        # late: it takes a second, and the package is optional
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say(
            f"train: {folder} gets {FILE} and no TensorBoard events: pip install"
            " 'edgeadapt[tensorboard]' for those"
        )
        return None
    return SummaryWriter(str(folder), purge_step=first_step)


def _values(row: LogRow) -> tuple[object, ...]:
    epoch, step, lr, loss, accuracy, seconds = astuple(row)
    return (
        epoch,
        step,
        f"{lr:.6g}",
        f"{loss:.6g}",
        "" if accuracy is None else f"{accuracy:.6g}",
        f"{seconds:.3f}",
    )


def _line(values: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


__all__ = ["COLUMNS", "FILE", "ROWS_PER_EPOCH", "RunLog"]
