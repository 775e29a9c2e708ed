"""The side of the measuring process: one JSON order per line in, one JSON answer per line out.

An order is ``{"do": JOB, ...arguments}``. The answer is what the job returns, or
``{"error": "TypeName: message"}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Job = Callable[..., Mapping[str, Any]]


def serve(jobs: Mapping[str, Job]) -> None:
    """Answer orders until standard input ends. What libraries print goes to standard error.

    Args:
        jobs: by name; arguments and answers are what JSON can carry.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = jobs[order.pop("do")](**order)
        # the other side decides what a failure means; it must get its text, not a broken pipe
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
