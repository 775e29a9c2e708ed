"""The doctor as a whole: what it prints, what it writes, its exit codes, its limits in time, and
what it never tells.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machine_folders import NAMES, lay_out
from schema_meaning import meaning

from edgeadapt import cli
from edgeadapt._json_schema import schema_text
from edgeadapt.doctor import board, packages, system
from edgeadapt.doctor.examination import Group, examine, within
from edgeadapt.doctor.finding import Finding, Section, is_well, lines, page, without_places
from edgeadapt.doctor.machine import Machine, ask, is_synchronised
from edgeadapt.doctor.report import TITLE, Latency, Report, Run, Step, report, to_json
from edgeadapt.doctor.self_test import lines as run_lines
from edgeadapt.doctor.self_test import self_test

SCHEMA = Path(__file__).parents[2] / "docs" / "format" / "doctor.schema.json"
REGENERATE = "python -m edgeadapt.doctor.report > docs/format/doctor.schema.json"
CHEAP = (
    Group(
        "Machine",
        (system.system, board.board, board.jetpack, system.memory, system.state, system.disk),
    ),
)
BAD = Finding("state", "missing", "no folder", "Learning is kept in one.", "mkdir state", True)


def check_schema(text: str) -> dict[str, Any]:
    jsonschema = pytest.importorskip("jsonschema")
    content: dict[str, Any] = json.loads(text)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(content)
    return content


# -- text ------------------------------------------------------------------------------------------
def test_what_is_well_has_one_line_and_the_rest_says_why_and_what_to_do() -> None:
    assert lines(Finding("sqlite", "ok", "3.46.1", "not shown", "not shown"), 100) == [
        "  ok       sqlite       3.46.1"
    ]
    assert lines(BAD, 100) == [
        "  MISSING  state        no folder",
        f"{'':24}Learning is kept in one.",
        f"{'':24}-> mkdir state",
    ]
    assert (
        lines(Finding("driver", "missing", "no libcuda.so.1", "Not needed.", "install it"), 100)[0]
        == "  absent   driver       no libcuda.so.1"
    )


def test_long_lines_are_broken_under_their_column_and_commands_are_not() -> None:
    shown = lines(Finding("disk", "note", "word " * 40, "word " * 40, "command " * 40), 80)
    assert (
        all(len(line) <= 80 and line.startswith(" " * 24) for line in shown[1:-1])
        and len(shown[-1]) > 80
    )


def test_columns_stand_below_each_other() -> None:
    text = page(examine(Machine(), CHEAP))
    starts = {
        line.index(line.split()[1])
        for line in text.splitlines()
        if line.startswith("  ") and not line.startswith("   ")
    }
    assert starts == {11} and text.splitlines()[0] == "Machine"


def test_the_last_line_says_whether_it_works() -> None:
    well = [
        Section(
            "Machine", [Finding("driver", "missing", "no", "w", "t"), Finding("disk", "ok", "much")]
        )
    ]
    assert page(well).splitlines()[-1] == "Everything that is needed is here; 1 other to look at."
    assert (
        page([*well, Section("Rest", [BAD])]).splitlines()[-1]
        == "Something that is needed is missing: state; 1 other to look at."
    )
    assert is_well(well[0].findings) and not is_well([BAD])


# -- limits ----------------------------------------------------------------------------------------
def test_a_probe_that_hangs_is_a_finding(tmp_path: Path) -> None:
    started = time.monotonic()
    (found,) = within(
        lambda machine: time.sleep(30) or [], lay_out("pc", tmp_path / "root", child_s=0.05)
    )
    assert found.state == "broken" and "no answer" in found.found and time.monotonic() - started < 5


def test_a_probe_that_cannot_read_is_a_finding_and_a_mistake_in_it_is_not_hidden(
    tmp_path: Path,
) -> None:
    machine = lay_out("pc", tmp_path / "root")

    def cannot_read(machine: Machine) -> list[Finding]:
        raise PermissionError(13, "Permission denied")

    assert "Permission denied" in within(cannot_read, machine)[0].found
    with pytest.raises(ZeroDivisionError):
        within(lambda machine: [1 // 0], machine)  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("print('hello')", "it printed no JSON"),
        ("print('{\"a\": 1}')", ""),
    ],
)
def test_what_a_child_does_is_an_answer(tmp_path: Path, code: str, failure: str) -> None:
    (tmp_path / "asked.py").write_text(code)
    answer = ask(
        sys.executable, "asked", [], {"PYTHONPATH": str(tmp_path)}, 0.5 if "sleep" in code else 30
    )
    assert answer.failure == failure and answer.said == ({} if failure else {"a": 1})


def test_the_kernel_says_whether_its_clock_is_set() -> None:
    assert is_synchronised() in (True, False, None)


def test_the_doctor_needs_no_package_to_say_that_one_is_missing() -> None:
    script = """
import sys
for name in ("numpy", "msgspec", "onnxruntime", "safetensors", "cryptography"):
    sys.modules[name] = None
from edgeadapt.doctor.examination import GROUPS
from edgeadapt.doctor.self_test import self_test
from edgeadapt.doctor.report import report
import edgeadapt.commands.doctor
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_package_that_is_missing_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        packages, "installed", lambda name: None if name in ("numpy", "torch") else "1.0"
    )
    (core,) = packages.core(Machine())
    assert core.stops and core.todo == "pip install numpy"
    host = next(finding for finding in packages.extras(Machine()) if finding.name == "host")
    assert (
        host.state == "note"
        and host.todo == "pip install 'edgeadapt[host]'"
        and "torch" in host.found
    )


def test_a_build_of_onnxruntime_for_a_gpu_is_an_onnxruntime(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        packages, "installed", lambda name: None if name == "onnxruntime" else "1.0"
    )
    assert packages.core(Machine())[0].state == "ok"


def test_extras_are_those_of_the_package() -> None:
    assert set(packages.requirements("daemon")) >= {
        "starlette",
        "uvicorn",
        "paho-mqtt",
    } and "pillow" in packages.requirements("images")
    assert {"numpy", "onnxruntime"} <= set(
        packages.requirements()
    ) and "starlette" not in packages.requirements()
    assert packages.data(Machine())[0].name == "data"


# -- JSON ------------------------------------------------------------------------------------------
def test_the_committed_schema_has_not_drifted() -> None:
    assert meaning(json.loads(SCHEMA.read_text())) == meaning(
        json.loads(schema_text(Report, TITLE))
    ), f"the report changed; raise its number if it must, then: {REGENERATE}"


@pytest.mark.parametrize("name", NAMES)
def test_a_report_of_every_machine_fits_the_schema(tmp_path: Path, name: str) -> None:
    machine = lay_out(name, tmp_path / "root")
    run = Run(
        "onnxruntime",
        "passed",
        "",
        1.0,
        [Step("open", True, "6 classes")],
        {"encode": Latency(0.2, 60, 1)},
        [[0.5, 0.5]],
    )
    content = check_schema(to_json(report(machine, examine(machine, CHEAP), [run])))
    assert (
        content["schema"] == "edgeadapt.doctor/1"
        and content["ok"]
        and content["board"]["architecture"] == machine.architecture
    )
    assert (
        content["date"] == "2027-01-15"
        and content["self_test"][0]["latency"]["encode"]["median_ms"] == 0.2
    )


def test_the_schema_refuses_what_the_report_does_not_have(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    content = json.loads(to_json(report(lay_out("pc", tmp_path / "root"), [])))
    for change in (
        {"schema": "edgeadapt.doctor/2"},
        {"ok": "yes"},
        {"checks": [{"name": "x"}]},
        {"self_test": [{"runtime": "x", "result": "maybe"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            check_schema(json.dumps(content | change))


def test_a_failed_run_is_not_ok(tmp_path: Path) -> None:
    machine = lay_out("pc", tmp_path / "root")
    assert report(machine, [], [Run("a", "passed"), Run("b", "not run", "no GPU")]).ok
    assert not report(machine, [], [Run("a", "failed", "killed by SIGSEGV")]).ok
    assert not report(machine, [Section("Machine", [BAD])]).ok


def test_nothing_that_names_the_user_or_the_machine_is_written(tmp_path: Path) -> None:
    machine = lay_out(
        "orin nano", tmp_path / "lovelace", {"/var/lib/edgeadapt/state/learner.db": "x"}
    )
    section = Section(
        "Python",
        [
            Finding(
                "onnxruntime",
                "broken",
                "Failed to load /home/lovelace/venv/capi/lib.so: see ~/notes and /usr/lib/x.so",
                "w",
                "t",
            )
        ],
    )
    text = to_json(report(machine, [*examine(machine), section]))
    for secret in ("lovelace", "1424325030133", str(tmp_path), "adas-line-3", "/home/"):
        assert secret not in text.replace(".../lib.so", ""), secret
    assert ".../lib.so: see .../notes and /usr/lib/x.so" in text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "no /home/lovelace/a.txt, /root/b and /tmp/x/y.so: bad",
            "no .../a.txt, .../b and .../y.so: bad",
        ),
        (
            "/etc/nvpmodel.conf and /proc/device-tree/model",
            "/etc/nvpmodel.conf and /proc/device-tree/model",
        ),
        ("see https://onnxruntime.ai/docs/x", "see https://onnxruntime.ai/docs/x"),
        ("1/2 and 3 / 4", "1/2 and 3 / 4"),
        ("'~/x/y'", "'.../y'"),
    ],
)
def test_places_are_left_out(text: str, kept: str) -> None:
    assert without_places(text) == kept


# -- the self-test ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return list(self_test(Machine()))


def test_the_self_test_passes_on_the_cpu_and_measures(runs: list[Run]) -> None:
    first = runs[0]
    assert (first.runtime, first.result, first.reason) == ("onnxruntime", "passed", "")
    assert [step.name for step in first.steps] == [
        "open",
        "predict",
        "learn",
        "roll back",
        "restart",
    ] and all(step.ok for step in first.steps)
    assert set(first.latency) == {"encode", "predict", "observe", "label"} and all(
        0 < one.median_ms < 1000 and one.calls >= 50 for one in first.latency.values()
    )
    assert all(abs(sum(row) - 1) < 1e-3 for row in first.probs) and len(first.probs) == 4
    assert "encode" in run_lines(first)[-1] and re.search(
        r"learn +a class of 12 labels: 0\.00", "\n".join(run_lines(first))
    )


def test_what_cannot_run_here_says_why(runs: list[Run]) -> None:
    others = {run.runtime: run for run in runs[1:]}
    assert {
        "onnxruntime:CUDAExecutionProvider",
        "onnxruntime:TensorrtExecutionProvider",
        "tensorrt",
    } <= set(others)
    assert all(run.result != "not run" or run.reason for run in others.values())


@pytest.mark.parametrize(
    ("broken", "result"),
    [
        (
            (
                "import edgeadapt.demo.sample as s; from pathlib import Path; s.bundle_path ="
                " lambda: Path(__file__)"
            ),
            "BundleError",
        ),
        (
            "from edgeadapt.device.learner import Learner; Learner.rollback = lambda self, to: 0",
            "roll back",
        ),
        (
            (
                "from edgeadapt.device.learner import Learner; Learner.label = lambda self, ids,"
                " labels: None"
            ),
            "learn",
        ),
        (
            (
                "from edgeadapt.device.learner import Learner; import os; Learner.digest = lambda"
                " self: os.urandom(8).hex()"
            ),
            "restart",
        ),
        ("import edgeadapt.demo.sample as s; s.CLASSES = s.CLASSES[1:] + s.CLASSES[:1]", "predict"),
        (
            (
                "from edgeadapt.device.learner import Learner; import os; Learner.rollback = lambda"
                " self, to: os.abort()"
            ),
            "SIGABRT",
        ),
    ],
)
def test_what_does_not_work_fails_its_step(tmp_path: Path, broken: str, result: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(broken)
    first = next(
        iter(
            self_test(
                Machine(
                    environment={"PYTHONPATH": ":".join(filter(None, [str(tmp_path), *sys.path]))}
                )
            )
        )
    )
    failed = [step.name for step in first.steps if not step.ok]
    assert first.result == "failed" and (result in failed or result in first.reason), first
    assert result in "\n".join(run_lines(first)) and len(failed) <= 2


def test_other_numbers_than_the_cpus_fail_their_step() -> None:
    from edgeadapt.doctor.self_test_steps import _same_numbers

    numbers = np.linspace(-4, 4, 64).reshape(8, 8)
    assert (
        _same_numbers(numbers + 3e-3, numbers).ok
        and not _same_numbers(numbers + 5e-3, numbers).ok
        and not _same_numbers(numbers * np.nan, numbers).ok
    )


# -- the command -----------------------------------------------------------------------------------
def test_the_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").mkdir()
    assert (
        cli.main(
            ["doctor", "--state", str(tmp_path / "state"), "--json", str(tmp_path / "found.json")]
        )
        == 0
    )
    shown, content = capsys.readouterr().out, check_schema((tmp_path / "found.json").read_text())
    assert (
        all(f" {check['name']} " in shown for check in content["checks"])
        and content["self_test"] is None
    )
    assert list((tmp_path / "state").iterdir()) == []


def test_only_json_where_only_json_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", "--state", str(tmp_path / "file"), "--json", "-"]) == 1
    content = check_schema(capsys.readouterr().out)
    assert not content["ok"] and [
        check["name"] for check in content["checks"] if not check["ok"]
    ] == ["state"]
