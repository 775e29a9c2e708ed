"""A recipe whose data name groups: none of them both trains and judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeadapt
from edgeadapt.cli import main
from edgeadapt.commands._recipe_steps import split_data
from edgeadapt.commands.export import export_recipe
from edgeadapt.errors import InputError, RecipeError
from edgeadapt.host.recipe import Recipe, load_recipe

RECIPE = """[encoder]
network = "sensor-mlp"
[data]
kind = "npz"
path = "wrists.npz"
MORE
[train]
epochs = 20
batch = 32
optimiser = "adamw"
threads = 1
[export]
name = "wrists"
class_slots = 4
domain_slots = 2
batches = [8]
adapt = "off"
novelty = "mahalanobis"
"""
DIM = 24


def wearers(people: int, seed: int, each: int = 24) -> dict[str, Any]:
    """Two classes whose centres are each wearer's own: one wearer tells little of the next."""
    draw = np.random.default_rng(seed)
    common = 0.25 * np.random.default_rng(99).standard_normal((2, DIM))
    person = np.repeat(np.arange(people), each)
    y = np.arange(len(person)) % 2
    own = draw.standard_normal((people, 2, DIM))
    x = common[y] + own[person, y] + 0.1 * draw.standard_normal((len(person), DIM))
    return {"x": x.astype(np.float32), "y": y, "groups": np.array([f"p{i}" for i in person])}


def recipe(folder: Path, arrays: dict[str, Any], more: str = "") -> Recipe:
    np.savez(folder / "wrists.npz", **arrays)
    (folder / "wrists.toml").write_text(RECIPE.replace("MORE", more), encoding="utf-8")
    return load_recipe(folder / "wrists.toml")


def sides(made: Recipe) -> list[set[Any]]:
    parts = split_data(made)
    return [set() if part.groups is None else set(part.groups.tolist()) for part in parts]


def test_the_card_of_a_grouped_recipe_tells_the_accuracy_on_new_wearers(tmp_path: Path) -> None:
    new = wearers(120, 8, 8)
    cards, on_new = [], []
    for more in ("", 'groups = ""'):
        lines: list[str] = []
        made = recipe(tmp_path, wearers(120, 7, 8), more)
        bundle = export_recipe(made, tmp_path / "w.edge", say=lines.append)
        cards.append(bundle.card["held_out_accuracy"])
        with edgeadapt.open(tmp_path / "w.edge") as learner:
            labels = np.array([int(name) for name in learner.predict(new["x"]).labels])
        on_new.append(float((labels == new["y"]).mean()))
        told = [line for line in lines if line.startswith("groups: kept apart")]
        assert len(told) == (0 if more else 1), lines
    wrong = np.abs(np.array(cards) - on_new)
    assert cards[1] > 0.95 and wrong[1] > 0.25
    assert cards[0] < cards[1] - 0.1 and wrong[0] < wrong[1] - 0.05


def test_no_wearer_is_in_two_of_training_calibration_and_validation(tmp_path: Path) -> None:
    fit, calibration, validation = sides(recipe(tmp_path, wearers(20, 0)))
    assert len(fit | calibration | validation) == 20
    assert [len(fit), len(calibration), len(validation)] == [16, 2, 2]
    numbers = wearers(4, 0)
    numbers["day"] = np.repeat(np.arange(4), 24)
    fit, calibration, validation = sides(recipe(tmp_path, numbers, 'groups = "day"'))
    assert fit | calibration | validation == {0, 1, 2, 3} and len(calibration) == 2


def test_the_train_command_says_that_groups_are_kept_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(tmp_path, wearers(12, 0))
    assert main(["train", str(tmp_path / "wrists.toml")]) == 0
    line = "groups: kept apart: 9 for training, 2 for calibration (48 samples)"
    assert line in capsys.readouterr().out.splitlines()


def test_rows_of_a_calibrating_wearer_stay_whole_and_in_order(tmp_path: Path) -> None:
    arrays = wearers(20, 0)
    arrays["x"][:, 0] = np.arange(480)
    _, calibration, _ = split_data(recipe(tmp_path, arrays))
    assert (np.diff(calibration.x[:, 0]).reshape(-1) > 0).all() and len(calibration) == 48


def test_groups_can_be_left_out_and_validation_samples_need_none(tmp_path: Path) -> None:
    arrays = wearers(6, 0)
    assert sides(recipe(tmp_path, arrays, 'groups = ""')) == [set(), set(), set()]
    np.savez(tmp_path / "later.npz", x=arrays["x"][:10], y=arrays["y"][:10])
    made = recipe(tmp_path, wearers(3, 0), 'groups = "groups"\nvalidation_path = "later.npz"')
    fit, calibration, validation = sides(made)
    assert len(fit) == 1 and len(calibration) == 2 and validation == set()


def test_a_class_that_is_left_out_needs_no_groups(tmp_path: Path) -> None:
    arrays = wearers(8, 0)
    arrays["y"] = np.where(np.arange(192) == 5, 2, arrays["y"])
    with pytest.raises(InputError, match="'2' is in 1 group of 8"):
        split_data(recipe(tmp_path, arrays))
    fit, _, _ = split_data(recipe(tmp_path, arrays, 'classes = ["1", "0"]'))
    assert fit.classes == ("1", "0") and fit.groups is not None


@pytest.mark.parametrize(
    ("groups", "more", "reason"),
    [
        (np.arange(95), "", r"wrists\.npz: groups must be .*\(96,\).*got int64 \(95,\)"),
        (np.full(96, "p"), "", r"'0' is in 1 group of 1; it must be in 4 .*data\.groups = \"\""),
        (np.arange(96) // 32, "", r"in 3 groups of 3; it must be in 4 or more: 1 to hold out, 3"),
        (np.zeros(96), "", r"wrists\.npz: groups must be text or whole numbers"),
        (np.arange(96), 'groups = "day"', r"has no array 'day' for groups; it has x, y, groups"),
    ],
)
def test_groups_that_cannot_be_used_are_named(
    tmp_path: Path, groups: np.ndarray, more: str, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        split_data(recipe(tmp_path, wearers(4, 0) | {"groups": groups}, more))


OWN = """import numpy as np

class Walks:
    classes = ["slow", "fast"]
    groups = [f"walk {i // 10}" for i in range(60)]
    site = np.arange(60) // 12
    def __init__(self, groups=None):
        self.given = groups
    def __len__(self):
        return 60
    def __getitem__(self, i):
        return np.full((2, 8), i, np.float32), i % 2
"""


def test_a_data_set_of_ones_own_names_groups_as_an_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_walks.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(more: str) -> Recipe:
        text = RECIPE.replace('"npz"\npath = "wrists.npz"', '"own_walks:Walks"')
        text = text.replace("MORE", more)
        (tmp_path / "own.toml").write_text(text, encoding="utf-8")
        return load_recipe(tmp_path / "own.toml")

    options = "options = { groups = 3 }"  # an argument of the data set, not of ours
    assert set.union(*sides(made(options))) == {f"walk {i}" for i in range(6)}
    assert set.union(*sides(made('groups = "site"'))) == {0, 1, 2, 3, 4}
    assert sides(made('groups = ""')) == [set(), set(), set()]
    with pytest.raises(InputError, match=r"own_walks:Walks.*no attribute 'person' for groups"):
        sides(made('groups = "person"'))


@pytest.mark.parametrize("kind", ["folder", "fashion-mnist", "torchvision:MNIST"])
def test_data_without_arrays_have_no_groups_to_name(tmp_path: Path, kind: str) -> None:
    text = RECIPE.replace('"npz"', f'"{kind}"').replace("MORE", 'groups = "day"')
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"data\.groups is not allowed for {kind}; allowed: "):
        load_recipe(tmp_path / "r.toml")
