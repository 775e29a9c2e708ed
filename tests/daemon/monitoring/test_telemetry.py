"""A little sysfs, as devices have it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from edgeadapt.daemon.monitoring.telemetry import Telemetry
from edgeadapt.device.resources.sensors import SensorReadings, Sensors


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def zone(sys: Path, number: int, kind: str, millidegrees: object) -> Path:
    return write(sys / "class" / "thermal" / f"thermal_zone{number}", type=kind, temp=millidegrees)


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    """An Orin Nano."""
    sys = tmp_path / "sys"
    zone(sys, 0, "cpu-thermal", 46531)
    zone(sys, 1, "gpu-thermal", 48218)
    zone(sys, 10, "tj-thermal", 48843)
    write(sys / "class" / "thermal" / "cooling_device0", type="pwm-fan", cur_state=2, max_state=4)
    write(
        sys / "class" / "thermal" / "cooling_device1",
        type="cpu-throttle-alert",
        cur_state=0,
        max_state=1,
    )
    write(
        sys / "class" / "hwmon" / "hwmon1",
        name="ina3221",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=1140,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=4992,
        curr2_input=168,
        in3_label="NC",
        in3_input=0,
        curr3_input=0,
        in7_label="sum of shunt voltages",
        in7_input=3,
        curr7_input=9,
    )
    write(
        sys / "class" / "hwmon" / "hwmon0",
        name="nvme",
        in1_label="VDD",
        in1_input=5000,
        curr1_input=9999,
    )
    return sys


def test_temperatures_power_and_throttling_are_read(sys: Path) -> None:
    vitals = Sensors(sys).read()
    assert (
        vitals.temperatures == {"cpu-thermal": 46.531, "gpu-thermal": 48.218, "tj-thermal": 48.843}
        and vitals.hottest_c == 48.843
    )
    assert vitals.rails == pytest.approx(
        {"VDD_IN": 5.7, "VDD_CPU_GPU_CV": 0.838656}
    ) and vitals.power_w == pytest.approx(5.7)
    assert not vitals.is_throttled
    write(sys / "class" / "thermal" / "cooling_device1", cur_state=1)
    assert Sensors(sys).read().is_throttled


def test_without_a_rail_of_the_module_the_power_is_the_sum_over_all_monitors(sys: Path) -> None:
    write(sys / "class" / "hwmon" / "hwmon1", in1_label="VDD_GPU_SOC")
    write(
        sys / "class" / "hwmon" / "hwmon2",
        name="ina3221x",
        in1_label="VIN_SYS_5V0",
        in1_input=5000,
        curr1_input=1000,
    )
    assert Sensors(sys).read().power_w == pytest.approx(5.7 + 0.838656 + 5.0)


def test_memory_and_load_are_those_of_this_process_and_this_machine(sys: Path) -> None:
    vitals = Sensors(sys).read()
    assert vitals.memory_mib == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.2)
    assert vitals.load == pytest.approx(
        os.getloadavg()[0] / (os.cpu_count() or 1), rel=0.2, abs=0.2
    )


def test_a_zone_that_is_off_or_answers_eagain_or_nonsense_is_left_out(sys: Path) -> None:
    zone(sys, 2, "cv0-thermal", -256000)
    zone(sys, 3, "soc-thermal", "")
    zone(sys, 4, "odd-thermal", "nan")
    broken = write(sys / "class" / "thermal" / "thermal_zone5", type="dla-thermal")
    os.mkfifo(broken / "temp")
    # open, with nothing in it: reading says EAGAIN, as a zone without power does
    writer = os.open(broken / "temp", os.O_RDWR)
    try:
        reader = os.open(broken / "temp", os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            os.read(reader, 10)
        os.close(reader)
        assert set(Sensors(sys).read().temperatures) == {"cpu-thermal", "gpu-thermal", "tj-thermal"}
    finally:
        os.close(writer)


def test_zones_of_one_name_are_told_apart_and_one_that_never_changes_is_not_the_hottest(
    sys: Path,
) -> None:
    zone(sys, 2, "acpitz", 30000)
    zone(sys, 3, "acpitz", 40000)
    zone(sys, 4, "PMIC-Die", 100000)
    vitals = Sensors(sys).read()
    assert (
        vitals.temperatures["acpitz"] == 30.0
        and vitals.temperatures["acpitz 2"] == 40.0
        and vitals.temperatures["PMIC-Die"] == 100.0
    )
    assert vitals.hottest_c == 48.843


def test_a_machine_without_sensors_has_none(tmp_path: Path) -> None:
    vitals = Sensors(tmp_path / "nowhere").read()
    assert (vitals.hottest_c, vitals.power_w, vitals.is_throttled) == (
        None,
        None,
        False,
    ) and vitals.temperatures == {} == vitals.rails
    assert Sensors(tmp_path, tmp_path).read() == SensorReadings()


def test_it_measures_at_most_once_a_second(sys: Path) -> None:
    clock = Clock()
    telemetry = Sensors(sys, clock=clock)
    first = telemetry.read()
    zone(sys, 10, "tj-thermal", 90000)
    clock.now += 0.9
    assert telemetry.read() is first
    clock.now += 0.2
    assert telemetry.read().hottest_c == 90.0


def test_this_machine_is_read_without_an_error() -> None:
    vitals = Sensors().read()
    assert vitals.memory_mib is not None and vitals.memory_mib > 1.0
    assert vitals.hottest_c is None or -100.0 < vitals.hottest_c < 150.0


# -- tegrastats beside it --------------------------------------------------------------------------
LINE = (
    "11-30-2025 13:26:01 RAM 2461/7620MB (lfb 3x2MB) SWAP 1243/3810MB (cached 5MB) CPU"
    " [19%@729,14%@729] EMC_FREQ 4%@2133 GR3D_FREQ 37%@[305] cpu@46.531C gpu@48.218C tj@58.843C"
    " VDD_IN 5704mW/5704mW VDD_SOC 1624mW/1624mW\n"
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "tegrastats.log"
    path.write_text(
        "x" * 40_000 + "\n" + LINE.replace("37%", "99%") + LINE + "11-30-2025 13:26:02 RAM 24"
    )
    return path


def test_the_last_whole_line_of_tegrastats_says_what_sysfs_does_not(
    log: Path, tmp_path: Path
) -> None:
    telemetry = Telemetry(log, Sensors(tmp_path / "nowhere"))
    said = telemetry.read()
    assert (
        telemetry.error == ""
        and said["gpu_load"] == 0.37
        and said["temperature_c"]["tj"] == said["hottest_c"] == 58.843
    )
    assert said["power_w"] == {"VDD_IN": 5.704, "VDD_SOC": 1.624} and said["total_power_w"] == 5.704
    assert Telemetry(None, Sensors(tmp_path / "nowhere")).read()["gpu_load"] is None


def test_what_sysfs_measures_goes_before_the_line(log: Path, sys: Path) -> None:
    said = Telemetry(log, Sensors(sys)).read()
    assert (
        said["power_w"]["VDD_IN"] == said["total_power_w"] == pytest.approx(5.7)
        and said["power_w"]["VDD_SOC"] == 1.624
    )
    assert {"tj", "tj-thermal"} <= set(said["temperature_c"])


def test_a_log_that_is_missing_old_empty_or_of_something_else_is_named_and_heals(
    log: Path, sys: Path
) -> None:
    late = Telemetry(log, Sensors(sys), clock=lambda: time.time() + 100)
    assert late.read()["gpu_load"] is None and "does tegrastats run?" in late.error
    telemetry = Telemetry(log, Sensors(sys))
    for content, why in (
        ("", "no line"),
        ("hello\n", "not a line of tegrastats"),
        (None, "No such file"),
    ):
        log.write_text(content) if content is not None else log.unlink()
        assert (
            telemetry.read()["gpu_load"] is None
            and telemetry.read()["hottest_c"] == 48.843
            and why in telemetry.error
        )
    log.write_text(LINE)
    assert telemetry.read()["gpu_load"] == 0.37 and telemetry.error == ""
