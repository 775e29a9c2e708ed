"""``dataset export`` and ``import``: labelled samples out of a state folder, or into one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edgeadapt.commands._arguments import add_actions, add_learning_options, add_trust
from edgeadapt.dataset import export_dataset
from edgeadapt.dataset.importer import Files, counted, import_files, read_files
from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.device.storage.folder import FILE_NAME

_SHOWN = 20  # refused rows that are named one by one
_UNLIMITED_MIB = 1e9  # an import is asked for: a day's writes do not end it in the middle


def dataset_arguments(parser: argparse.ArgumentParser) -> None:
    add = add_actions(parser)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = add(name, summary)
        added.add_argument("state", type=Path, metavar="STATE", help="the state folder")
        added.add_argument(
            "--as", dest="form", required=True, choices=("folder", "csv", "coco", "label-studio")
        )
        add_trust(added)
        added.add_argument("--json", action="store_true")
        return added

    out = action("export", "write what a state keeps of its samples; it may be in use")
    out.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="a new folder (default: STATE-FORM)"
    )
    out.add_argument(
        "--bundle", type=Path, metavar="F.edge", help="also write what the state answers today"
    )
    into = action("import", "learn the labels of files; rows that cannot be taken are named")
    into.add_argument("path", type=Path, metavar="PATH", help="an export, or another tool's")
    into.add_argument(
        "--bundle", type=Path, required=True, metavar="F.edge", help="that the state belongs to"
    )
    into.add_argument(
        "--source", metavar="WHO", help="who says so, where the file does not (default: its name)"
    )
    into.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="label-studio: below it lie the files that tasks name (default: beside the export)",
    )
    add_learning_options(into)


def dataset(args: argparse.Namespace) -> int:
    """``export``, or ``import``: 1 if a row was refused."""
    return _export(args) if args.action == "export" else _import(args)


def _export(args: argparse.Namespace) -> int:
    out = args.out or Path(f"{args.state.resolve().name}-{args.form}")
    report = export_dataset(args.state, out, args.form, bundle=args.bundle, trust=args.trust)
    print(json.dumps(report.as_dict()) if args.json else "\n".join(report.lines()))
    return 0


def _import(args: argparse.Namespace) -> int:
    files = read_files(args.path, args.form, args.pictures)  # before a state folder is made
    keep = Keep(raw_per_class=_kept(files, args.state) if args.keep is None else args.keep)
    with open_learner(
        args.bundle,
        args.state,
        policy=Policy(new_classes=args.new_classes),
        keep=keep,
        budget=Budget(write_mib_per_day=_UNLIMITED_MIB),
        trust=args.trust,
    ) as learner:
        report = import_files(learner, files, source=args.source)
        learner.settle()
        evidence = learner.counters()["evidence"]
    if args.json:
        print(json.dumps({**report.as_dict(), "labels": evidence}))
    else:
        labels = ", ".join(f"{count} {status}" for status, count in evidence.items())
        print(f"{args.state}: {report.lines()[0]}\n  labels: {labels or 'none'}")
    refused = counted(report.bad)
    for line in refused[:_SHOWN]:
        print(f"refused: {line}", file=sys.stderr)
    if refused:
        rest = f", the first {_SHOWN} are named" if len(refused) > _SHOWN else ""
        print(f"{len(refused)} rows were refused{rest}; the others were taken", file=sys.stderr)
    return int(bool(refused))


def _kept(files: Files, state: Path) -> int | None:
    """A new state keeps as many inputs as the one that was exported."""
    is_there = (state / FILE_NAME).exists()
    return None if is_there or files.side is None else files.side.header.raw_per_class


__all__ = ["dataset"]
