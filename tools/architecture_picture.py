"""The picture of ``docs/architecture.md``: ``python tools/architecture_picture.py``."""

from __future__ import annotations

from html import escape
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "docs" / "architecture.svg"
_STYLE = (
    "text{font:14px sans-serif;fill:#1c2733}.head{font-weight:bold}.small{font-size:12px}"
    "rect{rx:6;stroke:#5b6b7b}.host{fill:#e4edf7}.device{fill:#e6f3e8}.shared{fill:#fbf1dc}"
    "path{fill:none;stroke:#40505f;stroke-width:1.6;marker-end:url(#tip)}"
)
_BOXES = (
    ("host", 20, 50, 250, 250, "host/  (PyTorch)"),
    ("shared", 330, 50, 150, 90, "bundle/"),
    ("device", 540, 50, 400, 250, "device/  (no PyTorch)"),
    ("device", 540, 345, 180, 75, "placement/"),
    ("shared", 745, 345, 195, 75, "runtimes/"),
    ("device", 540, 465, 400, 90, "daemon/"),
    ("shared", 20, 345, 460, 75, "What both sides use"),
    ("shared", 20, 465, 460, 90, "Beside the product"),
)
_LINES = (
    (35, 103, "encoders/  training/"),
    (35, 128, "methods/: PyTorch functions"),
    (35, 153, "compile/: functions to ONNX graphs"),
    (35, 178, "assembly/: methods to role graphs"),
    (35, 203, "stress/: may it adapt by itself?"),
    (35, 228, "exporting/: calibrate, judge, write"),
    (345, 98, "manifest, graphs,"),
    (345, 118, "weights, signature"),
    (555, 103, "learner.py: observe, label, forget, rollback"),
    (555, 133, "caller: inference/ answers, detection/ measures,"),
    (555, 153, "     pipeline/ receives labels and full windows"),
    (555, 183, "worker: adaptation/ corrects, querying/ asks,"),
    (555, 203, "     commits/ learns, adaptors/ train"),
    (555, 233, "storage/: one SQLite file     recovery/: from it"),
    (555, 258, "coreset/  numerics/  quality/  resources/"),
    (555, 393, "which runtime: measured"),
    (760, 393, "ONNX Runtime, TensorRT"),
    (35, 393, "scenarios/: corruptions, orders     testing/: check_method"),
    (35, 513, "demo/  doctor/  dataset/  exporters/  commands/"),
    (35, 535, "benchmarks/: edgeadapt-bench     tools/: documents"),
    (555, 513, "io/: sources and sinks     engine/: the loop, labels"),
    (555, 535, "http/  monitoring/  lifecycle/  config/  decoding/"),
)
_ARROWS = (
    ("M270 95 H328", 280, 86, "writes"),
    ("M480 95 H538", 488, 86, "opens"),
    ("M637 300 V343", 645, 326, "load and run graphs"),
    ("M720 382 H743", 0, 0, ""),
    ("M590 465 V440 H515 V175 H538", 405, 446, "calls the learner"),
)


def picture() -> str:
    """The SVG, as text."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 575" width="960" height="575">',
        f"<title>The packages of edgeadapt, and what calls what</title><style>{_STYLE}</style>",
        '<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="7" refY="4" orient="auto">'
        '<polygon points="0,0 8,4 0,8" fill="#40505f"/></marker></defs>',
        '<rect width="960" height="575" fill="#ffffff" stroke="none"/>',
        _text(20, 30, "One signed file goes from the host to the device", "head"),
    ]
    for kind, x, y, width, height, title in _BOXES:
        parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}"/>')
        parts.append(_text(x + 15, y + 26, title, "head"))
    parts += [_text(x, y, line, "small") for x, y, line in _LINES]
    for way, x, y, label in _ARROWS:
        parts.append(f'<path d="{way}"/>')
        parts += [_text(x, y, label, "small")] if label else []
    return "\n".join((*parts, "</svg>")) + "\n"


def _text(x: int, y: int, line: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" xml:space="preserve">{escape(line)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
