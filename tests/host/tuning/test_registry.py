"""The 65 methods: all there once, what is built is made, and no verdict but the measured one."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import methods_table
import pytest
from command_line import Shell

from edgeadapt.errors import InputError
from edgeadapt.host.tuning import deltas, scores, starts
from edgeadapt.host.tuning.deltas.low_rank import LowRank
from edgeadapt.host.tuning.deltas.scale_shift import ScaleShift
from edgeadapt.host.tuning.deltas.union import Union
from edgeadapt.host.tuning.members import DELTAS, SCORES, STARTS, member, options_of
from edgeadapt.host.tuning.registry import (
    ENTRIES,
    JOURNEYS,
    Entry,
    Family,
    Role,
    Verdict,
    entries,
    entry,
    makes,
)
from edgeadapt.host.tuning.verdicts import (
    Difference,
    Measurement,
    Row,
    TaskFigures,
    read_measurement,
    verdict_of,
)

DOCS = Path(__file__).parents[3] / "docs"
MEASUREMENT = read_measurement(DOCS / "measurements" / "tuning.json")


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# -- the list --------------------------------------------------------------------------------------
def test_every_number_is_there_once_in_order() -> None:
    assert [one.number for one in ENTRIES] == list(range(1, 66))
    assert len({one.title for one in ENTRIES}) == 65
    assert len({(one.role, one.name) for one in ENTRIES}) == 65


def test_every_method_is_in_one_family_and_no_family_or_role_is_empty() -> None:
    assert {one.family for one in ENTRIES} == set(get_args(Family))
    assert {one.role for one in ENTRIES} == set(get_args(Role))
    assert {one.verdict for one in ENTRIES} <= set(get_args(Verdict))


@pytest.mark.parametrize("one", ENTRIES, ids=lambda one: str(one.number))
def test_an_entry_says_what_is_there(one: Entry) -> None:
    assert one.journeys and set(one.journeys) <= set(JOURNEYS)
    assert one.does and len(one.does) <= 84 and one.does[-1] != "."
    if one.page:
        page, _, anchor = one.page.partition("#")
        assert anchor in anchors(DOCS / page)
    if one.make:
        module, _, name = one.make.partition(":")
        assert getattr(import_module(module), name).__doc__
    else:
        assert one.verdict == "planned"


@pytest.mark.parametrize("one", ENTRIES, ids=lambda one: str(one.number))
def test_a_verdict_is_what_the_committed_measurement_says(one: Entry) -> None:
    assert one.verdict == verdict_of(one, MEASUREMENT)
    assert one.row or (one.page and one.make)


def test_rows_of_the_measurement_are_those_of_entries() -> None:
    rows = {one.row for one in ENTRIES if one.row}
    assert MEASUREMENT is None or set(MEASUREMENT.rows) <= rows


def test_the_table_of_the_documents_is_the_registry() -> None:
    page = methods_table.PAGE.read_text(encoding="utf-8")
    assert methods_table.written(page) == page, "python tools/methods_table.py"
    assert methods_table.written(methods_table.written(page)) == page
    with pytest.raises(ValueError, match="has no <!-- begin"):
        methods_table.written("no marks")


def test_the_list_needs_no_torch() -> None:
    code = (
        "import sys; import edgeadapt.host.tuning.registry, edgeadapt.host.tuning.verdicts,"
        " edgeadapt.commands.methods; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_is_asked_for_is_found_or_refused() -> None:
    assert entry(21).name == "scale_shift" and entries() == ENTRIES
    assert {one.number for one in entries("c", "merge")} == {58}
    for number in (0, 66, -1):
        with pytest.raises(InputError, match=f"the numbers 1 to 65, got {number}"):
            entry(number)
    with pytest.raises(InputError, match="no journey 'z'; there are a, b"):
        entries("z")
    with pytest.raises(InputError, match="no role 'poem'; there are adaptation, codec"):
        entries(role="poem")


# -- members ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("package", "role", "kinds"),
    [(deltas, "delta", DELTAS), (starts, "start", STARTS), (scores, "score", SCORES)],
    ids=["deltas", "starts", "scores"],
)
def test_every_class_of_a_folder_is_registered_under_its_name(
    package: Any, role: Role, kinds: dict[str, Any]
) -> None:
    found = {
        kind.name: kind
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        for kind in vars(import_module(module.name)).values()
        if is_dataclass(kind) and getattr(kind, "__module__", "") == module.name
        if isinstance(getattr(kind, "name", None), str)
    }
    assert found == kinds and set(makes(role)) == set(kinds)


@pytest.mark.parametrize("kinds", [DELTAS, STARTS, SCORES], ids=["delta", "start", "score"])
def test_members_are_made_again_from_their_settings(kinds: dict[str, Any]) -> None:
    for name, kind in kinds.items():
        made = Union((LowRank(2.0), ScaleShift())) if kind is Union else kind()
        options = json.loads(json.dumps(options_of(made)))
        assert set(options) == {field.name for field in fields(kind)}
        assert member(kinds, "tune.method", name, options) == made


def test_a_recipe_names_the_parts_of_a_union() -> None:
    made = member(DELTAS, "tune.method", "union", {"parts": ["low_rank", "scale_shift"]})
    assert made == Union((LowRank(), ScaleShift()))
    for parts, why in [
        (["low_rank", "loud"], "tune.method.parts = 'loud'; allowed: bias, full"),
        ([{"name": "low_rank", "options": {"x": 1}}], "tune.method.parts 'low_rank' has no option"),
        ([{"options": {}}], "tune.method 'union': 'name'"),
        (
            [{"name": "low_rank", "options": {"scale": "a"}}],
            "parts 'low_rank': '>' not",
        ),
    ]:
        with pytest.raises(InputError, match=re.escape(why)):
            member(DELTAS, "tune.method", "union", {"parts": parts})


# -- verdicts --------------------------------------------------------------------------------------
WON, LEVEL, LOST = Difference(2.0, 0.5, 3.5), Difference(0.1, -1.0, 1.2), Difference(-2, -3, -1)
FEW = Difference(-0.4, -1.0, 0.2)


def task(accuracy: Difference, **figures: Any) -> TaskFigures:
    return TaskFigures(accuracy=accuracy, **figures)


@pytest.mark.parametrize(
    ("verdict", "tasks"),
    [
        ("default", [task(WON), task(WON), task(LEVEL)]),
        ("default", [task(WON), task(WON), task(FEW)]),
        ("useful", [task(WON), task(LEVEL)]),
        ("useful", [task(WON), task(WON), task(Difference(-0.6, -1.4, 0.2))]),
        ("useful", [task(LEVEL, control=WON), task(LEVEL)]),
        ("useful", [task(LEVEL, seconds=0.75), task(LEVEL)]),
        ("useful", [task(LEVEL, peak_mib=0.5), task(LEVEL)]),
        ("loses", [task(LEVEL), task(LEVEL)]),
        ("loses", [task(LEVEL, seconds=0.76, peak_mib=0.9)]),
        ("loses", [task(WON), task(LOST)]),
        ("loses", [task(WON), task(LEVEL, control=LOST)]),
        ("loses", [task(LEVEL, seconds=0.5), task(LOST)]),
        ("loses", [task(WON), task(WON), task(LOST)]),
    ],
)
def test_verdicts_are_by_the_rules(verdict: str, tasks: list[TaskFigures]) -> None:
    row = Row(tasks={str(k): one for k, one in enumerate(tasks)})
    assert verdict_of(entry(46), Measurement(rows={entry(46).row: row})) == verdict


def test_what_is_not_measured_or_not_comparable_says_so() -> None:
    row = Row(tasks={"emoji": task(WON)}, stand_in="a toy of four layers")
    measured = Measurement(rows={entry(46).row: row})
    assert verdict_of(entry(46), measured) == "mechanism"
    assert verdict_of(entry(55), measured) == verdict_of(entry(46), None) == "planned"
    assert verdict_of(entry(65), measured) == verdict_of(entry(65), None) == "useful"


def test_a_measurement_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    assert read_measurement(path) is None
    interval = {"mean": 1.0, "low": 0.2, "high": 1.8}
    row = {"tasks": {"wrist": {"accuracy": interval, "seconds": 0.5}}}
    path.write_text(json.dumps({"machine": "two cores", "rows": {"delta/union": row}}))
    measured = read_measurement(path)
    assert measured and verdict_of(entry(43), measured) == "useful"
    del interval["low"]
    path.write_text(json.dumps({"rows": {"delta/union": row}}))
    with pytest.raises(InputError, match=r"^tuning\.json: .*missing required field `low`"):
        read_measurement(path)


# -- the command -----------------------------------------------------------------------------------
def test_the_command_lists_within_a_hundred_columns(run: Shell) -> None:
    lines = run("methods").splitlines()
    assert len(lines) == 67 and max(map(len, lines)) <= 100
    assert lines[-1] == "65 of 65 methods; --number N tells all about one"
    assert lines[21].split()[:5] == ["21", entry(21).verdict, "yes", "delta", "scale_shift"]
    assert run("methods", "--journey", "c", "--role", "merge").splitlines()[1].startswith("58  ")


def test_the_command_tells_all_about_one(run: Shell) -> None:
    said = run("methods", "--number", "23")
    assert all(len(line) <= 100 for line in said.splitlines())
    for word in (
        "method    23, EAR: ",
        "verdict   useful",
        "edgeadapt.device.detection.hypervector_router:HypervectorRouter",
        "docs/methods/ear.md#measured-against-what-ships",
        "several conditions in one bundle",
    ):
        assert word in said
    assert "none yet" in run("methods", "--number", "1")


def test_the_command_prints_json(run: Shell) -> None:
    found = json.loads(run("methods", "--json", "--number", "46"))
    assert found[0]["name"] == "two_sided" and found[0]["row"] == "delta/two_sided"
    assert len(json.loads(run("methods", "--json"))) == 65
