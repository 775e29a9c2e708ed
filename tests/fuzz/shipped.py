"""The shipped bundle on one runtime: opened often, loaded once per process."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from sample_images import images

from edgeadapt.bundle import Bundle, read_bundle
from edgeadapt.demo.sample import bundle_path
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.device.resources.budget import Budget
from edgeadapt.runtime import Runtime, open_runtime


@cache
def bundle() -> Bundle:
    return read_bundle(bundle_path())


@cache
def runtime() -> Runtime:
    return open_runtime()


@cache
def clean() -> tuple[Any, list[str]]:
    return images(60, seed=3)


@cache
def fog() -> Any:
    return images(96, seed=4, condition="fog")[0]


def opened(state: Path | None = None, **settings: Any) -> Learner:
    return open_learner(
        bundle(), state=state, runtime=runtime(), budget=Budget(busy_fraction=1.0), **settings
    )
