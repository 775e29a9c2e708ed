"""The report page, checked on made-up runs. `python tests/demo/test_picture.py DIR` writes one to
look at.
"""

from __future__ import annotations

import base64
import copy
import html
import json
import math
import random
import re
import struct
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest

from edgeadapt.demo.charts import GLYPHS, smooth
from edgeadapt.demo.elements import escape, fit
from edgeadapt.demo.picture import render, write_report
from edgeadapt.demo.report import EventKind, Report

OLD = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt"]
NEW = ["Sneaker", "Bag", "Ankle boot"]
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\x00\ud800]]>"

# title, sentence, [(condition, order, batches, frozen, learner at first, learner at last, oracle,
# domain)]
ACTS: list[tuple[str, str, list[tuple[str, str, int, float, float, float, float, str]]]] = [
    (
        "It ships",
        "Clean images, as on the day it was trained. Nothing to do, and it does nothing.",
        [("clean", "shuffled", 44, 0.88, 0.88, 0.88, 0.89, "source")],
    ),
    (
        "Fog comes, it asks",
        (
            "Accuracy halves. The shift axis crosses its threshold, it opens a domain, asks, and"
            " corrects itself."
        ),
        [("fog", "shuffled", 70, 0.33, 0.34, 0.77, 0.80, "fog")],
    ),
    (
        "Noise, sorted by label",
        "The hard case: one class at a time, where plain batch statistics collapse.",
        [("noise", "sorted", 58, 0.29, 0.28, 0.68, 0.76, "noise")],
    ),
    (
        "The fog returns",
        "It recognises where it has been and is as good at once as it was when it left.",
        [
            ("clean", "shuffled", 16, 0.88, 0.87, 0.88, 0.89, "source"),
            ("fog", "shuffled", 36, 0.33, 0.73, 0.78, 0.80, "fog"),
        ],
    ),
    (
        "Three things it never saw",
        "New kinds of clothing arrive. It says so, asks what they are, and adds the classes.",
        [("new classes", "shuffled", 66, 0.61, 0.6, 0.84, 0.87, "source")],
    ),
    (
        "Trouble",
        "Wrong answers, a power cut and a request to forget.",
        [
            ("clean", "shuffled", 30, 0.6, 0.84, 0.84, 0.87, "source"),
            ("contrast", "shuffled", 30, 0.25, 0.4, 0.71, 0.77, "contrast"),
        ],
    ),
]


def grey_png(pixels: list[list[int]]) -> str:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    raw = b"".join(b"\0" + bytes(row) for row in pixels)
    header = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 0, 0, 0, 0)
    return (
        "data:image/png;base64,"
        + base64.b64encode(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(raw))
            + chunk(b"IEND", b"")
        ).decode()
    )


def garment(rng: random.Random) -> str:
    waist, hem, haze = rng.uniform(4, 9), rng.uniform(5, 12), rng.choice([0, 60, 110])
    return grey_png(
        [
            [
                min(
                    255,
                    max(
                        0,
                        int(
                            haze
                            + (
                                rng.gauss(150, 25)
                                if abs(x - 13.5) < waist + (hem - waist) * y / 27 and 2 < y < 26
                                else 0
                            )
                        ),
                    ),
                )
                for x in range(28)
            ]
            for y in range(28)
        ]
    )


def fake_report(seed: int = 7, batch_count: int | None = None) -> Report:
    rng = random.Random(seed)
    batches: list[dict[str, Any]] = []
    acts: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []

    def event(kind: str, text: str, count: int = 1, batch: int | None = None) -> None:
        events.append(
            {
                "batch": len(batches) if batch is None else batch,
                "kind": kind,
                "text": text,
                "count": count,
            }
        )

    stretch = (
        1.0
        if batch_count is None
        else batch_count / sum(part[2] for _, _, parts in ACTS for part in parts)
    )
    seen: set[str] = set()
    for number, (title, sentence, parts) in enumerate(ACTS, 1):
        first = len(batches)
        for condition, order, count, frozen, low, high, oracle, domain in parts:
            length = max(12, round(count * stretch))
            is_degraded = condition in ("fog", "noise", "contrast")
            for i in range(length):
                if is_degraded and i == 3:
                    event("shift_on", f"residuals at 3.1 times the threshold: {condition}")
                    event(
                        "domain_found" if domain in seen else "domain_opened",
                        f"domain “{domain}” {'found again' if domain in seen else 'opened'}",
                    )
                if i == 2 and not is_degraded and len(batches) > 2 and batches[-3]["is_shifted"]:
                    event("shift_off", "back under the threshold")
                if (is_degraded and i in (5, 9, 16, 26, 40) and not (domain in seen and i > 5)) or (
                    condition == "new classes" and i in (4, 7, 12, 20)
                ):
                    event("question", "four images it is least sure about", 4)
                    event("answer", "answers: Coat, Shirt, Coat, Pullover", 4, len(batches) + 1)
                    event(
                        "learned",
                        "ridge head updated from 3 answers, 1 held out",
                        3,
                        len(batches) + 1,
                    )
                    (
                        event(
                            "held",
                            "every fifth answer is held out and judges the domain",
                            1,
                            len(batches) + 1,
                        )
                        if i == 9
                        else None
                    )
                if is_degraded and i > 5 and rng.random() < 0.5:
                    event("adapt", "norm statistics from the balanced memory")
                if condition == "new classes" and i in (2, 6, 11):
                    event("novel", "9 of 32 look like nothing known", 9)
                if condition == "new classes" and i in (6, 9, 14):
                    event("class_added", f"class “{NEW[(6, 9, 14).index(i)]}” added")
                if number == 6 and condition == "clean":
                    for at, kind, text in (
                        (
                            6,
                            "vetoed",
                            "24 poisoned answers made 11 of 60 factory samples worse (p = 0.001)",
                        ),
                        (12, "rolled_back", "back to commit 41"),
                        (18, "killed", "kill -9 between blob and row"),
                        (20, "resumed", "state as before, 2 answers re-queued"),
                        (26, "forgotten", "12 answers of source “cam-2” subtracted"),
                    ):
                        if i == at:
                            event(kind, text)
                rise = 1 - math.exp(-i / (0.16 * length))
                is_shifted = is_degraded and i >= 3
                shift = (
                    0.55 if not is_degraded else min(6.0, 0.7 + 1.2 * i) * (1 - 0.3 * rise)
                ) * math.exp(rng.gauss(0, 0.14))
                batches.append(
                    {
                        "index": len(batches),
                        "act": f"act{number}",
                        "condition": condition,
                        "order": order,
                        "size": 32,
                        "accuracy": min(1, max(0, rng.gauss(low + (high - low) * rise, 0.06))),
                        "frozen": min(1, max(0, rng.gauss(frozen, 0.06))),
                        "oracle": (
                            None
                            if number == 1 and i < 4
                            else min(1, max(0, rng.gauss(oracle, 0.05)))
                        ),
                        "shift": shift,
                        "is_shifted": is_shifted,
                        "novel_share": (
                            None
                            if is_shifted
                            else max(
                                0.0,
                                rng.gauss(
                                    0.3 - 0.26 * rise if condition == "new classes" else 0.03, 0.02
                                ),
                            )
                        ),
                        "domain": domain if is_shifted else "source",
                        "encode_ms": rng.gauss(9, 0.4),
                        "sense_ms": 0.8,
                        "learn_ms": rng.gauss(1.6, 0.2),
                        "record_ms": 0.5,
                    }
                )
            if is_degraded:
                seen.add(domain)
        acts.append(
            {
                "id": f"act{number}",
                "title": title,
                "sentence": sentence,
                "first_batch": first,
                "last_batch": len(batches) - 1,
                "facts": [
                    {"label": "accuracy at the end", "value": f"{high:.0%}", "holds": None},
                    {
                        "label": "at least 30 points above frozen",
                        "value": f"{high - frozen:+.0%}",
                        "holds": high - frozen > 0.3 or number == 1,
                    },
                    {"label": "nothing was vetoed by mistake", "value": "0 of 14", "holds": True},
                ],
            }
        )
    report: dict[str, Any] = {
        "product": {
            "version": "0.1.0",
            "bundle": "fashion7.edge (3f9a…c2)",
            "runtime": "onnxruntime 1.23.2, CPU, 1 thread",
            "machine": "2 cores, x86-64",
            "seed": seed,
            "date": "2025-11-24",
        },
        "headline": {
            "frozen": 0.31,
            "learner": 0.74,
            "oracle": 0.79,
            "questions": 71,
            "seconds": 62.0,
        },
        "acts": acts,
        "batches": batches,
        "events": events,
        "conditions": [
            {"name": name, "order": order, "frozen": f, "learner": x, "oracle": o, "clean": 0.88}
            for name, order, f, x, o in (
                ("fog", "shuffled", 0.33, 0.75, 0.80),
                ("noise", "sorted", 0.29, 0.64, 0.76),
                ("contrast", "shuffled", 0.25, 0.69, 0.77),
                ("clean", "shuffled", 0.88, 0.87, 0.89),
            )
        ],
        "classes": {
            "old_among_old": [0.881, 0.874],
            "new_in_ten": 0.83,
            "all": 0.85,
            "per_class": [
                {
                    "name": name,
                    "known_from_start": name in OLD,
                    "frozen": round(rng.uniform(0.7, 0.95), 2) if name in OLD else 0.0,
                    "learner": round(rng.uniform(0.72, 0.95), 2),
                }
                for name in OLD + NEW
            ],
        },
        "questions": [
            {
                "batch": 49 + 4 * i,
                "why": rng.choice(
                    [
                        "between Coat and Shirt",
                        "unlike anything known",
                        "is it fog, or a new class?",
                    ]
                ),
                "image": garment(rng),
                "predicted": rng.choice(OLD),
                "answer": rng.choice(OLD + NEW),
                "novelty": rng.uniform(0.2, 4),
            }
            for i in range(24)
        ],
        "safety": [
            {
                "what": "24 wrong answers in a row",
                "outcome": "vetoed",
                "detail": "11 of 60 factory samples got worse, p = 0.001; nothing was published.",
            },
            {
                "what": "kill -9 between blob and row",
                "outcome": "state as before",
                "detail": "Digest equal; two received answers were learned after the restart.",
            },
            {
                "what": "forget source “cam-2”",
                "outcome": "12 samples gone",
                "detail": "Largest difference to a head that never saw them: 3e-6.",
            },
            {
                "what": "one byte of the bundle flipped",
                "outcome": "refused",
                "detail": "weights/encoder.safetensors: hash does not match the manifest.",
            },
        ],
        "cost": {
            "encode_ms": 9.1,
            "sense_ms": 0.8,
            "learn_ms": 1.6,
            "record_ms": 0.5,
            "rss_mib": 141.0,
            "bundle_kib": 1830.0,
            "state_kib": 412.0,
            "forwards_per_batch": 1.12,
        },
    }
    return report  # type: ignore[return-value]


def pictures(page: str) -> list[ElementTree.Element]:
    """Every drawing of the page, parsed as strict XML."""
    return [ElementTree.fromstring(drawn) for drawn in re.findall(r"<svg .*?</svg>", page, re.S)]


def plot_of(page: str) -> ElementTree.Element:
    return next(drawn for drawn in pictures(page) if drawn.get("class") == "plot")


def of_class(tree: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [node for node in tree.iter() if (node.get("class") or "") == kind]


class Balanced(HTMLParser):
    """Fails on a tag that closes what is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture(scope="module")
def report() -> Report:
    return fake_report()


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def test_every_event_kind_has_a_glyph_of_its_own_in_the_picture_and_in_the_legend(
    report: Report, page: str
) -> None:
    kinds = set(get_args(EventKind))
    assert {event["kind"] for event in report["events"]} == kinds == set(GLYPHS)
    assert len({(glyph.path, glyph.is_open) for glyph in GLYPHS.values()}) == len(kinds)
    drawn = [node for node in plot_of(page).iter() if node.get("data-kind")]
    assert {node.get("data-kind") for node in drawn} == kinds
    assert len(drawn) == len({(event["batch"], event["kind"]) for event in report["events"]})
    assert all(node[0].text for node in drawn), "each glyph tells what happened"
    assert page.count('class="key"') == len(kinds)


def test_the_curves_have_one_point_per_batch_and_break_where_there_is_no_oracle(
    report: Report, page: str
) -> None:
    plot, count = plot_of(page), len(report["batches"])
    for name in ("learner", "frozen", "oracle"):
        known = count - (4 if name == "oracle" else 0)
        (raw,), (line,) = of_class(plot, f"dots {name}"), of_class(plot, f"line {name}")
        assert raw.get("d", "").count("M") == known
        assert line.get("d", "").count("L") + line.get("d", "").count("M") == known
    assert (
        of_class(plot, "line oracle")[0]
        .get("d", "")
        .startswith("M" + re.split("[ M]", of_class(plot, "dots oracle")[0].get("d", ""))[1])
    )


def test_a_better_learner_is_drawn_higher(report: Report) -> None:
    def mean_y(scale: float) -> float:
        changed = copy.deepcopy(report)
        for batch in changed["batches"]:
            batch["accuracy"] *= scale
        values = re.findall(
            r" ([\d.]+)", of_class(plot_of(render(changed)), "line learner")[0].get("d", "")
        )
        return sum(map(float, values)) / len(values)

    assert mean_y(1.0) < mean_y(0.5) - 80


def test_acts_conditions_and_domains_stand_where_they_happened(report: Report, page: str) -> None:
    plot = plot_of(page)
    assert len(of_class(plot, "act-line")) == len(report["acts"]) == page.count('class="card"') == 6
    fog = [node for node in plot.iter() if node.get("class") == "ribbon t0"]
    assert {next(iter(node)).text for node in fog} == {"fog"} and len(fog) == 4, (
        "twice as condition, twice as domain, in one colour"
    )
    step = 944 / len(report["batches"])
    assert float(fog[0].get("x", "")) == pytest.approx(
        report["acts"][1]["first_batch"] * step, abs=0.06
    )
    assert len(of_class(plot, "sorted")) == 1 and len(of_class(plot, "unknown")) == 4


def test_smoothing_never_reaches_across_a_change() -> None:
    assert smooth([1.0] * 20 + [0.0] * 20, [0, 20]) == pytest.approx([1.0] * 20 + [0.0] * 20)
    assert smooth([1.0, None, 0.0], [0])[1] is None
    assert 0.4 < (smooth([0.0, 1.0] * 20, [0])[20] or 0) < 0.6


def test_titles_are_cut_to_the_room_they_have() -> None:
    assert fit("Fog comes", 200, 11) == ["Fog comes"]
    assert fit("Three things it never saw", 60, 13, lines=2) == ["Three", "things…"]
    assert fit("anything", 5, 11) == []


def hostile(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {inner: hostile(held, inner) for inner, held in value.items()}
    if isinstance(value, list):
        return [hostile(held, key) for held in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_hostile_text_stays_text(report: Report) -> None:
    attacked = hostile(report)
    page = render(attacked)
    page.encode("utf-8")
    parser = parsed(page)
    assert {tag for tag, _ in parser.tags if tag in ("script", "img", "iframe")} == {"script"}, (
        "tampered images are not shown"
    )
    assert sum(tag == "script" for tag, _ in parser.tags) == 2
    assert not [
        name for _, attributes in parser.tags for name in attributes if name.startswith("on")
    ]
    assert pictures(page), "still well-formed"
    rows = json.loads(re.search(r'class="rows">(.*?)</script>', page, re.S).group(1))["rows"]  # type: ignore[union-attr]
    assert rows[0][1] == "clean" + HOSTILE
    assert "It ships</script><img src=x onerror=alert(1)>" in parser.words


def test_escape_drops_what_xml_cannot_hold() -> None:
    assert escape("a\x00\x1b\ufffe<b>\"'&") == "a&lt;b&gt;&quot;&#x27;&amp;"
    ElementTree.fromstring(f"<p q='{escape(HOSTILE)}'>{escape(HOSTILE)}</p>")


def test_the_page_reaches_for_nothing_outside_itself(page: str) -> None:
    assert not re.findall(
        r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]",
        re.sub(r"data:image/png;base64,[^\"]*", "", page).replace("http://www.w3.org/2000/svg", ""),
    )
    links = [
        value
        for _, attributes in parsed(page).tags
        for name in ("href", "src")
        if (value := attributes.get(name))
    ]
    assert {link for link in links if not link.startswith("data:image/png;base64,")} == {
        "#picture",
        "report.json",
    }
    assert "@import" not in page and "default-src 'none'" in page


def test_the_script_that_runs_is_the_one_the_policy_names(page: str) -> None:
    import hashlib

    script = page.rsplit("<script>", 1)[1].split("</script>")[0]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in page


def test_every_drawing_is_well_formed_and_named_or_decoration(page: str) -> None:
    parsed(page)
    drawn = pictures(page)
    assert len(drawn) == 3 + 16 + 6 + 4 + 1 + 10 + 1
    assert all(
        node.get("aria-label") if node.get("role") == "img" else node.get("aria-hidden") == "true"
        for node in drawn
    )
    assert "nan" not in "".join(node.get("d") or "" for tree in drawn for node in tree.iter())


def test_facts_say_whether_they_hold(report: Report) -> None:
    changed = copy.deepcopy(report)
    changed["acts"][0]["facts"] = [
        {"label": "a", "value": "1", "holds": True},
        {"label": "b", "value": "2", "holds": False},
        {"label": "c", "value": "3", "holds": None},
    ]
    card = render(changed).split('class="card"')[1]
    assert re.findall(r'<li class="(\w+)"><span class="tick" aria-hidden="true">(.)', card) == [
        ("yes", "✓"),
        ("no", "✗"),
        ("neutral", "·"),
    ]
    assert "does not hold" in card


def test_the_headline_does_not_boast_of_a_loss(report: Report, page: str) -> None:
    assert (
        '<b class="figure frozen">31%</b>' in page
        and '<b class="figure learner">74%</b>' in page
        and "90%" in page
    )
    worse = copy.deepcopy(report)
    worse["headline"]["learner"] = 0.2
    told = render(worse).split("</h1>")[0]
    assert "learning did not help" in told and "did not help" not in page


@pytest.mark.parametrize(
    "empty",
    [
        "acts",
        "batches",
        "events",
        "conditions",
        "questions",
        "safety",
        "classes",
        "cost",
        "product",
        "headline",
    ],
)
def test_a_part_that_is_empty_or_missing_leaves_a_page_that_makes_sense(
    report: Report, empty: str
) -> None:
    for value in (type(report[empty])(), None):  # type: ignore[literal-required]
        page = render({**report, empty: value})  # type: ignore[misc]
        parsed(page)
        pictures(page)
        assert "None" not in parsed(page).words and "nan" not in page.replace("readout", "")
    parsed(render({k: v for k, v in report.items() if k != empty}))  # type: ignore[arg-type]


def test_a_report_of_nothing_is_still_a_page() -> None:
    words = parsed(render({})).words  # type: ignore[typeddict-item]
    assert "No batches were recorded" in words and "edgeadapt demo" in words


def test_odd_values_are_drawn_as_gaps(report: Report) -> None:
    odd = copy.deepcopy(report)
    odd["batches"] = odd["batches"][:1]
    parsed(render(odd))
    odd = copy.deepcopy(report)
    odd["batches"][3].update(shift=float("inf"), accuracy=float("nan"), novel_share=float("nan"))
    odd["batches"][4]["shift"] = 0.0
    odd["events"].append({"batch": 10**6, "kind": "mystery", "text": "later", "count": 0})  # type: ignore[typeddict-item]
    page = render(odd)
    assert (
        of_class(plot_of(page), "dots learner")[0].get("d", "").count("M")
        == len(odd["batches"]) - 1
    )
    assert 'data-kind="mystery"' in page


def test_four_hundred_batches_stay_under_600_kb() -> None:
    large = fake_report(batch_count=400)
    assert len(large["batches"]) >= 395
    assert len(render(large).encode()) < 600_000


def test_write_report_writes_the_same_bytes_again_and_the_json_is_the_report(
    report: Report, tmp_path: Path
) -> None:
    target = write_report(report, tmp_path / "out")
    assert target == tmp_path / "out" / "report.html"
    written = (tmp_path / "out" / "report.json").read_text("utf-8")
    assert json.loads(written) == report
    turned = {key: report[key] for key in reversed(report)}  # type: ignore[literal-required]
    write_report(turned, tmp_path / "again")  # type: ignore[arg-type]
    assert (tmp_path / "again" / "report.json").read_text("utf-8") == written
    assert (tmp_path / "again" / "report.html").read_text("utf-8") == target.read_text("utf-8")
    broken = copy.deepcopy(report)
    broken["batches"][0]["shift"] = float("nan")
    write_report(broken, tmp_path / "nan")
    assert (
        json.loads(
            (tmp_path / "nan" / "report.json").read_text("utf-8"),
            parse_constant=lambda name: pytest.fail(name),
        )["batches"][0]["shift"]
        is None
    )


def test_visible_words_are_not_escaped_twice(page: str) -> None:
    assert "&amp;lt;" not in page and "&amp;amp;" not in page
    assert html.unescape("domain “fog” opened") in html.unescape(page)


if __name__ == "__main__":
    print(write_report(fake_report(), Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp/picture")))
