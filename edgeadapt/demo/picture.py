"""The demo's report as `report.json` and as one self-contained page, `report.html`."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import cast

from edgeadapt.demo import sections
from edgeadapt.demo.charts import Curves
from edgeadapt.demo.elements import percent
from edgeadapt.demo.report import Report


def write_report(report: Report, directory: Path) -> Path:
    """Writes `report.json` (keys sorted, what is not finite as null) and `report.html` into
    `directory`; returns the page's path.
    """
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(sections.finite(report), indent=1, sort_keys=True, allow_nan=False)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    page = directory / "report.html"
    page.write_text(render(report), encoding="utf-8")
    return page


def render(report: Report) -> str:
    """The page: HTML, CSS, drawings and a little script in one text. All that it says is escaped;
    absent parts are left out.
    """
    held = cast(
        Report,
        {
            "product": {},
            "headline": {},
            "classes": {},
            "cost": {},
            **{k: v for k, v in report.items() if v is not None},
        },
    )
    curves = Curves(held["batches"], held.get("acts", [])) if held.get("batches") else None
    style, script = (
        files("edgeadapt.demo").joinpath(name).read_text("utf-8")
        for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
        f" 'sha256-{digest}'"
    )
    frozen, learner = (
        percent(sections.figure(held["headline"], key)) for key in ("frozen", "learner")
    )
    parts = [
        sections.headline(held),
        sections.picture(held, curves),
        sections.acts(held, curves),
        sections.conditions(held),
        sections.classes(held),
        sections.questions(held),
        sections.safety(held),
        sections.cost(held),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>edgeadapt demo: {frozen} frozen, {learner} learning</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#picture">Skip to the picture</a>
<header class="top"><span class="wordmark">edgeadapt</span>
<span>models that keep learning after they ship</span></header>
<main>
{"".join(parts)}
</main>
{sections.footer(held)}
<script>{script}</script>
</body>
</html>
"""
