"""Which bundles take pictures."""

from __future__ import annotations

from edgeadapt.bundle.schema import InputSpec
from edgeadapt.errors import InputError


def require_frames(name: str, spec: InputSpec) -> None:
    """Refuse a source of pictures for a bundle that takes none.

    Raises:
        InputError: with what the bundle takes.
    """
    if not takes_frames(spec):
        raise InputError(
            f"source {name!r} brings images, and the bundle takes {spec.layout} of shape"
            f" {spec.shape}"
        )


def takes_frames(spec: InputSpec) -> bool:
    """True if ``edgeadapt.prepare`` makes an input of a picture."""
    return spec.layout in ("NHWC", "NCHW", "NHW")


__all__ = ["require_frames", "takes_frames"]
