"""Sizes: a million feature vectors and ten thousand images (after a warm-up) through one learner
each, and a state of 100,000 evidence rows.

Labels arrive all the while, classes grow to a thousand, conditions come and go. What may not grow
is watched: resident memory, the queue of the worker, the time to open. Every part runs in a process
of its own, without torch.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeadapt.demo.sample import bundle_path
from edgeadapt_bench.datasets.vectors import vector_bundle
from edgeadapt_bench.harness.measure import Row, Say, at_most, reported
from edgeadapt_bench.harness.process import in_child
from edgeadapt_bench.operations import large_state, soak_streams

OPEN_MS, RECOVERY_MS = 300.0, 500.0
GROWTH_MIB, GROWTH_SHARE = 16.0, 0.05  # after the warm-up; whichever is more
WARM_UP = 50_000  # observations: until then samples that may still get a label fill their store
DIM, FACTORY_CLASSES, CLASSES, CLASS_SLOTS = 64, 16, 1000, 1024
OBSERVATIONS, IMAGES, ROWS, OPENS = 1_000_000, WARM_UP + 10_000, 100_000, 7


def growth(observed: list[float], mib: list[float]) -> tuple[float, float, float, float]:
    """Resident memory after the warm-up, which is at least the first tenth.

    Returns:
        Observations of the warm-up, MiB then, growth to the end (both medians over a tenth of the
        samples), slope in MiB per 100,000.
    """
    at, size = np.array(observed), np.array(mib)
    warm = max(0.1 * at[-1], WARM_UP if at[-1] > WARM_UP else 0)
    at, size = at[at > warm], size[at > warm]
    part = max(1, len(size) // 9)
    start = float(np.median(size[:part]))
    slope = float(np.polyfit(at, size, 1)[0]) * 1e5 if len(size) > 1 else 0.0
    return float(warm), start, float(np.median(size[-part:])) - start, slope


def stream_rows(name: str, found: dict[str, Any], with_targets: bool) -> list[Row]:
    """Memory, speed, disk and what became of the labels in one soak."""
    total = int(found["observed"][-1])
    warm, start, grown, slope = growth(found["observed"], found["mib"])
    end = f"{name}/{total}"
    observe, bare = float(np.median(found["observe_ms"])), float(np.median(found["bare_ms"]))
    outcomes = found["outcomes"]
    learned = outcomes.get("learned", 0) / max(1, sum(outcomes.values()))
    return [
        at_most(
            f"rss_growth_mib/{end}",
            grown,
            f"MiB after {warm:.0f}",
            max(GROWTH_MIB, GROWTH_SHARE * start) if with_targets else None,
            start,
        ),
        *reported(
            end,
            ("rss_slope_mib", slope, "MiB per 100,000 observations"),
            ("rss_max_mib", max(found["mib"]), "MiB"),
            ("observations_per_s", total / found["seconds"], "1/s, labels and learning included"),
            ("observe_ms", observe, "ms a batch", bare),
            ("backlog_max", max(found["backlog"]), "tasks that wait for the worker"),
            ("caught_up_s", found["caught_up"], "s after the last observation"),
            ("labels", found["labels"], "labels"),
            ("questions_answered", found["answers"], "labels"),
            ("classes", found["classes"], "classes"),
            ("conditions", found["conditions"], "conditions known at the end"),
            ("commits_learned", learned, "share of label commits"),
            ("written_per_label", found["written"] / max(1, found["labels"]), "bytes"),
            ("state_mib", found["state"] / 2**20, "MiB"),
            *(
                (name, found["counters"][name], "times")
                for name in ("deferred", "overruns", "refreshes")
            ),
        ),
    ]


def state_rows(
    bundle: str, scratch: Path, rows: int, classes: int, opens: int, with_targets: bool, say: Say
) -> list[Row]:
    """How long a large state takes to open, healthy and after a kill, and to digest, forget from
    and go back in.
    """
    state = str(scratch / "large")
    grown = in_child(
        large_state.__name__, "grow", bundle=bundle, state=state, rows=rows, classes=classes
    )
    say(
        f"soak: {grown['evidence']} in {grown['seconds']:.0f} s, {grown['bytes'] / 2**20:.0f} MiB;"
        " opening"
    )

    def opened(**arguments: Any) -> list[dict[str, Any]]:
        return [
            in_child(large_state.__name__, "open_time", bundle=bundle, **arguments)
            for _ in range(opens)
        ]

    def milliseconds(times: list[dict[str, Any]], what: str = "open") -> list[float]:
        return [1e3 * one[what] for one in times]

    bare, warm, cold = opened(state=None), opened(state=state), opened(state=state, is_cold=True)
    say(f"soak: {opens} kills in the middle of learning")
    killed = large_state.recovery_times(bundle, state, classes, opens)
    say("soak: digest, rollback, forget")
    undone = in_child(large_state.__name__, "undo_times", bundle=bundle, state=state)
    shutil.rmtree(state)
    end, alone = f"{rows}_rows", float(np.median(milliseconds(bare)))
    median_warm, median_cold = (float(np.median(milliseconds(times))) for times in (warm, cold))
    mib, least = grown["bytes"] / 2**20, grown["evidence"].get("learned", 0) * 2 * DIM / 2**20
    return [
        at_most(
            f"open_ms/{end}", median_warm, "ms, median", OPEN_MS if with_targets else None, alone
        ),
        *reported(
            end,
            ("open_max_ms", max(milliseconds(warm)), "ms", max(milliseconds(bare))),
            ("open_cold_ms", median_cold, "ms, journal not in the page cache", alone),
        ),
        Row(
            "start_ms",
            float(np.median(milliseconds(warm, "imports"))),
            "ms, interpreter and imports, not in open",
        ),
        at_most(
            f"recovery_ms/{end}",
            max(milliseconds(killed)),
            f"ms, worst of {opens} kills",
            RECOVERY_MS if with_targets else None,
            alone,
        ),
        *reported(
            end,
            (
                "recovery_learned_ms",
                max(milliseconds(killed, "caught_up")),
                "ms, until labels that waited are learned",
            ),
            *(
                (f"{name}_ms", 1e3 * seconds, _what(name, undone))
                for name, seconds in undone.items()
                if not name.endswith("/rows")
            ),
            ("state_mib", mib, "MiB", least),
            ("grow_ms", 64e3 * grown["seconds"] / rows, "ms for 64 labels, durable and learned"),
        ),
    ]


def _what(name: str, undone: Mapping[str, Any]) -> str:
    removed = undone.get(f"{name}/rows")
    return "ms" if removed is None else f"ms, {removed} rows"


def run_soak(data: str | None, say: Say, *, quick: bool = False) -> list[Row]:
    """The two streams and the large state.

    Args:
        data: see ``load_dataset``.
        quick: a hundredth of the observations and rows, without targets.
    """
    from edgeadapt_bench.datasets.image_dataset import load_dataset

    if quick:
        observations = OBSERVATIONS // 100
        images = IMAGES // 150
        rows = ROWS // 100
        classes = CLASSES // 10
    else:
        observations, images, rows, classes = OBSERVATIONS, IMAGES, ROWS, CLASSES
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        say("soak: exporting a bundle for vectors")
        bundle = str(vector_bundle(scratch / "vectors.edge", DIM, FACTORY_CLASSES, CLASS_SLOTS))
        say(f"soak: {observations} vectors")
        result = stream_rows(
            "vectors",
            in_child(
                soak_streams.__name__,
                "vectors",
                bundle=bundle,
                observations=observations,
                classes=classes,
            ),
            not quick,
        )
        test = load_dataset(data).test
        np.savez(scratch / "images.npz", x=test.x, y=test.y, names=np.array(test.classes))
        say(f"soak: {images} images")
        found = in_child(
            soak_streams.__name__,
            "images",
            bundle=str(bundle_path()),
            images=str(scratch / "images.npz"),
            observations=images,
        )
        result += stream_rows("images", found, not quick)
        say(f"soak: a state of {rows} rows")
        return result + state_rows(
            bundle, scratch, rows, classes, 2 if quick else OPENS, not quick, say
        )
