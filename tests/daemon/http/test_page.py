"""The status page, as a browser gets it and as somebody uses it: Chromium, mouse and keys on a real
daemon whose conditions change.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeadapt.daemon.config.schema import ControlSection, LoopSection, PolicySection, Settings
from edgeadapt.daemon.config.users import ROLES, add_user
from edgeadapt.daemon.messages import Arrival, Deliver
from edgeadapt.daemon.monitoring.time_series import POINTS, STEP_S, STREAMS, Series
from edgeadapt.daemon.service import Service
from edgeadapt.demo.sample import CLASSES, bundle_path, load_sample
from edgeadapt.results import Commit
from edgeadapt.scenarios.corruptions import corrupt

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
from browser import Browser, Tab, chromium

from edgeadapt.daemon.http import page
from edgeadapt.testing import inspect_state

needs_chromium = pytest.mark.skipif(
    chromium() is None,
    reason="there is no chromium on this machine (or set CHROMIUM to where it is)",
)
SCHEMES = ("light", "dark")


# -- a daemon with something to see ----------------------------------------------------------------
class Camera:
    """Clean pictures of the known classes, then the same in fog; then it waits."""

    name = stream = "door"

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        sample, rng = load_sample(), np.random.default_rng(3)
        rows = rng.permutation(np.flatnonzero(sample.y < 6))[:512]
        x = np.concatenate([sample.x[rows[:160]], corrupt(sample.x[rows[160:]], "fog", 4, 0)])
        for place, frame in enumerate(x):
            label = CLASSES[sample.y[rows[place]]] if place < 160 and place % 8 == 0 else None
            deliver(Arrival(self.stream, self.name, x=frame, name=f"{place}.png", label=label))
            if stop.wait(0.004):
                return
        while not stop.wait(0.2):
            deliver(Arrival(self.stream, self.name, x=x[-1 - int(time.time() * 5) % 300]))


def errors(tab: Tab) -> list[str]:
    """What a page complains of. A browser slower than the camera asks for pictures that have gone
    meanwhile, and shows the next.
    """
    return [one for one in tab.errors if "404" not in one or "/v1/latest/image" not in one]


def opened(
    state: Path,
    token_file: Path | None = None,
    port: int = 0,
    users_file: Path | None = None,
    **parts: Any,
) -> Service:
    control = ControlSection(
        listen=f"127.0.0.1:{port}", timeout_s=20.0, token_file=token_file, users_file=users_file
    )
    settings = Settings(
        bundle=bundle_path(),
        state=state,
        unsigned="accept",
        control=control,
        policy=PolicySection(new_classes="add"),
        loop=LoopSection(batch=8, drop="wait"),
    )
    service = Service(settings, **parts)
    service.start()
    return service


def url_of(service: Service) -> str:
    assert service.control is not None
    return service.control.url


def until(is_so: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (value := is_so()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = opened(tmp_path_factory.mktemp("page") / "state", sources=[Camera()])
    try:
        until(
            lambda: len(service.questions(100)) >= 6 and service.history(1) and service.decisions(1)
        )
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    assert path is not None
    started = Browser(path)
    yield started
    started.close()


def looking(
    browser: Browser, service: Service, width: int = 1440, height: int = 900, **how: Any
) -> Tab:
    """A tab in which everything has come."""
    tab = browser.open(f"{url_of(service)}/", width, height, **how)
    tab.until(
        "document.querySelectorAll('.band').length > 5 && !document.getElementById('asked').hidden"
        " && document.querySelectorAll('#history > li').length > 0"
    )
    tab.until(
        "document.getElementById('asked-image').naturalWidth > 0 && document.querySelector('#now"
        " img').naturalWidth > 0"
    )
    return tab


def get(
    url: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(*url.removeprefix("http://").split(":"), timeout=20)
    connection.request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


# -- the files -------------------------------------------------------------------------------------
def test_every_file_comes_with_a_tag_and_a_policy_that_runs_nothing_but_the_files(
    daemon: Service,
) -> None:
    for path in sorted(page.PATHS):
        status, headers, body = get(url_of(daemon), path)
        policy = headers["content-security-policy"]
        assert (
            status == 200
            and body
            and "unsafe" not in policy
            and policy.startswith("default-src 'none'; script-src 'self';")
        )
        again, same, nothing = get(
            url_of(daemon), path, if_none_match=f'W/"other", {headers["etag"]}'
        )
        assert (
            again == 304
            and nothing == b""
            and same["etag"] == headers["etag"]
            and same["content-security-policy"] == policy
        )
        assert (
            get(url_of(daemon), path, if_none_match='"other"')[0] == 200
            and get(url_of(daemon), path, "HEAD")[2] == b""
        )
        assert get(url_of(daemon), path, "POST")[0] == 405


def test_no_file_beside_the_page_is_served(daemon: Service) -> None:
    for path in (
        "/page/",
        "/page/__init__.py",
        "/page/..%2f__init__.py",
        "/page/../service.py",
        "/page/%2e%2e/service.py",
        "/favicon.ico",
    ):
        assert get(url_of(daemon), path)[0] == 404, path


def test_the_page_has_no_script_or_style_inside_and_names_no_other_host() -> None:
    folder = Path(page.__file__).parent
    html = (folder / "index.html").read_text()
    assert (
        html.count("<script") == 1
        and 'style="' not in html
        and "<style" not in html
        and " on" + "click" not in html
    )
    for file in folder.iterdir():
        if file.suffix in (".html", ".css", ".js"):
            assert "//" not in file.read_text().replace("http://www.w3.org/2000/svg", "").replace(
                "// ", ""
            ), file.name
    assert {
        f"/page/{file.name}" for file in folder.iterdir() if file.suffix in (".css", ".js", ".svg")
    } | {"/"} == page.PATHS


def test_with_a_token_the_files_are_open_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of this test\n")
    service = opened(tmp_path / "state", tmp_path / "token")
    try:
        assert all(get(url_of(service), path)[0] == 200 for path in page.PATHS)
        for path in (
            "/v1/status",
            "/v1/series",
            "/v1/latest/image",
            "/healthz",
            "/page/none",
            "/index.html",
        ):
            assert get(url_of(service), path)[0] == 401, path
            assert get(url_of(service), path, authorization="Bearer of this test")[0] in (200, 404)
        assert get(url_of(service), "/", origin="http://elsewhere.example")[0] == 403
    finally:
        service.stop()


# -- what is drawn ---------------------------------------------------------------------------------
class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_status(second: int, streams: int = 1) -> dict[str, Any]:
    reading = {
        "axis": "shifted",
        "shift": float(second),
        "novel_share": None,
        "samples": 10 * second,
    }
    return {
        "streams": {f"s{number}": reading for number in range(streams)},
        "timings": {"learn": 0.25 * second, "record": 0.0},
        "latency": {"ratio": None, "plain": {"p99_ms": 2.0}, "learning": {"p99_ms": None}},
        "learner": {"written_bytes_last_day": second << 20},
        "telemetry": {
            "temperature_c": {"cpu": 40.0, "gpu": 50.0},
            "power_w": {},
            "hottest_c": 50.0,
            "total_power_w": None,
        },
    }


def test_the_past_is_bounded_and_keeps_what_was_largest() -> None:
    clock = Clock()
    series = Series(clock, lambda: clock.now + 1e9)
    for second in range(20_000):
        clock.now += 1.0
        status = a_status(second)
        if second == 19_990:
            status["streams"]["s0"] = status["streams"]["s0"] | {"shift": 90_000.0}
        series.sample(status)
    minutes, hours, day = (series.past(window) for window in ("minutes", "hours", "day"))
    for past in (minutes, hours, day):
        assert (
            len(past.busy) == POINTS
            and abs(past.start + POINTS * past.step_s - (clock.now + 1e9)) <= STEP_S[past.window]
        )
        assert max(value for value in past.streams["s0"].shift if value is not None) == 90_000
        assert (
            past.busy[-2] == pytest.approx(0.25)
            and past.temperature_c[-2] == 50.0
            and past.power_w == past.latency_ratio == (None,) * POINTS
        )
        assert (
            past.streams["s0"].rate_hz[-2] == pytest.approx(10.0)
            and past.streams["s0"].novel_share[-2] is None
        )
    assert all(value is not None for value in (*minutes.busy, *hours.busy)) and sum(
        value is not None for value in day.busy
    ) == pytest.approx(20_000 / 360, abs=2)


def test_of_many_streams_those_that_came_last_are_kept() -> None:
    clock = Clock()
    series = Series(clock)
    for second in range(3):
        clock.now += 1.0
        series.sample(a_status(second, streams=60))
        for number in range(60):
            series.take(
                {
                    "event": "answer",
                    "error": "",
                    "stream": f"s{number}",
                    "at": clock.now,
                    "label": "Dress",
                    "confidence": 0.5,
                },
                [],
            )
    assert (
        len(series.past().streams) == len(series.view()["latest"]) == STREAMS
        and "s59" in series.past().streams
        and series.view()["answers"] == {"Dress": 180}
    )


def test_a_gap_stays_a_gap_and_a_replaced_learner_is_not_negative() -> None:
    clock = Clock()
    series = Series(clock)
    series.sample(a_status(100))
    clock.now += 100.0
    series.sample(a_status(1))
    clock.now += 1.0
    series.sample(a_status(2))
    past = series.past()
    assert (
        past.streams["s0"].shift.count(None) == POINTS - 2
        and min(value for value in past.busy if value is not None) >= 0.0
    )


def test_what_judged_is_taken_from_the_history_once() -> None:
    series = Series()
    history = [
        Commit(
            number,
            50.0 + number,
            "learn",
            "learned",
            {"accuracy on factory samples": 0.9 + number / 100},
        )
        for number in (3, 2, 1)
    ]
    series.learned(history)
    series.learned(history[:1])
    assert series.past().held_out == {"factory samples": ((51.0, 0.91), (52.0, 0.92), (53.0, 0.93))}


def test_the_series_and_the_newest_picture_come_over_http(daemon: Service) -> None:
    until(lambda: daemon.series().streams)
    said = json.loads(get(url_of(daemon), "/v1/series?window=hours")[2])
    assert (
        said["window"] == "hours"
        and len(said["streams"]["door"]["shift"]) == POINTS
        and said["held_out"]["factory samples"]
    )
    status, headers, body = get(url_of(daemon), "/v1/latest/image?stream=door")
    assert status == 200 and headers["content-type"] == "image/png" and body.startswith(b"\x89PNG")
    assert (
        get(url_of(daemon), "/v1/latest/image?stream=nobody")[0] == 404
        and get(url_of(daemon), "/v1/series?window=year")[0] == 422
    )


def test_the_picture_of_an_answer_is_that_of_its_sample_however_fast_they_come(
    tmp_path: Path,
) -> None:
    sample = load_sample()
    frames = {
        name: sample.x[np.flatnonzero(sample.y == CLASSES.index(name))[0]]
        for name in ("Trouser", "Sandal")
    }

    class Quick:
        name = stream = "quick"

        def run(self, deliver: Deliver, stop: threading.Event) -> None:
            # not the clock's parity: a look every quarter second may keep step with it
            draw = np.random.default_rng(0)
            while not stop.wait(0.003):
                name = ("Trouser", "Sandal")[draw.integers(2)]
                deliver(
                    Arrival(
                        self.stream, self.name, x=frames[name], name=f"{name} {time.monotonic_ns()}"
                    )
                )

    service = opened(tmp_path / "state", sources=[Quick()])
    try:
        seen = set()
        until(lambda: service.status()["latest"])
        for _ in range(24):
            shown = service.status()["latest"]["quick"]
            time.sleep(0.25)
            picture = service.picture_of("quick", shown["id"])
            seen.add(shown["name"].split()[0])
            assert picture is not None and (picture == frames[shown["name"].split()[0]]).all()
        assert (
            len(seen) == 2
            and service.picture_of("quick", "none") is None
            and service.picture_of("quick") is not None
        )
    finally:
        service.stop()


# -- in a browser ----------------------------------------------------------------------------------
@needs_chromium
def test_a_question_is_answered_by_click_and_the_next_by_key_and_both_are_learned(
    daemon: Service, browser: Browser
) -> None:
    tab = looking(browser, daemon)
    asked = [question.id for question in daemon.questions(3)]
    assert [tab.text(f".choice:nth-child({place})").split("\n")[1] for place in (1, 2)] == list(
        daemon.classes()[:2]
    )
    first = tab.run("document.getElementById('asked-image').src")
    time.sleep(0.3)
    tab.click(".choice:nth-child(2)")
    tab.until(f"document.getElementById('asked-image').src !== {json.dumps(first)}", 2.0)
    time.sleep(0.3)
    tab.press("4")
    until(lambda: not {*asked[:2]} & {question.id for question in daemon.questions(100)})
    with daemon.context.lease.borrow() as learner:
        learner.settle(20)
        rows = {
            row.id: (row.label, row.source)
            for row in inspect_state(learner).journal.rows_of(asked[:2])
        }
    assert rows == {
        asked[0]: (daemon.classes()[1], "page"),
        asked[1]: (daemon.classes()[3], "page"),
    }
    tab.until("document.getElementById('news').textContent.includes('left')")
    assert errors(tab) == []


GRID = "document.querySelectorAll('#grid-tiles [role=option]')"


@needs_chromium
def test_many_questions_are_labelled_by_keys_in_one_request_and_taken_back(
    daemon: Service, browser: Browser
) -> None:
    tab = looking(browser, daemon, 390, 844)
    tab.click("#grid-open")
    many = tab.until(f"{GRID}.length > 3 && {GRID}.length")
    tab.until("document.querySelectorAll('#grid-tiles img:not([hidden])').length > 3")
    before = daemon.status()["labels"]["received"]
    tab.run(f"{GRID}[0].focus()")
    tab.press(" ")
    tab.press("ArrowRight")  # to the second, which a range begins at
    tab.press("ArrowRight", shift=True)
    assert (
        tab.run(f"[...{GRID}].slice(0, 4).map((one) => one.getAttribute('aria-selected')).join()")
        == "true,true,true,false"
    )
    assert tab.run(f"document.activeElement === {GRID}[2]")
    tab.press("2")
    name = daemon.classes()[1]
    assert tab.text("#grid-give") == f"Label 3 as {name}" and tab.run(
        "document.getElementById('queue-error').hidden"
    )
    chosen = tab.run(f"[...{GRID}].slice(0, 3).map((one) => one.dataset.key)")
    tab.press("Enter")
    tab.until(f"![...{GRID}].some((one) => one.dataset.key === '{chosen[0]}')")
    until(lambda: daemon.status()["labels"]["received"] >= before + 3)
    with daemon.context.lease.borrow() as learner:
        assert [state.label for state in learner.label_states(chosen)] == [name] * 3
    tab.press("u")
    tab.until(
        f"[...{GRID}].filter((one) => one.getAttribute('aria-selected') === 'true').length === 3"
    )
    with daemon.context.lease.borrow() as learner:
        assert {state.status for state in learner.label_states(chosen)} == {"withdrawn"}
    assert many >= 4 and tab.run("document.documentElement.scrollWidth") <= 390 and not tab.errors


@needs_chromium
def test_a_tap_chooses_and_those_alike_come_with_it(daemon: Service, browser: Browser) -> None:
    tab = looking(browser, daemon, 390, 844)
    tab.click("#grid-open")
    tab.until(f"{GRID}.length > 3")
    tab.click("#grid-tiles [role=option]")
    tab.click("#grid-like")
    asked = json.loads(get(url_of(daemon), "/v1/questions?limit=60&alike=true")[2])["questions"]
    groups = [one["group"] for one in asked]
    assert groups == sorted(groups) and groups[0] == 0 and len(groups) > 3
    assert int(tab.text("#grid-count").split()[0]) >= 1
    tab.click("#grid-none")
    assert tab.text("#grid-count").startswith("0 of ")


@needs_chromium
def test_the_page_says_how_good_the_answers_are_and_what_more_would_bring(
    daemon: Service, browser: Browser
) -> None:
    quality = json.loads(get(url_of(daemon), "/v1/quality")[2])
    tab = looking(browser, daemon)
    tab.until("document.querySelectorAll('#figures > div').length >= 2")
    text = tab.text("#figures")
    assert "Ten labels more" in text and "Right in the field" in text
    assert (
        quality["gain"]["low"] <= quality["gain"]["value"] <= quality["gain"]["high"]
        and quality["gain"]["more"] == 10
    )


@needs_chromium
def test_a_question_can_be_skipped_named_anew_and_corrected(
    daemon: Service, browser: Browser
) -> None:
    tab = looking(browser, daemon)
    first, second = (question.id for question in daemon.questions(2))
    time.sleep(0.3)
    tab.press("s")
    time.sleep(0.3)
    tab.click("#new-name")
    tab.type("Umbrella")
    tab.press("Enter")
    until(lambda: "Umbrella" in daemon.classes())
    until(lambda: second not in {question.id for question in daemon.questions(100)})
    assert first in {question.id for question in daemon.questions(100)}
    tab.until("document.getElementById('correct').innerText.includes('Umbrella')")
    tab.click("#correct")
    time.sleep(0.3)
    tab.run("document.activeElement.blur()")
    tab.press("1")
    with daemon.context.lease.borrow() as learner:
        until(
            lambda: (
                daemon.classes()[0]
                in [row.label for row in inspect_state(learner).journal.rows_of([second])]
            )
        )
    assert errors(tab) == []


@needs_chromium
def test_a_second_click_that_comes_too_soon_answers_nothing(
    daemon: Service, browser: Browser
) -> None:
    tab = looking(browser, daemon)
    before = {question.id for question in daemon.questions(100)}
    time.sleep(0.3)
    tab.run("document.querySelector('.choice').click(); document.querySelector('.choice').click()")
    until(lambda: len(before - {question.id for question in daemon.questions(100)}) >= 1)
    time.sleep(0.3)
    assert len(before - {question.id for question in daemon.questions(100)}) == 1


@needs_chromium
def test_a_change_is_rolled_back_after_it_was_asked_once_in_the_page(
    daemon: Service, browser: Browser
) -> None:
    tab = looking(browser, daemon)
    to = int(tab.run("document.querySelector('#history .back').dataset.to"))
    assert daemon.history(1)[0].kind != "rollback"
    tab.click("#history .back")
    assert tab.run("document.activeElement.innerText") == "Leave it"
    tab.press("Escape")
    assert tab.run(
        "document.activeElement.classList.contains('back') && !document.querySelector('.confirm')"
    )
    tab.click("#history .back")
    tab.click("#history .confirm .strong")
    done = until(lambda: daemon.history(1)[0].kind == "rollback" and daemon.history(1)[0])
    assert done.detail["to"] == to
    tab.until("document.querySelector('#history .what').innerText.startsWith('Went back to #')")
    assert errors(tab) == []


@needs_chromium
def test_a_short_list_offers_nothing_more(daemon: Service, browser: Browser) -> None:
    tab = looking(browser, daemon)
    for name in ("history", "decisions"):
        is_hidden, said = tab.run(
            "(({ hidden, textContent }) => [hidden,"
            f" textContent])(document.getElementById('{name}-more'))"
        )
        assert "-" not in said and is_hidden == (said == "")


@needs_chromium
def test_a_note_of_the_daemon_is_shown_for_as_long_as_it_holds(
    daemon: Service, browser: Browser
) -> None:
    tab = looking(browser, daemon)
    assert tab.run("document.getElementById('problems').innerText") == ""
    daemon.context.swapped = "/srv/other.edge"
    try:
        tab.until(
            "document.getElementById('problems').innerText.includes('/srv/other.edge answers: set"
            " bundle to it')"
        )
    finally:
        daemon.context.swapped = ""
    tab.until("document.getElementById('problems').innerText === ''")


@needs_chromium
def test_learning_is_paused_and_frozen_from_the_page(daemon: Service, browser: Browser) -> None:
    tab = looking(browser, daemon)
    for name, flag, headline in (
        ("pause", "is_paused", "Paused"),
        ("freeze", "is_frozen", "Frozen"),
    ):
        tab.click(f"#{name}")
        until(lambda flag=flag: daemon.status()[flag])
        tab.until(
            f"document.getElementById('headline').innerText.startsWith('{headline}') &&"
            f" document.getElementById('{name}').getAttribute('aria-pressed') === 'true'"
        )
        tab.click(f"#{name}")
        tab.until(f"document.getElementById('{name}').getAttribute('aria-pressed') === 'false'")
    assert not daemon.status()["is_frozen"] and errors(tab) == []


@needs_chromium
@pytest.mark.parametrize("width", [320, 360, 768, 1024, 1440])
def test_nothing_is_wider_than_the_window(daemon: Service, browser: Browser, width: int) -> None:
    tab = looking(browser, daemon, width, 800)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert (
        tab.run(
            "[...document.querySelectorAll('main *:not(.unseen)')].filter((one) =>"
            f" one.getBoundingClientRect().right > {width} + 1 && !one.closest('svg,"
            " .unseen')).map((one) => one.outerHTML.slice(0, 80))"
        )
        == []
    )
    assert errors(tab) == []


@needs_chromium
def test_every_control_is_reached_by_tab_and_shows_that_it_is(
    daemon: Service, browser: Browser
) -> None:
    tab = looking(browser, daemon)
    tab.run(
        "window.met = new Set(); window.hidden_focus = [];"
        " document.addEventListener('visibilitychange', () => {})"
    )
    controls = int(
        tab.run(
            "[...document.querySelectorAll('a[href], button, input')].filter((one) =>"
            " one.checkVisibility() && !one.disabled).length"
        )
    )
    for _ in range(controls + 12):
        tab.press("Tab")
        tab.run(
            """(() => {
                const one = document.activeElement;
                if (one === document.body) return;
                met.add(one);
                const { outlineStyle } = getComputedStyle(one);
                if (outlineStyle === 'none') hidden_focus.push(one.outerHTML.slice(0, 80));
            })()"""
        )
    missed = tab.run(
        "[...document.querySelectorAll('a[href], button, input')].filter((one) =>"
        " one.checkVisibility() && !one.disabled && !met.has(one)).map((one) =>"
        " one.outerHTML.slice(0, 100))"
    )
    assert missed == [] and tab.run("hidden_focus") == []
    named = (
        "[...document.querySelectorAll('button, input, img:not([hidden]),"
        " svg.plot:not([aria-hidden])')].filter((one) => one.checkVisibility()).filter((one) =>"
        " !(one.innerText || one.alt || one.getAttribute('aria-label') ||"
        " one.labels?.length)).map((one) => one.outerHTML.slice(0, 100))"
    )
    assert tab.run(named) == []


CONTRAST = """(() => {
    const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
    const pen = canvas.getContext('2d', { willReadFrequently: true });
    const rgba = (colour) => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, under) =>
        top.slice(0, 3).map((value, i) => value * top[3] + under[i] * (1 - top[3]));
    const light = (colour) => {
        const [r, g, b] = colour.map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const lineage = (node) => node ? [...lineage(node.parentElement), node] : [];
    const poor = [];
    let count = 0;
    const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const check = (node, text, colour) => {
        let under = [255, 255, 255], opacity = 1;
        for (const one of lineage(node)) {
            const style = getComputedStyle(one);
            opacity *= Number(style.opacity);
            under = over(rgba(style.backgroundColor), under);
        }
        const own = rgba(colour), shown = over([own[0], own[1], own[2], own[3] * opacity], under);
        const [a, b] = [light(shown), light(under)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        count += 1;
        const name = node.className.baseVal ?? node.className;
        if (ratio < 4.5) poor.push(`${text.trim().slice(0, 40)} ${ratio.toFixed(2)} ${name}`);
    };
    while (words.nextNode()) {
        const text = words.currentNode.textContent, node = words.currentNode.parentElement;
        if (!text.trim() || !node.checkVisibility()) continue;
        if (node.closest('.unseen, .skip, title, noscript')) continue;
        const style = getComputedStyle(node);
        check(node, text, node.ownerSVGElement ? style.fill : style.color);
    }
    for (const field of document.querySelectorAll('input[placeholder]')) {
        if (!field.checkVisibility()) continue;
        check(field, field.placeholder, getComputedStyle(field, '::placeholder').color);
    }
    return { count, poor };
})()"""


@needs_chromium
@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_stands_out_by_at_least_4_5_to_1(
    daemon: Service, browser: Browser, scheme: str
) -> None:
    tab = looking(browser, daemon, scheme=scheme)
    tab.click("#history .back")
    found = tab.run(CONTRAST)
    assert found["count"] > 120 and found["poor"] == []


@needs_chromium
def test_motion_stops_for_who_wants_none(daemon: Service, browser: Browser) -> None:
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    calm, lively = looking(browser, daemon), looking(browser, daemon, is_calm=False)
    assert calm.run(moving) == 0 and lively.run(moving) > 0


@needs_chromium
def test_a_token_is_asked_for_once_and_kept_for_the_tab(tmp_path: Path, browser: Browser) -> None:
    (tmp_path / "token").write_text("of this test\n")
    service = opened(tmp_path / "state", tmp_path / "token")
    try:
        tab = browser.open(f"{url_of(service)}/")
        tab.until("document.getElementById('door').open")
        tab.type("something else")
        tab.press("Enter")
        tab.until(
            "document.getElementById('door').open &&"
            " document.getElementById('door-error').innerText.includes('not its token')"
        )
        tab.type("of this test")
        tab.press("Enter")
        tab.until(
            "document.getElementById('headline').innerText === 'Waiting for the first sample.'"
        )
        tab.call("Page.reload")
        tab.until(
            "document.getElementById('headline').innerText === 'Waiting for the first sample.'"
        )
        assert not tab.run("document.getElementById('door').open") and "token" not in tab.run(
            "location.href"
        )
        assert tab.text("#queue-empty").startswith("Nothing to ask") and tab.text(
            "#history-empty"
        ).startswith("Nothing yet")
        assert all("401" in error for error in tab.errors)
    finally:
        service.stop()


@needs_chromium
def test_what_a_role_may_not_do_is_not_shown_and_the_page_says_so(
    tmp_path: Path, browser: Browser
) -> None:
    tokens = {role: add_user(tmp_path / "users", f"one-{role}", role) for role in ROLES}
    service = opened(tmp_path / "state", users_file=tmp_path / "users")
    shown = (
        "['choices', 'pause'].map((id) =>"
        " getComputedStyle(document.getElementById(id).closest('.for-label, .for-admin')).display"
        " !== 'none')"
    )
    expected = {
        "view": (
            [False, False],
            "one-view, role view: may look; answering questions needs the role label",
        ),
        "label": (
            [True, False],
            (
                "one-label, role label: may look and answer questions; the switches and going back"
                " need the role admin"
            ),
        ),
        "admin": ([True, True], "one-admin, role admin: may do everything"),
    }
    try:
        for role, token in tokens.items():
            tab = browser.open(f"{url_of(service)}/")
            tab.until("document.getElementById('door').open")
            tab.type(token)
            tab.press("Enter")
            tab.until(
                "document.getElementById('headline').innerText === 'Waiting for the first sample.'"
            )
            assert (tab.run(shown), tab.text("#who").startswith(expected[role][1])) == (
                expected[role][0],
                True,
            )
            tab.run("sessionStorage.clear()")
    finally:
        service.stop()


@needs_chromium
def test_a_daemon_that_is_gone_is_said_to_be_and_is_found_again(
    tmp_path: Path, browser: Browser
) -> None:
    service = opened(tmp_path / "state")
    tab = browser.open(f"{url_of(service)}/")
    tab.until("document.getElementById('headline').innerText === 'Waiting for the first sample.'")
    port = int(url_of(service).rpartition(":")[2])
    service.stop()
    tab.until(
        "document.getElementById('headline').innerText === 'The daemon does not answer.' &&"
        " !document.getElementById('gone').hidden && document.getElementById('pause').disabled"
    )
    assert "Trying again" in tab.text("#gone")
    again = opened(tmp_path / "state", port=port)
    try:
        tab.until(
            "document.getElementById('headline').innerText === 'Waiting for the first sample.' &&"
            " document.getElementById('gone').hidden"
        )
    finally:
        again.stop()


@needs_chromium
def test_names_from_outside_are_shown_as_text(tmp_path: Path, browser: Browser) -> None:
    service = opened(tmp_path / "state")
    try:
        evil = "<img src=x onerror=alert(1)>"
        service.add_class(evil)
        service.observe(load_sample().x[:2], stream=evil)
        tab = browser.open(f"{url_of(service)}/")
        tab.until(
            "document.querySelectorAll('#now > li').length === 1 &&"
            " document.querySelectorAll('#classes tr').length === 7"
        )
        assert (
            evil in tab.text("#now")
            and evil in tab.text("#classes")
            and tab.run("document.querySelectorAll('img[src=x]').length") == 0
        )
        tab.until("document.querySelector('#now img').naturalWidth > 0")
        assert errors(tab) == []
    finally:
        service.stop()


@needs_chromium
def test_names_that_scripts_trip_over_that_turn_the_text_or_are_long_stay_names(
    tmp_path: Path, browser: Browser
) -> None:
    service = opened(tmp_path / "state", sources=[Camera()])
    names = ["constructor", "__proto__", "exe\u202egpj", "\u05d2\u05dc\u05d2\u05dc", "x" * 100]
    try:
        for name in names:
            service.add_class(name)
        service.observe(load_sample().x[:2], stream="constructor")
        service.observe(load_sample().x[:2], stream="y" * 60)
        until(lambda: len(service.questions(2)) == 2)
        tab = browser.open(f"{url_of(service)}/", 390, 844)
        tab.until(
            "document.querySelectorAll('#now > li').length >= 2 &&"
            " !document.getElementById('asked').hidden"
        )
        rows = tab.run(
            "[...document.querySelectorAll('#classes tr')].map((row) =>"
            " [...row.children].map((cell) => cell.textContent))"
        )
        shown = {name: numbers for name, *numbers in rows}
        for name in (
            "constructornew",
            "__proto__new",
            "\u2068exe\u2039U+202E\u203agpj\u2069new",
            "\u2068\u05d2\u05dc\u05d2\u05dc\u2069new",
        ):
            assert shown[name] == ["0", "0"], shown
        assert (
            "undefined" not in tab.text("#now")
            and "NaN" not in tab.text("main")
            and "\u202e" not in tab.text("main")
        )
        tab.click("#grid-open")
        tab.until(f"{GRID}.length > 1")
        given = tab.run(
            "[...document.querySelectorAll('#grid-classes .choice-name')].map((one) =>"
            " one.textContent)"
        )
        assert {"constructor", "__proto__", "\u2068exe\u2039U+202E\u203agpj\u2069"} < set(given)
        tab.run(
            "[...document.querySelectorAll('#grid-classes button')].find((one) => one.dataset.key"
            " === '__proto__').click()"
        )
        assert tab.text("#grid-give").endswith("__proto__")
        for width in (390, 1440):
            tab.look(width, 844)
            assert tab.run("document.documentElement.scrollWidth") <= width
            wide = (
                "[...document.querySelectorAll('.choice, #classes th, .answer, .stream,"
                " .what')].filter((node) => node.scrollWidth > node.clientWidth + 1).length"
            )
            assert tab.run(wide) == 0, width
        assert errors(tab) == []
    finally:
        service.stop()
