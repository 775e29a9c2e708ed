"""The table of all methods in docs/methods.md, written from the registry between two marks.

python tools/methods_table.py
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from edgeadapt.host.tuning.registry import ENTRIES, JOURNEYS, Entry

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
BEGIN, END = "<!-- begin: tools/methods_table.py -->", "<!-- end -->"


def table() -> str:
    """What stands between the marks."""
    return "\n".join(_lines())


def written(text: str) -> str:
    """The page with the table as it is now; the rest of it stays.

    Raises:
        ValueError: a mark is missing.
    """
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} with an {END} behind it")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _lines() -> Iterator[str]:
    yield "| # | paper | what it does | role | family | name | for | verdict |"
    yield "|---:|---|---|---|---|---|---|---|"
    yield from map(_row, ENTRIES)
    yield ""
    meanings = ", ".join(f"{letter} {meaning}" for letter, meaning in JOURNEYS.items())
    yield textwrap.fill(f"For: {meanings}.", 100)


def _row(one: Entry) -> str:
    title = f"[{one.title}]({one.page})" if one.page else one.title
    verdict = "built, not measured" if one.is_built and one.verdict == "planned" else one.verdict
    cells = (str(one.number), title, one.does, one.role, one.family, f"`{one.name}`")
    return f"| {' | '.join(cells)} | {one.journeys} | {verdict} |"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
