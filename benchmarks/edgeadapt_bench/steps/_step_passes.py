"""What each rewrite pass gains: the adaptor step compiled with all passes and without one, timed in
turn; size and memory of the entropy step.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edgeadapt.errors import RuntimeUnavailable
from edgeadapt.host.compile import compile_graph
from edgeadapt.host.compile.rewrite import PASSES, without_passes
from edgeadapt_bench.harness.measure import Row, Say, absent
from edgeadapt_bench.harness.step_race import Effort, race
from edgeadapt_bench.steps import _step_inputs as step_inputs
from edgeadapt_bench.steps import adaptor_step, entropy_step
from edgeadapt_bench.steps._step_entrants import ours

ALL, NONE = "all", "none"
BATCHES = (1, 8, 32)
SPARING = ("uniform constants", "recomputed masks")
"""Passes that spare bytes and no time; they show on a network, not on a head."""
ENTROPY_BATCH = 8


def run_passes(say: Say, effort: Effort) -> list[Row]:
    """Rows ``pass_gain/PASS/bN`` (time without it by time with all) and ``pass_nodes/PASS/bN``
    (nodes it saves), and the table of them.

    Then ``pass_graph_kib/PASS/entropy/b8`` and ``pass_peak_mib/PASS/entropy/b8``: without the pass,
    the baseline being with all.
    """
    nodes: dict[str, dict[int, int]] = {}
    gains: dict[str, dict[int, float]] = {}
    for batch in BATCHES:
        say(f"passes: batch {batch}")
        with tempfile.TemporaryDirectory() as scratch:
            prepared = step_inputs.adaptor(Path(scratch) / "adaptor", batch)
            counts, medians = _race_variants(prepared, batch, effort, say)
        for name, count in counts.items():
            nodes.setdefault(name, {})[batch] = count
            gains.setdefault(name, {})[batch] = float(np.median(medians[name] / medians[ALL]))
    say(markdown(nodes, gains))
    names = [name for name in nodes if name != ALL]
    return [
        *(
            Row(f"pass_gain/{name}/b{batch}", gains[name][batch], "x")
            for name in names
            for batch in BATCHES
        ),
        *(
            Row(
                f"pass_nodes/{name}/b{batch}",
                float(nodes[name][batch] - nodes[ALL][batch]),
                "nodes",
            )
            for name in names
            for batch in BATCHES
        ),
        *_sparing_rows(say),
    ]


def _sparing_rows(say: Say) -> list[Row]:
    say(f"passes: entropy step, batch {ENTROPY_BATCH}")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            prepared = step_inputs.entropy(Path(scratch) / "entropy", ENTROPY_BATCH)
        except RuntimeUnavailable as error:
            return [
                absent(f"pass_{what}/{name}/entropy/b{ENTROPY_BATCH}", str(error))
                for name in SPARING
                for what in ("graph_kib", "peak_mib")
            ]
        learn, make_ports, tensors = entropy_step.step()
        sizes, entrants = {ALL: prepared.graph_bytes}, [ours(prepared, ALL)]
        for index, name in enumerate(SPARING):
            with without_passes(name):
                graph = compile_graph(
                    name,
                    learn,
                    make_ports,
                    tensors,
                    frozen=entropy_step.frozen(tensors),
                    dynamic_batch=False,
                    batch=ENTROPY_BATCH,
                    check=False,
                )
            file = prepared.folder / f"without-{index}.onnx"
            file.write_bytes(graph.model)
            sizes[name] = len(graph.model)
            entrants.append(ours(prepared, name, file))
        results, _ = race(
            entrants, prepared.folder, prepared.reference, Effort(2, 4), say, [ALL, *SPARING]
        )
    rows = []
    for name in SPARING:
        rows += [
            Row(
                f"pass_graph_kib/{name}/entropy/b{ENTROPY_BATCH}",
                sizes[name] / 1024,
                "KiB",
                sizes[ALL] / 1024,
            ),
            Row(
                f"pass_peak_mib/{name}/entropy/b{ENTROPY_BATCH}",
                results[name].peak_mib,
                "MiB",
                results[ALL].peak_mib,
            ),
        ]
    return rows


def _race_variants(
    prepared: step_inputs.Prepared, batch: int, effort: Effort, say: Say
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    learn, make_ports, tensors = adaptor_step.step()
    counts, entrants = {ALL: prepared.nodes}, [ours(prepared, ALL)]
    left_out = {name: (name,) for name in PASSES} | {NONE: tuple(PASSES)}
    for index, (name, passes) in enumerate(left_out.items()):
        # not compared by the compiler: every graph is held against the reference before it is timed
        with without_passes(*passes):
            graph = compile_graph(
                name,
                learn,
                make_ports,
                tensors,
                dynamic_batch=False,
                batch=batch,
                is_step=True,
                check=False,
            )
        file = prepared.folder / f"without-{index}.onnx"
        file.write_bytes(graph.model)
        counts[name] = graph.nodes
        entrants.append(ours(prepared, name, file))
    names = [entrant.name for entrant in entrants]
    results, _ = race(entrants, prepared.folder, prepared.reference, effort, say, names)
    return counts, {name: results[name].medians for name in names}


def markdown(nodes: dict[str, dict[int, int]], gains: dict[str, dict[int, float]]) -> str:
    """Nodes and time without each pass, as a share of the time with all."""
    head = (
        "| without | "
        + " | ".join(f"nodes, batch {batch} | time, batch {batch}" for batch in BATCHES)
        + " |"
    )
    lines = [head, "|---" * (1 + 2 * len(BATCHES)) + "|"]
    for name in nodes:
        label = {ALL: "nothing (all passes)", NONE: "all of them"}.get(name, name)
        lines.append(
            f"| {label} | "
            + " | ".join(f"{nodes[name][batch]} | {gains[name][batch]:.3f}x" for batch in BATCHES)
            + " |"
        )
    return "\n".join(lines)
