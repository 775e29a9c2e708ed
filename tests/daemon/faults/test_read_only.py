"""A state folder whose file system is turns read-only under a running daemon, as after an error of
the disk.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("edgeadapt.daemon.http.server")  # with starlette and uvicorn

from test_full_disk import ask

from edgeadapt.daemon.config.schema import LoopSection
from edgeadapt.demo.sample import Sample
from edgeadapt.errors import StateError, StorageError

Made = Callable[..., Any]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, in a file."""
    folder, image = tmp_path / "disk", tmp_path / "image"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    for command in (
        ["mkfs.ext4", "-q", "-F", str(image)],
        ["mount", "-o", "loop,errors=remount-ro", str(image), str(folder)],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a disk of its own cannot be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_read_only_disk_answers_go_on_labels_are_refused_and_a_later_start_has_all(
    disk: Path, settings: Made, serve: Made, sample: Sample, until: Made
) -> None:
    service = serve(settings(state=disk / "state", loop=LoopSection(checkpoint_s=3600.0)))
    seen = service.observe(sample.x[:8])
    label = {"labels": [{"sample": seen[0].id, "label": "Coat"}]}
    assert ask(service, "/v1/labels", label)[1]["received"] == 1
    # as the kernel does it after an error of the disk: files that are open for writing stay open
    subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)
    for path, body in (
        ("/v1/labels", {"labels": [{"sample": seen[1].id, "label": "Coat"}]}),
        ("/v1/forget", {"samples": [seen[0].id]}),
        ("/v1/classes", {"name": "Hat"}),
    ):
        status, said = ask(service, path, body)
        assert (status, said["kind"]) == (507, "StorageError"), said
        assert "its file system is read-only; nothing was changed: check the disk" in said["error"]
    assert all(answer.label and not answer.error for answer in service.observe(sample.x[8:40]))
    until(
        lambda: any(
            "its file system is read-only" in problem for problem in service.health()["problems"]
        )
    )
    assert service.health()["ok"] and service.ready()[0] and "Hat" not in service.classes()
    before = time.monotonic()
    service.stop()
    assert time.monotonic() - before < 2.5
    with pytest.raises((StateError, StorageError), match=str(disk)):
        serve(settings(state=disk / "state"))
    subprocess.run(["umount", "-l", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk.with_name("image")), str(disk)], check=True)
    again = serve(settings(state=disk / "state"))
    assert sum(again.status()["learner"]["evidence"].values()) == 1
    seen = again.observe(sample.x[:1])
    assert (
        ask(again, "/v1/labels", {"labels": [{"sample": seen[0].id, "label": "Coat"}]})[1][
            "received"
        ]
        == 1
    )
    assert again.health()["problems"] == []
    again.stop()
