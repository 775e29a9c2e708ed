"""Numbers and texts that several settings take, with their limits."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Amount = Annotated[float, Meta(ge=0.001, le=1_000_000)]
Rate = Annotated[float, Meta(ge=0.001, le=100_000)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Port = Annotated[int, Meta(ge=1, lt=2**16)]
Name = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?\Z")]
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]*\Z", max_length=4096)]
Given = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]+\Z", max_length=4096)]
