"""The whole suite: ``python tests/torture``, or ``python -m tests.torture``; see ``--help`` for
shorter forms.

Prints what was done to the state and what became of it, and ends with 1 if anything was lost,
mixed, crashed or grew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from faults import (  # noqa: E402
    table as faults_table,
)

PARTS = ("faults", "kills", "streams")


def run(part: str, *arguments: str) -> tuple[Any, str]:
    """(what a part said, why it said nothing). Each part is a process of its own: some fork, some
    run under the shim.
    """
    made = subprocess.run(
        [sys.executable, str(HERE / f"{part}.py"), *arguments, "--json"],
        capture_output=True,
        text=True,
    )
    try:
        return json.loads(made.stdout.strip().splitlines()[-1]), ""
    except (IndexError, ValueError):
        return None, f"{part}: ended with {made.returncode}: {made.stderr.strip()[-2000:]}"


def faults(options: argparse.Namespace) -> list[str]:
    said, problem = run(
        "faults",
        *(["--sample", str(options.sample)] if options.sample is not None else []),
        "--seed",
        str(options.seed),
    )
    if problem:
        return [problem]
    for name, life in said.items():
        print(
            f"\nFaults at every call, {name}: {life['calls']} calls, {life['reads']} reads,"
            f" {life['cases']} cases in {life['wall_s']:.0f} s"
        )
        print(faults_table(life["outcomes"]))
        wrong = {
            word: sum(f": {word}" in p for p in life["problems"])
            for word in ("lost", "mixed", "corrupt")
        }
        print(", ".join(f"{word} {count}" for word, count in wrong.items()), flush=True)
    return [problem for life in said.values() for problem in life["problems"]]


def kills(options: argparse.Namespace) -> list[str]:
    said, problem = run("kills", "--kills", str(options.kills), "--seed", str(options.seed))
    if problem:
        return [problem]
    print(
        f"\nKills: {said['kills']} in {said['runs']} runs of {said['events']} events in"
        f" {said['wall_s']:.0f} s; {said['share_inside']:.0%} inside a transaction"
        f" ({said['committing']} in its commit), {said['opening']} while opening"
    )
    wrong = {word: sum(word in p for p in said["problems"]) for word in ("lost", "mixed", "differ")}
    print(", ".join(f"{word} {count}" for word, count in wrong.items()), flush=True)
    few = (
        []
        if said["share_inside"] >= 0.3 or said["kills"] < 100
        else [f"only {said['share_inside']:.0%} of the kills were inside a transaction"]
    )
    return [*said["problems"], *few]


def streams(options: argparse.Namespace) -> list[str]:
    said, problem = run("streams", "--turns", str(options.turns), "--seed", str(options.seed))
    if problem:
        return [problem]
    print("\nHostile streams: memory after half of the turns and after all, MiB")
    for h in said:
        refused = ", ".join(f"{name} {count}" for name, count in sorted(h["refused"].items()))
        print(
            f"{h['kind']:20}{h['turns']:8} turns{h['commits']:8}"
            f" commits{h['half_mib']:8.1f}{h['end_mib']:8.1f}{h['wall_s']:7.0f} s  {refused}"
        )
    return [
        f"{hardship['kind']}: {problem}" for hardship in said for problem in hardship["problems"]
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", default=PARTS, help=f"of {', '.join(PARTS)}; all by default"
    )
    parser.add_argument(
        "--sample",
        type=int,
        help="of the faults only the first calls and so many of the others, per mode",
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=4000, help="of each hostile stream")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began, problems = time.monotonic(), []
    for part in options.parts:
        problems += {"faults": faults, "kills": kills, "streams": streams}[part](options)
    print(f"\n{len(problems)} problems in {time.monotonic() - began:.0f} s")
    print("\n".join(f"- {problem}" for problem in problems[:40]))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
