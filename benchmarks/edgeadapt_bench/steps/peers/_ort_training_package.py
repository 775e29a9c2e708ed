"""Lets ``onnxruntime.training`` load in parts: its ``__init__`` imports torch, which neither
building nor training here needs.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import onnxruntime

package = types.ModuleType("onnxruntime.training")
package.__path__ = [str(Path(onnxruntime.__file__).parent / "training")]
sys.modules["onnxruntime.training"] = package
