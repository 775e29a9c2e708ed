"""The closed table of roles: which questions a graph may answer, and with which ports.

B is the batch, D the feature width, T the width of the taps, K the class slots, R <= 256 the width
of residuals. A new method for one of these roles is one host file; a new role is a change of the
core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

RoleName = Literal[
    "encode",
    "correct",
    "predict",
    "novelty",
    "shift",
    "learn",
    "redeem",
    "derive",
    "adapt",
    "probe",
    "fit",
    "rate",
    "smooth",
]
ROLE_NAMES: tuple[RoleName, ...] = get_args(RoleName)


@dataclass(frozen=True)
class Role:
    """Ports and outputs of a role, with symbolic shapes, and the question it answers."""

    name: RoleName
    question: str
    ports: dict[str, str]
    outputs: dict[str, str]
    writes_tensors: bool


_Z, _TAPS = {"z": "(B, D) float32"}, {"taps": "(B, T) float32"}
_WEIGHT = {"sample_weight": "(B,) float32"}

ROLES: dict[RoleName, Role] = {
    role.name: role
    for role in (
        Role(
            "encode",
            "what are the features of this input?",
            {"x": "(B, *input)"},
            _Z | _TAPS,
            False,
        ),
        Role(
            "correct",
            "where would this feature lie under the source condition?",
            _Z,
            {"embedding": "(B, D) float32"},
            False,
        ),
        Role("predict", "which class?", _Z, {"logits": "(B, K) float32"}, False),
        Role(
            "novelty",
            "how unlike every known class?",
            _Z | _TAPS,
            {"score": "(B,) float32, larger is more novel"},
            False,
        ),
        Role(
            "shift",
            "how far from its predicted class?",
            _Z | _TAPS,
            {"residual": "(B, R) float32, unit variance on clean data"},
            False,
        ),
        Role(
            "learn",
            "what does a labelled sample change?",
            {
                **_Z,
                **_TAPS,
                "y": "(B,) int64",
                "sample_weight": "(B,) float32, negative iff every written tensor is evidence",
                "is_factory": (
                    "(B,) float32, 1 under the factory condition: 0 leaves its class means alone"
                ),
            },
            {
                "receipt": (
                    "(B, C) uint8 or int32, where each sample was counted; only of tensors with"
                    " receipt = true"
                )
            },
            True,
        ),
        Role(
            "redeem",
            "what did these samples change, by their receipts?",
            {
                "receipt": "(B, C), as learn gave it",
                "y": "(B,) int64",
                "sample_weight": "(B,) float32, negative takes away",
            },
            {},
            True,
        ),
        Role("derive", "what follows from the evidence?", {}, {}, True),
        Role(
            "adapt",
            "which correction fits these unlabelled inputs?",
            {
                "x": "(B, *input), or z (B, D) for feature-space methods",
                "sample_weight": "(B,) float32",
                "noise": "(P,) float32, standard normal; only of methods that search at random",
            },
            {"used": "(B,) float32", "wants_reset": "() float32, above 0: back to the factory"},
            True,
        ),
        Role(
            "probe",
            "what would this adaptor read?",
            _Z,
            {
                "hidden": (
                    "(B, P) float32, the features whose read-out the adaptor trains, at its factory"
                    " values"
                )
            },
            False,
        ),
        Role(
            "fit",
            "one gradient step of an adaptor",
            _Z | {"y": "(B,) int64"} | _WEIGHT | {"learning_rate": "() float32"},
            {"loss": "() float32"},
            True,
        ),
        Role(
            "smooth",
            "what do the other samples of a batch say about an answer?",
            {
                "logits": "(B, K) float32",
                "z": "(B, D) float32, corrected",
                "sample_weight": "(B,) float32, 0 where a row pulls no other",
            },
            {"smoothed": "(B, K) float32"},
            False,
        ),
        Role(
            "rate",
            "how much is this sample worth keeping?",
            _Z,
            {"value": "(B,) float32"},
            False,
        ),
    )
}
