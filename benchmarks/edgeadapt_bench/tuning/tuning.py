"""``edgeadapt bench tuning``: deltas under one budget of bytes, beside a probe and full tuning.

Every contender has the same five rates, of which the twin chooses one; then three seeds at the
task. Results are kept by a hash of their sources, so a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import edgeadapt.host
from edgeadapt.errors import InputError
from edgeadapt.host.exporting.cross_fitting import calibration_error
from edgeadapt.host.tuning.run import tune
from edgeadapt_bench.downloads.folder import data_folder
from edgeadapt_bench.harness.measure import Row, Say
from edgeadapt_bench.harness.resampling import paired_interval
from edgeadapt_bench.tuning.contenders import CONTENDERS, FACTORS, Contender
from edgeadapt_bench.tuning.tasks import TASKS, Task, logits

SEEDS = (0, 1, 2)
QUICK = ("wrist",)
_GLANCE = 16  # samples of the test set that training looks at; all are judged once, afterwards
_UNDECISIVE = {
    "registry.py",
    "verdicts.py",
    "members.py",
    "section.py",
    "delta_file.py",
    "delta_manifest.py",
}


@dataclass(frozen=True)
class Result:
    """One run: ``right`` is one digit a test sample; ``probe`` the accuracy of the base's probe."""

    right: str
    probe: float
    ece: float
    control: float | None
    control_before: float | None
    numbers: int
    bytes: int
    seconds: float
    peak_mib: float


def run_tuning(
    data: str | None, say: Say, quick: bool = False, validation: bool = False
) -> list[Row]:
    """Rows of every task.

    Args:
        data: not used; the folder of the other data sets holds these.
        quick: the wrist alone, with one seed and the rates as they stand.
        validation: report the twins, on which rates are chosen, in place of the tasks.
    """
    rows: list[Row] = []
    for name in QUICK if quick else TASKS:
        rates = {
            one.name: one.rate if quick else _chosen_rate(name, one, say) for one in CONTENDERS
        }
        results = {
            one.name: list(
                _results(name, one, (0,) if quick else SEEDS, validation, rates[one.name], say)
            )
            for one in CONTENDERS
        }
        rows += _rows(name, {who: found for who, found in results.items() if found}, rates)
    return rows


def _chosen_rate(task: str, contender: Contender, say: Say) -> float:
    """The best on the twin, with one seed; of equals the lower."""
    rates = [factor * contender.rate for factor in FACTORS]
    found = {}
    for rate in rates:
        results = list(_results(task, contender, (0,), True, rate, say))
        found[rate] = _mean(results) if results else -1.0
    return max(rates, key=lambda rate: (found[rate], -rate))


def _results(
    task: str, contender: Contender, seeds: Iterable[int], is_twin: bool, lr: float, say: Say
) -> Iterator[Result]:
    for seed in seeds:
        for one in TASKS[task](seed, is_twin):
            try:
                yield _kept(one, contender, seed, lr, say)
            except InputError as error:
                say(f"{one.name}  {contender.name}: {error}")
                return


def _kept(task: Task, contender: Contender, seed: int, lr: float, say: Say) -> Result:
    name = task.name.partition("/")[0]
    what = f"{task.name} {task.bytes} {task.epochs} {contender} {seed} {lr}"
    key = hashlib.sha256(f"{_sources(name, contender)} {what}".encode()).hexdigest()[:24]
    path = data_folder() / "tuning" / f"{key}.json"
    if path.exists():
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    settings = contender.settings(task, seed, lr)
    glance = task.test.take(np.arange(_GLANCE) * len(task.test) // _GLANCE)
    tuned = tune(
        task.base(), task.fit, glance, settings, control=task.control, progress=lambda line: None
    )
    after, before = logits(tuned.network, task.test), logits(tuned.base, task.test)
    answers = after.argmax(1).numpy() == task.test.y
    report = tuned.report
    result = Result(
        "".join("01"[int(one)] for one in answers),
        float((before.argmax(1).numpy() == task.test.y).mean()),
        calibration_error(after.numpy(), task.test.y, after.shape[1], 1.0),
        report.control,
        report.control_before,
        report.numbers,
        report.bytes,
        report.seconds,
        report.peak_mib,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result)), encoding="utf-8")
    say(f"{task.name}  {contender.name} at {lr:.1e}, seed {seed}: {_mean([result]):.1%}")
    return result


def _sources(task: str, contender: Contender) -> str:
    """Of what decides a result: the trainer, the tuning that all share, this contender's members
    and this task. A further task or method leaves what was measured as it is.
    """
    root = Path(edgeadapt.host.__path__[0])
    members = [contender.delta, contender.start_member, contender.score_member]
    files = [
        *(one for one in (root / "tuning").glob("*.py") if one.name not in _UNDECISIVE),
        *(root / "training").glob("*.py"),
        *(Path(inspect.getfile(type(one))) for one in members if one is not None),
        Path(inspect.getfile(TASKS[task])),
    ]
    digest = hashlib.sha256(inspect.getsource(Contender).encode())
    for file in sorted(set(files)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _rows(task: str, results: dict[str, list[Result]], rates: dict[str, float]) -> Iterator[Row]:
    """Accuracy, and the difference to the cheapest that is not surely worse than the best."""
    rights = {who: _right(found) for who, found in results.items()}
    best = max(rights, key=lambda who: rights[who].mean())
    as_good = [who for who in rights if paired_interval(rights[best], rights[who])[1] <= 0.0]
    cheapest = min(as_good, key=lambda who: results[who][0].bytes)
    probe = float(np.mean([one.probe for one in next(iter(results.values()))]))
    for who, found in results.items():
        where = f"{task}/{who}"
        yield Row(f"accuracy/{where}", 100 * float(rights[who].mean()), "%", 100 * probe)
        difference, low, high = paired_interval(rights[who], rights[cheapest])
        unit = f"points over {cheapest}, {100 * low:+.1f} to {100 * high:+.1f}"
        yield Row(f"gain/{where}", 100 * difference, unit)
        if found[0].control is not None:
            after, before = (
                100 * float(np.mean([value for value in values if value is not None]))
                for values in (
                    [one.control for one in found],
                    [one.control_before for one in found],
                )
            )
            yield Row(f"control/{where}", after, "%", before)
        ece = 100 * float(np.mean([one.ece for one in found]))
        yield Row(f"calibration_error/{where}", ece, "%")
        yield Row(f"bytes/{where}", float(found[0].bytes), "bytes")
        yield Row(f"rate/{where}", rates[who], "peak rate")
        yield Row(f"seconds/{where}", float(np.median([one.seconds for one in found])), "s")


def _right(found: Sequence[Result]) -> np.ndarray:
    return np.concatenate([np.array(list(one.right)) == "1" for one in found])


def _mean(found: Sequence[Result]) -> float:
    return float(_right(found).mean())


__all__ = ["run_tuning"]
