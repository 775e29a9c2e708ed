"""Every claim in firmware_notes/ has a mark, a source and a date, and the tables of boards are
those the doctor decides by.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from firmware_tables import jetpacks, modules

from edgeadapt.doctor.boards import JETPACKS, MODULES, Mark

NOTES = Path(__file__).parents[2] / "firmware_notes"
PAGES = sorted(NOTES.glob("*.md"))
MARKS = get_args(Mark)
OURS = re.compile(r"x86-64|ext4|tests? |`make|`edgeadapt")  # what a verified row has been run on


def rows(text: str) -> Iterator[dict[str, str]]:
    """Every row of every table, by the table's heading."""
    head: list[str] = []
    for line in text.splitlines():
        cells = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if line.startswith("|")
            else []
        )
        if not cells:
            head = []
        elif not head:
            head = cells
        elif not set("".join(cells)) <= set("-: "):
            yield dict(zip(head, cells, strict=True))


def faults(text: str) -> list[str]:
    """What is wrong with the claims of a page."""
    found = []
    for row in rows(text):
        claim = next(iter(row.values()))
        if row.get("mark") not in MARKS:
            found.append(f"{claim}: mark {row.get('mark')!r}")
        if len(row.get("source", "")) < 5:
            found.append(f"{claim}: no source")
        if row.get("mark") == "verified" and not OURS.search(row.get("source", "")):
            found.append(f"{claim}: verified, and nobody says on what")
        try:
            datetime.date.fromisoformat(row.get("date", ""))
        except ValueError:
            found.append(f"{claim}: date {row.get('date')!r}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_claim_has_a_mark_a_source_and_a_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert list(rows(text)) and faults(text) == []


@pytest.mark.parametrize(
    "row",
    [
        "| a | sure | some source | 2026-11-24 |",
        "| a | unverified | | 2026-11-24 |",
        "| a | unverified | recalled | soon |",
        "| a | verified | I saw it | 2026-11-24 |",
    ],
)
def test_a_claim_without_one_of_them_is_found(row: str) -> None:
    head = "| claim | mark | source | date |\n| --- | --- | --- | --- |\n"
    assert (
        len(faults(head + row)) == 1
        and faults(head + "| a | unverified | recalled | 2026-11-24 |") == []
    )
    assert len(faults("| board | memory |\n|---|---|\n| Orin | 8 |\n")) == 3


def test_the_tables_of_releases_and_modules_are_the_doctors() -> None:
    assert jetpacks() in (NOTES / "jetpack.md").read_text(), (
        "python tools/firmware_tables.py jetpacks"
    )
    assert modules() in (NOTES / "modules.md").read_text(), (
        "python tools/firmware_tables.py modules"
    )
    assert len(list(rows(jetpacks()))) == len(JETPACKS) and len(list(rows(modules()))) == len(
        MODULES
    )


def test_what_was_only_recalled_is_never_called_anything_else() -> None:
    for page in PAGES:
        for row in rows(page.read_text(encoding="utf-8")):
            assert "recalled" not in row["source"] or row["mark"] == "unverified", row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_the_index_names_every_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert [
        target for target in targets if "://" not in target and not (page.parent / target).exists()
    ] == []
    assert page.name == "README.md" or f"]({page.name})" in (NOTES / "README.md").read_text()
