"""Bad input that takes a process of its own: a mount that nobody may write, a disk that is really
full, two processes on one folder, and a fork.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import sample_images
from learner_steps import Opener
from test_bad_input import still_works

from edgeadapt.demo.sample import bundle_path
from edgeadapt.errors import StateError

_READ_ONLY = """
import sys
from edgeadapt.device.learner import open
try:
    open(sys.argv[1], state=sys.argv[2])
except Exception as error:
    print(type(error).__name__, error)
"""


def in_own_mounts(script: str, python: str, *arguments: str, cwd: Path) -> str:
    """Run shell lines, then Python, where mounts are private; skipped where the kernel does not
    allow that.
    """
    shell = [
        "unshare",
        "--mount",
        *([] if os.getuid() == 0 else ["--user", "--map-root-user"]),
        "sh",
        "-ec",
    ]
    if (
        not shutil.which("unshare")
        or subprocess.run(
            [*shell, "mount -t tmpfs none ."], cwd=cwd, capture_output=True
        ).returncode
    ):
        pytest.skip("this machine lets nobody mount anything")
    run = subprocess.run(
        [*shell, f'{script}; exec "$@"', "sh", sys.executable, "-c", python, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_read_only_state_folder_is_refused(opened: Opener, tmp_path: Path, state: Path) -> None:
    opened(state).close()
    told = in_own_mounts(
        "mount --bind state state; mount -o remount,bind,ro state",
        _READ_ONLY,
        str(bundle_path()),
        "state",
        cwd=tmp_path,
    )
    assert told.startswith("StateError state folder state is not writable by this user")
    opened(state)


_FULL = """
import json, os, sys
from pathlib import Path
from edgeadapt.device.learner import open
from edgeadapt.errors import StateError
sys.path.insert(0, sys.argv[2])
from sample_images import images
x, names = images(400)
learner = open(sys.argv[1], state="small")
learner.learn(x[:20], names[:20]); learner.settle()
digest, told = learner.digest(), ""
filler = os.open("small/filler", os.O_CREAT | os.O_WRONLY)
try:
    while True: os.write(filler, bytes(4096))
except OSError: os.close(filler)
served = 0
try:
    for i in range(20, 400, 10):
        learner.learn(x[i:i + 10], names[i:i + 10]); served += 10
except StateError as error: told = str(error)
labelled = len(learner._journal.evidence())
predicted = len(learner.observe(x).ids)
try: learner.settle()
except StateError as error: pass
Path("small/filler").unlink()
learner.learn(x[:5], names[:5]); learner.settle()
evidence = learner.counters()["evidence"]
print(json.dumps({"told": told, "served": served, "labelled": labelled, "predicted": predicted,
                  "evidence": evidence}))
learner.close()
print(json.dumps(sum(open(sys.argv[1], state="small").counters()["evidence"].values())))
"""


def test_on_a_disk_that_is_really_full_labels_are_refused_serving_goes_on_and_space_heals_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "small").mkdir()
    here = str(Path(sample_images.__file__).parent)
    told = in_own_mounts(
        "mount -t tmpfs -o size=1m none small", _FULL, str(bundle_path()), here, cwd=tmp_path
    )
    first, reopened = (msgspec.json.decode(line) for line in told.splitlines())
    assert (
        "the state folder small cannot take the change" in first["told"]
        and "nothing was changed" in first["told"]
    )
    assert first["labelled"] == 20 + first["served"] < 400 and first["predicted"] == 400
    assert (
        sum(first["evidence"].values()) == first["labelled"] + 5 == reopened
        and "received" not in first["evidence"]
    )


_SECOND = """
import os, sys
from edgeadapt.device.learner import open
print(os.getpid(), flush=True)
learner = open(sys.argv[1], state=sys.argv[2])
print("open", flush=True)
sys.stdin.readline()
"""


def test_a_second_process_is_refused_with_the_pid_of_the_first(opened: Opener, state: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", _SECOND, str(bundle_path()), str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdin and first.stdout
    pid = int(first.stdout.readline())
    assert first.stdout.readline() == "open\n" and pid == first.pid
    with pytest.raises(StateError, match=f"is in use by the process with pid {pid}$"):
        opened(state)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdin.close()
    first.stdout.close()
    still_works(opened(state))  # the lock died with its holder


_FORKS = """
import os, sys, time
from edgeadapt.device.learner import open
sys.path.insert(0, sys.argv[3])
from sample_images import images
say = lambda line: os.write(1, line.encode() + b"\\n")  # whole lines: two processes share the pipe
x, names = images(20)
learner = open(sys.argv[1], state=sys.argv[2])
ids = learner.observe(x).ids
child = os.fork()
if child == 0:
    for call in (lambda: learner.predict(x), lambda: learner.label(ids[0], names[0]),
                 lambda: learner.digest(), lambda: learner.history()):
        try: call()
        except Exception as error: say(f"{type(error).__name__} {error}")
    learner.close()
    os.close(1), os.close(2)
    time.sleep(20 if sys.argv[4] == "stay" else 0)
    os._exit(0)
if sys.argv[4] == "stay":
    say(f"child {child}")
    os.kill(os.getpid(), 9)
os.waitpid(child, 0)
learner.label(ids, names); learner.settle()
say(f"parent {os.getpid()} {learner.counters()['evidence'].get('received', 0)}")
learner.close()
"""


def forks(state: Path, how: str) -> list[str]:
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        _FORKS,
        str(bundle_path()),
        str(state),
        str(Path(sample_images.__file__).parent),
        how,
    ]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60).stdout.splitlines()


def test_after_a_fork_the_child_is_refused_by_pid_and_the_parent_goes_on(
    opened: Opener, state: Path
) -> None:
    *child, parent = forks(state, "leave")
    _, pid, received = parent.split()
    assert len(child) == 4 and received == "0"
    for line in child:
        assert line.startswith(
            f"StateError this learner was opened by the process with pid {pid}; after a fork, open"
            " it again in the child (pid "
        )
    assert sum(opened(state).counters()["evidence"].values()) == 20


def test_a_child_that_outlives_its_parent_does_not_hold_the_folder(
    opened: Opener, state: Path
) -> None:
    child = next(int(line.split()[1]) for line in forks(state, "stay") if line.startswith("child"))
    try:
        still_works(opened(state))
    finally:
        os.kill(child, signal.SIGKILL)
