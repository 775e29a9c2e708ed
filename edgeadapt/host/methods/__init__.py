"""One file per method: a head, a novelty score, a label-free method, an adaptor. Each is a few pure
torch functions; no file of the exporter, of a device or of a data set comes in here.

Beside the folders lie what two of them use: the residuals that sense shift (``residual_shift``),
and whole numbers stored as bytes (``whole_bytes``). ``key_value`` is a public name of a head.
"""
