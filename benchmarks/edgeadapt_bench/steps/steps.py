"""What a learning step costs beside the systems that could take it instead: the adaptor step and
the entropy step, one thread.

Every system runs in a process of its own, is first held against torch's float64 parameters, and
then takes turns with the others. The value of a ratio is the median over rounds of theirs by ours.
Ours is the compiled graph in the runtime as a device runs it: inputs uploaded, state in its
buffers, the loss fetched. Cold start is from the start of a process to the end of its first step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeadapt.errors import CompileError, RuntimeUnavailable
from edgeadapt_bench.harness._install_size import installed_bytes
from edgeadapt_bench.harness.measure import Row, Say, absent, at_least, at_most, reported
from edgeadapt_bench.harness.step_race import Effort, Entrant, Timing, race
from edgeadapt_bench.harness.step_reference import Reference
from edgeadapt_bench.steps import _step_inputs as step_inputs
from edgeadapt_bench.steps._step_entrants import floor, ours, torch_entrants
from edgeadapt_bench.steps.peers import environments

ADAPTOR_BATCHES, ENTROPY_BATCHES = (1, 8, 32), (1, 8)
SPEEDUP = {1: 3.0, 8: 2.0, 32: 1.7}
OVER_FLOOR = {32: 2.0}
ENTROPY_SPEEDUP, ENTROPY_RSS = 1.3, 0.5
ADAPTOR_COMPILE_S, ENTROPY_COMPILE_S = 3.0, 60.0
COMPILED = ("torch_compile", "torch_compile_wrapped")
"""torch.compile with its defaults, and with ``cpp_wrapper``, which spares it most of its Python;
the faster one counts.
"""

_MIB = 1 << 20
ADAPTOR, ENTROPY, QUICK = Effort(40, 64), Effort(12, 8), Effort(4, 24)


def run_steps(
    data: str | None, say: Say, *, quick: bool = False, peers: bool = False, passes: bool = False
) -> list[Row]:
    """Both steps at every batch size.

    Args:
        data: unused, inputs are drawn.
        quick: the adaptor step beside eager torch and the floor alone, few rounds.
        peers: also systems that need an environment of their own; the first time they are
            installed, which takes minutes.
        passes: instead, what each rewrite pass gains; the table is Markdown.
    """
    if passes:
        from edgeadapt_bench.steps._step_passes import run_passes

        return run_passes(say, QUICK if quick else ADAPTOR)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = adaptor_rows(folder, say, quick=quick, peers=peers)
        return rows + (_left_out_rows() if quick else entropy_rows(folder, say))


# -- who takes part --------------------------------------------------------------------------------
def peer_entrants(folder: Path, say: Say, failed: dict[str, str]) -> list[Entrant]:
    """Peers whose environments can be made; the others go into ``failed`` with the reason, and are
    not tried again.
    """
    cache = environments.cache_folder()
    plain: Reference | None = None
    found = []
    for peer in environments.PEERS:
        if peer.name in failed:
            continue
        try:
            environments.build(peer, folder, cache, say)
            command = environments.command(peer, cache, say)
        except RuntimeUnavailable as error:
            failed[peer.name] = str(error)
            say(f"absent: {peer.name}: {error}")
            continue
        if not peer.has_momentum and plain is None:
            plain = step_inputs.reference(
                folder, step_inputs.ADAPTOR_TOLERANCE, step_inputs.ADAPTOR_WALKS, beta=0.0
            )
        reference = None if peer.has_momentum else plain
        paths = {"PYTHONPATH": str(environments.PROTOCOL)}
        found.append(Entrant(peer.name, command, paths, reference=reference))
    return found


# -- the adaptor step ------------------------------------------------------------------------------
def adaptor_rows(folder: Path, say: Say, *, quick: bool = False, peers: bool = False) -> list[Row]:
    """Ratios for every batch size, then what does not depend on it."""
    effort = QUICK if quick else ADAPTOR
    rows: list[Row] = []
    failed: dict[str, str] = {}
    shown: dict[int, dict[str, Timing]] = {}
    made: dict[int, step_inputs.Prepared] = {}
    free = None if quick else step_inputs.adaptor(folder / "free", 8, is_batch_free=True)
    for batch in ADAPTOR_BATCHES:
        say(f"steps: adaptor, batch {batch}")
        made[batch] = prepared = step_inputs.adaptor(folder / f"adaptor-{batch}", batch)
        entrants = [ours(prepared), *torch_entrants({"torch_eager": "eager"}, folder), floor()]
        if free is not None:
            entrants.append(ours(free, "edgeadapt_free_batch", free.folder / "step.onnx"))
            systems = {
                "torch_eager_fused": "eager_fused",
                "torch_compile": "compile",
                "torch_compile_wrapped": "compile_wrapped",
            }
            entrants += torch_entrants(systems, folder / f"inductor-{batch}")
        if peers:
            entrants += peer_entrants(prepared.folder, say, failed)
        needed = ("edgeadapt", "torch_eager", "floor")
        results, missing = race(entrants, prepared.folder, prepared.reference, effort, say, needed)
        shown[batch] = results
        rows += _adaptor_ratios(batch, results, {**failed, **missing}, is_quick=quick)
    compiled = ([free.compile_s] if free is not None else []) + [
        made[batch].compile_s for batch in ADAPTOR_BATCHES
    ]
    rows += [
        at_most(
            "compile_s/adaptor", float(np.median(compiled[1:] or compiled)), "s", ADAPTOR_COMPILE_S
        ),
        Row("compile_first_s/adaptor", compiled[0], "s"),
        *_graph_rows(
            "adaptor", made, {batch: results["edgeadapt"] for batch, results in shown.items()}
        ),
        *_process_rows("adaptor", shown),
        *_install_rows({name for results in shown.values() for name in results}),
    ]
    return rows


def _adaptor_ratios(
    batch: int, results: Mapping[str, Timing], missing: Mapping[str, str], *, is_quick: bool
) -> list[Row]:
    end = f"b{batch}"
    mine = results["edgeadapt"].medians
    rows = _speedup_rows("adaptor", batch, results, SPEEDUP[batch])
    name = f"adaptor_step_vs_compile/{end}"
    compiled = [results[key].medians for key in COMPILED if key in results]
    if compiled:
        fastest = min(compiled, key=lambda medians: float(np.median(medians)))
        rows.append(at_least(name, float(np.median(fastest / mine)), "x torch.compile", 1.0, 1.0))
    else:
        why = (
            "left out of a quick run"
            if is_quick
            else "; ".join(missing.get(key, "") for key in COMPILED)
        )
        rows.append(absent(name, why, None if is_quick else 1.0))
    rows.append(
        at_most(
            f"adaptor_step_vs_floor/{end}",
            float(np.median(mine / results["floor"].medians)),
            "x floor",
            OVER_FLOOR.get(batch),
            1.0,
        )
    )
    rows += _other_rows("adaptor", batch, results)
    return rows + [
        absent(f"adaptor_step_vs/{other}/{end}", reason)
        for other, reason in missing.items()
        if other not in COMPILED
    ]


def _speedup_rows(step: str, batch: int, results: Mapping[str, Timing], target: float) -> list[Row]:
    over_eager = results["torch_eager"].medians / results["edgeadapt"].medians
    name, unit = f"{step}_step_speedup", "x torch eager"
    low, high = np.quantile(over_eager, (0.1, 0.9))
    return [
        at_least(f"{name}/b{batch}", float(np.median(over_eager)), unit, target, 1.0),
        *reported(f"b{batch}", (f"{name}_p10", low, unit), (f"{name}_p90", high, unit)),
    ]


def _other_rows(step: str, batch: int, results: Mapping[str, Timing]) -> list[Row]:
    """Microseconds of every system beside those of eager torch, and how many times ours each
    takes.
    """
    eager = results["torch_eager"].median_us
    mine = results["edgeadapt"].medians
    rows = []
    for name, result in results.items():
        rows.append(Row(f"{step}_step_us/{name}/b{batch}", result.median_us, "us", eager))
        if name not in ("edgeadapt", "torch_eager", "floor"):
            rows.append(
                Row(
                    f"{step}_step_vs/{name}/b{batch}",
                    float(np.median(result.medians / mine)),
                    "x ours",
                )
            )
    ours_off, eager_off = results["edgeadapt"].distance, results["torch_eager"].distance
    return [*rows, Row(f"{step}_step_distance/b{batch}", ours_off, "of the way", eager_off)]


# -- the entropy step ------------------------------------------------------------------------------
def entropy_rows(folder: Path, say: Say) -> list[Row]:
    """Time and memory beside eager torch; rows that cannot be measured here say why."""
    rows: list[Row] = []
    shown: dict[int, dict[str, Timing]] = {}
    made: dict[int, step_inputs.Prepared] = {}
    for batch in ENTROPY_BATCHES:
        say(f"steps: entropy, batch {batch}")
        try:
            made[batch] = prepared = step_inputs.entropy(folder / f"entropy-{batch}", batch)
        except (CompileError, RuntimeUnavailable) as error:
            say(f"absent: {error}")
            # a step that is refused misses its bar; one whose network is not installed has none
            judged = isinstance(error, CompileError)
            rows += [
                absent(f"entropy_step_{what}/b{batch}", str(error), target if judged else None)
                for what, target in (("speedup", ENTROPY_SPEEDUP), ("rss_share", ENTROPY_RSS))
            ]
            continue
        entrants = [
            ours(prepared),
            *torch_entrants(
                {"torch_eager": "eager", "torch_eager_channels_last": "eager_channels_last"}, folder
            ),
        ]
        needed = ("edgeadapt", "torch_eager")
        results, _ = race(entrants, prepared.folder, prepared.reference, ENTROPY, say, needed)
        shown[batch] = results
        share = results["edgeadapt"].peak_mib / results["torch_eager"].peak_mib
        rows += [
            *_speedup_rows("entropy", batch, results, ENTROPY_SPEEDUP),
            at_most(f"entropy_step_rss_share/b{batch}", share, "of torch eager", ENTROPY_RSS, 1.0),
            *_other_rows("entropy", batch, results),
        ]
    if made:
        rows += [
            at_most(
                "compile_s/entropy",
                max(prepared.compile_s for prepared in made.values()),
                "s",
                ENTROPY_COMPILE_S,
            ),
            *_graph_rows(
                "entropy", made, {batch: results["edgeadapt"] for batch, results in shown.items()}
            ),
            *_process_rows("entropy", shown),
        ]
    return rows


def _left_out_rows() -> list[Row]:
    names = [
        f"entropy_step_{what}/b{batch}"
        for what in ("speedup", "rss_share")
        for batch in ENTROPY_BATCHES
    ]
    return [absent(name, "left out of a quick run") for name in names]


# -- what a step costs besides its time ------------------------------------------------------------
def _graph_rows(
    step: str, made: Mapping[int, step_inputs.Prepared], results: Mapping[int, Timing]
) -> list[Row]:
    rows = []
    for batch, prepared in made.items():
        rows += reported(
            f"{step}/b{batch}",
            ("graph_kib", prepared.graph_bytes / 1024, "KiB"),
            ("graph_nodes", prepared.nodes, "nodes"),
            ("session_ms", results[batch].facts["session_ms"], "ms"),
        )
    return rows


def _process_rows(step: str, shown: Mapping[int, Mapping[str, Timing]]) -> list[Row]:
    """Peak memory at every batch size, and cold start as the median over them."""
    rows = []
    for name in dict.fromkeys(
        name for results in shown.values() for name in results if name != "floor"
    ):
        there = {batch: results[name] for batch, results in shown.items() if name in results}
        rows.append(
            Row(
                f"cold_start_s/{step}/{name}",
                float(np.median([result.cold_s for result in there.values()])),
                "s",
            )
        )
        rows += [
            Row(f"rss_mib/{step}/{name}/b{batch}", result.peak_mib, "MiB")
            for batch, result in there.items()
        ]
    return rows


def _install_rows(systems: set[str]) -> list[Row]:
    """Packages that a system needs to take the step; torch.compile also needs a C++ compiler, which
    is not counted.
    """
    sizes = {
        "edgeadapt": installed_bytes("edgeadapt"),
        "torch_eager": installed_bytes("torch", "numpy"),
    }
    peers = {peer.name: peer for peer in environments.PEERS if peer.name in systems}
    for name, peer in peers.items():
        sizes[name] = environments.installed_bytes(
            environments.python_of(peer.environment, environments.cache_folder(), lambda line: None)
        )
    return [Row(f"install_mib/{name}", size / _MIB, "MiB") for name, size in sizes.items()]
