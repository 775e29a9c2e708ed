"""Code and documents end at 100 columns, so that two of them stand side by side on a screen."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WIDTH = 100
KINDS = {".py", ".md", ".js", ".css", ".toml", ".yml", ".yaml", ".sh", ".service", ".conf"}
NAMES = {"Makefile", "Containerfile.cpu", "Containerfile.jetson", "run"}
TABLES = {
    "tests/deploy/alerts_test.yml": "a table of series",
    "pyproject.toml": "the summary is one line for the index",
}
# A table row, an image, an address, or a mark that says why.
EXEMPT = re.compile(r"^\s*\||^!\[|https?://|# noqa: E501 - \w")
PRAGMA = re.compile(r"\s+# (?:type: ignore|noqa: (?!E501)).*$")


def is_exempt(line: str, is_output: bool) -> bool:
    """As ruff does, a line of one word, which cannot be broken, is let pass."""
    return is_output or bool(EXEMPT.search(line)) or len(line.split()) < 2


def too_wide(name: str, text: str) -> list[str]:
    """``FILE:LINE`` of every line that is too wide and may not be."""
    found, fence = [], ""
    marked = marked_lines(text) if name.endswith(".py") else set()
    for number, line in enumerate(text.splitlines(), 1):
        if name.endswith(".md") and line.lstrip().startswith("```"):
            fence = "" if fence else line.strip()
        shown = PRAGMA.sub("", line) if name.endswith(".py") else line
        if len(shown) <= WIDTH or number in marked or name in TABLES:
            continue
        if not is_exempt(line, fence in ("```text", "```console")):
            found.append(f"{name}:{number}")
    return found


def marked_lines(text: str) -> set[int]:
    """Lines of the strings whose last line carries a mark with its reason."""
    found = set()
    for block in re.finditer(r'"""(?:(?!""").)*"""  # noqa: E501 - \w', text, re.DOTALL):
        first = text.count("\n", 0, block.start()) + 1
        found |= set(range(first, first + block[0].count("\n") + 1))
    return found


def test_no_line_of_code_or_document_is_wider_than_a_hundred_columns() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout, so which files are ours is not known")
    names = [
        name
        for name in listed.stdout.splitlines()
        if Path(name).suffix in KINDS or Path(name).name in NAMES
    ]
    assert len(names) > 1000
    texts = ((name, (ROOT / name).read_text(encoding="utf-8")) for name in names)
    assert [place for name, text in texts for place in too_wide(name, text)] == []


def test_every_mark_that_lets_a_line_be_wide_says_why() -> None:
    marks = subprocess.run(
        ["git", "grep", "-n", "# noqa: E501$", "--", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert marks.stdout == ""


def test_a_wide_line_is_found_and_a_table_or_an_address_is_not() -> None:
    wide = "word " * 21
    assert too_wide("a.md", f"{wide}\n| {wide} |\nhttps://example.org {wide}\n") == ["a.md:1"]
    assert too_wide("a.py", f"x = 1\n# {wide}\n") == ["a.py:2"]
    assert too_wide("a.md", f"```text\n{wide}\n```\n{wide}\n") == ["a.md:4"]
