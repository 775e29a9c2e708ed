"""Where the bundles and state folders lie that earlier versions wrote."""

from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "device" / "golden"
