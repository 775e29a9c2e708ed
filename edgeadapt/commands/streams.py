"""``demo`` and ``run``: a learner on a stream."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edgeadapt.bundle import read_bundle
from edgeadapt.commands._arguments import add_new_classes, add_trust, count
from edgeadapt.commands.sample_source import Source, open_source, read_labels
from edgeadapt.device.detection.policy import Policy
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import InputError
from edgeadapt.inputs import chunks
from edgeadapt.results import Observation, Question

_PATIENCE_S = 600.0
_ALL = 1_000_000  # questions


def demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("demo-out"),
        metavar="DIR",
        help="where the report goes (default: demo-out)",
    )
    parser.add_argument("--seed", type=int, default=0, help="reshuffles every act (default: 0)")


def demo(args: argparse.Namespace) -> int:
    """Play the acts; 1 if a fact that it claims does not hold."""
    print("edgeadapt demo: about 15 s on two desktop cores; no network, no torch", flush=True)
    from edgeadapt.demo.scenario import play_demo

    report = play_demo(args.out, args.seed, say=lambda line: print(line, flush=True))
    facts = [(act["title"], fact) for act in report["acts"] for fact in act["facts"]]
    failed = [
        f"{title}: {fact['label']} = {fact['value']}"
        for title, fact in facts
        if fact["holds"] is False
    ]
    for line in failed:
        print(f"does not hold: {line}", file=sys.stderr)
    return 1 if failed else 0


def run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="F.edge")
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="FOLDER|F.npz",
        help="images in order of their names, or arrays x and, to measure accuracy, y",
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where learning is kept; without it nothing is"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help=(
            "CSV of index-or-filename,label, with or without a header; "
            "each is learned after its sample was predicted"
        ),
    )
    add_new_classes(parser)
    parser.add_argument("--batch", type=count, default=32, help="samples per batch (default: 32)")
    parser.add_argument(
        "--runtime",
        default="auto",
        metavar="R",
        help="what runs the graphs: a name from edgeadapt runtimes, or auto (default)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of the encoder, where the bundle has it (default: float32)",
    )
    add_trust(parser)
    parser.add_argument(
        "--allow-older",
        action="store_true",
        help="open a bundle older than the state folder has seen",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object per batch, then one with the summary and the questions",
    )


def run(args: argparse.Namespace) -> int:
    """Observe a source batch by batch; labels are learned after their sample was predicted.

    1 if a picture could not be read.
    """
    bundle = read_bundle(args.bundle, trust=args.trust)
    source = open_source(args.source)
    labels = read_labels(args.labels, source) if args.labels else {}
    say = _say_json if args.json else _say_line
    policy = Policy(new_classes=args.new_classes)
    with open_learner(
        bundle,
        args.state,
        args.runtime,
        policy,
        trust=args.trust,
        allow_older=args.allow_older,
        precision=args.precision,
    ) as learner:
        stream = _Pass(learner, source, labels)
        for rows in chunks(len(source.names), args.batch):
            say(stream.batch(rows))
        say(stream.summary())
    if stream.broken:
        name, why = next(iter(stream.broken.items()))
        if len(stream.broken) == len(source.names):
            raise InputError(f"none of {len(source.names)} pictures could be read; {name}: {why}")
        counted = f"{len(stream.broken)} of {len(source.names)} pictures"
        print(f"{counted} could not be read, the first: {why}", file=sys.stderr)
    return 1 if stream.broken else 0


class _Pass:
    """One pass over a source. The worker is waited for after every batch, so the result does not
    depend on the machine's speed.
    """

    def __init__(self, learner: Learner, source: Source, labels: dict[int, str]) -> None:
        self._learner, self._source, self._labels = learner, source, labels
        self._names: dict[str, str] = {}  # sample id -> how the source calls it
        self._right: list[bool] = []
        self.broken: dict[str, str] = {}  # name of a picture -> why it could not be read

    def batch(self, rows: slice) -> dict[str, Any]:
        """Observe some rows, then learn their labels. What cannot be read is named."""
        learner = self._learner
        read, x, broken = self._source.read_whole(rows, learner.bundle.manifest.input)
        self.broken |= broken
        refused = {"broken": broken} if broken else {}
        if x is None:
            return {"samples": [], **refused}
        names = [self._source.names[row] for row in read]
        seen = learner.observe(x, stream="run")
        self._names.update(zip(seen.ids, names, strict=True))
        learner.settle(_PATIENCE_S)
        right = self._source.right(seen.prediction.labels, read, learner.classes)
        self._right += right
        learned = self._teach(seen, read)
        return {
            "samples": names,
            **refused,
            **_outcome(seen),
            "learned": learned,
            **_accuracy(right),
        }

    def _teach(self, seen: Observation, rows: list[int]) -> int:
        pairs = zip(seen.ids, rows, strict=True)
        given = {id: self._labels[row] for id, row in pairs if row in self._labels}
        if given:
            self._learner.label(list(given), list(given.values()), source="labels file")
            self._learner.settle(_PATIENCE_S)
        return len(given)

    def summary(self) -> dict[str, Any]:
        """What the pass came to, and what is still to be answered."""
        learner = self._learner
        broken = {"broken": len(self.broken)} if self.broken else {}
        read = len(self._source.names) - len(self.broken)
        counts = {
            "samples": read,
            **broken,
            "classes": learner.classes,
            "conditions": learner.domains(),
        }
        summary = {**counts, "evidence": learner.counters()["evidence"], **_accuracy(self._right)}
        summary |= {"precision": learner.precision, "placement": learner.placement_report()}
        return {
            "summary": summary,
            "questions": [self._question(q) for q in learner.questions(_ALL)],
        }

    def _question(self, q: Question) -> dict[str, Any]:
        numbers = {"confidence": round(q.confidence, 4), "novelty": round(q.novelty, 4)}
        return {
            "sample": self._names.get(q.id, q.id),
            "predicted": q.predicted,
            **numbers,
            "why": q.why,
        }


def _outcome(seen: Observation) -> dict[str, Any]:
    p, reading = seen.prediction, seen.reading
    return {
        "labels": list(p.labels),
        "confidence": [round(float(value), 4) for value in p.probs.max(axis=1)],
        "novelty": [round(float(value), 4) for value in p.novelty],
        "abstained": [bool(value) for value in seen.abstained],
        "axis": reading.axis,
        "shift": round(float(reading.shift), 3),
        "condition": reading.domain,
    }


def _accuracy(right: list[bool]) -> dict[str, float]:
    return {"accuracy": round(sum(right) / len(right), 4)} if right else {}


def _say_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


def _say_line(fields: dict[str, Any]) -> None:
    lines = _summary_lines(fields) if "summary" in fields else _batch_lines(fields)
    print("\n".join(lines), flush=True)


def _batch_lines(fields: dict[str, Any]) -> list[str]:
    """One on the batch, then one a sample: its answer, and how sure it is."""
    broken = [f"  {name}: not read: {why}" for name, why in fields.get("broken", {}).items()]
    if not fields["samples"]:
        return broken
    answers = zip(
        *(fields[key] for key in ("samples", "labels", "confidence", "abstained")), strict=True
    )
    said = [
        f"  {name}: {label} {sure:.0%}{' (abstained)' if unsure else ''}"
        for name, label, sure, unsure in answers
    ]
    return [_batch_line(fields), *said, *broken]


def _batch_line(fields: dict[str, Any]) -> str:
    labels, unsure = fields["labels"], sum(fields["abstained"])
    parts = [
        f"{fields['samples'][0]}: {len(labels)} samples, most {max(set(labels), key=labels.count)}",
        f"{fields['axis']}, shift {fields['shift']:.2f}, {fields['condition']}",
        f"{unsure} abstained" if unsure else "",
        f"{fields['learned']} learned" if fields["learned"] else "",
        f"accuracy {fields['accuracy']:.1%}" if "accuracy" in fields else "",
    ]
    return "; ".join(part for part in parts if part)


def _summary_lines(fields: dict[str, Any]) -> list[str]:
    summary, questions = fields["summary"], fields["questions"]
    accuracy = f", accuracy {summary['accuracy']:.1%}" if "accuracy" in summary else ""
    broken = f", {summary['broken']} not read" if "broken" in summary else ""
    evidence = ", ".join(f"{count} {status}" for status, count in summary["evidence"].items())
    lines = [
        f"{summary['samples']} samples{accuracy}{broken}; "
        f"conditions: {', '.join(summary['conditions']) or 'none'}; labels: {evidence or 'none'}"
    ]
    lines += _placement_lines(summary["placement"])
    lines += [
        f"  question: {q['sample']} (taken for {q['predicted']}, {q['confidence']:.0%}): {q['why']}"
        for q in questions
    ]
    return (
        [*lines, "  answer with --labels FILE, one 'sample,label' a line"] if questions else lines
    )


def _placement_lines(placement: dict[str, Any]) -> list[str]:
    """Where roles ran, if there was a choice."""
    if len(placement["runtimes"]) < 2:
        return []
    served: dict[str, list[str]] = {}
    for role, name in placement["roles"].items():
        served.setdefault(name, []).append(role)
    left_out = [
        f"{name} not: {about['why']}"
        for name, about in placement["runtimes"].items()
        if about["state"] == "unavailable"
    ]
    return [f"  ran in {name}: {', '.join(roles)}" for name, roles in served.items()] + [
        f"  {line}" for line in left_out
    ]
