"""Evidence rows in ``learner.db``: labelled samples, what became of them, and the raw inputs that
are kept of some.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeadapt.device.numerics.stable_hash import stable_hash
from edgeadapt.device.storage.corruption import reads
from edgeadapt.device.storage.database import LOG_BYTES, Database
from edgeadapt.device.storage.rows import ANSWER, AskedSample, EvidenceRow, RawInput

_CLOCK_SET = 1_577_836_800.0  # 2020-01-01: no device that runs this met anything before
_ACCEPTED = "status IN ('learned', 'held_out')"
_KINDS = (str, str, str, str, float, str, float, str, int, bytes, str)


def _columns(features: str) -> str:
    """In the order of the fields of :class:`EvidenceRow`."""
    return (
        f"id, source, stream, domain, time, label, weight, space, is_factory, {features}, status,"
        " commit_number, seq, draw, met, receipt, trusted"
    )


def _row(found: Sequence[Any]) -> EvidenceRow:
    if tuple(map(type, found[:11])) != _KINDS or type(found[15]) not in (bytes, type(None)):
        raise ValueError(f"evidence row {found[12]!r:.20} has a value of another type")
    features = np.frombuffer(found[9], "<f2").astype(np.float16)
    found = (*found[:8], bool(found[8]), features, *found[10:15], found[15] or b"", bool(found[16]))
    return EvidenceRow(*found)


def _input(kind: str, shape: str, blob: bytes) -> NDArray[Any]:
    value: NDArray[Any] = (
        np.frombuffer(blob, np.dtype(kind).newbyteorder("<"))
        .astype(kind)
        .reshape(json.loads(shape))
    )
    return value


class EvidenceTable(Database):
    """The tables ``evidence`` and ``raw``."""

    def receive(
        self,
        rows: Sequence[EvidenceRow],
        raw: Sequence[NDArray[Any] | None] = (),
        asked: Sequence[AskedSample] = (),
    ) -> None:
        """Make labelled samples durable before anything learns from them.

        Args:
            raw: by row, its input where one is to be kept. asked: the questions that they answer.
        """
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?)",
                [(time.time(), one.stream, ANSWER, one.domain, one.encode()) for one in asked],
            )
            for index, r in enumerate(rows):
                features = np.ascontiguousarray(r.features, "<f2")
                at = db.execute(
                    "INSERT INTO evidence (id, source, stream, domain, time, label, weight, space,"
                    " met, is_factory, draw, status, commit_number, trusted, receipt, features)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(r.id, r.source, r.stream, r.domain, r.time, r.label, r.weight, r.space),
                        *(r.met, int(r.is_factory), stable_hash(features), r.status),
                        *(r.commit_number, int(r.trusted), r.receipt or None, features.tobytes()),
                    ),
                )
                value = raw[index] if index < len(raw) else None
                if value is not None:
                    kept = np.ascontiguousarray(value).astype(
                        value.dtype.newbyteorder("<"), copy=False
                    )
                    db.execute(
                        "INSERT INTO raw VALUES (?, ?, ?, ?)",
                        (at.lastrowid, str(value.dtype), json.dumps(value.shape), kept.tobytes()),
                    )
        self.write_back(at_least=4 * LOG_BYTES)  # only if no change has done it for long

    @reads
    def evidence(
        self,
        *,
        where: str = "1",
        values: Sequence[Any] = (),
        limit: int = -1,
        newest_first: bool = False,
        narrow: bool = False,
    ) -> list[EvidenceRow]:
        """Rows in order of arrival. ``where`` is SQL from this package only, never from a user;
        ``narrow`` leaves features out.
        """
        order = "seq DESC" if newest_first else "seq"
        return self._select(where, order, values, limit, narrow=narrow)

    def _select(
        self, where: str, order: str, values: Sequence[Any], limit: int, *, narrow: bool
    ) -> list[EvidenceRow]:
        columns = _columns("x''" if narrow else "features")
        return [
            _row(found)
            for found in self._all(
                f"SELECT {columns} FROM evidence WHERE {where} ORDER BY {order} LIMIT ?",
                *values,
                limit,
            )
        ]

    def _where_in(
        self, column: str, values: Sequence[Any], status: str = "1"
    ) -> Iterator[EvidenceRow]:
        """Rows with one of these values in a column, a part of the values at a time."""
        for some in (values[start : start + 500] for start in range(0, len(values), 500)):
            marks = ", ".join("?" * len(some))
            yield from self.evidence(where=f"{status} AND {column} IN ({marks})", values=some)

    @reads
    def evidence_of(self, seqs: Sequence[int]) -> list[EvidenceRow]:
        """The rows with these numbers that are still there, in the order of the numbers."""
        found = {row.seq: row for row in self._where_in("seq", seqs)}
        return [found[seq] for seq in seqs if seq in found]

    @reads
    def newest_of(self, samples: Sequence[str]) -> dict[str, EvidenceRow]:
        """For each sample id that has rows, the last one."""
        return {row.id: row for row in self._where_in("id", samples)}

    @reads
    def accepted_of(self, samples: Sequence[str]) -> list[EvidenceRow]:
        """Accepted rows of these samples."""
        # the plus keeps SQLite from scanning every accepted row by its status
        return list(self._where_in("id", samples, f"+{_ACCEPTED}"))

    @reads
    def rows_of(self, samples: Sequence[str]) -> list[EvidenceRow]:
        """Every row of these samples."""
        return list(self._where_in("id", samples))

    @reads
    def rows_near_holdout_boundary(self, label: str, status: str, limit: int) -> list[EvidenceRow]:
        """Rows of a class with the draws nearest to the line between judging and teaching: the
        largest held out, or the smallest learned; without features.
        """
        order = "DESC" if status == "held_out" else "ASC"
        by = f"draw {order}, seq {order}"
        return self._select("status = ? AND label = ?", by, (status, label), limit, narrow=True)

    @reads
    def older_than(self, before: float, most: int) -> list[EvidenceRow]:
        """Rows met before a time, and of the rest the oldest beyond ``most``; without features, and
        without those that wait to be learned.

        A row met before the year 2020 was met by a device whose clock was not set: it is as old as
        the rows around it.
        """
        can_go = (
            "status != 'received' AND (length(features) > 0 OR status NOT IN ('learned',"
            " 'held_out'))"
        )
        is_old = (
            "(time >= ? AND time < ? OR time < ? AND seq < (SELECT coalesce(max(seq), 0) FROM"
            " evidence WHERE time >= ? AND time < ?))"
        )
        values = (_CLOCK_SET, before, _CLOCK_SET, _CLOCK_SET, before)
        found = self.evidence(where=f"{can_go} AND {is_old}", values=values, narrow=True)
        over = self._one("SELECT count(*) FROM evidence")[0] - len(found) - most
        # not a few at every checkpoint: each time a part of the way back is lost
        if over > most // 10:
            found += self.evidence(
                where=f"{can_go} AND NOT {is_old}", values=values, limit=over, narrow=True
            )
        return found

    @reads
    def count_evidence(self) -> dict[str, int]:
        return dict(self._all("SELECT status, count(*) FROM evidence GROUP BY status"))

    @reads
    def count_accepted(self) -> dict[str, dict[str, int]]:
        """Class -> how many rows of it are ``learned`` and ``held_out``."""
        counts: dict[str, dict[str, int]] = {}
        for label, status, count in self._all(
            f"SELECT label, status, count(*) FROM evidence WHERE {_ACCEPTED} GROUP BY status, label"
        ):
            counts.setdefault(label, {})[status] = count
        return counts

    @reads
    def count_learned_by_domain(self) -> dict[str, int]:
        """Condition -> how many rows of it were learned."""
        return self._count_by_domain("status = 'learned'")

    @reads
    def count_accepted_by_domain(self) -> dict[str, int]:
        """Condition -> how many rows of it are accepted."""
        return self._count_by_domain(_ACCEPTED)

    def _count_by_domain(self, where: str) -> dict[str, int]:
        return dict(
            self._all(f"SELECT domain, count(*) FROM evidence WHERE {where} GROUP BY domain")
        )

    @reads
    def present(self) -> set[int]:
        """Every evidence row that is there."""
        return {int(seq) for (seq,) in self._all("SELECT seq FROM evidence")}

    @reads
    def superseded(self) -> tuple[int, ...]:
        """Rows that wait although a later label of the same sample waits, counts or was
        withdrawn.
        """
        found = self._all(
            "SELECT seq FROM evidence AS e WHERE status = 'received' AND EXISTS (SELECT 1 FROM"
            " evidence AS later WHERE later.id = e.id AND later.seq > e.seq AND +later.status IN"
            " ('received', 'learned', 'held_out', 'withdrawn')) ORDER BY seq"
        )
        return tuple(int(seq) for (seq,) in found)

    @reads
    def refused_in(self, domain: str, limit: int) -> list[EvidenceRow]:
        """The newest rows of a condition that are held or vetoed and whose samples have no later
        label, oldest first.
        """
        latest = (
            "NOT EXISTS (SELECT 1 FROM evidence AS later WHERE later.id = evidence.id AND later.seq"
            " > evidence.seq)"
        )
        return self.evidence(
            where=f"status IN ('held', 'vetoed') AND domain = ? AND {latest}",
            values=(domain,),
            limit=limit,
            newest_first=True,
        )[::-1]

    # -- raw inputs --------------------------------------------------------------------------------
    @reads
    def raw(self, label: str | None = None) -> list[RawInput]:
        """Raw inputs that are kept, of accepted rows of one class or of all, in order of
        arrival.
        """
        found = self._all(
            "SELECT r.seq, r.dtype, r.shape, r.input FROM raw r JOIN evidence e USING (seq) WHERE"
            f" e.{_ACCEPTED}{'' if label is None else ' AND e.label = ?'} ORDER BY r.seq",
            *(() if label is None else (label,)),
        )
        return [RawInput(seq, _input(kind, shape, blob)) for seq, kind, shape, blob in found]

    @reads
    def raw_of(self, seq: int) -> NDArray[Any] | None:
        """The raw input of one row, if it is kept."""
        found = self._all("SELECT dtype, shape, input FROM raw WHERE seq = ?", seq)
        return _input(*found[0]) if found else None

    @reads
    def thin_raw(self, per_class: int) -> int:
        """Keep the raw inputs of at most so many rows of a class, those with the smallest draws;
        returns how many were dropped.
        """
        over = self._all(
            "SELECT seq FROM (SELECT r.seq AS seq, e.status AS status, row_number() OVER"
            " (PARTITION BY e.label ORDER BY e.status NOT IN ('learned', 'held_out'), e.draw,"
            " r.seq) AS place FROM raw r JOIN evidence e USING (seq)) WHERE place > ? AND"
            " status != 'received'",
            per_class,
        )
        if over:
            with self._transaction() as db:
                db.executemany("DELETE FROM raw WHERE seq = ?", over)
        return len(over)
