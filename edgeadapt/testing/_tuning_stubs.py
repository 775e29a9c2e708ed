"""Deltas, starts and scores that are wrong in one way each: what the suites must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgeadapt.testing._tuning_toy import Toy


class Changed:
    """A member with one function replaced; everything else is the member's own."""

    def __init__(self, member: Any, function: str, stub: Callable[..., Any]) -> None:
        self._member = member
        setattr(self, function, stub)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_member"], name)


class _ChangedCall(Changed):
    def __call__(self, *given: Any) -> Any:
        return self.called(*given)


def delta_stubs(delta: Any) -> dict[str, Any]:
    """Faulty versions of a delta, by a sentence that names each."""

    def ignore_numbers(site: Any, w: Any, p: Any) -> Any:
        return {name: w[name] + 0.0 for name in delta.merged(site, w, p)}

    def start_elsewhere(site: Any, size: int, w: Any, g: Any) -> Any:
        values = delta.start(site, size, w, g)
        return {k: v + 0.1 * torch.randn(v.shape, generator=g) for k, v in values.items()}

    def start_unseeded(site: Any, size: int, w: Any, g: Any) -> Any:
        values = delta.start(site, size, w, g)
        return {k: v + 1e-9 * torch.randn(v.shape) for k, v in values.items()}

    def write_to_base(site: Any, w: Any, p: Any) -> Any:
        new = delta.merged(site, w, p)
        for name, value in new.items():
            w[name].data.copy_(value + 1.0)
        return {name: value + 0.0 for name, value in new.items()}

    def change_a_neighbour(site: Any, w: Any, p: Any) -> Any:
        other = next(name for name in w if name not in (site.weight, site.bias))
        return {**delta.merged(site, w, p), other: w[other] + 0.0}

    def ask_for_a_spare(site: Any, size: int) -> Any:
        return {**delta.shapes(site, size), "spare": (2 * size,)}

    def start_with_a_spare(site: Any, size: int, w: Any, g: Any) -> Any:
        return {**delta.start(site, size, w, g), "spare": torch.zeros(2 * size)}

    def merge_without_spare(site: Any, w: Any, p: Any) -> Any:
        return delta.merged(site, w, {k: v for k, v in p.items() if k != "spare"})

    spare = Changed(delta, "shapes", ask_for_a_spare)
    spare = Changed(spare, "start", start_with_a_spare)
    flat = Changed(delta, "shapes", lambda site, size: delta.shapes(site, 1))
    unsized = Changed(flat, "start", lambda site, size, w, g: delta.start(site, 1, w, g))
    has_sizes = any(len(delta.sizes(site)) > 2 for site in Toy.made().sites)
    return {
        **({"size is ignored": unsized} if has_sizes else {}),
        "merged ignores its numbers": Changed(delta, "merged", ignore_numbers),
        "merged changes the base in place": Changed(delta, "merged", write_to_base),
        "merged changes another site": Changed(delta, "merged", change_a_neighbour),
        "merged detaches its numbers": Changed(
            delta,
            "merged",
            lambda site, w, p: delta.merged(site, w, {k: v.detach() for k, v in p.items()}),
        ),
        "start is not the base": Changed(delta, "start", start_elsewhere),
        "start ignores the seed": Changed(delta, "start", start_unseeded),
        "a trained value is never read": Changed(spare, "merged", merge_without_spare),
        "sizes are empty": Changed(delta, "sizes", lambda site: ()),
    }


def start_stubs(start: Any) -> dict[str, Any]:
    """Faulty versions of a start."""

    def elsewhere(*given: Any) -> Any:
        return {
            k: v + 0.1 * torch.randn(v.shape, generator=given[-1]) for k, v in start(*given).items()
        }

    def write_to_base(site: Any, size: int, w: Any, s: Any, g: Any) -> Any:
        values = start(site, size, w, s, g)
        w[site.weight].mul_(0.5)
        return values

    def divide(site: Any, size: int, w: Any, s: Any, g: Any) -> Any:
        values = start(site, size, w, s, g)
        if "second_moment" not in start.wants:
            return {k: v / 0.0 for k, v in values.items()}
        least = s.of("second_moment", site).diagonal(dim1=1, dim2=2).min()
        return {k: v * (least / least) for k, v in values.items()}

    found = {
        "changes the output": elsewhere,
        "changes the base in place": write_to_base,
        "divides by what may be zero": divide,
        "ignores the size": lambda site, size, w, s, g: start(site, 1, w, s, g),
        "stores more than it says": lambda site, size, w, s, g: {
            **start(site, size, w, s, g),
            "more": w[site.weight].flatten().repeat(9),
        },
        "ignores the seed": lambda *given: {
            k: v + 1e-9 * torch.randn(v.shape) for k, v in start(*given).items()
        },
    }
    return {label: _ChangedCall(start, "called", stub) for label, stub in found.items()}


def score_stubs(score: Any) -> dict[str, Any]:
    """Faulty versions of a score."""
    found: dict[str, Callable[[list[float]], list[float]]] = {
        "grows with the size": lambda cost: [-one for one in cost],
        "is constant": lambda cost: [cost[0]] * len(cost),
        "has a value too few": lambda cost: cost[:-1],
        "is not finite": lambda cost: [*cost[:-1], float("-inf")],
        "does not look at the site": lambda cost: [-float(one) for one in range(len(cost))],
    }

    def stubbed(change: Callable[[list[float]], list[float]]) -> Any:
        return Changed(score, "cost", lambda site, delta, s: change(score.cost(site, delta, s)))

    return {label: stubbed(change) for label, change in found.items()}


__all__ = ["Changed", "delta_stubs", "score_stubs", "start_stubs"]
