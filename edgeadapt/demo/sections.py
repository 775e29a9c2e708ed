"""The sections of the report page, top to bottom, as HTML. All that they say is escaped; absent
parts are left out.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, cast

from edgeadapt.demo import charts
from edgeadapt.demo.charts import Curves
from edgeadapt.demo.elements import (
    decimal,
    escape,
    figure,
    is_number,
    percent,
    section,
    swatch,
    table,
)
from edgeadapt.demo.report import Fact, Report
from edgeadapt.demo.timeline import WIDTH, Timeline

_COST_PARTS = ("encode", "sense", "learn", "record")
_IMAGE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
_QUESTIONS_SHOWN = 24
_LEDE = (
    "A model ships as one signed file. On the device it notices that the world has changed, asks a"
    " few good questions, learns from the answers at once, corrects what it can without labels, and"
    " takes back whatever made it worse."
)


def headline(report: Report) -> str:
    frozen, learner, oracle, questions, seconds = (
        figure(report["headline"], key)
        for key in ("frozen", "learner", "oracle", "questions", "seconds")
    )
    if frozen is None or learner is None:
        words = "Models that keep learning after they ship."
    else:
        verdict = "." if learner > frozen else ": here, learning did not help."
        words = (
            'When conditions changed, the frozen model was right <b class="figure'
            f' frozen">{percent(frozen)}</b> of the time. The one that kept learning, <b'
            f' class="figure learner">{percent(learner)}</b>{verdict}'
        )
    stats = []
    if questions is not None:
        stats.append((decimal(questions), "questions asked"))
    if not (frozen is None or learner is None or oracle is None or min(oracle, learner) <= frozen):
        share = percent((learner - frozen) / (oracle - frozen))
        way = f"of the way from frozen to an oracle given every label ({percent(oracle)})"
        stats.append((share, way))
    if seconds is not None:
        machine = report["product"].get("machine")
        where = f"on {escape(machine)}" if machine else "from the first image to the last"
        stats.append((decimal(round(seconds), " s"), where))
    figures = "".join(f"<div><dt>{words}</dt><dd>{figure}</dd></div>" for figure, words in stats)
    return (
        f'<section class="hero"><h1>{words}</h1><p'
        f' class="lede">{_LEDE}</p>{f"<dl>{figures}</dl>" if figures else ""}</section>\n'
    )


def picture(report: Report, curves: Curves | None) -> str:
    if curves is None:
        return section(
            "picture", "The stream", "No batches were recorded, so there is nothing to draw.", ""
        )
    events = report.get("events", [])
    drawn = Timeline(curves, events)
    count = len(curves.batches)
    names = (("learner", "learner"), ("frozen", "frozen twin"), ("oracle", "labelled oracle"))
    told = (
        f"Accuracy over {count} batches. Means: "
        + ", ".join(f"{words} {percent(charts.mean(curves.raw[key]))}" for key, words in names)
        + ". The table below the picture gives the figures act by act."
    )
    kinds = Counter(dict.fromkeys(charts.GLYPHS, 0))
    for event in events:
        kinds[event["kind"]] += event.get("count") or 1
    names_of_kinds = {kind: glyph.label for kind, glyph in charts.GLYPHS.items()}
    keys = "".join(
        f"<li>{charts.legend_glyph(kind)}<span>{escape(names_of_kinds.get(kind, kind))}</span>"
        f'<span class="count">{seen}</span></li>'
        for kind, seen in kinds.items()
        if seen
    )
    rows = [
        [
            batch["index"],
            batch["condition"],
            batch.get("order", ""),
            *(
                figure(batch, key)
                for key in ("accuracy", "frozen", "oracle", "shift", "novel_share")
            ),
            batch.get("domain") or "",
            batch.get("size", 0),
        ]
        for batch in curves.batches
    ]
    data = (
        json.dumps(finite({"width": WIDTH, "rows": rows}), separators=(",", ":"))
        .replace("<", "\\u003c")
        .replace("&", "\\u0026")
    )
    sizes = Counter(batch.get("size", 0) for batch in curves.batches).most_common(1)
    body = f"""<figure class="picture" data-live>
<p class="lines">{" ".join(swatch(*name) for name in names)}</p>
{charts.overview(curves, told)}
<div class="frame">
<div class="scroller" tabindex="0" role="region"
 aria-label="The picture, scrollable sideways on a narrow screen">
<div class="stage">
{drawn.gutter()}{drawn.plot(told)}</div></div>
<div class="scrub" hidden>
<button type="button" data-jump="-1" aria-label="Previous event">←</button>
<input type="range" min="0" max="{count - 1}" value="0" aria-label="Step through the batches">
<button type="button" data-jump="1" aria-label="Next event">→</button></div>
<div class="readout" hidden></div></div>
{f'<ul class="keys" aria-label="Events">{keys}</ul>' if keys else ""}
<details><summary>The picture as a table</summary>{_acts_table(report, curves)}</details>
<script type="application/json" class="rows">{data}</script>
</figure>"""
    return section(
        "picture",
        "What happened",
        f"{count} batches of {sizes[0][0]} images, one after the other. Above, how often each model"
        " was right; below, what the learner sensed, believed and did about it.",
        body,
    )


def _acts_table(report: Report, curves: Curves) -> str:
    rows = []
    for act in curves.acts:
        start, stop = curves.span(act)
        shifts = [
            value
            for value in charts.series(curves.batches[start:stop], "shift")
            if value is not None
        ]
        seen = Counter[str]()
        for event in report.get("events", []):
            if act["first_batch"] <= event["batch"] <= act["last_batch"]:
                seen[
                    (
                        charts.GLYPHS[event["kind"]].label
                        if event["kind"] in charts.GLYPHS
                        else event["kind"]
                    )
                ] += event.get("count") or 1
        means = [
            percent(charts.mean(curves.raw[name][start:stop]))
            for name in ("learner", "frozen", "oracle")
        ]
        rows.append(
            [
                escape(act["title"]),
                f"{act['first_batch']}–{act['last_batch']}",
                *means,
                decimal(max(shifts), "×") if shifts else "–",
                escape(", ".join(f"{name} {count}" for name, count in seen.items())) or "–",
            ]
        )
    return table(
        ("act", "batches", "learner", "frozen", "oracle", "highest shift", "events"), rows, "plain"
    )


def acts(report: Report, curves: Curves | None) -> str:
    cards = []
    for order, act in enumerate(report.get("acts", []), 1):
        facts = "".join(_fact(fact) for fact in act.get("facts", []))
        start, stop = curves.span(act) if curves else (0, 0)
        means = (
            ""
            if curves is None
            else '<p class="means">'
            + " ".join(
                swatch(name, f"{name} <b>{percent(charts.mean(curves.raw[name][start:stop]))}</b>")
                for name in ("learner", "frozen")
            )
            + "</p>"
        )
        cards.append(
            '<li class="card"><h3><span class="order"'
            f' aria-hidden="true">{order}</span>{escape(act["title"])}</h3>'
            f"{charts.spark(curves, act) if curves else ''}{means}"
            f"<p>{escape(act['sentence'])}</p>{f'<ul>{facts}</ul>' if facts else ''}</li>"
        )
    if not cards:
        return ""
    return section(
        "acts",
        f"{_count(len(cards))} acts",
        "Each act is a thing that happens to models after they ship, and a check of what this one"
        " did.",
        f'<ol class="cards">{"".join(cards)}</ol>',
    )


def _count(count: int) -> str:
    return (
        ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight")[count]
        if count < 9
        else str(count)
    )


def _fact(fact: Fact) -> str:
    holds = fact.get("holds")
    mark, said, kind = (
        ("·", "", "neutral")
        if holds is None
        else ("✓", "holds", "yes")
        if holds
        else ("✗", "does not hold", "no")
    )
    said = f'<span class="unseen">{said}: </span>' if said else ""
    words = f"<span>{escape(fact['label'])}</span> <b>{escape(fact['value'])}</b>"
    return (
        f'<li class="{kind}"><span class="tick" aria-hidden="true">{mark}</span>{said}{words}</li>'
    )


def conditions(report: Report) -> str:
    rows = []
    for row in report.get("conditions", []):
        values = {key: figure(row, key) for key in ("frozen", "learner", "oracle", "clean")}
        told = ", ".join(f"{name} {percent(value)}" for name, value in values.items())
        order = ' <span class="tag">sorted by label</span>' if row.get("order") == "sorted" else ""
        gain = (
            None
            if values["frozen"] is None or values["learner"] is None
            else round(100 * values["learner"]) - round(100 * values["frozen"])
        )
        gained = "–"
        if gain is not None:
            trend = "up" if gain > 0 else "down" if gain < 0 else "even"
            gained = f'<span class="{trend}">{f"{gain:+d}".replace("-", "−")}</span>'
        rows.append(
            [
                escape(row["name"]) + order,
                charts.bars(
                    [(key, values[key]) for key in ("frozen", "learner", "oracle")],
                    told,
                    values["clean"],
                ),
                percent(values["frozen"]),
                f"<b>{percent(values['learner'])}</b>",
                gained,
                percent(values["oracle"]),
                percent(values["clean"]),
            ]
        )
    if not rows:
        return ""
    return section(
        "conditions",
        "Condition by condition",
        f"Accuracy of the {swatch('frozen', 'frozen model')}, the {swatch('learner', 'learner')}"
        f" and an {swatch('oracle', 'oracle')} given every label. The hairline is the accuracy on"
        " clean images; gain is in points.",
        table(
            ("condition", "0 to 100%", "frozen", "learner", "gain", "oracle", "clean"),
            rows,
            "conditions",
        ),
    )


def classes(report: Report) -> str:
    classes = report["classes"]
    pair = [value if is_number(value) else None for value in classes.get("old_among_old") or []]
    before, after = pair if len(pair) == 2 else (None, None)
    figures = "".join(
        f"<div><dt>{words}</dt><dd>{percent(figure(classes, key))}</dd></div>"
        for key, words in (
            ("new_in_ten", "right on the new classes, chosen among all"),
            ("all", "right on all classes together"),
        )
        if figure(classes, key) is not None
    )
    known = charts.slope(before, after) if before is not None or after is not None else ""
    rows = []
    for row in classes.get("per_class") or []:
        frozen, learner = figure(row, "frozen"), figure(row, "learner")
        tag = "" if row.get("known_from_start", True) else ' <span class="tag new">new</span>'
        told = f"frozen {percent(frozen)}, learner {percent(learner)}"
        rows.append(
            [
                escape(row["name"]) + tag,
                charts.bars([("frozen", frozen), ("learner", learner)], told),
                percent(frozen),
                f"<b>{percent(learner)}</b>",
            ]
        )
    if not (known or figures or rows):
        return ""
    slope = f"<h3>Old classes, among the old ones</h3>{known}" if known else ""
    left = f"<div>{slope}{f'<dl>{figures}</dl>' if figures else ''}</div>"
    right = (
        f"<div>{table(('class', '0 to 100%', 'frozen', 'learner'), rows, 'classes')}</div>"
        if rows
        else ""
    )
    return section(
        "forgetting",
        "What it kept, what it gained",
        "Learning something new must not cost what was known. The frozen model cannot name a class"
        " that it has never met.",
        f'<div class="halves">{left}{right}</div>',
    )


def questions(report: Report) -> str:
    asked = report.get("questions", [])[:_QUESTIONS_SHOWN]
    tiles = []
    for row in asked:
        is_right = row["predicted"] == row["answer"]
        picture = (
            f'<img src="{row["image"]}" width="28" height="28" alt="An image that the model asked'
            ' about">'
            if _IMAGE.fullmatch(row["image"])
            else '<span class="no-image">no image</span>'
        )
        guess = (
            f'<span class="guess right">{escape(row["predicted"])}</span>'
            if is_right
            else (
                '<span class="guess wrong"><span class="unseen">guessed'
                f' </span><s>{escape(row["predicted"])}</s></span><span class="answer"><span'
                f' class="unseen">answer </span>{escape(row["answer"])}</span>'
            )
        )
        novelty = (
            f" · novelty {decimal(figure(row, 'novelty'))}"
            if figure(row, "novelty") is not None
            else ""
        )
        tiles.append(
            f'<li><figure>{picture}<figcaption>{guess}<span class="why">{escape(row["why"])}</span>'
            f'<span class="when">batch {row["batch"]}{novelty}</span></figcaption></figure></li>'
        )
    if not tiles:
        return section("questions", "What it asked", "It asked nothing in this run.", "")
    total = figure(report["headline"], "questions")
    shown = (
        f"{len(tiles)} of {total:.0f} questions"
        if total and total > len(tiles)
        else f"{len(tiles)} questions"
    )
    return section(
        "questions",
        "What it asked",
        f"{shown}, each with the reason, its own guess and the answer. A struck guess was wrong.",
        f'<ul class="tiles">{"".join(tiles)}</ul>',
    )


def safety(report: Report) -> str:
    rows = [
        [escape(row["what"]), f"<b>{escape(row['outcome'])}</b>", escape(row["detail"])]
        for row in report.get("safety", [])
    ]
    if not rows:
        return ""
    return section(
        "safety",
        "What could have gone wrong",
        "Things that were done to it on purpose.",
        table(("what was tried", "outcome", "detail"), rows, "safety"),
    )


def cost(report: Report) -> str:
    cost = report["cost"]
    parts = [
        (name, value) for name in _COST_PARTS if (value := figure(cost, f"{name}_ms")) is not None
    ]
    sizes = [
        (decimal(figure(cost, key), unit), words)
        for key, unit, words in (
            ("rss_mib", " MiB", "memory of the process"),
            ("bundle_kib", " KiB", "the bundle, all of it"),
            ("state_kib", " KiB", "what it has learned, on disk"),
            ("forwards_per_batch", "", "encoder passes per batch"),
        )
        if figure(cost, key) is not None
    ]
    if not parts and not sizes:
        return ""
    total = sum(value for _, value in parts)
    encode = dict(parts).get("encode")
    more = (
        f" Everything beyond encoding adds {percent((total - encode) / encode)}."
        if encode and total > encode
        else ""
    )
    names = "".join(
        f'<li><span class="chip p{i}"></span>{name} <b>{decimal(value, " ms")}</b> '
        f"<span>{percent(value / total) if total else '–'}</span></li>"
        for i, (name, value) in enumerate(parts)
    )
    figures = "".join(f"<div><dt>{words}</dt><dd>{figure}</dd></div>" for figure, words in sizes)
    return section(
        "cost",
        "What it costs",
        (
            f"Median time for a batch of 32 images: {decimal(total, ' ms')}.{more}"
            if parts
            else "Memory and storage."
        ),
        (f'{charts.stacked(parts)}<ul class="parts">{names}</ul>' if parts else "")
        + (f"<dl>{figures}</dl>" if figures else ""),
    )


def footer(report: Report) -> str:
    product = cast("dict[str, Any]", report["product"])
    rows = "".join(
        f"<div><dt>{words}</dt><dd>{escape(product[key])}</dd></div>"
        for key, words in (
            ("version", "edgeadapt"),
            ("bundle", "bundle"),
            ("runtime", "runtime"),
            ("machine", "machine"),
            ("seed", "seed"),
            ("date", "date"),
        )
        if product.get(key) is not None
    )
    seed = f" --seed {escape(product['seed'])}" if product.get("seed") is not None else ""
    return (
        f"<footer>{f'<dl>{rows}</dl>' if rows else ''}<p>Run it again: <code>edgeadapt"
        f" demo{seed}</code></p><p>Every figure on this page is in <a"
        ' href="report.json">report.json</a>.</p></footer>'
    )


def finite(value: Any) -> Any:
    """The same, with numbers that are not finite as None: JSON has none."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
