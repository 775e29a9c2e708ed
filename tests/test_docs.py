"""The pages of the documentation run: python and shell blocks in order, and what they are said to
print is printed.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edgeadapt import cli

DOCS = Path(__file__).parents[1] / "docs"
needs_host = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the host extra (torch)"
)


def blocks(page: Path) -> Iterator[tuple[str, str, int]]:
    """``(language, text, line number)`` of every fenced block."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found.group(1), found.group(2), text.count("\n", 0, found.start()) + 2


def masked(text: str) -> str:
    """Figures differ from run to run and between versions; words do not."""
    return re.sub(r"\d[\d,]*(\.\d+)?(e-?\d+)?", "#", text)


def run_page(page: Path, capture: pytest.CaptureFixture[str]) -> int:
    """Run every block in one namespace.

    A python block whose first line is a comment with a file name is that file. A ``text`` block has
    lines that the block before it prints, in this order.

    Returns:
        The number of blocks.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    printed, count = "", 0
    for language, text, line in blocks(page):
        where = f"{page.name}:{line}"
        count += 1
        if language == "python":
            if named := re.match(r"# (\w+\.py)\n", text):
                Path(named.group(1)).write_text(text, encoding="utf-8")
                continue
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)
            printed = capture.readouterr().out
        elif language == "sh":
            for command in text.splitlines():
                program, *arguments = shlex.split(command)
                assert program == "edgeadapt", where
                assert cli.main(arguments) == 0, (where, capture.readouterr().err)
            printed = capture.readouterr().out
        else:
            assert language == "text", f"{where}: a block in {language!r} is not run"
            left = masked(printed).splitlines()
            for wanted in masked(text).splitlines():
                assert wanted in left, f"{where}: not printed: {wanted!r}; printed: {left}"
                del left[: left.index(wanted) + 1]
    return count


@needs_host
def test_compile_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_page(DOCS / "compile.md", capsys) >= 10


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


# -- the architecture page -------------------------------------------------------------------------
ROOT = DOCS.parent
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")


def layers(side: str) -> dict[str, int]:
    """The folders of ``edgeadapt/SIDE`` in the page's table, with their layers."""
    table = ARCHITECTURE.partition(f"\n### {side}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (\d) \| `([^`]+)` \|", table, re.MULTILINE)
    return {name.removesuffix(".py"): int(layer) for layer, name in rows}


def imports_between(side: str) -> set[tuple[str, str]]:
    """Pairs of folders, or files beside them, of which the first imports the second."""
    top, found = ROOT / "edgeadapt" / side, set()
    for file in top.rglob("*.py"):
        here = file.relative_to(top).with_suffix("").parts[0]
        text = file.read_text(encoding="utf-8")
        for there in re.findall(rf"^\s*(?:from|import) edgeadapt\.{side}\.(\w+)", text, re.M):
            found |= {(here, there)} - {(here, here)}
    return found


def test_files_that_the_architecture_page_names_are_there() -> None:
    named = re.findall(r"`((?:edgeadapt|runtimes|benchmarks|tools|tests)/[\w./]+)`", ARCHITECTURE)
    assert len(set(named)) > 60
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("side", ["device", "daemon", "host"])
def test_folders_import_lower_layers_only_and_all_are_on_the_page(side: str) -> None:
    found, folders = layers(side), (ROOT / "edgeadapt" / side).glob("*/__init__.py")
    assert {folder.parent.name for folder in folders} <= set(found)
    wrong = {
        (here, there)
        for here, there in imports_between(side)
        if here in found and there in found and found[here] <= found[there]
    }
    assert wrong == set()


def test_the_picture_is_the_one_that_its_script_draws() -> None:
    import architecture_picture

    drawn = architecture_picture.picture()
    assert (DOCS / "architecture.svg").read_text(encoding="utf-8") == drawn
    assert 'class="device"' in drawn and "learner.py" in drawn


# -- the index and the first page ------------------------------------------------------------------
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_page_is_in_the_index_by_reader() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)#]+)\)", index))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert pages - linked == set()
    readers = re.findall(r"^## (\w+(?: \w+)?):", index, re.MULTILINE)
    assert readers == ["Users", "Operators", "Method authors", "Maintainers"]


def test_the_first_page_fits_three_screens_and_its_links_lead_somewhere() -> None:
    lines = README.splitlines()
    assert len(lines) <= 130 and lines.index("make demo") < 12 and lines.index("make test") < 12
    assert not [s for s in lines if len(s) > 100 and not s.startswith(("|", "!["))]
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert not [t for t in targets if "://" not in t and not (ROOT / t).exists()]


def test_the_figures_of_the_first_page_are_those_of_the_page_of_figures() -> None:
    rows = re.findall(
        r"^\| ([\w/]+) \| ([\d.e-]+) \| [^|]* \| ([\d.]*) ?\|",
        (DOCS / "benchmarks.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    figure = {name: (float(value), baseline) for name, value, baseline in rows}
    table = README.partition("## Six figures")[2].partition("\n\n[All")[0]
    shown = [row.split(" | ")[1:] for row in table.strip().splitlines()[2:]]
    alarms = [figure[f"false_alarms/{kind}"][0] for kind in ("random", "two", "one")]
    answers, new = figure["recovery/10_per_class"], figure["new_in_ten"]
    ratios = [figure[f"observe_ratio/lite0/b{batch}"][0] for batch in (1, 8)]
    assert [row[0] for row in shown] == [
        ", ".join(f"{share:.1%}" for share in alarms),
        "100%",
        f"{answers[0]:.1%}",
        f"{new[0]:.0%}, old ones stay at {figure['old_among_old'][0]:.0%}",
        f"{figure['honest_batches'][0]:.0f} of {figure['honest_batches'][0]:.0f}",
        ", ".join(f"{ratio:.2f}x" for ratio in ratios),
    ]
    assert shown[2][1].startswith(f"the same answers, no correction: {float(answers[1]):.0%}")
    assert shown[3][1].startswith(f"nearest mean: {float(new[1]):.0%}")
    assert figure["honest_accepted"][0] == 1.0
    seen = {name for name in figure if re.fullmatch(r"detection/\w+/\w+", name)}
    assert all(
        figure[name][0] == 1.0
        for name in seen
        if re.search(r"gaussian_noise|defocus_blur|fog|contrast", name)
    )


@needs_host
def test_the_code_of_the_first_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np

    from edgeadapt import host

    monkeypatch.chdir(tmp_path)
    # choosing head and score and playing streams takes long, and says nothing about this code
    quick = {"head": "nearest_mean", "novelty": "cosine", "adapt": "none", "stress": False}
    monkeypatch.setattr(host, "export", partial(host.export, quiet=True, **quick))
    names = ["ok", "scratch"] * 60
    rng = np.random.default_rng(0)
    means = np.where(np.array(names) == "ok", 1.0, -1.0)[:, None]
    images = (means + rng.normal(0, 0.5, (120, 512))).astype(np.float32)
    given = {"network": host.Identity(512), "images": images, "features": images, "names": names}
    embed, export = (
        text for language, text, _ in blocks(ROOT / "README.md") if language == "python"
    )
    exec(export, given)
    exec(embed, {"frames": images[:4]})
    assert capsys.readouterr().out.splitlines()[0] == f"{tuple(names[:4])} warming"
    assert (tmp_path / "lines.edge").exists() and (tmp_path / "state" / "learner.db").exists()
