"""Results of streams as rows with a bar, as tables of a document, and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeadapt_bench.baselines.stream_plan import Outcome, by_unit
from edgeadapt_bench.datasets.pool import Pool
from edgeadapt_bench.harness.measure import Row, absent, at_most
from edgeadapt_bench.harness.plots import Points, save_lines
from edgeadapt_bench.harness.resampling import mean_and_spread, paired_interval

BYTE_CLASSES = {"80kB": 80_000, "300kB": 300_000, "1.1MB": 1_100_000, "7MB": 7_000_000}
"""What a small device spares for learning, in four steps: name -> most bytes of state."""
WITHIN = 1.0  # points that the shipped choice may stay behind the best row of its class


@dataclass(frozen=True, eq=False)
class Result:
    """One method on one stream.

    Attributes:
        kind: ``head`` (ships), ``informed`` (a head whose frozen tensors were made from unlabelled
            rows of all stages), ``rival`` (what a user could pick instead) or ``oracle`` (saw
            everything at once).
        nbytes: of state: evidence and frozen tensors, or weights, momentum and stored rows.
        memory: with what is derived from them.
        outcomes: one per order.
        update_us, readout_us: per sample, batches of 32; derive_ms: once, before predictions see
            it.
        chosen: what validation chose, for the report.
    """

    label: str
    family: str
    kind: str
    nbytes: int
    outcomes: tuple[Outcome, ...]
    update_us: float | None = None
    readout_us: float | None = None
    derive_ms: float | None = None
    chosen: str = ""
    memory: int = 0

    @property
    def final(self) -> tuple[float, float]:
        """Percent, mean and deviation over orders."""
        return mean_and_spread([100.0 * outcome.final for outcome in self.outcomes])

    @property
    def right(self) -> NDArray[np.float64]:
        """(M,) share of orders in which each test row was right."""
        return np.mean([outcome.right for outcome in self.outcomes], axis=0)

    @property
    def forgetting(self) -> float:
        return 100.0 * float(np.mean([outcome.forgetting for outcome in self.outcomes]))

    @property
    def incremental(self) -> float:
        return 100.0 * float(np.mean([outcome.incremental for outcome in self.outcomes]))


def best(results: Sequence[Result], kind: str, limit: int | None = None) -> Result | None:
    """The most accurate of a kind within a number of bytes; the smaller of equals."""
    fitting = [r for r in results if r.kind == kind and (limit is None or r.nbytes <= limit)]
    return max(fitting, key=lambda r: (r.final[0], -r.nbytes)) if fitting else None


def result_rows(stream: str, results: Sequence[Result]) -> list[Row]:
    """Six rows per method; the baseline of an accuracy is the best baseline in the smallest byte
    class that the method fits.
    """
    rows = []
    for r in results:
        limit = next((size for size in BYTE_CLASSES.values() if r.nbytes <= size), None)
        baseline = best(results, "rival", limit) if r.kind in ("head", "informed") else None
        mean, deviation = r.final
        over = f" (sd {deviation:.2f} over {len(r.outcomes)} orders)" if len(r.outcomes) > 1 else ""
        rows.append(
            Row(
                f"{stream}/{r.label}/final",
                mean,
                f"%{over}",
                None if baseline is None else baseline.final[0],
            )
        )
        if r.kind != "oracle":
            rows += [
                Row(f"{stream}/{r.label}/forgetting", r.forgetting, "points"),
                Row(f"{stream}/{r.label}/incremental", r.incremental, "%"),
                Row(f"{stream}/{r.label}/state", r.nbytes / 1000, "kB"),
            ]
        for name, value, unit in (
            ("memory", r.memory / 1000 or None, "kB"),
            ("update", r.update_us, "us/sample"),
            ("readout", r.readout_us, "us/sample"),
            ("derive", r.derive_ms, "ms"),
        ):
            if value is not None:
                rows.append(Row(f"{stream}/{r.label}/{name}", value, unit))
    return rows


def class_rows(
    stream: str,
    pool: Pool,
    results: Sequence[Result],
    defaults: dict[str, str | None],
    judged: bool = True,
) -> list[Row]:
    """Per byte class: the head that ships for it beside the best baseline, and how far the best row
    of the class lies above it.

    Args:
        defaults: byte class -> label of the head that the package takes for it, None if it has none
            that small.
        judged: whether the bar holds; a quick run only reports.
    """
    rows = []
    for name, limit in BYTE_CLASSES.items():
        label = defaults.get(name)
        shipped = next((r for r in results if r.label == label), None)
        if shipped is None:
            rows.append(absent(f"within_1_point/{stream}/{name}", f"no head for {name}"))
            continue
        baseline = best(results, "rival", limit)
        if baseline is not None:
            gain, low, high = (
                100.0 * v
                for v in paired_interval(
                    by_unit(pool, shipped.right), by_unit(pool, baseline.right)
                )
            )
            rows.append(
                Row(
                    f"default/{stream}/{name}",
                    shipped.final[0],
                    f"%: {shipped.label} against {baseline.label}, {gain:+.1f} points ({low:+.1f}"
                    f" to {high:+.1f})",
                    baseline.final[0],
                )
            )
        champion = max(
            (r for r in results if r.kind in ("head", "rival") and r.nbytes <= limit),
            key=lambda r: r.final[0],
        )
        rows.append(
            at_most(
                f"within_1_point/{stream}/{name}",
                champion.final[0] - shipped.final[0],
                f"points: {shipped.label} below {champion.label}",
                WITHIN if judged else None,
            )
        )
    return rows


def markdown(stream: str, source: str, results: Sequence[Result]) -> str:
    """The table of a document, the smallest state first."""
    lines = [
        f"### {stream}",
        "",
        source,
        "",
        (
            "| method | final % | forgetting | incremental % | state kB | memory kB | update us |"
            " read-out us | derive ms | chosen on validation |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (r.kind == "oracle", r.nbytes, r.label)):
        mean, deviation = r.final
        name = f"**{r.label}**" if r.kind in ("head", "informed") else r.label
        way = ("", "") if r.kind == "oracle" else (f"{r.forgetting:.1f}", f"{r.incremental:.1f}")
        times = [
            ("" if value is None else f"{value:.3g}")
            for value in (r.update_us, r.readout_us, r.derive_ms)
        ]
        sizes = [
            "" if r.kind == "oracle" else f"{n / 1000:,.0f}" if n >= 10_000 else f"{n / 1000:.1f}"
            for n in (r.nbytes, r.memory or r.nbytes)
        ]
        lines.append(
            f"| {name} | {mean:.1f} ± {deviation:.1f} | {way[0]} | {way[1]} | {' | '.join(sizes)} |"
            f" {' | '.join(times)} | {r.chosen} |"
        )
    return "\n".join(lines) + "\n"


def draw(folder: Path, stream: str, results: Sequence[Result]) -> list[Path]:
    """Accuracy against bytes, and accuracy on what arrived so far, as two pictures."""
    oracle = best(results, "oracle")
    level = {} if oracle is None else {"all at once (linear)": oracle.final[0]}
    families: dict[str, list[Result]] = {}
    for r in sorted(results, key=lambda r: r.nbytes):
        if r.kind != "oracle":
            families.setdefault(r.family, []).append(r)
    # the best of a size
    families = {
        family: list(
            {r.nbytes: r for r in sorted(rs, key=lambda r: (r.nbytes, r.final[0]))}.values()
        )
        for family, rs in families.items()
    }
    points: dict[str, Points] = {
        family: ([r.nbytes / 1000 for r in rs], [r.final[0] for r in rs])
        for family, rs in families.items()
    }
    spread = {family: [r.final[1] for r in rs] for family, rs in families.items()}
    over_bytes = save_lines(
        folder / f"{stream}-bytes.png",
        points,
        labels=(f"{stream}: accuracy after the last stage", "state, kB", "%"),
        log_x=True,
        spread=spread,
        level=level,
    )
    way: dict[str, Points] = {}
    for rs in families.values():
        r = max(rs, key=lambda r: r.final[0])
        mean = 100.0 * np.mean([outcome.on_the_way for outcome in r.outcomes], axis=0)
        way[f"{r.label}, {r.nbytes / 1000:,.0f} kB"] = (
            list(range(1, len(mean) + 1)),
            mean.tolist(),
        )
    over_stages = save_lines(
        folder / f"{stream}-stages.png",
        way,
        labels=(
            f"{stream}: accuracy on what arrived so far, the best of each family",
            "stage",
            "%",
        ),
        level=level,
        x_ticks=range(1, 1 + max(len(x) for x, _ in way.values())),
    )
    return [over_bytes, over_stages]
