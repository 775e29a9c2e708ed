"""The steps suite on few rounds: its rows and ratios are there, they follow from what was timed,
and no unequal system is timed.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from edgeadapt_bench import suites
from edgeadapt_bench.harness._install_size import installed_bytes
from edgeadapt_bench.harness.measure import Row, absent, at_least
from edgeadapt_bench.harness.step_race import Effort, Entrant, race
from edgeadapt_bench.harness.step_reference import distance
from edgeadapt_bench.steps import _step_inputs as step_inputs
from edgeadapt_bench.steps import steps
from edgeadapt_bench.steps._step_entrants import ours
from edgeadapt_bench.steps._step_passes import markdown

from edgeadapt.errors import CompileError, InputError, RuntimeUnavailable
from edgeadapt.host.compile import compile_graph
from edgeadapt.host.compile.rewrite import PASSES, without_passes

WRONG = """
import sys
from edgeadapt_bench.steps._step_worker_ours import Ours, serve, steps_of

class Wrong(Ours):
    def step(self, index):
        loss = super().step(index)
        if sys.argv[1] == "forgets its velocity":
            still = {k: v for k, v in self.start.items() if k.startswith("momentum.")}
            self.state = self.runtime.upload(still).over(self.state)
        return loss

    def parameters(self):
        now = super().parameters()
        factor = 1.001 if sys.argv[1] == "goes too far" else 1.0
        was = self.start
        return {name: was[name] + factor * (value - was[name]) for name, value in now.items()}

serve(steps_of(Wrong))
"""
DYING = """
import os
from edgeadapt_bench.steps._step_worker_ours import Ours, serve, steps_of

class Dying(Ours):
    taken = 0
    def step(self, index):
        self.taken += 1
        if self.taken > 20:
            os._exit(9)
        return super().step(index)

serve(steps_of(Dying))
"""
SILENT = """
import sys
print("no such library", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> step_inputs.Prepared:
    return step_inputs.adaptor(tmp_path_factory.mktemp("adaptor"), 4)


@pytest.fixture(scope="module")
def quick() -> dict[str, Row]:
    """A quick run at one batch size; the test marked slow takes all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "ADAPTOR_BATCHES", (8,))
        return quick_run()


def quick_run() -> dict[str, Row]:
    told: list[str] = []
    content = suites.run("steps", options=("quick",), say=told.append)
    assert "adaptor_step_speedup/b8" in told[-1]
    return {row["name"]: Row(**row) for row in content["rows"]}


def script(folder: Path, text: str) -> str:
    path = folder / "system.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_a_quick_run_has_the_rows_and_the_ratios_are_those_of_its_times(
    quick: dict[str, Row],
) -> None:
    check_rows(quick, 8)


@pytest.mark.slow
def test_a_quick_run_has_the_rows_of_every_batch() -> None:
    rows = quick_run()
    for batch in (1, 8, 32):
        check_rows(rows, batch)


def check_rows(quick: dict[str, Row], batch: int) -> None:
    speedup = quick[f"adaptor_step_speedup/b{batch}"]
    over_floor = quick[f"adaptor_step_vs_floor/b{batch}"]
    ours, eager, floor = (
        quick[f"adaptor_step_us/{name}/b{batch}"].value
        for name in ("edgeadapt", "torch_eager", "floor")
    )
    assert ours and eager and floor and speedup.value and over_floor.value
    # a median of ratios beside a ratio of medians
    assert speedup.value == pytest.approx(eager / ours, rel=0.3)
    assert over_floor.value == pytest.approx(ours / floor, rel=0.3)
    assert (
        quick[f"adaptor_step_speedup_p10/b{batch}"].value
        <= speedup.value
        <= quick[f"adaptor_step_speedup_p90/b{batch}"].value
    )
    assert speedup.target == steps.SPEEDUP[batch] and speedup.holds is (
        speedup.value >= speedup.target
    )
    assert 0 < quick[f"adaptor_step_distance/b{batch}"].value < step_inputs.ADAPTOR_TOLERANCE
    assert (
        20
        < quick[f"rss_mib/adaptor/edgeadapt/b{batch}"].value
        < quick[f"rss_mib/adaptor/torch_eager/b{batch}"].value
    )


def test_what_a_quick_run_leaves_out_is_said(quick: dict[str, Row]) -> None:
    for name in (
        "adaptor_step_vs_compile/b8",
        "entropy_step_speedup/b1",
        "entropy_step_rss_share/b8",
    ):
        assert (
            quick[name].value is None
            and quick[name].unit == "absent: left out of a quick run"
            and quick[name].holds is None
        )


def test_the_rest_of_the_cost_is_reported(quick: dict[str, Row]) -> None:
    assert (
        0
        < quick["cold_start_s/adaptor/edgeadapt"].value
        < quick["cold_start_s/adaptor/torch_eager"].value
    )
    assert 10 < quick["install_mib/edgeadapt"].value < quick["install_mib/torch_eager"].value
    assert quick["compile_s/adaptor"].value > 0 and quick["compile_s/adaptor"].target == 3.0
    assert (
        1 < quick["graph_kib/adaptor/b8"].value < 100 and quick["session_ms/adaptor/b8"].value > 0
    )


@pytest.mark.parametrize("fault", ["forgets its velocity", "goes too far"])
def test_a_system_that_takes_another_step_is_refused_and_not_timed(
    prepared: step_inputs.Prepared, tmp_path: Path, fault: str
) -> None:
    wrong = Entrant("wrong", (sys.executable, script(tmp_path, WRONG), fault), named=prepared.named)
    told: list[str] = []
    results, missing = race(
        [wrong, ours(prepared)], prepared.folder, prepared.reference, Effort(1, 8), told.append
    )
    assert list(results) == ["edgeadapt"] and len(results["edgeadapt"].medians) == 1
    assert (
        "wrong is not timed: after 6 steps" in missing["wrong"]
        and "does not take the same step" in missing["wrong"]
    )
    assert told == [f"absent: {missing['wrong']}"]


def test_without_a_needed_system_there_is_no_report(
    prepared: step_inputs.Prepared, tmp_path: Path
) -> None:
    wrong = Entrant(
        "edgeadapt", (sys.executable, script(tmp_path, WRONG), "goes too far"), named=prepared.named
    )
    with pytest.raises(InputError, match="edgeadapt is not timed"):
        race([wrong], prepared.folder, prepared.reference, Effort(1, 8), print, ["edgeadapt"])


def test_a_system_that_cannot_start_says_why(
    prepared: step_inputs.Prepared, tmp_path: Path
) -> None:
    dead = Entrant("dead", (sys.executable, script(tmp_path, SILENT)))
    _, missing = race([dead], prepared.folder, prepared.reference, Effort(1, 8), lambda line: None)
    assert missing == {"dead": "dead: ended with 3: no such library"}
    with pytest.raises(RuntimeUnavailable, match="no such library"):
        race([dead], prepared.folder, prepared.reference, Effort(1, 8), print, ["dead"])


def test_a_system_that_dies_while_it_is_timed_is_left_out_and_the_others_go_on(
    prepared: step_inputs.Prepared, tmp_path: Path
) -> None:
    dying = Entrant("dying", (sys.executable, script(tmp_path, DYING)), named=prepared.named)
    results, missing = race(
        [dying, ours(prepared)],
        prepared.folder,
        prepared.reference,
        Effort(3, 8),
        lambda line: None,
    )
    assert (
        missing == {"dying": "dying: ended with 9: no message"}
        and len(results["edgeadapt"].medians) == 3
        and "dying" not in results
    )


def test_the_distance_is_a_share_of_the_way_and_names_what_is_missing() -> None:
    start = {"a": np.zeros(4, np.float32), "b": np.ones(2, np.float32)}
    end = {"a": np.full(4, 2.0), "b": np.full(2, 1.5)}
    halfway = {"a": np.full(4, 1.0, np.float32), "b": np.full(2, 1.5, np.float32)}
    assert distance(start, end, halfway) == pytest.approx(0.5, rel=1e-5)
    assert (
        distance(start, end, {name: value.astype(np.float32) for name, value in end.items()}) == 0.0
    )
    with pytest.raises(InputError, match="has the tensors a instead of a, b"):
        distance(start, end, {"a": halfway["a"]})
    with pytest.raises(InputError, match=r"b has shape \[1\] instead of \[2\]"):
        distance(start, end, {**halfway, "b": np.ones(1, np.float32)})
    with pytest.raises(InputError, match="a is not finite"):
        distance(start, end, {**halfway, "a": np.full(4, np.nan, np.float32)})


def test_a_step_that_the_compiler_refuses_misses_its_bar_and_an_absent_network_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, holds in (
        (CompileError("entropy: differs"), False),
        (RuntimeUnavailable("not installed"), None),
    ):

        def refuse(folder: Path, batch: int, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(step_inputs, "entropy", refuse)
        rows = {row.name: row for row in steps.entropy_rows(tmp_path, lambda line: None)}
        assert (
            len(rows) == 4
            and rows["entropy_step_speedup/b8"].holds is holds
            and str(error) in rows["entropy_step_rss_share/b1"].unit
        )


def test_a_pass_that_is_left_out_leaves_its_nodes() -> None:
    tensors = {"head.weight": torch.zeros(3, 5)}

    def learn(
        ports: dict[str, torch.Tensor], values: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        slope = torch.func.grad(lambda weight: (ports["x"] @ weight.T).square().sum())(
            values["head.weight"] + 1
        )
        return {}, {"head.weight": values["head.weight"] - 0.1 * slope}

    def nodes(*names: str) -> int:
        with without_passes(*names):
            return compile_graph(
                "step",
                learn,
                lambda g, batch: {"x": torch.randn(batch, 5, generator=g)},
                tensors,
                check=False,
            ).nodes

    assert "transpose flags" in PASSES
    # in this order: the pass is back after the block
    without, with_all = nodes("transpose flags"), nodes()
    assert with_all < without
    with pytest.raises(KeyError, match="no pass called 'magic'"), without_passes("magic"):
        raise AssertionError("the block is not entered")


def test_the_table_of_passes_is_markdown_with_a_line_for_each() -> None:
    nodes, gains = (
        {name: dict.fromkeys((1, 8, 32), value) for name in ("all", "layer norm", "none")}
        for value in (60, 1.25)
    )
    lines = markdown(nodes, gains).splitlines()
    assert lines[1].count("|") == lines[0].count("|") == 8 and len(lines) == 5
    assert lines[3] == "| layer norm | 60 | 1.250x | 60 | 1.250x | 60 | 1.250x |"


def test_install_size_counts_what_a_package_requires() -> None:
    assert (
        installed_bytes("edgeadapt")
        > installed_bytes("onnxruntime")
        > installed_bytes("numpy")
        > 10 << 20
    )


@pytest.mark.parametrize(("value", "holds"), [(3.0, True), (2.99, False)])
def test_a_lower_bar_is_met_at_its_value(value: float, holds: bool) -> None:
    assert at_least("adaptor_step_speedup/b1", value, "x torch eager", 3.0).holds is holds


def test_an_absent_row_with_a_target_is_missed() -> None:
    assert (
        absent("a", "why", 1.0) == Row("a", None, "absent: why", None, 1.0, False)
        and absent("a", "why").holds is None
    )


def test_another_suite_has_no_options() -> None:
    with pytest.raises(InputError, match="suite 'detection' has no option --peers; it has: none"):
        suites.run("detection", options=("peers",))
