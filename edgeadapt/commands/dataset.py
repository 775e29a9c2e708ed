"""``dataset export`` and ``import``: labelled samples out of a state folder, or into one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from edgeadapt.dataset import export_dataset
from edgeadapt.dataset.importing import Files, counted, import_files, read_files
from edgeadapt.device.detection.policy import Keep, Policy
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.device.storage.folder import FILE_NAME

_SHOWN = 20  # refused rows that are named one by one
_UNLIMITED_MIB = 1e9  # an import is asked for: a day's writes do not end it in the middle


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
