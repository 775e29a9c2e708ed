"""Specs, factory values and numerics agree with each other."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from edgeadapt.bundle.schema import TensorSpec
from edgeadapt.device.numerics.linalg import NUMERICS
from edgeadapt.host.contracts import Dims
from edgeadapt.testing._subject import FUNCTIONS, Subject, expect, has
from edgeadapt.testing._toy import Toy


def check_name(method: Any) -> None:
    name = getattr(method, "name", None)
    expect(
        isinstance(name, str) and bool(name),
        f"{type(method).__name__}: a method has a name, got {name!r}",
    )
    answered = [function for function in FUNCTIONS if has(method, function)]
    expect(
        bool(answered), f"a method answers at least one role: it has none of {', '.join(FUNCTIONS)}"
    )
    for function in ("tensors", "factory"):
        expect(has(method, function), f"a method has the function {function}")


def check_specs(method: Any, dims: Dims) -> None:
    specs = method.tensors(dims)
    names = [spec.name for spec in specs]
    expect(len(set(names)) == len(names), f"tensors: a name is declared once, got {names}")
    for spec in specs:
        try:
            msgspec.convert(msgspec.to_builtins(spec), TensorSpec)
        except msgspec.ValidationError as error:
            raise AssertionError(
                f"tensors: {spec.name} does not fit into a manifest: {error}"
            ) from error
        _check_kind(spec)
        if spec.class_axis is not None:
            is_inside = 0 <= spec.class_axis < len(spec.shape)
            expect(
                is_inside,
                f"tensors: {spec.name} has class_axis {spec.class_axis} outside its shape"
                f" {spec.shape}",
            )
            width = spec.shape[spec.class_axis]
            expect(
                width == dims.slots,
                f"tensors: the class axis of {spec.name} has {width} slots, not {dims.slots}",
            )
    expect(method.tensors(dims) == specs, "tensors: equal sizes give equal specs")
    _check_growth(specs, method.tensors(Dims(dims.features, dims.taps, dims.slots + 3)))


def _check_kind(spec: TensorSpec) -> None:
    if spec.kind == "evidence":
        expect(
            spec.merge == "add",
            f"tensors: {spec.name} is evidence, so it merges by 'add', not {spec.merge!r}",
        )
    if spec.kind in ("derived", "frozen"):
        expect(
            spec.persist == "never",
            f"tensors: {spec.name} is {spec.kind}, never stored: persist='never', not"
            f" {spec.persist!r}",
        )
    elif spec.persist == "checkpoint":
        expect(
            spec.bound is not None,
            f"tensors: {spec.name} is published and stored, so it has a bound",
        )
    expect(
        spec.bound is None or spec.bound > 0,
        f"tensors: the bound of {spec.name} is positive, got {spec.bound}",
    )


def _check_growth(few: list[TensorSpec], many: list[TensorSpec]) -> None:
    expect(
        [s.name for s in few] == [s.name for s in many],
        "tensors: more class slots do not change which tensors there are",
    )
    for small, large in zip(few, many, strict=True):
        grown = [
            axis for axis, (a, b) in enumerate(zip(small.shape, large.shape, strict=True)) if a != b
        ]
        expected = [] if small.class_axis is None else [small.class_axis]
        expect(
            grown == expected,
            f"tensors: with more class slots {small.name} grows along {grown}, its class_axis is"
            f" {small.class_axis}",
        )


def check_factory(method: Any, toy: Toy) -> None:
    data = toy.factory_data()
    values, again = method.factory(data), method.factory(data)
    specs = {spec.name: spec for spec in method.tensors(toy.dims)}
    wanted = {name for name, spec in specs.items() if spec.kind != "derived"}
    expect(
        set(values) == wanted,
        "factory: gives exactly the tensors that are not derived; they differ in"
        f" {sorted(set(values) ^ wanted)}",
    )
    for name, value in values.items():
        spec = specs[name]
        expect(
            isinstance(value, np.ndarray),
            f"factory: {name} is a numpy array, got {type(value).__name__}",
        )
        got = (str(value.dtype), tuple(value.shape))
        expect(
            got == (spec.dtype, spec.shape),
            f"factory: {name} is declared {spec.dtype}{list(spec.shape)}, got"
            f" {got[0]}{list(got[1])}",
        )
        expect(bool(np.isfinite(value).all()), f"factory: {name} is finite")
        expect(
            spec.bound is None or bool((np.abs(value) <= spec.bound).all()),
            f"factory: {name} is within its bound {spec.bound}",
        )
        expect(
            np.array_equal(value, again[name]),
            f"factory: {name} is the same each time for the same data",
        )


def check_numerics(method: Any, dims: Dims) -> None:
    declared = {spec.name for spec in method.tensors(dims) if spec.kind == "derived"}
    written: list[str] = []
    for numeric in method.numerics() if has(method, "numerics") else []:
        expect(
            numeric.numeric in NUMERICS,
            f"numerics: {numeric.numeric!r} is one of {', '.join(sorted(NUMERICS))}",
        )
        written += numeric.writes
    expect(len(set(written)) == len(written), f"numerics: a tensor is derived once, got {written}")
    differing = sorted(set(written) ^ declared)
    expect(
        not differing,
        f"numerics: derive exactly the tensors declared derived; they differ in {differing}",
    )


def check_derived(subject: Subject) -> None:
    for name, spec in subject.specs.items():
        value = subject.state[name]
        expect(
            tuple(value.shape) == spec.shape,
            f"numerics: {name} is declared {list(spec.shape)}, got {list(value.shape)}",
        )
        expect(bool(value.isfinite().all()), f"numerics: {name} is finite")
