"""One file a task. Rates are chosen on its twin, of which nothing is reported."""

from edgeadapt_bench.tuning.tasks.clothes import clothes
from edgeadapt_bench.tuning.tasks.task import Task, logits
from edgeadapt_bench.tuning.tasks.wrist import wrist

TASKS = {"wrist": wrist, "clothes": clothes}

__all__ = ["TASKS", "Task", "logits"]
