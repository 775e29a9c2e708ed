"""The quick form of the fuzzing: a few thousand spoilt inputs at every door, and a harness that
finds every fault there is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz.target import TARGETS, can_import

HERE = Path(__file__).parent / "fuzz"
# lines of functions that the quick form must reach, in a hundred; what writes bundles and schemas
# is not reached
FLOORS = {
    "edgeadapt.bundle._container": 75,
    "edgeadapt.bundle._weights": 70,
    "edgeadapt.bundle._external_data": 85,
    "edgeadapt.bundle._describe": 90,
    "edgeadapt.bundle._consistency": 50,
    "edgeadapt.bundle.archive": 60,
    "edgeadapt.host.recipe": 45,
    "edgeadapt._toml": 70,
    "edgeadapt._saved_graph": 70,
    "edgeadapt.inputs": 70,
    "edgeadapt.commands.sample_source": 75,
    "edgeadapt._sample_files": 74,  # of statements; of lines it was 75
    "edgeadapt.device.storage.database": 60,
    "edgeadapt.device.storage.evidence_table": 60,
    "edgeadapt.device.storage.commit_table": 60,
}


def fuzz(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, figures and what was printed."""
    command = [
        sys.executable,
        str(HERE),
        "--json",
        str(folder / "figures.json"),
        "--out",
        str(folder / "findings"),
        *arguments,
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (folder / "figures.json").exists(), run.stderr[-2000:]
    return (
        run.returncode,
        json.loads((folder / "figures.json").read_text()),
        run.stdout + run.stderr,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any], str]:
    return fuzz(tmp_path_factory.mktemp("fuzz"), "--executions", "6000")


def test_nothing_but_named_errors_and_no_hang_crash_or_unbounded_memory(
    quick: tuple[int, dict[str, Any], str],
) -> None:
    code, figures, told = quick
    assert code == 0 and not figures["findings"], told
    assert sum(target["executions"] for target in figures["targets"].values()) >= 5000


@pytest.mark.parametrize("name", TARGETS)
def test_a_tenth_of_the_inputs_pass_the_first_check_some_are_accepted_and_some_refused(
    name: str, quick: tuple[int, dict[str, Any], str]
) -> None:
    if not can_import(name):
        pytest.skip("a package is missing")
    target = quick[1]["targets"][name]
    assert target["past_header"] >= 0.1 and target["accepted"] >= 1
    assert target["accepted"] + target["refused"] + target["findings"] == target["executions"]
    assert target["refused"] >= 0.01 * target["executions"] or target["executions"] < 100


def test_most_lines_of_the_readers_are_reached(quick: tuple[int, dict[str, Any], str]) -> None:
    lines = quick[1]["lines"]
    short = {
        name: lines[name]
        for name, floor in FLOORS.items()
        if name in lines and 100 * lines[name]["reached"] < floor * lines[name]["of"]
    }
    assert not short


def test_the_same_seed_gives_the_same_outcome_and_another_seed_another(tmp_path: Path) -> None:
    def counts(*arguments: str) -> list[tuple[int, int, dict[str, int]]]:
        figures = fuzz(
            tmp_path, "--executions", "3000", "--targets", "labels_file,archive_source", *arguments
        )[1]
        return [(t["accepted"], t["refused"], t["refusals"]) for t in figures["targets"].values()]

    first = counts("--seed", "5")
    assert first == counts("--seed", "5") != counts("--seed", "6")


def test_every_fault_is_found_once_named_and_survived(tmp_path: Path) -> None:
    code, figures, told = fuzz(tmp_path, "--targets", "faulty", "--executions", "1200")
    assert code == 1 and "reproducers:" in told
    kinds = {(found["kind"], found["cause"].split(" at ")[0]) for found in figures["findings"]}
    assert kinds == {
        ("raised", "KeyError"),
        ("raised", "MemoryError"),
        ("raised", "BaseException"),
        ("crash", "signal SIGSEGV"),
        ("crash", "exit code 3"),
        ("hang", "longer than 0.5 s"),
    }
    target = figures["targets"]["faulty"]
    assert target["executions"] == 1200 and target["peak_mib"] < 80
    assert (
        target["accepted"] > 200 and target["refused"] > 500 and 0.5 < target["past_header"] < 0.9
    )
    for found in figures["findings"]:
        if found["kind"] != "hang":
            replayed = subprocess.run(
                [
                    sys.executable,
                    str(HERE),
                    "--replay",
                    str(tmp_path / "findings" / f"{found['name']}.bin"),
                ],
                capture_output=True,
                text=True,
            )
            # a replay has no limit of its own
            assert replayed.returncode == (0 if "Memory" in found["cause"] else 1), replayed.stdout


KEPT = sorted((HERE / "corpus").glob("*.bin"))


def test_every_input_that_once_did_harm_is_refused_or_accepted_now() -> None:
    run = subprocess.run(
        [sys.executable, str(HERE), "--replay", *map(str, KEPT)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout
    assert len(run.stdout.splitlines()) == len(KEPT) > 10
