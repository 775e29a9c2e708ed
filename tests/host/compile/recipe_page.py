"""Build every graph of every recipe, and write the tables of the page: ``python
tests/host/compile/recipe_page.py docs/tensorrt.md``.

Each recipe of ``recipe_table.py`` is exported with all checks of an export, its bundle is opened as
a device opens it, and what the device loads is built as the TensorRT runtime builds it
(``recipe_builds.py``). Equal graphs are built once. Without a page the tables are printed. Exit
code 1 if a graph does not build.
"""

from __future__ import annotations

import datetime
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from recipe_builds import Builder, Built, Loaded, loaded_by_device
from recipe_table import RECIPES, Recipe

END = "<!-- end -->"


@dataclass(frozen=True)
class Row:
    """A distinct graph and the recipes that have it."""

    graph: str
    recipes: tuple[str, ...]
    built: Built


def exported(recipe: Recipe) -> list[Loaded]:
    """What a device loads of a recipe's bundle."""
    with tempfile.TemporaryDirectory() as folder:
        return loaded_by_device(recipe.export(Path(folder)))


def built(graph: Loaded) -> tuple[Built, str]:
    """What became of a graph, and the version of the compiler; in a process of its own, as the
    compiler has one logger for each.
    """
    import tensorrt_rtx

    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(tensorrt_rtx, Path(folder))
        return builder.build(graph), f"tensorrt-rtx {builder.version}"


def rows(
    graphs: Mapping[str, Sequence[Loaded]], pool: ProcessPoolExecutor
) -> tuple[list[Row], str]:
    """A row per graph that differs from all others in name or content, in the order of the recipes,
    and the compiler's version.
    """
    owners: dict[tuple[str, str], list[str]] = {}
    first: dict[tuple[str, str], Loaded] = {}
    for recipe, loaded in graphs.items():
        for graph in loaded:
            # the name, too: two adaptors of one recipe may look at the same features
            key = (graph.name, graph.sha256)
            first.setdefault(key, graph)
            owners.setdefault(key, []).append(recipe)
    answers = list(pool.map(built, first.values()))
    return [
        Row(graph.name, tuple(owners[key]), answer)
        for (key, graph), (answer, _) in zip(first.items(), answers, strict=True)
    ], answers[0][1]


# -- the tables ------------------------------------------------------------------------------------
def summary(found: Sequence[Row], version: str) -> str:
    """One line per recipe, and what was run."""
    failed = [row for row in found if row.built.error]
    today = datetime.datetime.now(datetime.timezone.utc).date()
    lines = [
        *textwrap.wrap(
            f"{len(found)} distinct graphs of {len(RECIPES)} recipes, {len(found) - len(failed)}"
            f" built; {today}, {version}, torch {torch.__version__.partition('+')[0]}, onnxruntime"
            f" {onnxruntime.__version__}.",
            100,
        ),
        "",
        "| recipe | input | head | novelty | label-free | besides | graphs built |",
        "|---|---|---|---|---|---|---:|",
    ]
    for recipe in RECIPES:
        own = [row for row in found if recipe.name in row.recipes]
        besides = ", ".join(
            [
                *([f"`{recipe.smooth}`"] if recipe.smooth != "none" else []),
                *(f"`{adaptor.kind}`" for adaptor in recipe.adaptors),
            ]
        )
        count = f"{sum(not row.built.error for row in own)} of {len(own)}"
        lines.append(
            f"| {recipe.name} | {recipe.source} | {head_text(recipe.head)} | `{recipe.novelty}` |"
            f" `{recipe.adapt}` | {besides} | {count} |"
        )
    return "\n".join(lines)


def head_text(head: Any) -> str:
    """The name of a head and what of its options is not the default."""
    parts = [f"`{head.name}`"]
    for name in ("random_features", "packed", "compact", "whitening", "split", "reads"):
        if hasattr(head, name) and (value := getattr(head, name)) != getattr(type(head), name):
            parts.append(name if value is True else f"{name} {value}")
    if projection := getattr(head, "projection", None):
        parts.append(f"{projection.name} {projection.width}")
    return ", ".join(part.replace("_", " ") if not part.startswith("`") else part for part in parts)


def long_table(found: Sequence[Row]) -> str:
    """One line per distinct graph."""
    lines = ["| graph | recipes | layers | plan KiB | seconds |", "|---|---|---:|---:|---:|"]
    for row in found:
        figures = (
            f"{row.built.layers} | {row.built.plan_kib:.0f} | {row.built.seconds:.2f}"
            if not row.built.error
            else f"{row.built.layers} | not built |"
        )
        lines.append(f"| `{row.graph}` | {'; '.join(row.recipes)} | {figures} |")
    return "\n".join(lines)


def tables(found: Sequence[Row], version: str) -> dict[str, str]:
    """By the name of their marker."""
    return {"recipes": summary(found, version), "recipe graphs": long_table(found)}


def with_tables(page: str, named: Mapping[str, str]) -> str:
    """The page with what stands between ``<!-- NAME -->`` and the next ``<!-- end -->`` replaced.

    Raises:
        ValueError: a marker is not there once.
    """
    for name, table in named.items():
        page, count = re.subn(
            f"(<!-- {name} -->\n).*?({END})",
            lambda found, table=table: found[1] + table + "\n" + found[2],
            page,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"the page has {count} markers <!-- {name} -->, and needs one")
    return page


def main(arguments: Sequence[str]) -> int:
    pages = [Path(argument) for argument in arguments]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        found, version = rows(
            dict(
                zip((recipe.name for recipe in RECIPES), pool.map(exported, RECIPES), strict=True)
            ),
            pool,
        )
    named = tables(found, version)
    for page in pages:
        page.write_text(with_tables(page.read_text(encoding="utf-8"), named), encoding="utf-8")
    if not pages:
        print("\n\n".join(named.values()))
    for row in found:
        if row.built.error:
            print(f"{row.graph} of {row.recipes[0]}: {row.built.error}", file=sys.stderr)
    return any(row.built.error for row in found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
