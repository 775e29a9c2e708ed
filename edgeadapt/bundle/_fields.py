"""Types of the fields of a manifest, with their bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

DType = Literal["float32", "float16", "int64", "int32", "int8", "uint8", "bool"]
Kind = Literal["frozen", "evidence", "parameter", "statistic", "derived"]
Scope = Literal["global", "domain", "stream"]
Merge = Literal["add", "mean", "replace", "refuse"]
Persist = Literal["checkpoint", "session", "never"]
Trigger = Literal["every_batch", "shift", "label", "idle"]
AdaptMode = Literal["act", "advise", "off"]
Precision = Literal["float32", "float16", "int8"]
"""What an encoder computes in."""
Variant = Literal["float16", "int8"]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
# memory is taken for each before anything is computed
Slots = Annotated[int, Meta(ge=1, le=1 << 16)]


class Strict(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown fields are errors: a typo in a manifest must not be silently ignored."""
