"""Which metrics and labels an expression of Prometheus names."""

from __future__ import annotations

import re

OF_SCRAPING = {"instance", "job", "alertname"}
_NAME = re.compile(r"\b(?:edgeadapt|process)_[a-z_]+\b|\bup\b(?=\{)")


def metrics_of(expression: str) -> set[str]:
    return set(_NAME.findall(expression))


def unknown(expression: str, samples: dict[str, tuple[str, set[str]]]) -> list[str]:
    """What is wrong with it: metrics and labels that are not there, and rates of what is no
    counter.
    """
    named = metrics_of(expression)
    missing = sorted(named - samples.keys())
    known = OF_SCRAPING.union({"le"}, *(samples[name][1] for name in named & samples.keys()))
    labels = {
        label.strip()
        for found in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", expression)
        for label in found.split(",")
    }
    wrong = [
        f"{name}: {label}"
        for name, inside in re.findall(r"\b(\w+)\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)\s*[=!]", inside)
        if label not in samples.get(name, ("", set()))[1] | OF_SCRAPING
    ]
    rates = re.findall(r"\b(?:rate|increase)\((\w+)", expression)
    no_counters = [
        name for name in rates if samples.get(name, ("",))[0] not in ("counter", "histogram")
    ]
    return [*missing, *wrong, *sorted(labels - known), *no_counters]
