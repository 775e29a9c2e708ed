"""The ``[tune]`` of a recipe as settings and data."""

from __future__ import annotations

import msgspec

from edgeadapt.errors import InputError, RecipeError
from edgeadapt.host.data.labelled import Labelled
from edgeadapt.host.recipe_data import load_data
from edgeadapt.host.recipe_sections import Recipe
from edgeadapt.host.tuning.budget import Budget
from edgeadapt.host.tuning.members import DELTAS, SCORES, STARTS, member
from edgeadapt.host.tuning.run import TuneSettings


def tune_settings(recipe: Recipe) -> TuneSettings:
    """The settings of a recipe that has a ``[tune]``.

    Raises:
        InputError: a name or an option that there is not.
    """
    given = recipe.tune
    if given is None:
        raise RecipeError("the recipe has no [tune]")
    asked = {} if given.budget is None else msgspec.structs.asdict(given.budget)
    budgets = [Budget(amount, unit) for unit, amount in asked.items() if amount is not None]
    by_score = given.allocate != "uniform"
    if by_score and not budgets:
        raise InputError(
            f"tune.allocate = {given.allocate!r} shares a budget, and there is none; give"
            " tune.budget, or leave it out"
        )
    start = None
    if given.start:
        start = member(STARTS, "tune.start", given.start, given.start_options)
        if start.delta != given.method:
            raise InputError(
                f"tune.start = {given.start!r} is one for tune.method = {start.delta!r}, not"
                f" {given.method!r}"
            )
    return TuneSettings(
        delta=member(DELTAS, "tune.method", given.method, given.options),
        size=given.size,
        sites=given.sites,
        start=start,
        budget=budgets[0] if budgets else None,
        score=member(SCORES, "tune.allocate", given.allocate, {}) if by_score else None,
        codec=given.codec,
        epochs=given.epochs,
        batch=given.batch,
        lr=given.lr,
        weight_decay=given.weight_decay,
        augment=given.augment,
        seed=recipe.seed,
    )


def control_data(recipe: Recipe, fit: Labelled) -> Labelled | None:
    """The samples of ``[tune.control]``, if there are any.

    Raises:
        InputError: they cannot be read, or the encoder does not take their shape.
    """
    if recipe.tune is None or recipe.tune.control is None:
        return None
    found = load_data(msgspec.structs.replace(recipe, data=recipe.tune.control))[0]
    if found.x.shape[1:] != fit.x.shape[1:]:
        raise InputError(
            f"tune.control: {found.noun}s of shape {found.x.shape[1:]}, but those of the data have"
            f" {fit.x.shape[1:]}; give it size and colour"
        )
    return found


__all__ = ["control_data", "tune_settings"]
