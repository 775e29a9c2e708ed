"""Small recipes that together take every value of every choice that changes a graph, as data;
``recipe_choices.py`` reads those choices from the code.

Not their product: a graph has one head, one novelty score and one label-free method inside, and
each has to be in some graph that is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_builds import AS_INPUTS
from recipe_encoders import CLASSES, labels, source

from edgeadapt.bundle import Bundle
from edgeadapt.host import export
from edgeadapt.host.contracts import GivesReceipts, Head
from edgeadapt.host.methods.adaptors.bottleneck import Bottleneck
from edgeadapt.host.methods.adaptors.linear import LinearAdaptor
from edgeadapt.host.methods.adaptors.low_rank import LowRank
from edgeadapt.host.methods.adaptors.scale_shift import ScaleShift
from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck
from edgeadapt.host.methods.heads.nearest_mean import NearestMean
from edgeadapt.host.methods.heads.projection import (
    HadamardProjection,
    PrincipalProjection,
    SignProjection,
)
from edgeadapt.host.methods.heads.ridge import Ridge
from edgeadapt.host.methods.heads.slda import StreamingLDA
from edgeadapt.host.methods.heads.standardisation import RandomFeatures, Standardisation
from edgeadapt.host.methods.label_free.adaptations import ENCODER_SPACE


@dataclass(frozen=True)
class Recipe:
    """One bundle.

    Attributes:
        source: of ``recipe_encoders.SOURCES``.
        head, novelty, adapt, smooth, adaptors: as ``Settings`` has them.
        is_quick: one of the few that have, with the bundle of the demo, every kind of graph between
            them.
    """

    name: str
    source: str
    head: Head
    novelty: str
    adapt: str = "none"
    smooth: str = "none"
    adaptors: tuple[Any, ...] = ()
    is_quick: bool = False

    def export(self, folder: Path) -> Bundle:
        """The bundle, with every check of its graphs that an export makes."""
        encoder, x = source(self.source, folder)
        chosen = {
            "head": self.head,
            "novelty": self.novelty,
            "adapt": self.adapt,
            "smooth": self.smooth,
            "adaptors": self.adaptors or "none",
        }
        return export(
            folder / "recipe.edge",
            encoder,
            (x, labels()),
            CLASSES,
            name="recipe",
            class_slots=6,
            stress=False,
            **chosen,
        )


def _keys(**options: Any) -> KeyValueBottleneck:
    return KeyValueBottleneck(books=4, pairs=8, **options)


RECIPES = (
    Recipe("ridge, no adaptation", "an ONNX file", Ridge(), "cosine"),
    Recipe(
        "feature shift",
        "feature vectors",
        Ridge(random_features=16, packed=True),
        "knn",
        "feature_shift",
    ),
    Recipe(
        "mean and deviation",
        "a torch.export program",
        Ridge(projection=SignProjection(4), compact=True),
        "vim",
        "mean_std",
    ),
    Recipe(
        "adjusted prototypes",
        "feature vectors",
        _keys(key_dim=4),
        "mahalanobis",
        "t3a",
        "lame",
        is_quick=True,
    ),
    Recipe(
        "Hebbian prototypes",
        "feature vectors",
        StreamingLDA(projection=PrincipalProjection(4), compact=True),
        "hypervector",
        "hebbian_prototypes",
    ),
    Recipe(
        "one adaptor",
        "feature vectors",
        NearestMean(),
        "cosine",
        adaptors=(Bottleneck(3),),
        is_quick=True,
    ),
    Recipe(
        "three adaptors",
        "feature vectors",
        Ridge(projection=PrincipalProjection(8), packed=True),
        "rmds",
        adaptors=(ScaleShift(), LowRank(2), LinearAdaptor()),
    ),
    Recipe(
        "class-matched statistics",
        "gray images",
        Ridge(),
        "relative_residual",
        "class_matched_statistics",
    ),
    Recipe(
        "norm statistics", "colour images, residual", NearestMean(), "cosine", "norm_statistics"
    ),
    Recipe(
        "averaged norm statistics",
        "float images",
        Ridge(projection=HadamardProjection(4)),
        "relative_residual_angle",
        "norm_statistics_averaged",
    ),
    Recipe(
        "unfolded norm statistics",
        "vectors, perceptron",
        StreamingLDA(),
        "hypervector",
        "norm_statistics_unfolded",
        is_quick=True,
    ),
    Recipe("entropy", "signals, convolutions over time", Ridge(), "knn", "tent"),
    Recipe("guarded entropy", "gray images, projected taps", Ridge(), "vim", "guarded_entropy"),
    Recipe(
        "Hebbian",
        "gray images",
        _keys(
            key_dim=4,
            whitening="scale",
            split="random",
            reads=1,
            projection=SignProjection(5),
            compact=True,
        ),
        "cosine",
        "hebbian",
    ),
    Recipe("three-factor Hebbian", "gray images", Ridge(), "cosine", "hebbian_three_factor"),
    Recipe(
        "evolved Hebbian",
        "float images",
        StreamingLDA(projection=SignProjection(4)),
        "hypervector",
        "hebbian_evolved",
    ),
    Recipe("neuro-Hebbian", "float images", Ridge(), "mahalanobis", "neuro_hebbian"),
    Recipe(
        "forward-only",
        "gray images",
        StreamingLDA(projection=HadamardProjection(4)),
        "cosine",
        "forward_only",
    ),
    Recipe(
        "standardised columns",
        "feature vectors",
        StreamingLDA(projection=Standardisation(12)),
        "cosine",
    ),
    Recipe(
        "random features of them",
        "feature vectors",
        StreamingLDA(projection=RandomFeatures(16)),
        "cosine",
    ),
    Recipe(
        "keys of chunks",
        "feature vectors",
        _keys(key_dim=0, whitening="within", split="chunk", projection=PrincipalProjection(8)),
        "cosine",
    ),
    Recipe(
        "keys that are not whitened",
        "feature vectors",
        _keys(key_dim=4, whitening="none", projection=HadamardProjection(8)),
        "rmds",
    ),
)


def graphs_of(recipe: Recipe) -> set[str]:
    """Names of the graphs that a device loads of its bundle; exports show that it is so."""
    found = {"read", "learn"}
    if recipe.source != "feature vectors":
        found.add("encode")
    if isinstance(recipe.head, GivesReceipts):
        found.add("redeem")
    if recipe.smooth != "none":
        found.add("smooth")
    if recipe.adapt != "none":
        found.add("adapt")
    if recipe.adapt in ENCODER_SPACE:
        found |= (
            {"encode_unfolded"}
            if recipe.adapt.endswith("_unfolded")
            else {"refold", "encode" + AS_INPUTS}
        )
    return found | {
        f"{step}_{adaptor.name}" for adaptor in recipe.adaptors for step in ("read", "fit", "probe")
    }
