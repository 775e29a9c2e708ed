"""Names that are kept with every label: a source, an id, a stream."""

from __future__ import annotations

import pytest

from edgeadapt.demo.sample import bundle_path, load_sample
from edgeadapt.device.learner import Learner
from edgeadapt.device.learner import open as open_learner
from edgeadapt.errors import InputError


def test_a_source_an_id_or_a_stream_of_more_than_a_kibibyte_is_refused_in_one_short_line() -> None:
    x = load_sample().x[:1]
    with open_learner(bundle_path()) as learner:
        id_ = learner.observe(x).ids[0]

        def all_of(name: str, on: Learner) -> list[tuple[str, object]]:
            return [
                ("a source", lambda: on.label([id_], ["Coat"], source=name)),
                ("a source", lambda: on.learn(x, ["Coat"], source=name)),
                ("an id", lambda: on.label([name], ["Coat"])),
                ("a stream", lambda: on.observe(x, stream=name)),
            ]

        for long in ("x" * 2_000_000, "x" * 1025, "\u00e9" * 513):
            for what, call in all_of(long, learner):
                with pytest.raises(InputError, match=f"{what} has at most 1024 bytes") as refused:
                    call()  # type: ignore[operator]
                assert len(str(refused.value)) < 150 and "\n" not in str(refused.value)
        learner.label([id_], ["Coat"], source="\u00e9" * 512)
        learner.observe(x, stream="x" * 1024)
        assert learner.forget(source="\u00e9" * 512).removed == 1
        assert learner.forget(source="x" * 2000).removed == 0  # of a folder from before the limit
