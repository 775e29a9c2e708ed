"""Every choice that changes a graph and its values, read from the code that offers them, and what a
recipe takes of them.

A new name in a table of methods, a new kind of projection or encoder, a new flag of a head is a
value that :func:`uncovered` names until a recipe has it.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from recipe_encoders import source
from recipe_table import RECIPES, Recipe

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.host.contracts import Dims
from edgeadapt.host.encoders import dispatch as encoders
from edgeadapt.host.encoders.networks import NETWORKS
from edgeadapt.host.exporting import head_search as ladder
from edgeadapt.host.exporting.settings import NOVELTY, SMOOTHERS
from edgeadapt.host.methods.adaptors.family import TRAINING
from edgeadapt.host.methods.heads import projection, standardisation
from edgeadapt.host.methods.heads.slda import StreamingLDA
from edgeadapt.host.methods.label_free.adaptations import NAMES

_LADDER_DIMS = Dims(64, 0, 6)
_PROJECTIONS = tuple(
    kind
    for kind in vars(projection).values()
    if isinstance(kind, type)
    and hasattr(kind, "names")
    and kind.__name__.endswith("Projection")
    and kind is not projection.Projection
)
_SCALED = (standardisation.Standardisation, standardisation.RandomFeatures)
"""What the default head puts in front of its sums."""
_ENCODERS = tuple(
    kind
    for kind in vars(encoders).values()
    if isinstance(kind, type)
    and kind.__name__.endswith("Encoder")
    and not getattr(kind, "_is_protocol", False)
)
COUNTED = {("Ridge", "random_features"): 0, ("KeyValueBottleneck", "reads"): 1}
"""Numbers of a head of which this one makes another graph than any larger one."""
NUMBERS = {
    "Ridge": {"penalty", "balance", "seed"},
    "NearestMean": set(),
    "StreamingLDA": {"shrinkage", "balance"},
    "KeyValueBottleneck": {
        "books",
        "pairs",
        "key_dim",
        "softness",
        "smoothing",
        "informative",
        "start",
        "epochs",
        "rows",
        "seed",
    },
}
"""Fields of a head that change sizes or values, and no operator."""
SETTINGS_OF_GRAPHS = {"head", "random_features", "novelty", "adapt", "smooth", "adaptors"}
SETTINGS_OF_OTHERS = {
    "name",
    "version",
    "seed",
    "class_slots",
    "domain_slots",
    "batches",
    "penalty",
    "balance",
    "state_kib",
    "novelty_kib",
    "adaptor_kib",
    "stress",
    "factory_count",
    "guard_per_class",
    "colour",
    "range",
    "resize",
    "feature",
    "taps",
    "encoder_name",
    "data_name",
    "recipe_sha256",
    "precisions",
    "precision_margin",
}
"""Sizes, values, checks and names; ``state_kib`` chooses among heads that are all here, ``feature``
and ``taps`` say where an encoder is cut, and ``test_precision_engine.py`` builds encoders of every
precision."""
NETWORK_OF = {
    "colour images, residual": "small-residual",
    "signals, convolutions over time": "sensor-cnn",
    "vectors, perceptron": "sensor-mlp",
}
ELSEWHERE = {"efficientnet-lite0"}
"""Networks of a whole encoder's size: ``test_engine.py`` builds the entropy step through it."""


def choices() -> dict[str, set[Any]]:
    """Every choice that changes a graph, and its values."""
    found: dict[str, set[Any]] = {
        "layout": set(get_args(get_type_hints(InputSpec)["layout"])),
        "encoder": {"Identity", *(kind.__name__ for kind in _ENCODERS)},
        "network": set(NETWORKS) - ELSEWHERE,
        "taps": {"none", "as they are", "projected"},
        "adapt": {*NAMES, "none"},
        "novelty": set(NOVELTY),
        "novelty over taps": set(filter(_reads_taps, NOVELTY)),
        "smooth": set(SMOOTHERS),
        "adaptors": set(TRAINING),
        "head": {kind.__name__ for kind in heads()},
    }
    for kind in heads():
        found |= {f"{kind.__name__}.{name}": values for name, values in options(kind)}
    return found


def uncovered(recipes: Iterable[Recipe] = RECIPES) -> dict[str, set[Any]]:
    """Values that no recipe takes, by choice."""
    found: dict[str, set[Any]] = {}
    for recipe in recipes:
        for name, values in taken(recipe).items():
            found.setdefault(name, set()).update(values)
    return {
        name: left
        for name, values in choices().items()
        if (left := values - found.get(name, set()))
    }


def heads() -> list[type]:
    """Kinds of heads that ``state_kib`` chooses among; those that have a name are among them."""
    return sorted(
        {type(candidate.head) for candidate in ladder.candidates(_LADDER_DIMS)},
        key=lambda kind: kind.__name__,
    )


def options(kind: type) -> Iterator[tuple[str, set[Any]]]:
    """Fields of a head that change its graphs.

    Raises:
        KeyError: a field that nobody has placed: in ``NUMBERS`` or ``COUNTED``, or a flag, a
            ``Literal`` or a projection.
    """
    hints = get_type_hints(kind)
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if item.name in NUMBERS[kind.__name__]:
            continue
        if hint is bool:
            yield item.name, {False, True}
        elif get_origin(hint) is Literal:
            yield item.name, set(get_args(hint))
        elif projection.Projection in get_args(hint):
            scaled = _SCALED if kind is StreamingLDA else ()
            yield item.name, {"none", *(found.__name__ for found in (*_PROJECTIONS, *scaled))}
        else:
            yield item.name, {COUNTED[kind.__name__, item.name], "more"}


def taken(recipe: Recipe) -> dict[str, set[Any]]:
    """What a recipe chooses."""
    kind = type(recipe.head)
    encoder = read_encoder(recipe.source)
    taps = (
        "projected"
        if "taps.projection" in encoder.frozen
        else "as they are"
        if encoder.tap_dim
        else "none"
    )
    found: dict[str, set[Any]] = {
        "layout": {encoder.input.layout},
        "encoder": {type(encoder).__name__},
        "taps": {taps},
        "head": {kind.__name__},
        "network": {NETWORK_OF[recipe.source]} if recipe.source in NETWORK_OF else set(),
        "adapt": {recipe.adapt},
        "smooth": {recipe.smooth},
        "novelty": {recipe.novelty},
        "novelty over taps": {recipe.novelty} if encoder.tap_dim else set(),
        "adaptors": {adaptor.kind for adaptor in recipe.adaptors},
    }
    return found | {
        f"{kind.__name__}.{name}": {_value(recipe.head, name)} for name, _ in options(kind)
    }


@cache
def read_encoder(kind: str) -> Any:
    """The encoder as ``export`` reads it."""
    with tempfile.TemporaryDirectory() as folder:
        return encoders.as_encoder(*source(kind, Path(folder)))


def _reads_taps(score: str) -> bool:
    """A score whose graph is another one where there are taps: it says that it fuses them, or
    measures in the space of the residuals.
    """
    made = NOVELTY[score]()
    return hasattr(made, "taps") or hasattr(made, "sense")


def _value(head: Any, name: str) -> Any:
    value = getattr(head, name)
    if (type(head).__name__, name) in COUNTED:
        lowest = COUNTED[type(head).__name__, name]
        return value if value == lowest else "more"
    return (
        "none"
        if value is None
        else type(value).__name__
        if dataclasses.is_dataclass(value)
        else value
    )
