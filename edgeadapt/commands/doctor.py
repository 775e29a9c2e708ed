"""``doctor``: what this machine has and lacks, and, with ``--self-test``, whether everything works
on it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgeadapt.doctor.examination import examine
from edgeadapt.doctor.finding import page
from edgeadapt.doctor.machine import STATE, Machine
from edgeadapt.doctor.report import Run, report, to_json
from edgeadapt.doctor.self_test import lines, self_test


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="state folder to look at (default: /var/lib/edgeadapt/state)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help=(
            "write what was found there, without anything that names you or the machine; -: only"
            " that, to standard output"
        ),
    )
    parser.add_argument(
        "--self-test",
        action="store_true",
        help=(
            "also open, predict, learn, roll back, restart and measure, on every runtime that can"
            " run here"
        ),
    )


def doctor(args: argparse.Namespace) -> int:
    """Examine, and test if asked to; 1 if something that is needed is missing, or a runtime
    failed.
    """
    machine = Machine(state=str(args.state.absolute()) if args.state else STATE)
    is_quiet = args.json == "-"
    if args.json and not is_quiet:
        # a self-test may take minutes: a place that cannot be written is said before
        open(args.json, "a").close()
    sections = examine(machine)
    if not is_quiet:
        print(page(sections))
    runs = _self_test(machine, is_quiet) if args.self_test else None
    made = report(machine, sections, runs)
    if is_quiet:
        sys.stdout.write(to_json(made))
    elif args.json:
        Path(args.json).write_text(to_json(made), encoding="utf-8")
        print(f"\nwritten to {args.json}; it names this kind of machine, and neither it nor you")
    return 0 if made.ok else 1


def _self_test(machine: Machine, is_quiet: bool) -> list[Run]:
    runs = []
    if not is_quiet:
        print("\nSelf-test")
    for run in self_test(machine):
        runs.append(run)
        if not is_quiet:
            print("\n".join(lines(run)), flush=True)
    return runs
