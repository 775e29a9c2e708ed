"""Every role function becomes a graph: parity with torch, lint, and the behaviour of steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgeadapt.errors import CompileError
from edgeadapt.host.compile import MakePorts, Step, compile_graph
from edgeadapt.testing._encoder_checks import adapt_ports, images
from edgeadapt.testing._subject import FUNCTIONS, Subject, adapts_encoder, has
from edgeadapt.testing._toy import Rows

Ports = dict[str, Tensor]
_STEPS = ("learn", "adapt", "fit")
_POOL_ROWS = 40


def check_compiles(subject: Subject, learning_rate: float) -> None:
    """Compile each function as the exporter does, in a state that has seen evidence.

    Raises:
        AssertionError: names the function and what the compiler said.
    """
    toy = subject.toy
    tensors = subject.learned(subject.state, toy.rows(71, 8, (*toy.known, toy.novel)))
    encoder = subject.method.encoder.frozen if adapts_encoder(subject.method) else {}
    tensors = {**tensors, **encoder}
    for function in FUNCTIONS:
        # refold writes what encode holds frozen
        frozen = subject.frozen if function == "refold" else (*subject.frozen, *encoder)
        if has(subject.method, function):
            fn, make_ports = _graph_of(subject, function, learning_rate)
            try:
                compile_graph(
                    f"{subject.method.name}.{function}",
                    fn,
                    make_ports,
                    tensors,
                    frozen=frozen,
                    is_step=function in _STEPS,
                )
            except CompileError as error:
                raise AssertionError(f"{function}: does not compile: {error}") from error


def _graph_of(subject: Subject, function: str, learning_rate: float) -> tuple[Step, MakePorts]:
    """The function in the form of its role, and examples for its ports."""
    method, pool = subject.method, subject.toy.rows(72, _POOL_ROWS)

    def draw(generator: torch.Generator, batch: int) -> Rows:
        return pool.at(torch.randint(0, len(pool), (batch,), generator=generator))

    def features(generator: torch.Generator, batch: int) -> Ports:
        return {"z": draw(generator, batch).z}

    def sensed(generator: torch.Generator, batch: int) -> Ports:
        rows = draw(generator, batch)
        return {"z": rows.z, **({"taps": rows.taps} if subject.toy.dims.taps else {})}

    def labelled(generator: torch.Generator, batch: int) -> Ports:
        rows = draw(generator, batch)
        taps = {"taps": rows.taps} if subject.toy.dims.taps else {}
        return {
            "z": rows.z,
            **taps,
            "y": rows.y,
            "sample_weight": torch.rand(batch, generator=generator) + 0.5,
        }

    def answered(generator: torch.Generator, batch: int) -> Ports:
        z = subject.toy.shifted(draw(generator, batch)).z
        return {
            "z": z,
            "logits": subject.logits(subject.state, z),
            "sample_weight": torch.ones(batch),
        }

    def fitted(generator: torch.Generator, batch: int) -> Ports:
        rows = subject.toy.confused(draw(generator, batch))
        return {
            "z": rows.z,
            "y": rows.y,
            "sample_weight": rows.ones,
            "learning_rate": torch.tensor(learning_rate),
        }

    def weighted(generator: torch.Generator, batch: int) -> Ports:
        if adapts_encoder(method):
            return adapt_ports(
                method,
                images(method.encoder, int(generator.initial_seed()), batch),
                torch.ones(batch),
                generator,
            )
        return {
            "z": subject.toy.shifted(draw(generator, batch)).z,
            "sample_weight": torch.ones(batch),
        }

    def taps_of(p: Ports) -> Tensor:
        return p["taps"] if "taps" in p else p["z"][:, :0]

    def adapt(p: Ports, t: Any) -> Any:
        return (
            method.adapt(p, t)
            if adapts_encoder(method)
            else method.adapt(t, p["z"], p["sample_weight"])
        )

    graphs: dict[str, tuple[Step, MakePorts]] = {
        "learn": (
            lambda p, t: ({}, method.learn(t, p["z"], taps_of(p), p["y"], p["sample_weight"])),
            labelled,
        ),
        "predict": (lambda p, t: ({"logits": method.predict(t, p["z"])}, {}), features),
        "novelty": (
            lambda p, t: (
                {"score": method.novelty(t, p["z"], taps_of(p), subject.logits(t, p["z"]))},
                {},
            ),
            sensed,
        ),
        "shift": (
            lambda p, t: (
                {"residual": method.shift(t, p["z"], taps_of(p), subject.logits(t, p["z"]))},
                {},
            ),
            sensed,
        ),
        "correct": (lambda p, t: ({"embedding": method.correct(t, p["z"])}, {}), features),
        "adjust": (
            lambda p, t: ({"adjusted": method.adjust(t, p["z"], subject.logits(t, p["z"]))}, {}),
            features,
        ),
        "adapt": (adapt, weighted),
        "fit": (
            lambda p, t: method.fit(t, p["z"], p["y"], p["sample_weight"], p["learning_rate"]),
            fitted,
        ),
        "smooth": (
            lambda p, t: (
                {"smoothed": method.smooth(t, p["z"], p["logits"], p["sample_weight"])},
                {},
            ),
            answered,
        ),
        "refold": (lambda p, t: method.refold(p, t), lambda generator, batch: {}),
    }
    return graphs[function]
