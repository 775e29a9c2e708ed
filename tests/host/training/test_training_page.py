"""docs/training.md names every key with its default, and its recipes are recipes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgeadapt.host.recipe import DataSection, EncoderSection, TrainSection, load_recipe
from edgeadapt.host.training.settings import DEFAULT_LR, DEFAULT_WEIGHT_DECAY

PAGE = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")


def rows() -> dict[str, str]:
    """Key -> the cell with its default."""
    found = {}
    for keys, default in re.findall(r"^\| (`.*?) \| (.*?) \|", PAGE, re.MULTILINE):
        # the first table, not those further down
        found = dict.fromkeys(re.findall(r"`([a-z_.]+)`", keys), default) | found
    return found


def test_every_key_is_explained_with_its_default() -> None:
    table = rows()
    for prefix, section in (
        ("encoder", EncoderSection()),
        ("data", DataSection(kind="npz")),
        ("train", TrainSection()),
    ):
        for key in type(section).__struct_fields__:
            cell, default = table[f"{prefix}.{key}"], getattr(section, key)
            if default is not None and key != "kind":
                shown = (
                    f'"{default}"'
                    if isinstance(default, str)
                    else "[]"
                    if default == ()
                    else str(default)
                )
                assert cell == f"`{shown}`", key
    assert table["train.lr"] == ", ".join(f"`{value}`" for value in DEFAULT_LR.values())
    assert [float(value) for value in re.findall(r"`(.*?)`", table["train.weight_decay"])] == list(
        DEFAULT_WEIGHT_DECAY.values()
    )


@pytest.mark.parametrize(
    "block",
    re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL),
    ids=lambda block: block.splitlines()[-1],
)
def test_a_recipe_of_the_page_is_accepted(block: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(block, encoding="utf-8")
    assert load_recipe(tmp_path / "r.toml").export.name in block
