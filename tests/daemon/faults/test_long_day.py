"""Twenty-seven hours of a daemon in seconds, on clocks that are moved on: what is bounded by a day,
an hour or a size stays so, and the numbers are right.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn

SCRIPT = Path(__file__).with_name("simulated_day.py")
WRITE_MIB_PER_DAY = 8.0


def test_in_a_day_nothing_grows_what_is_rationed_lasts_and_the_lines_of_the_page_are_right(
    tmp_path: Path,
) -> None:
    lived = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(WRITE_MIB_PER_DAY)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert lived.returncode == 0, lived.stderr[-3000:]
    seen = json.loads(lived.stdout)
    hours, day = seen["hours"], seen["past"]["day"]
    assert (
        len(hours) == 27
        and seen["stopped"]
        and seen["negative"] == []
        and all(hour["ok"] for hour in hours)
    )
    assert all(
        problem.startswith("labels: ") and "write_mib_per_day" in problem
        for problem in seen["problems"]
    ), seen["problems"]

    # memory and disk: an hour of samples waits for labels, an hour of labels for samples; the
    # allocator gives pages back in steps of some MiB, so three hours are averaged
    memory = [hour["rss_mib"] for hour in hours]
    assert (
        sum(memory[-3:]) / 3 - sum(memory[11:14]) / 3 < 12.0
        and max(hour["state_mib"] for hour in hours) < 8.0
    )
    assert all(
        120 <= hour["pending"] <= 200 and hour["held"] + hour["queued"] <= 25 for hour in hours
    )
    assert 500 <= hours[-1]["expired"] + hours[-1]["queued"] <= 540 and 27 * 140 - hours[-1][
        "names"
    ] in (0, 1)
    assert (
        seen["files"].keys() == {"out.jsonl", "out.jsonl.1", "out.jsonl.2"}
        and max(seen["files"].values()) <= 2**18
    )

    # the day's writes: used up, refused by then, and taken again when the first of them are a day
    # old
    assert (
        max(hour["written_mib"] for hour in hours) < 1.05 * WRITE_MIB_PER_DAY
        and 5.0 < seen["refused_at"][0] < 22.0
    )
    assert hours[23]["received"] == hours[22]["received"] < seen["received"]

    # the day's questions: no more than six, and gone with their samples after an hour
    asked = sorted(seen["asked"].values())
    assert 1 <= sum(at < 24.0 for at in asked) <= 6 and seen["questions_later"] == 0
    assert all(
        hours[at]["questions"] == 0
        for at in range(27)
        if not any(at - 1.2 < when <= at + 1.2 for when in asked)
    )

    # the page's lines: six samples in three minutes, whichever window
    assert (
        all(rate == pytest.approx(6 / 180, rel=0.02) for rate in day["rate_hz"])
        and len(day["rate_hz"]) == 240
    )
    assert [rate for rate in seen["past"]["hours"]["rate_hz"] if rate is not None] == [
        pytest.approx(6 / 180, rel=0.02)
    ] * 40
    for window, covers_s in (("minutes", 600.0), ("hours", 7200.0), ("day", 86_400.0)):
        past = seen["past"][window]
        assert -covers_s <= past["start"] < -covers_s + past["step_s"] + 1.0
        assert all(0.0 <= busy <= 1.0 for busy in past["busy"] if busy is not None)
    assert max(mib for mib in day["written_mib"] if mib is not None) == pytest.approx(
        max(hour["written_mib"] for hour in hours), abs=0.3
    )
