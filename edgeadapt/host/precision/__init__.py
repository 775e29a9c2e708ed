"""Encoders in float16 and int8 beside the float32 one: graphs over the same weights, thresholds of
their own, and what they cost.
"""

from edgeadapt.host.precision.variants import Float32Encoder, make_variant

__all__ = ["Float32Encoder", "make_variant"]
