"""What the doctor says of boards that are laid out in a folder, in the forms that boards have."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine_folders import (
    DRIVER,
    HAS_COMPILER,
    NAMES,
    NANO_MODES,
    RUNTIME,
    compile_library,
    lay_out,
)

from edgeadapt.device.resources import sensors
from edgeadapt.doctor import accelerator, board, condition, system
from edgeadapt.doctor.boards import JETPACKS, MODULES, chip_of, jetpack_of, l4t_release, module_of
from edgeadapt.doctor.condition import default_mode, mode_number, power_modes
from edgeadapt.doctor.finding import Finding
from edgeadapt.doctor.machine import Machine

CHEAP = (
    board.board,
    board.jetpack,
    system.system,
    system.python,
    system.memory,
    system.swap,
    system.disk,
    condition.power_mode,
    condition.clocks,
    condition.heat,
    condition.clock,
    condition.watchdog,
)
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs gcc")


def findings(machine: Machine) -> dict[str, Finding]:
    return {finding.name: finding for probe in CHEAP for finding in probe(machine)}


# -- what each board is ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "named", "release"),
    [
        (
            "orin nano",
            "Orin Nano 8 GB (developer kit), p3767-0005, compute capability 8.7",
            "JetPack 6.2 (L4T 36.4.3): Ubuntu 22.04, Python 3.10, CUDA 12.6, TensorRT 10.3",
        ),
        (
            "agx orin",
            "AGX Orin 64 GB, p3701-0005, compute capability 8.7",
            "JetPack 7.2 (L4T 39.2.0): Ubuntu 24.04, Python 3.12, CUDA 13.2, TensorRT 10.16",
        ),
        (
            "thor",
            "Thor T5000, p3834-0008, compute capability 11.0",
            "JetPack 7.1 (L4T 38.4.0): Ubuntu 24.04, Python 3.12, CUDA 13.0, TensorRT 10.13",
        ),
    ],
)
def test_boards_that_we_know_are_named(tmp_path: Path, name: str, named: str, release: str) -> None:
    found = findings(lay_out(name, tmp_path / "root"))
    assert (found["board"].state, found["board"].found) == ("ok", named)
    assert (found["jetpack"].state, found["jetpack"].found) == ("ok", release)


def test_a_healthy_board_has_nothing_to_mend(tmp_path: Path) -> None:
    found = findings(lay_out("orin nano", tmp_path / "root"))
    assert {name: finding.state for name, finding in found.items() if finding.state != "ok"} == {}
    assert found["power mode"].found == "MAXN_SUPER; others: 15W, 25W, 7W"
    assert (
        found["heat"].found
        == "53 °C (tj-thermal, the hottest of 2); slows down at 99 °C, stops at 104.5 °C"
    )
    assert (
        found["clocks"].found
        == "6 CPU cores 730 to 1728 MHz, schedutil; GPU 306 to 1020 MHz, nvhost_podgov"
    )
    assert (
        found["swap"].found == "1.2 GiB, zram"
        and found["memory"].found == "7.4 GiB, shared by CPU and GPU, 5.0 GiB available"
    )
    assert found["watchdog"].found == "Tegra WDT, 120 s, active" and found["disk"].found.endswith(
        "on ext4, NVMe"
    )


def test_a_neglected_board_is_told_everything_at_once(tmp_path: Path) -> None:
    found = findings(lay_out("agx orin", tmp_path / "root"))
    assert sorted(name for name, finding in found.items() if finding.state != "ok") == [
        "clock",
        "disk",
        "heat",
        "swap",
        "watchdog",
    ]
    assert "is being slowed down" in found["heat"].found and found["power mode"].found.startswith(
        "MAXN;"
    )
    assert "two slots" in found["disk"].why and found["disk"].found.endswith("on ext4, eMMC")
    assert "wears" in found["swap"].why and "8.0 GiB" in found["swap"].found
    assert found["clock"].found.endswith("not synchronised, no clock of its own")
    assert not any(finding.stops for finding in found.values())


def test_a_mode_that_nobody_chose_is_the_default_and_pinned_clocks_are_said(tmp_path: Path) -> None:
    found = findings(lay_out("thor", tmp_path / "root"))
    assert found["power mode"].found == "120W (the default); others: MAXN"
    assert (
        found["clocks"].state == "note"
        and found["clocks"].todo == "sudo jetson_clocks --restore"
        and "GPU at 1575 MHz" in found["clocks"].found
    )


def test_jetpack_5_is_for_the_cpu_and_its_python_too_old(tmp_path: Path) -> None:
    found = findings(lay_out("xavier", tmp_path / "root"))
    assert (
        found["jetpack"].state == "note"
        and "JetPack 5.1.2" in found["jetpack"].found
        and "CPU" in found["jetpack"].why
    )
    assert "Xavier" in found["jetpack"].todo  # no later release is for it
    assert found["python"].stops and "3.8.10" in found["python"].found
    assert found["power mode"].state == "note" and "number 9" in found["power mode"].found
    assert found["disk"].found.endswith("an SD card")


def test_a_computer_is_not_asked_what_only_boards_have(tmp_path: Path) -> None:
    found = findings(lay_out("pc", tmp_path / "root"))
    assert not {"jetpack", "power mode", "heat", "clocks", "watchdog"} & set(found)
    assert all(finding.state == "ok" for finding in found.values()), found


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_that_is_not_well_says_why_and_what_to_do(tmp_path: Path, name: str) -> None:
    for finding in findings(lay_out(name, tmp_path / "root")).values():
        assert finding.found and (finding.state == "ok" or (finding.why and finding.todo)), finding


# -- releases and modules --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", "36.4.3"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", "35.4.1"),
        ("# R39 (release), REVISION: 2.0, GCID: 45755727", "39.2.0"),
        ("# R36 (release), REVISION: 5, GCID", "36.5"),
        ("", ""),
        ("# R (release), REVISION: x", ""),
    ],
)
def test_the_release_is_read_from_its_line(text: str, release: str) -> None:
    assert l4t_release(text) == release


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("36.4.3", "6.2"),
        ("36.4.7", "6.2.1"),
        ("36.4.5", "6.2.1"),
        ("36.9.0", "6.2.2"),
        ("35.1.0", "5.1.1"),
        ("39.2.0", "7.2"),
        ("32.7.4", None),
        ("41.1.0", None),
    ],
)
def test_a_release_belongs_to_the_last_one_before_it(l4t: str, jetpack: str | None) -> None:
    found = jetpack_of(l4t)
    assert (found.name if found else None) == jetpack


def test_a_release_newer_than_the_table_is_said_to_be(tmp_path: Path) -> None:
    machine = lay_out(
        "orin nano",
        tmp_path / "root",
        {"/etc/nv_tegra_release": "# R36 (release), REVISION: 9.0, GCID: 1"},
    )
    (found,) = board.jetpack(machine)
    assert found.state == "note" and "newer than JetPack 6.2.2" in found.found


def test_a_release_for_another_chip_is_noticed(tmp_path: Path) -> None:
    (found,) = board.jetpack(
        lay_out(
            "thor",
            tmp_path / "root",
            {"/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1"},
        )
    )
    assert found.state == "note" and "is for Orin, and this is Thor" in found.why


def test_a_container_without_the_release_file_is_told_to_mount_it(tmp_path: Path) -> None:
    machine = lay_out(
        "orin nano", tmp_path / "root", {"/etc/nv_tegra_release": None, "/.dockerenv": ""}
    )
    (found,) = board.jetpack(machine)
    assert (
        found.state == "note"
        and "-v /etc/nv_tegra_release" in found.todo
        and "in a container" in system.system(machine)[0].found
    )


def test_modules_are_found_by_their_part_and_chips_by_their_number() -> None:
    for module in MODULES:
        assert module_of(f"nvidia,p3768-0000+{module.part}-super\nnvidia,tegra234") is module
    assert (
        module_of("nvidia,p3668-0000") is None
        and chip_of("raspberrypi,5-model-b\nbrcm,bcm2712") == ""
    )
    assert {module.chip for module in MODULES} <= {
        chip for jetpack in JETPACKS for chip in jetpack.chips.split(", ")
    }


def test_power_modes_are_read_as_nvpmodel_writes_them() -> None:
    assert (
        power_modes(NANO_MODES) == {0: "15W", 1: "25W", 2: "MAXN_SUPER", 3: "7W"}
        and default_mode(NANO_MODES) == 1
    )
    assert power_modes("# < POWER_MODEL ID=0 NAME=OFF >\n  <POWER_MODEL ID=7 NAME=MODE_X>") == {
        7: "MODE_X"
    }
    assert (
        mode_number("pmode:0002 fmode:fan_mode_quiet") == 2
        and mode_number("pmode:0000") == 0
        and mode_number("") is None
    )


# -- one thing at a time ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mountinfo", "state", "words"),
    [
        ("25 1 0:30 / /var/lib rw - tmpfs tmpfs rw", "note", "a restart loses it"),
        ("25 1 0:30 / / rw - overlay overlay rw", "note", "goes with the container"),
        ("25 1 0:30 / / rw - ext4 /dev/sda1 ro", "broken", "mounted read-only"),
        ("25 1 0:30 / / rw - nfs4 server:/export/ada rw", "note", "fsync"),
        ("25 1 0:30 / / rw - ext4 /dev/mapper/adas--line-root rw", "ok", "on ext4"),
        ("", "ok", "does not name"),
        (
            (
                "24 1 0:30 / / rw - tmpfs tmpfs rw\n25 24 8:1 / /var/lib/edgeadapt rw - xfs"
                " /dev/sda3 rw"
            ),
            "ok",
            "on xfs",
        ),
    ],
)
def test_the_disk_under_the_state_folder(
    tmp_path: Path, mountinfo: str, state: str, words: str
) -> None:
    (found,) = system.disk(lay_out("pc", tmp_path / "root", {"/proc/self/mountinfo": mountinfo}))
    assert (
        found.state == state and words in f"{found.found} {found.why}" and "ada" not in found.found
    )
    assert found.stops == (state == "broken")


def test_a_state_folder_that_is_a_file_or_holds_no_database_stops_everything(
    tmp_path: Path,
) -> None:
    machine = lay_out("pc", tmp_path / "root", {"/var/lib/edgeadapt/state": ""})
    assert system.state(machine)[0].stops
    damaged = lay_out(
        "pc", tmp_path / "other", {"/var/lib/edgeadapt/state/learner.db": "not a database"}
    )
    assert system.state(damaged)[0].stops and system.state(damaged)[0].state == "broken"
    whole = lay_out(
        "pc",
        tmp_path / "third",
        {"/var/lib/edgeadapt/state/learner.db": "SQLite format 3\0" + 4096 * "x"},
    )
    assert system.state(whole)[0].state == "ok"


def test_looking_changes_nothing(tmp_path: Path) -> None:
    machine = lay_out("orin nano", tmp_path / "root")
    before = {path: path.stat().st_mtime_ns for path in machine.root.rglob("*")}
    findings(machine)
    system.state(machine)
    assert {path: path.stat().st_mtime_ns for path in machine.root.rglob("*")} == before


def test_heat_near_its_limit_is_said_before_it_slows_down(tmp_path: Path) -> None:
    machine = lay_out(
        "orin nano", tmp_path / "root", {"/sys/class/thermal/thermal_zone2/temp": "91000\n"}
    )
    (found,) = condition.heat(machine)
    assert found.state == "note" and "temperature_c = 79" in found.todo
    assert sensors.read_temperatures(machine.path("/sys"))["tj-thermal"] == 91.0


def test_a_clock_before_the_installation_is_wrong(tmp_path: Path) -> None:
    (found,) = condition.clock(lay_out("pc", tmp_path / "root", now=lambda: 86400.0))
    assert found.state == "broken" and found.found.startswith("1970-01-02")


@pytest.mark.parametrize(
    ("is_set", "state", "words"),
    [
        (True, "ok", "synchronised"),
        (False, "note", "not synchronised"),
        (None, "note", "nobody says"),
    ],
)
def test_the_kernels_word_counts_where_no_service_says_it(
    tmp_path: Path, is_set: bool | None, state: str, words: str
) -> None:
    machine = lay_out(
        "pc",
        tmp_path / "root",
        {"/run/systemd/timesync/synchronized": None},
        clock_is_set=lambda: is_set,
    )
    (found,) = condition.clock(machine)
    assert found.state == state and words in found.found


def test_another_python_than_jetpacks_cannot_import_its_tensorrt(tmp_path: Path) -> None:
    (found,) = system.python(lay_out("orin nano", tmp_path / "root", python=(3, 12, 3)))
    assert found.state == "note" and not found.stops and "--system-site-packages" in found.todo


def test_scarce_memory_is_said(tmp_path: Path) -> None:
    (found,) = system.memory(
        lay_out(
            "pc",
            tmp_path / "root",
            {"/proc/meminfo": "MemTotal: 2000000 kB\nMemAvailable: 100000 kB\n"},
        )
    )
    assert found.state == "note"


# -- a driver that is there ------------------------------------------------------------------------
@needs_compiler
@pytest.mark.parametrize(
    ("name", "initialises", "state", "words"),
    [
        (
            "orin nano",
            "return 0;",
            "ok",
            "CUDA 12.6: Orin, compute capability 8.7, 8 multiprocessors, shared memory",
        ),
        ("orin nano", "return 999;", "broken", "cuInit says 999: unknown error"),
        ("orin nano", "*(volatile int *) 0 = 1; return 0;", "broken", "killed by SIGSEGV"),
        ("orin nano", "for (;;) ;", "broken", "no answer within"),
        ("thor", "return 0;", "note", "compute capability 8.7"),
    ],
)
def test_the_driver_is_asked_and_may_crash_or_hang(
    tmp_path: Path, name: str, initialises: str, state: str, words: str
) -> None:
    machine = lay_out(name, tmp_path / "root", child_s=2.0 if "for" in initialises else 30.0)
    compile_library(
        DRIVER % (initialises, 12060, "Orin", 8, 7),
        machine.path("/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1"),
    )
    found = {finding.name: finding for finding in accelerator.accelerators(machine)}
    assert found["driver"].state == state and words in found["driver"].found, found["driver"]
    if state == "broken":  # a driver that does not answer is no reason to load TensorRT
        assert "was not loaded" in found["tensorrt"].found


@needs_compiler
@pytest.mark.parametrize(("number", "state"), [(12060, "ok"), (13000, "note")])
def test_the_cuda_runtime_is_held_against_jetpacks(tmp_path: Path, number: int, state: str) -> None:
    machine = lay_out("orin nano", tmp_path / "root")
    compile_library(RUNTIME % number, machine.path("/usr/local/cuda/lib64/libcudart.so.12"))
    (found,) = accelerator.cuda(machine, board.read_board(machine), has_driver=True)
    assert found.state == state and found.found.startswith(f"{number // 1000}.")


def test_a_library_that_is_no_library_is_broken(tmp_path: Path) -> None:
    machine = lay_out("pc", tmp_path / "root", {"/usr/lib/x86_64-linux-gnu/libcuda.so.1": "text"})
    found = accelerator.accelerators(machine)[0]
    assert found.state == "broken" and "libcuda" in found.found


def test_a_board_without_a_driver_lacks_one_and_a_computer_need_not_have_one(
    tmp_path: Path,
) -> None:
    jetson, pc = lay_out("thor", tmp_path / "thor"), lay_out("pc", tmp_path / "pc")
    assert (
        accelerator.accelerators(jetson)[0].state == "missing"
        and accelerator.accelerators(pc)[0].state == "note"
    )
    assert not accelerator.accelerators(jetson)[0].stops
