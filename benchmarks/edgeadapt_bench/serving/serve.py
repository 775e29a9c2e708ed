"""The daemon at 96 px, batch 1, CPU, while it adapts and learns, beside the loop one could write
instead.

Both play the same frames of clean legs and legs under a condition. The *bare* loop reads a frame,
runs the encoder, takes the arg max of the factory's linear head. The *daemon* is the whole of
``edgeadapt serve``: its inbox and loop, sensing, corrections, labels that come late and by name,
answered questions, checkpoints, a file of JSON lines, metrics that somebody reads every second.
Each has a process without torch, one thread in ONNX Runtime; they take turns of the same frames in
alternating order, and whoever has not its turn is stopped.

    rate          frames / (first frame handed over .. last answer told .. the worker has nothing
                  left to do), so work in the background counts
    an answer     at full speed the time from one answer to the next: all that the loop does in
                  between counts; at a camera's rate from the frame in hand to its answer
    ratio         of the two in one round; reported is the median over the rounds, and the lowest
                  and the highest
    CPU           of the thread that answers, and of all threads, a frame: on a machine that does
                  other things, too, these move least

On all cores the worker has a core of its own; on ``one_core`` it shares the loop's, as on the
smallest devices. Between turns the clock goes on, so the daemon has half of the default
``budget.busy_fraction``: of the time that it runs, the whole of it. If no correction was computed
or no label learned, nothing was measured, and the rows with targets are missed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgeadapt_bench.harness.measure import Row, Say
from edgeadapt_bench.harness.step_race import interleaved
from edgeadapt_bench.serving import _serve_bare, _serve_daemon
from edgeadapt_bench.serving.frame_sequence import LEG
from edgeadapt_bench.serving.model_files import ModelFiles, at_96_px, shipped
from edgeadapt_bench.serving.player import MetricsReader, Player, Said
from edgeadapt_bench.serving.serve_rows import CAMERA_HZ, Match, memory_rows, rows_of

# frames a turn: a clean leg and one under a condition
ROUNDS, FRAMES, CAMERA_FRAMES = 6, 2 * LEG, 200
MEMORY_FRAMES, KEEP_S = 24_576, 10.0
"""How long the memory is watched, with how long a sample waits for its label there: the store of
those is full early in the warm-up.
"""


def daemon_of(
    model: ModelFiles,
    reader: MetricsReader,
    *,
    keep_s: float = 3600.0,
    p99_ratio: float = 1.5,
    on_one_core: bool = False,
) -> Player:
    return Player(
        _serve_daemon.__name__,
        reader,
        bundle=str(model.bundle),
        frames=str(model.frames),
        socket=reader.path,
        keep_s=keep_s,
        p99_ratio=p99_ratio,
        on_one_core=on_one_core,
    )


def match(
    model: ModelFiles,
    rounds: int,
    frames: int,
    camera_frames: int,
    *,
    p99_ratio: float = 1.5,
    on_one_core: bool = False,
) -> Match:
    """Rounds at full speed after one that warms up, then a turn each at the camera's rate."""
    found = Match()
    with tempfile.TemporaryDirectory() as folder:
        reader = MetricsReader(f"{folder}/socket")
        plain = {"encoder": str(model.encoder), "frames": str(model.frames)}
        with (
            Player(_serve_bare.__name__, on_one_core=on_one_core, **plain) as bare,
            daemon_of(model, reader, p99_ratio=p99_ratio, on_one_core=on_one_core) as daemon,
        ):
            players = {"daemon": daemon, "bare": bare}
            turns = interleaved(players, rounds, lambda name: players[name].play(frames))
            found.daemon, found.bare = turns["daemon"], turns["bare"]
            if camera_frames:
                found.camera_bare.append(bare.play(camera_frames, CAMERA_HZ))
                found.camera_daemon.append(daemon.play(camera_frames, CAMERA_HZ))
            found.told, found.readings = daemon.end(), reader.count
    return found


def memory_of(model: ModelFiles, frames: int, turn: int) -> tuple[list[float], Said]:
    """Resident MiB of the daemon after each turn of a long run at full speed, and what it said at
    the end.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        daemon_of(model, MetricsReader(f"{folder}/socket"), keep_s=KEEP_S) as daemon,
    ):
        mib = [daemon.play(turn)["mib"] for _ in range(frames // turn)]
        return mib, daemon.end()


def run_serve(data: str | None, say: Say, *, quick: bool = False) -> list[Row]:
    """All cores, one core, memory.

    Args:
        data: not used; the frames are images that ship.
        quick: the shipped bundle at 28 px, two short rounds, no targets.

    Raises:
        RuntimeUnavailable: a measuring process failed.
    """
    rounds, camera, memory, turn = (
        (2, 32, 2 * LEG, LEG // 2) if quick else (ROUNDS, CAMERA_FRAMES, MEMORY_FRAMES, FRAMES)
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        model = shipped(Path(folder)) if quick else at_96_px(Path(folder), say)
        for where, on_one_core in (("all_cores", False), ("one_core", True)):
            say(f"serve: {model.name}, {where}, {rounds} rounds of {turn} frames each")
            found = match(model, rounds, turn, camera, on_one_core=on_one_core)
            rows += rows_of(f"{model.name}/b1/{where}", found, with_targets=not quick)
        say(f"serve: {model.name}, memory over {memory} frames")
        mib, told = memory_of(model, memory, turn)
        rows += memory_rows(f"{model.name}/b1", mib, memory, told, with_targets=not quick)
    return rows
