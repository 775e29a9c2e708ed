"""The recipes of CONTRIBUTING.md work: the files that they write are imported, and their tests
pass.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = ["a novelty score", "a head", "a label-free method", "a runtime", "a source"]
NEEDS_HOST = {"a novelty score", "a head", "a label-free method"}


def files_of(recipe: str) -> dict[str, str]:
    """Text by path, of the blocks under a recipe's heading."""
    section = PAGE.partition(f"\n## Add {recipe}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", section, re.M | re.S)
    return dict(blocks)


def loaded(path: str, text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that a file of this path would be, from its text."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    module = ModuleType(name.removeprefix("runtimes."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(text, path, "exec"), vars(module))
    return module


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_ends_in_a_green_test(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if recipe in NEEDS_HOST and importlib.util.find_spec("torch") is None:
        pytest.skip("needs the host extra (torch)")
    (path, text), (test_path, test_text) = files_of(recipe).items()
    assert (ROOT / path).parents[1].is_dir() and (ROOT / test_path).parent.is_dir()
    loaded(path, text, monkeypatch)
    tests = [
        test
        for name, test in vars(loaded(test_path, test_text, monkeypatch)).items()
        if name.startswith("test_")
    ]
    assert len(tests) == 1
    tests[0]()


def test_files_that_the_page_names_are_there_or_are_written_by_it() -> None:
    written = {path for recipe in RECIPES for path in files_of(recipe)}
    named = re.findall(r"`((?:edgeadapt|runtimes|tests|tools|docs)/[\w./]+)`", PAGE)
    assert len(named) > 15
    assert [n for n in named if not (ROOT / n).exists() and n not in written] == []


def test_the_targets_of_make_that_the_page_names_exist() -> None:
    targets = set(re.findall(r"^(?:[\w-]+ )*([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([\w-]+)", PAGE, re.M)) == {"host", "test", "lint"} <= targets
