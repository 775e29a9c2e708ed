"""``python tests/fuzz [--executions N] [--targets a,b] [--seed N] [--json FILE]``, or ``--replay
FILE...``; exit code 1 on findings.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

for variable, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
    os.environ.setdefault(variable, value)
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from fuzz.campaign import Campaign  # noqa: E402
from fuzz.replay import replay  # noqa: E402
from fuzz.table import as_json, as_text  # noqa: E402
from fuzz.target import TARGETS, load_target  # noqa: E402

_SLOW_MS = 1000.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python tests/fuzz", description="Spoilt inputs at every door of the device side."
    )
    parser.add_argument(
        "--executions",
        type=int,
        default=1_000_000,
        help="in all; each target has its share (default: %(default)s)",
    )
    parser.add_argument("--targets", help=f"comma-separated; default: {','.join(TARGETS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("fuzz-findings"),
        help="folder for reproducers (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument(
        "--replay", type=Path, nargs="+", metavar="FILE", help="execute reproducers, TARGET-*.bin"
    )
    args = parser.parse_args()
    if args.replay:
        return replay(args.replay)
    names = args.targets.split(",") if args.targets else TARGETS
    loaded = {name: load_target(name) for name in names}
    if missing := [name for name, target in loaded.items() if target is None]:
        print(f"left out, a package is missing: {', '.join(missing)}", file=sys.stderr)
    campaign = Campaign(
        [t for t in loaded.values() if t],
        args.executions,
        args.seed,
        args.workers,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    started = time.monotonic()
    campaign.run()
    print(as_text(campaign))
    executions, busy = (
        sum(values)
        for values in zip(
            *((t.executions, t.seconds) for t in campaign.totals.values()), strict=True
        )
    )
    took = (
        f"{time.monotonic() - started:.0f} s with {args.workers} processes, {busy:.0f} s of"
        " processor time"
    )
    print(f"\n{executions} executions, seed {args.seed}: {took}")
    if args.json:
        args.json.write_text(json.dumps(as_json(campaign), indent=2) + "\n", encoding="utf-8")
    for name, total in campaign.totals.items():
        if total.slowest_ms > _SLOW_MS:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{name}-slowest.bin").write_bytes(total.slowest)
            print(
                f"{name}: an execution took {total.slowest_ms:.0f} ms; it is kept as"
                f" {args.out / name}-slowest.bin"
            )
    if campaign.findings.by_cause:
        print(
            "reproducers:",
            *(f"  python tests/fuzz --replay {path}" for path in campaign.findings.write(args.out)),
            sep="\n",
        )
    return 1 if campaign.findings.by_cause else 0


if __name__ == "__main__":
    sys.exit(main())
