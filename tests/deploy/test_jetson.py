"""The installer for boards, run in a folder that looks like one, with stand-ins for what only a
system has; and, slowly, in a real Debian root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeadapt.demo.sample import bundle_path

ROOT = Path(__file__).parents[2]
JETSON = ROOT / "deploy" / "jetson"
SCRIPT = JETSON / "install.sh"
CONTAINERFILES = sorted(JETSON.glob("Containerfile.jp?"))
ORIN_NANO = {
    "etc/nv_tegra_release": (
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed"
        " Jan  8 01:49:37 UTC 2025\n"
    ),
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
}
UNIT, DROPINS = "etc/systemd/system/edgeadapt.service", "etc/systemd/system/edgeadapt.service.d"
# Does in a folder what the real one would have done in a system, as far as the script looks at it,
# and writes down what it was asked.
CHROOT = """#!/bin/sh
root=$1; shift
case "$*" in
  *sys.version_info*) echo "${STUB_PYTHON:-3.10}"; exit 0 ;;
  *ensurepip*) exit 0 ;;
  *is-enabled*) test -e "$root/enabled"; exit ;;
esac
echo "$@" >> "$STUB_LOG"
for last; do :; done
case "$*" in
  *"-m venv"*)
    rm -rf "$root$last"; mkdir -p "$root$last/bin"; echo made > "$root$last/pyvenv.cfg" ;;
  systemd-sysusers) mkdir -p "$root/etc"; echo "edgeadapt:x:482:482:::" >> "$root/etc/passwd" ;;
  "install -d"*) mkdir -p "$root$last" ;;
  "systemctl enable"*) : > "$root/enabled" ;;
  "systemctl disable"*) rm -f "$root/enabled" ;;
esac
"""


class Board:
    """A folder with a board's files; ``install`` runs the script on it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.log, self._bin = folder / "root", folder / "asked", folder / "bin"
        for name, text in {**ORIN_NANO, sys.executable.lstrip("/"): ""}.items():
            self.write(name, text)
        (self.root / sys.executable.lstrip("/")).chmod(0o755)
        self._bin.mkdir()
        for name, text in {
            "chroot": CHROOT,
            "id": "#!/bin/sh\necho 0\n",
            "systemctl": "#!/bin/sh\necho host systemctl >> $STUB_LOG\nexit 1\n",
        }.items():
            (self._bin / name).write_text(text)
            (self._bin / name).chmod(0o755)
        self.log.touch()

    def write(self, name: str, text: str) -> None:
        place = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def install(self, *options: str | Path, code: int = 0, **environment: str) -> str:
        told = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "STUB_LOG": str(self.log),
            "PYTHON3": sys.executable,
            **environment,
        }
        done = subprocess.run(
            [SCRIPT, "--root", self.root, *options],
            env=os.environ | told,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()

    def files(self) -> dict[str, int]:
        return {
            str(path.relative_to(self.root)): path.stat().st_mtime_ns
            for path in self.root.rglob("*")
        }


@pytest.fixture
def orin(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(
        ["shellcheck", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


# -- installing ------------------------------------------------------------------------------------
def test_a_dry_run_prints_each_command_and_runs_none(orin: Board) -> None:
    before = orin.files()
    said = orin.install("--dry-run", "--bundle", bundle_path(), "--gpu", "--start")
    assert "board: Orin, JetPack 6.2 (L4T 36.4.3)" in said and said.endswith(
        "dry run: nothing was done\n"
    )
    commands = [
        line.removeprefix("+ ").removeprefix(f"chroot {orin.root} ")
        for line in said.splitlines()
        if line.startswith("+ ")
    ]
    for start in (
        "systemd-sysusers",
        "install -d -o edgeadapt",
        f"{sys.executable} -m venv --clear --system-site-packages /opt/edgeadapt",
        "/opt/edgeadapt/bin/python -m pip",
        "systemctl enable edgeadapt",
    ):
        assert any(command.startswith(start) for command in commands), (start, commands)
    assert orin.files() == before and orin.asked == []


def test_a_dry_run_prints_what_the_real_one_then_does(orin: Board) -> None:
    def commands(said: str) -> list[str]:
        return [
            re.sub(r"/tmp/tmp\.\w+", "TMP", line)
            for line in said.splitlines()
            if line.startswith("+ ")
        ]

    options = ("--bundle", bundle_path(), "--state", "/data/edgeadapt", "--gpu", "--start")
    assert commands(orin.install("--dry-run", *options)) == commands(orin.install(*options))


def test_everything_is_in_its_place_and_nothing_starts(orin: Board) -> None:
    orin.write("home/owner/KEY.pub", "ed25519:key\n")
    orin.install("--bundle", bundle_path(), "--key", orin.root / "home/owner/KEY.pub")
    assert (orin.root / "etc/edgeadapt/model.edge").read_bytes() == bundle_path().read_bytes() and (
        orin.root / "etc/edgeadapt/maker.pub"
    ).read_text() == "ed25519:key\n"
    assert (orin.root / UNIT).read_text() == (ROOT / "deploy/systemd/edgeadapt.service").read_text()
    assert sorted(path.name for path in (orin.root / DROPINS).iterdir()) == ["jetson.conf"]
    assert "install -d -o edgeadapt -g edgeadapt -m 700 /var/lib/edgeadapt" in orin.asked
    assert not (orin.root / "opt/edgeadapt/source").exists()
    assert not any(line.startswith(("systemctl", "host systemctl")) for line in orin.asked)


def test_running_it_again_changes_nothing(orin: Board) -> None:
    options = ("--bundle", bundle_path(), "--state", "/data/edgeadapt", "--gpu", "--start")
    orin.install(*options)
    before, asked = orin.files(), orin.asked
    said = orin.install(*options)
    assert (
        "nothing to do" in said
        and "+ " not in said
        and orin.files() == before
        and orin.asked == asked
    )


@pytest.mark.parametrize(("python", "pinned"), [("3.10", True), ("3.12", False)])
def test_python_3_10_gets_the_last_onnxruntime_for_it(
    orin: Board, python: str, pinned: bool
) -> None:
    said = orin.install(STUB_PYTHON=python)
    (pip,) = [line for line in orin.asked if " -m pip " in line]
    assert ("onnxruntime==1.23.2" in pip) == pinned and pip.split()[5].startswith(
        "/opt/edgeadapt/source[daemon,images]"
    )
    assert ("cannot be imported" in said) == (python != "3.10")


def test_the_owners_settings_stay_and_a_bundle_is_replaced_only_by_another(orin: Board) -> None:
    orin.write("etc/edgeadapt/edgeadapt.toml", "mine = true\n")
    orin.write("etc/edgeadapt/model.edge", "old")
    orin.install()
    assert (orin.root / "etc/edgeadapt/edgeadapt.toml").read_text() == "mine = true\n" and (
        orin.root / "etc/edgeadapt/model.edge"
    ).read_text() == "old"
    orin.install("--bundle", bundle_path())
    assert (orin.root / "etc/edgeadapt/model.edge").read_bytes() == bundle_path().read_bytes()


@pytest.mark.parametrize("change", ["the package", "Python"])
def test_another_package_or_python_makes_the_environment_anew(orin: Board, change: str) -> None:
    orin.install()
    if change == "the package":
        (orin.root / "opt/edgeadapt/installed").write_text("another\n")
    said = orin.install(STUB_PYTHON="3.12" if change == "Python" else "3.10")
    assert (
        "-m venv --clear" in said and len([line for line in orin.asked if " -m pip " in line]) == 2
    )


def test_state_on_the_data_partition_is_bound_to_where_the_settings_say(orin: Board) -> None:
    orin.install("--state", "/data/edgeadapt", "--prefix", "/opt/learner")
    text = (orin.root / DROPINS / "state.conf").read_text()
    assert text == (
        "[Unit]\nRequiresMountsFor=/data/edgeadapt\n\n"
        "[Service]\nBindPaths=/data/edgeadapt:/var/lib/edgeadapt\n"
    )
    assert "ExecStart=/opt/learner/bin/edgeadapt serve" in (orin.root / UNIT).read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_to_say_about_the_unit_with_its_drop_ins(
    orin: Board, tmp_path: Path
) -> None:
    orin.install("--state", "/data/edgeadapt", "--gpu")
    units = tmp_path / "units"
    shutil.copytree(orin.root / "etc/systemd/system", units)
    unit = units / "edgeadapt.service"
    unit.write_text(unit.read_text().replace("/opt/edgeadapt/bin/edgeadapt", sys.executable))

    def verified() -> tuple[int, str]:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", unit],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr

    assert verified() == (0, "")
    (units / "edgeadapt.service.d" / "wrong.conf").write_text("[Service]\nDevicePolicy=sometimes\n")
    assert "DevicePolicy" in verified()[1]  # drop-ins were read


# -- refusing --------------------------------------------------------------------------------------
def test_another_machine_is_refused_unless_it_is_meant(orin: Board) -> None:
    for name in ORIN_NANO:
        (orin.root / name).unlink()
    assert "no board that we know" in orin.install(code=1) and orin.asked == []
    assert "not in our table" in orin.install("--any-board")


def test_jetpack_5_is_told_what_it_can_do(orin: Board) -> None:
    orin.write(
        "etc/nv_tegra_release",
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    )
    assert "3.10 or newer is needed" in orin.install(code=1, STUB_PYTHON="3.8")
    assert "everything runs on the CPU" in orin.install(STUB_PYTHON="3.10")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--prefix", "relative"), 1, "absolute path"),
        (("--prefix", "/opt/../etc"), 1, "absolute path"),
        (("--state", "/data/a b"), 1, "absolute path"),
        (("--prefix", "/usr"), 1, "of the system's"),
        (("--bundle", "/absent.edge"), 1, "cannot be read"),
        (("--frobnicate",), 2, "usage:"),
        (("--bundle",), 2, "usage:"),
        (("--start",), 1, "give --bundle"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    orin: Board, options: tuple[str, ...], code: int, words: str
) -> None:
    assert words in orin.install(*options, code=code)


def test_a_folder_that_is_full_of_something_else_is_not_emptied(orin: Board) -> None:
    orin.write("srv/photos/cat.png", "cat")
    assert "full of something else" in orin.install("--prefix", "/srv/photos", code=1)
    orin.install("--uninstall", "--prefix", "/srv/photos")
    assert (orin.root / "srv/photos/cat.png").read_text() == "cat"


# -- removing --------------------------------------------------------------------------------------
def test_removing_keeps_what_was_learned_and_what_the_owner_wrote(orin: Board) -> None:
    orin.install("--bundle", bundle_path(), "--start", "--gpu")
    orin.write("var/lib/edgeadapt/state/learner.db", "learned")
    orin.write("var/cache/edgeadapt/tensorrt/plan-0.trt", "an engine")
    before = orin.files()
    assert "+ " in orin.install("--uninstall", "--dry-run") and orin.files() == before
    orin.install("--uninstall")
    assert {
        "etc/edgeadapt/model.edge",
        "etc/edgeadapt/edgeadapt.toml",
        "var/lib/edgeadapt/state/learner.db",
    } <= set(orin.files())
    assert not any(
        (orin.root / name).exists()
        for name in (
            UNIT,
            DROPINS,
            "opt/edgeadapt",
            "usr/lib/sysusers.d/edgeadapt.conf",
            "var/cache/edgeadapt",
            "enabled",
        )
    )
    assert "nothing to do" in orin.install("--uninstall")


# -- for real --------------------------------------------------------------------------------------
REAL = """
set -e
mount -t tmpfs tmpfs "$1"; mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" "$1/root"
mount --bind /dev "$1/root/dev"
mkdir -p "$1/root/proc/device-tree"
printf '%s' "$RELEASE" > "$1/root/etc/nv_tegra_release"
printf '%b' "$COMPATIBLE" > "$1/root/proc/device-tree/compatible"
"$SCRIPT" --root "$1/root" --bundle "$BUNDLE" --state /data/edgeadapt --start
echo "== again"; "$SCRIPT" --root "$1/root" --bundle "$BUNDLE" --state /data/edgeadapt --start
echo "== inside"; chroot "$1/root" "$SCRIPT" --bundle "$BUNDLE" --state /data/edgeadapt --start
echo "== found"; stat -c '%u %a %n' "$1/root/data/edgeadapt"
ls "$1/root/etc/systemd/system/multi-user.target.wants"
grep -h include-system "$1/root/opt/edgeadapt/pyvenv.cfg"
mount -t proc proc "$1/root/proc"
chroot "$1/root" /opt/edgeadapt/bin/edgeadapt doctor --self-test --state /data/edgeadapt/state
umount "$1/root/proc"
echo "== removed"; "$SCRIPT" --root "$1/root" --uninstall
ls -d "$1/root/opt/edgeadapt" 2>&1 || true
"""


@pytest.mark.slow
def test_in_a_debian_root_it_installs_enables_learns_and_leaves(tmp_path: Path) -> None:
    """A copy-on-write copy of this system, in a mount namespace of its own: real users, real pip,
    real systemctl; only the board's files are made up.
    """
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs tmpfs {tmp_path}"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    if os.getuid() or tried.returncode or not Path("/etc/debian_version").exists():
        pytest.skip("needs root, mount namespaces and Debian")
    told = {
        "SCRIPT": str(SCRIPT),
        "BUNDLE": str(bundle_path()),
        "RELEASE": ORIN_NANO["etc/nv_tegra_release"],
        "COMPATIBLE": ORIN_NANO["proc/device-tree/compatible"].replace("\0", "\\0"),
    }
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | told
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", REAL, "real", tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout
    assert "board: Orin, JetPack 6.2" in said and said.count("nothing to do") == 2
    assert f"482 700 {tmp_path}/root/data/edgeadapt" in said
    assert (
        "edgeadapt.service" in said
        and "include-system-site-packages = true" in said
        and re.search(r"passed +onnxruntime\n", said)
    )
    assert "No such file" in said.partition("== removed")[2]


# -- containers ------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
def test_container_files_copy_what_is_there_and_say_that_nobody_has_built_them(path: Path) -> None:
    text = path.read_text()
    copied = {
        name
        for words in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
        for name in words.split()
    }
    let_in = {
        line[1:]
        for line in Path(f"{path}.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert copied == let_in and all((ROOT / name).exists() for name in copied)
    assert (
        "NOT BUILT AND NOT RUN BY US" in text
        and "--system-site-packages" in text
        and re.search(r"^USER 482:482$", text, re.MULTILINE)
    )
    assert all(
        flag in text
        for flag in (
            "--runtime nvidia",
            "--gpus all",
            "--read-only",
            "--cap-drop ALL",
            "-v /etc/nv_tegra_release",
            "/tmp/argus_socket",
        )
    )
    assert re.search(r"^ARG BASE=nvcr\.io/nvidia/[a-z0-9-]+:[a-z0-9.-]*\d", text, re.MULTILINE)


def test_links_of_the_page_lead_somewhere() -> None:
    page = JETSON / "README.md"
    links: Callable[[str], list[str]] = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)").findall
    assert [
        link for link in links(page.read_text()) if not (page.parent / link).exists()
    ] == [] and len(CONTAINERFILES) == 2
