"""Encoders in float16 and int8 beside the float32 one: graphs over the same weights, thresholds of
their own, and what they cost.
"""

from edgeadapt.host.precision.variants import VariantContext, make_variant

__all__ = ["VariantContext", "make_variant"]
