"""``migrate`` and ``replay``: what was learned, on another bundle, or once more."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.commands._arguments import add_bundle_options, share
from edgeadapt.commands.sample_source import open_source
from edgeadapt.device.inference.program import Program
from edgeadapt.device.recovery.bisect import Fall, Labelled, course, own_judges, search
from edgeadapt.device.recovery.migrate import migrate as migrate_state
from edgeadapt.device.recovery.rebuild import rebuild
from edgeadapt.device.recovery.replay import replay as replay_state
from edgeadapt.device.recovery.walk import last_commit, reachable_start
from edgeadapt.device.storage.journal import Journal
from edgeadapt.device.storage.snapshot_copy import copied
from edgeadapt.errors import InputError, StateError
from edgeadapt.inputs import check_batch, check_features
from edgeadapt.runtime import Runtime, open_runtime
from edgeadapt.scenarios.environment import machine, versions


def migrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", type=Path, metavar="OLD_STATE")
    parser.add_argument("bundle", type=Path, metavar="NEW.edge")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="NEW_STATE",
        help=(
            "a new folder for the new state; without it the new state takes the place of the old"
            " one, which is kept beside it"
        ),
    )
    parser.add_argument(
        "--without-samples", action="store_true", help="carry the classes over, and no sample"
    )
    parser.add_argument(
        "--allow-older",
        action="store_true",
        help="accept a bundle that is older than one the state has seen",
    )
    add_bundle_options(parser)


def migrate(args: argparse.Namespace) -> int:
    """Carry a state over to a new bundle; 1 if its guard refused what came out."""
    report = migrate_state(
        args.state,
        args.bundle,
        out=args.out,
        trust=args.trust,
        allow_older=args.allow_older,
        without_samples=args.without_samples,
        runtime=args.runtime,
    )
    print(json.dumps(report.as_dict()) if args.json else "\n".join(report.lines()))
    return 1 if report.outcome == "refused" else 0


def replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("state", type=Path, metavar="STATE")
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="F.edge", help="the bundle that it belongs to"
    )
    parser.add_argument("--to", type=int, metavar="N", help="up to this commit (default: the last)")
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="find the first commit after which the accuracy had fallen",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="F.npz",
        help=(
            "with --bisect: arrays x and y (default: the state's held-out labels and the bundle's"
            " factory samples)"
        ),
    )
    parser.add_argument(
        "--margin",
        type=share,
        metavar="SHARE",
        help="with --bisect: how far it must have fallen (default: 0.01)",
    )
    parser.add_argument(
        "--good",
        type=int,
        metavar="N",
        help=(
            "with --bisect: a commit after which it was still good (default: the earliest that can"
            " be reached)"
        ),
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help=(
            "with --bisect: look at every commit, not at some: the accuracy may rise before it"
            " falls"
        ),
    )
    add_bundle_options(parser)


def replay(args: argparse.Namespace) -> int:
    """Rebuild a copy of a state from its journal; 1 if it is not what the journal says."""
    if not args.bisect and (
        args.data or args.all or args.good is not None or args.margin is not None
    ):
        raise InputError("--data, --margin, --good and --all belong to --bisect")
    bundle = read_bundle(args.bundle, trust=args.trust)
    # graphs that move would not give the same bits twice
    runtime = open_runtime("onnxruntime" if args.runtime == "auto" else args.runtime)
    program = Program(bundle, runtime)
    with copied(args.state) as folder:
        journal = Journal(folder)
        try:
            head = _head(args.state, journal, bundle, runtime)
            if args.bisect:
                found = _bisect(journal, program, args)
                _say(
                    args.json,
                    head,
                    found.as_dict()
                    | {"metric": str(args.data or "held-out labels and factory samples")},
                    found.lines(),
                )
                return 0
            rebuilt = replay_state(journal, program, args.to)
            _say(args.json, head, dict(rebuilt.as_dict()), rebuilt.lines())
            return int(rebuilt.verdict == "different")
        finally:
            journal.close()


def _bisect(journal: Journal, program: Program, args: argparse.Namespace) -> Fall:
    bad = last_commit(journal, program, args.to)
    start = reachable_start(journal, bad)
    good = start if args.good is None else args.good
    if not start <= good < bad:
        raise StateError(
            f"commits {start} to {bad} can be reached: a search needs two of them, from an earlier"
            f" to a later one, not {good} to {bad}"
        )
    before, after = rebuild(journal, program, good), rebuild(journal, program, bad)
    sets = (
        [_labelled(args.data, program, [name for name in after.classes if name is not None])]
        if args.data
        else own_judges(journal, program, before, after)
    )
    margin = 0.01 if args.margin is None else args.margin
    return (
        course(journal, program, sets, good, bad, margin, start)
        if args.all
        else search(journal, program, sets, good, bad, margin)
    )


def _labelled(path: Path, program: Program, classes: Sequence[str]) -> Labelled:
    """Inputs x and classes y of an .npz, as ``run`` takes them; a whole number is a class id of the
    last state.
    """
    if path.suffix != ".npz":
        raise InputError(f"{path}: labelled data is an .npz with arrays x and y")
    source, manifest = open_source(path), program.manifest
    if not source.y:
        raise InputError(f"{path}: has no array y: the class of each sample, by name or id")
    names = tuple(
        classes[y] if isinstance(y, int) and 0 <= y < len(classes) else str(y) for y in source.y
    )
    x = source.read(slice(None), manifest.input)
    if manifest.input.layout == "features":
        return Labelled(*check_features({"z": x}, manifest.feature_dim, manifest.tap_dim), names)
    return Labelled(*program.encode(check_batch(x, manifest.input)), names)


def _head(state: Path, journal: Journal, bundle: Bundle, runtime: Runtime) -> dict[str, object]:
    """Where and with what: bits are promised on the same machine, runtime and version only."""
    known = journal.meta("sha256")
    here, found = machine(), versions()
    return {
        "state": str(state),
        "commits": journal.last_number(),
        "bundle": bundle.manifest.name,
        "is_the_same_bundle": known is None or known == bundle.sha256,
        "machine": {"cpu": here["cpu"], "architecture": here["architecture"]},
        "runtime": runtime.name,
        "versions": found,
    }


def _say(
    as_json: bool, head: dict[str, object], found: dict[str, object], lines: Sequence[str]
) -> None:
    if as_json:
        print(json.dumps(head | found))
        return
    here, found_versions = head["machine"], head["versions"]
    assert isinstance(here, dict) and isinstance(found_versions, dict)
    other = (
        "" if head["is_the_same_bundle"] else ", another file than the one it was last opened with"
    )
    print(f"{head['state']}: {head['commits']} commits, bundle {head['bundle']!r}{other}")
    packages = ", ".join(
        f"{name} {version}" for name, version in found_versions.items() if name != "torch"
    )
    print(
        f"  on {here['cpu']} ({here['architecture']}), runtime {head['runtime']}, {packages}; other"
        " machines, runtimes and versions round differently"
    )
    print("\n".join(lines))
