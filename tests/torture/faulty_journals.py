"""Journals that keep less than they promise: what the faults are there to find, and must find."""

from __future__ import annotations

from pathlib import Path

from journal_life import JournalLife

from edgeadapt.device.storage.journal import Journal


class Unsynced(JournalLife):
    """Returns before the disk has it: a power cut loses what was acknowledged."""

    name = "unsynced"

    def open(self, folder: Path) -> Journal:
        journal = super().open(folder)
        journal._db.execute("PRAGMA synchronous=OFF")
        return journal


class InPlace(JournalLife):
    """Writes into the database without a log: a kill leaves half a change."""

    name = "in place"

    def open(self, folder: Path) -> Journal:
        journal = super().open(folder)
        journal._db.execute("PRAGMA journal_mode=OFF")
        journal._files = None  # the log goes with it, and would be missed
        return journal
