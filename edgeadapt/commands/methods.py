"""``methods``: the published methods that were read for this product, and what came of each."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import get_args

from edgeadapt.host.tuning.registry import ENTRIES, JOURNEYS, Entry, Role, entries, entry

_WIDTH = 100
_COLUMNS = (2, 9, 5, 10, 18, 3, 0)
_FIGURES = "docs/measurements/tuning.json"


def methods_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--number", type=int, metavar="N", help="everything about one, 1 to 65")
    parser.add_argument(
        "--journey",
        choices=tuple(JOURNEYS),
        help="those that serve one: "
        + ", ".join(f"{letter} {meaning}" for letter, meaning in JOURNEYS.items()),
    )
    parser.add_argument("--role", choices=get_args(Role), help="those that do one part of the work")
    parser.add_argument("--json", action="store_true")


def methods(args: argparse.Namespace) -> int:
    """Print the list, or one of it."""
    if args.number is not None:
        found = (entry(args.number),)
    else:
        found = entries(args.journey or "", args.role or "")
    if args.json:
        print(json.dumps([_fields(one) for one in found], indent=2))
    elif args.number is not None:
        for name, value in _about(found[0]):
            print(textwrap.fill(value, _WIDTH, initial_indent=name, subsequent_indent=" " * 10))
    else:
        print(_line("", "verdict", "built", "role", "name", "for", "title"))
        for one in found:
            built = "yes" if one.is_built else ""
            number = str(one.number)
            print(_line(number, one.verdict, built, one.role, one.name, one.journeys, one.title))
        print(f"{len(found)} of {len(ENTRIES)} methods; --number N tells all about one")
    return 0


def _line(*cells: str) -> str:
    """The cells in columns; the last is cut where the screen ends."""
    padded = (f"{cell:<{width}}" for cell, width in zip(cells, _COLUMNS, strict=True))
    line = "  ".join(padded).rstrip()
    return line if len(line) <= _WIDTH else line[: _WIDTH - 3].rstrip() + "..."


def _fields(one: Entry) -> dict[str, object]:
    return {**asdict(one), "row": one.row}


def _about(one: Entry) -> Iterator[tuple[str, str]]:
    """Name, padded, and value of what there is to say."""
    for name, value in (
        ("method", f"{one.number}, {one.title}"),
        ("does", one.does),
        ("role", one.role),
        ("family", one.family),
        ("name", one.name),
        ("for", "; ".join(JOURNEYS[letter] for letter in one.journeys)),
        ("verdict", one.verdict),
        ("code", one.make or "none yet"),
        ("page", f"docs/{one.page}" if one.page else ""),
        ("figures", f"{one.row} in {_FIGURES}" if one.row and one.verdict != "planned" else ""),
    ):
        if value:
            yield f"{name:<10}", value


__all__ = ["methods", "methods_arguments"]
