"""The key-value bottleneck, under the name that its page gives to programs."""

from edgeadapt.host.methods.heads.key_value.bottleneck import KeyValueBottleneck

__all__ = ["KeyValueBottleneck"]
