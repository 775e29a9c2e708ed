"""Lines of ``tegrastats`` from four devices, and any other text."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeadapt.daemon.tegrastats import parse
from edgeadapt.errors import InputError

AGX_ORIN_R39 = (
    "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU"
    " [23%@2201,10%@2201,4%@2201,14%@2201,30%@2201,18%@2201"
    ",10%@2201,10%@2201,33%@2201,7%@2201,5%@2201,27%@2201]"
    " EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] NVENC0 off NVDEC0 off NVJPG0 off NVJPG1 off VIC"
    " off OFA off NVDLA0 off NVDLA1 off PVA0_FREQ off APE 174 cpu@52.968C/52.968C"
    " soc2@48.406C/48.406C soc0@49.531C/49.531C gpu@47.625C/47.625C VDD_GPU_SOC"
    " 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW VIN_SYS_5V0 5500mW/5500mW/5500mW"
)
AGX_THOR_R38 = (
    "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU"
    " [0%@972,0%@972,0%@972,0%@972,0%@972,0%@972,1%@972"
    ",0%@972,0%@972,0%@972,0%@972,8%@972,0%@972,0%@972]"
    " EMC_FREQ 0%@2750 GR3D_FREQ @[314,314,314] NVENC0_FREQ @314 NVENC1_FREQ @314 NVDEC0_FREQ @314"
    " NVDEC1_FREQ @314 NVJPG0_FREQ @314 VIC off OFA_FREQ @315 PVA0_FREQ off APE 300 cpu@37.343C"
    " tj@38.875C soc012@37.468C gpu@38.875C soc345@37.406C VDD_GPU 1962mW/1962mW VDD_CPU_SOC_MSS"
    " 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW VIN 19780mW/19780mW"
)
ORIN_NANO_JP6 = (
    "11-30-2025 13:26:01 RAM 2461/7620MB (lfb 3x2MB) SWAP 1243/3810MB (cached 5MB) CPU"
    " [19%@729,14%@729,22%@729,8%@729,15%@729,17%@729] EMC_FREQ 4%@2133 GR3D_FREQ 0%@[305] NVDEC"
    " off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@46.531C soc2@47.312C soc0@46.593C"
    " gpu@48.218C tj@48.843C soc1@48.843C VDD_IN 5704mW/5704mW VDD_CPU_GPU_CV 831mW/831mW VDD_SOC"
    " 1624mW/1624mW"
)
AGX_ORIN_JP5 = (
    "01-03-2023 16:07:54 RAM 2257/30536MB (lfb 5392x4MB) SWAP 0/15268MB (cached 0MB) CPU [1%@729,…]"
    " EMC_FREQ 0%@204 GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 NVJPG1 729 VIC_FREQ 115 APE 233 CV0@-256C"
    " CPU@41.437C Tboard@29C SOC2@39.062C Tdiode@30.75C SOC0@39.031C CV1@-256C GPU@-256C tj@41.656C"
    " SOC1@38.937C CV2@-256C VDD_GPU_SOC 2390mW/2390mW VDD_CPU_CV 796mW/796mW VIN_SYS_5V0"
    " 3522mW/3522mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)


def test_agx_orin_of_r39_has_pairs_of_temperatures_triples_of_power_and_no_total_rail() -> None:
    said = parse(AGX_ORIN_R39)
    assert (said.ram_used_mib, said.ram_total_mib, said.swap_used_mib, said.swap_total_mib) == (
        20642,
        62817,
        None,
        None,
    )
    assert (
        len(said.cpu_loads) == 12
        and said.cpu_loads[:3] == (0.23, 0.10, 0.04)
        and said.gpu_load == 0.12
    )
    assert (
        said.temperatures == {"cpu": 52.968, "soc2": 48.406, "soc0": 49.531, "gpu": 47.625}
        and said.hottest_c == 52.968
    )
    assert said.power_mw == {"VDD_GPU_SOC": 5139, "VDD_CPU_CV": 3268, "VIN_SYS_5V0": 5500}
    assert said.total_power_w == pytest.approx(13.907)


def test_agx_thor_has_a_total_rail_and_does_not_say_how_busy_its_gpu_is() -> None:
    said = parse(AGX_THOR_R38)
    assert (said.ram_used_mib, said.ram_total_mib) == (105265, 125772)
    assert len(said.cpu_loads) == 14 and said.cpu_loads[11] == 0.08 and said.gpu_load is None
    assert said.temperatures == {
        "cpu": 37.343,
        "tj": 38.875,
        "soc012": 37.468,
        "gpu": 38.875,
        "soc345": 37.406,
    }
    assert said.power_mw["VIN_SYS_5V0"] == 5635 and said.total_power_w == 19.78


def test_orin_nano_has_swap_and_the_rail_of_the_module() -> None:
    said = parse(ORIN_NANO_JP6)
    assert (said.ram_used_mib, said.swap_used_mib, said.swap_total_mib) == (2461, 1243, 3810)
    assert said.cpu_loads == (0.19, 0.14, 0.22, 0.08, 0.15, 0.17) and said.gpu_load == 0.0
    assert (
        said.hottest_c == 48.843
        and said.total_power_w == 5.704
        and set(said.power_mw) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    )


def test_agx_orin_of_jetpack_5_leaves_out_zones_that_are_off_and_rails_that_are_not_connected() -> (
    None
):
    said = parse(AGX_ORIN_JP5)
    assert said.cpu_loads == (0.01, None) and said.gpu_load == 0.0
    assert said.temperatures == {
        "CPU": 41.437,
        "Tboard": 29.0,
        "SOC2": 39.062,
        "Tdiode": 30.75,
        "SOC0": 39.031,
        "tj": 41.656,
        "SOC1": 38.937,
    }
    assert said.power_mw == {
        "VDD_GPU_SOC": 2390,
        "VDD_CPU_CV": 796,
        "VIN_SYS_5V0": 3522,
        "VDDQ_VDD2_1V8AO": 301,
    }
    assert said.total_power_w == pytest.approx(7.009)


def test_a_nano_without_units_a_core_that_is_off_and_a_zone_that_never_changes() -> None:
    said = parse(
        "RAM 1943/3964MB (lfb 2x1MB) IRAM 0/252kB(lfb 252kB) CPU [21%@1479,off,off,4%] GR3D_FREQ"
        " 35% CPU@36C PMIC@100C POM_5V_IN 2066/2100 POM_5V_CPU 489/489"
    )
    assert said.cpu_loads == (0.21, None, None, 0.04) and said.gpu_load == 0.35
    assert said.hottest_c == 36.0 and said.temperatures["PMIC"] == 100.0
    assert said.power_mw == {"POM_5V_IN": 2066, "POM_5V_CPU": 489} and said.total_power_w == 2.066


def test_a_line_that_says_little_has_little() -> None:
    said = parse("RAM 1/2MB")
    assert (
        said.cpu_loads == ()
        and said.gpu_load is None
        and said.hottest_c is None
        and said.total_power_w is None
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "tegrastats: command not found",
        "RAM 1/2GB",
        "RAM " + "9" * 5000 + "/1MB",
        "RAM 1/2MB " + "x" * 20_000,
    ],
)
def test_another_text_is_refused_in_a_short_line(line: str) -> None:
    with pytest.raises(InputError, match="not a line of tegrastats") as told:
        parse(line)
    assert len(str(told.value)) < 200


PIECES = st.sampled_from(
    sorted(
        {
            piece
            for line in (AGX_ORIN_R39, AGX_THOR_R38, ORIN_NANO_JP6, AGX_ORIN_JP5)
            for piece in line.split(" ")
        }
    )
)


@given(
    st.one_of(
        st.text(), st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=60).map(" ".join)
    )
)
def test_no_text_raises_anything_but_an_input_error(text: str) -> None:
    for line in (text, "RAM 1/2MB " + text):
        with contextlib.suppress(InputError):
            said = parse(line)
            assert all(-100 < value < 1e7 for value in said.temperatures.values()) and all(
                0 <= load < 10 for load in said.cpu_loads if load is not None
            )


def test_no_text_takes_long() -> None:
    started = time.perf_counter()
    for piece in ("a@1C ", "A" * 60, "A 1mW/1mW ", "A_", "CPU [", "1%,", " ", "-1.1C/"):
        parse("RAM 1/2MB CPU [" + piece * (16_000 // len(piece)))
    assert time.perf_counter() - started < 2.0
