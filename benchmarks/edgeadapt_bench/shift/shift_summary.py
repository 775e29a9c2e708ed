"""From results to rows: shares of the gap, the lead over the best baseline, the worst loss; and the
table per corruption for people.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeadapt.scenarios.refitted_head import recovery
from edgeadapt_bench.datasets.image_dataset import bar, spread
from edgeadapt_bench.harness.measure import Row
from edgeadapt_bench.shift.shift_runs import ACTING, FROZEN, ORACLE, OURS, Result, Results

SHARE = {"shuffled": 0.60, "sorted": 0.45}
BEHIND, LOSS, COST = -0.02, 0.01, 1.02
LEAST_GAP = 0.02
SETTLED = 128  # images after which a stream's beginning is over


def gap_rows(
    results: Results, kind: str, severity: int, barred: Sequence[str], *, judged: bool
) -> tuple[list[Row], str]:
    """Rows of one order and severity, and a line that says them.

    Args:
        barred: baselines that count. judged: whether the bars hold.
    """
    there, seeds = results.shown(kind, severity)
    barred = [name for name in barred if name in there]
    best = best_of(results, kind, severity, barred)
    others = [name for name in there if name not in (FROZEN, ORACLE, OURS, ACTING)]
    top = best_of(results, kind, severity, others)
    shares = [share_of_means(results, OURS, kind, severity, seed) for seed in seeds]
    ours, frozen, oracle = (results.mean(name, kind, severity) for name in (OURS, FROZEN, ORACLE))
    lead = ours - results.mean(best, kind, severity)
    where = f"{kind}/{severity}"
    rows = [
        bar(
            f"share/{where}",
            float(np.mean(shares)),
            "of the gap of means",
            share_of_means(results, best, kind, severity),
            at_least=SHARE[kind] if judged else None,
        ),
        bar(
            f"share_of_streams/{where}",
            share_of_streams(results, OURS, kind, severity),
            "mean of streams",
            share_of_streams(results, best, kind, severity),
        ),
        bar(
            f"share_settled/{where}",
            float(
                np.mean(
                    [
                        share_of_means(results, OURS, kind, severity, seed, skip=SETTLED)
                        for seed in seeds
                    ]
                )
            ),
            f"from image {SETTLED} on",
            share_of_means(results, best, kind, severity, skip=SETTLED),
        ),
        bar(
            f"lead/{where}",
            lead,
            f"accuracy over {best}",
            0.0,
            at_least=BEHIND if judged and kind == "shuffled" else None,
        ),
        Row(f"accuracy/{where}/{ORACLE}", oracle, "accuracy", frozen),
        *(
            Row(f"accuracy/{where}/{name}", results.mean(name, kind, severity), "accuracy", frozen)
            for name in there
            if name not in (FROZEN, ORACLE)
        ),
    ]
    if ACTING in there:
        rows.insert(
            1,
            Row(
                f"share_if_acting/{where}",
                float(
                    np.mean(
                        [share_of_means(results, ACTING, kind, severity, seed) for seed in seeds]
                    )
                ),
                "of the gap of means, made to act",
            ),
        )
    line = (
        f"{where}: frozen {frozen:.1%}, edgeadapt {ours:.1%}, best of {len(barred)} baselines"
        f" {results.mean(best, kind, severity):.1%} ({best}), best of all"
        f" {results.mean(top, kind, severity):.1%} ({top}), oracle {oracle:.1%}; share of the gap"
        f" {spread(shares)}"
        + (f"; made to act {results.mean(ACTING, kind, severity):.1%}" if ACTING in there else "")
    )
    return rows, line


def best_of(results: Results, kind: str, severity: int, names: Sequence[str]) -> str:
    return max(
        (name for name in names if name in results.shown(kind, severity)[0]),
        key=lambda name: results.mean(name, kind, severity),
    )


def share_of_means(
    results: Results,
    method: str,
    kind: str,
    severity: int,
    seed: int | None = None,
    *,
    skip: int = 0,
) -> float:
    """(mean accuracy - frozen's) / (oracle's - frozen's), from the ``skip``-th image of each stream
    on.
    """
    means = [
        np.mean(
            [
                r.right[skip if skip < len(r.right) // 2 else 0 :].mean()
                for r in results.of(name, kind, severity, seed)
            ]
        )
        for name in (method, FROZEN, ORACLE)
    ]
    return recovery(*map(float, means))


def share_of_streams(results: Results, method: str, kind: str, severity: int) -> float:
    """Mean over streams whose gap is at least two points: below that a share is noise."""
    triples = zip(
        *(results.of(name, kind, severity) for name in (method, FROZEN, ORACLE)), strict=True
    )
    shares = [
        recovery(a.accuracy, f.accuracy, o.accuracy)
        for a, f, o in triples
        if o.accuracy - f.accuracy >= LEAST_GAP
    ]
    return float(np.mean(shares)) if shares else 0.0


def losses(results: Results, method: str) -> dict[str, list[float]]:
    """Per stream, accuracy lost against the frozen model on the same images, one value per seed."""
    found: dict[str, list[float]] = {}
    for mine, frozen in zip(results.of(method, clean=True), _beside(results, method), strict=True):
        found.setdefault(mine.stream, []).append(frozen.accuracy - mine.accuracy)
    return found


def _beside(results: Results, method: str) -> list[Result]:
    frozen = {(r.stream, r.seed): r for r in results.of(FROZEN, clean=True)}
    return [frozen[r.stream, r.seed] for r in results.of(method, clean=True)]


def loss_rows(results: Results, *, judged: bool) -> tuple[list[Row], list[str]]:
    """The worst single stream of every contender, the learner's loss by kind of stream, and a line
    on its worst streams.
    """
    rows, lines = [], []
    for name in [name for name in results.methods if name not in (FROZEN, ORACLE)]:
        found = losses(results, name)
        worst = max(found, key=lambda stream: max(found[stream]))
        rows.append(
            bar(
                f"worst_loss/{name}",
                max(found[worst]),
                f"accuracy, {worst}",
                at_most=LOSS if judged and name == OURS else None,
            )
        )
        if name in (OURS, ACTING):
            ranked = sorted(found, key=lambda stream: -max(found[stream]))[:5]
            lines.append(
                f"largest losses of {name}: "
                + ", ".join(f"{stream} {max(found[stream]):+.1%}" for stream in ranked)
            )
            rows += _by_kind(name, found)
    return rows, lines


def _by_kind(name: str, found: dict[str, list[float]]) -> list[Row]:
    """The worst stream once seeds are averaged, and the worst single stream of each kind."""
    mean = max(found, key=lambda stream: float(np.mean(found[stream])))
    kinds: dict[str, list[float]] = {}
    for stream, values in found.items():
        kind, _, condition = stream.partition("/")
        kinds.setdefault(kind + ("/clean" if condition == "clean" else ""), []).extend(values)
    rows = [
        Row(f"worst_loss_mean/{name}", float(np.mean(found[mean])), f"accuracy over seeds, {mean}")
    ]
    return rows + [
        Row(f"loss/{kind}/{name}", max(values), f"accuracy, the worst of {len(values)}")
        for kind, values in kinds.items()
    ]


def step_rows(results: Results) -> list[Row]:
    """How often each changed itself per 1,000 images."""
    rows = []
    for name in [name for name in results.methods if name not in (FROZEN, ORACLE)]:
        seen = results.of(name, "shuffled") + results.of(name, "sorted")
        rows.append(
            Row(
                f"steps/{name}",
                1000.0 * sum(r.steps for r in seen) / sum(len(r.right) for r in seen),
                "per 1,000 images",
            )
        )
    return rows


def per_condition(results: Results, kind: str, severity: int, methods: Sequence[str]) -> str:
    """A Markdown table: a line per corruption, accuracy in percent over seeds."""
    conditions = list(dict.fromkeys(r.condition for r in results.of(FROZEN, kind, severity)))
    lines = [
        "| " + " | ".join([f"{kind}, severity {severity}", *methods]) + " |",
        "|---" * (1 + len(methods)) + "|",
    ]
    table = {
        name: {
            c: float(
                np.mean([r.accuracy for r in results.of(name, kind, severity) if r.condition == c])
            )
            for c in conditions
        }
        for name in methods
    }
    for condition in conditions:
        lines.append(
            f"| {condition} | "
            + " | ".join(f"{100 * table[name][condition]:.1f}" for name in methods)
            + " |"
        )
    lines.append(
        "| **mean** | "
        + " | ".join(f"**{100 * results.mean(name, kind, severity):.1f}**" for name in methods)
        + " |"
    )
    return "\n".join(lines)
