#!/usr/bin/env bash
# Measures this machine's NVIDIA GPU once, in under ten minutes, and writes a dated result:
#
#   tests/gpu/run_all.sh [--quick] [--limit SECONDS] [--out FOLDER]
#                        [--parts cudart,step,correction,bundle,story,doctor]
#
# A result of a real card goes to docs/measurements, anything else to build/gpu. What cannot run
# says why, and is no failure: without a GPU the exit code is 0. It is 1 if a check failed or a
# target was missed, 2 if an option is wrong, 5 if there is no usable Python.
#
# The first Python that has what tests/gpu/requirements.txt names is used as it is, and nothing is
# installed into it: $PYTHON, the active environment, .venv, .venv-gpu, /opt/edgeadapt, python3. If
# none has, .venv-gpu is made: from tests/gpu/wheels if tests/gpu/carry.sh filled it before, else
# with pip from its index. It sees the system's packages, so that JetPack's TensorRT is found. With
# EDGEADAPT_GPU_CUDART=1 it also gets nvidia-cuda-runtime, whose licence is NVIDIA's; a CUDA on the
# machine or in torch's wheels makes that unnecessary.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
wheels=$root/tests/gpu/wheels
needs="
import sys
assert sys.version_info >= (3, 10)
import numpy, msgspec, safetensors, onnxruntime, cryptography, threadpoolctl
sys.version_info >= (3, 11) or __import__('tomli')
"
new_onnxruntime="
import onnxruntime, re
assert tuple(map(int, re.findall('[0-9]+', onnxruntime.__version__)[:2])) >= (1, 23)
"

case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

fits() { command -v "$1" >/dev/null 2>&1 && "$1" -c "$needs" >/dev/null 2>&1; }

is_new_enough() {
  command -v "$1" >/dev/null 2>&1 &&
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then # the user's choice is used or refused, never replaced
    fits "$PYTHON" && { printf '%s\n' "$PYTHON"; return; }
    echo "$PYTHON lacks something: it has to be Python 3.10 or newer with what" \
      "$root/tests/gpu/requirements.txt names" >&2
    return 5
  fi
  for candidate in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" "$root/.venv/bin/python" \
    "$root/.venv-gpu/bin/python" /opt/edgeadapt/bin/python python3; do
    [ -n "$candidate" ] && fits "$candidate" && { printf '%s\n' "$candidate"; return; }
  done
  make_python
}

make_python() {
  local base="" candidate from=() listed=$root/tests/gpu/requirements.txt
  for candidate in python3 /usr/bin/python3 python3.13 python3.12 python3.11 python3.10; do
    is_new_enough "$candidate" && { base=$candidate; break; }
  done
  [ -n "$base" ] || {
    echo "no Python 3.10 or newer with its venv module; on Debian, Ubuntu and a Jetson:" \
      "sudo apt-get install python3-venv" >&2
    return 5
  }
  echo "making $root/.venv-gpu with $("$base" --version)" >&2
  "$base" -m venv --system-site-packages "$root/.venv-gpu" >&2 || {
    echo "$root/.venv-gpu cannot be made; name a Python that has what is needed in \$PYTHON" >&2
    return 5
  }
  # the system's, perhaps for a GPU: pip's would hide it, and is for the CPU
  if "$root/.venv-gpu/bin/python" -c "$new_onnxruntime" >/dev/null 2>&1; then
    grep -v '^onnxruntime' "$listed" >"$root/.venv-gpu/requirements.txt"
    listed=$root/.venv-gpu/requirements.txt
  fi
  set -- -r "$listed"
  [ "${EDGEADAPT_GPU_CUDART:-0}" = 1 ] && set -- "$@" nvidia-cuda-runtime
  if compgen -G "$wheels/*.whl" >/dev/null; then from=(--no-index --find-links "$wheels"); fi
  "$root/.venv-gpu/bin/python" -m pip --disable-pip-version-check install -q \
    ${from[@]+"${from[@]}"} "$@" >&2 || {
    echo "pip could not install it. Without a network: run tests/gpu/carry.sh where there is one," \
      "and bring tests/gpu/wheels here" >&2
    return 5
  }
  printf '%s\n' "$root/.venv-gpu/bin/python"
}

for argument; do # before anything is made or installed
  case $argument in
    --quick | --limit | --limit=* | --parts | --parts=* | --out | --out=*) ;;
    -*) echo "no option $argument; see --help" >&2; exit 2 ;;
  esac
done
python=$(find_python) || exit 5
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" "$root/tests/gpu/entry_points.py" "$scratch" >/dev/null
echo "with $("$python" --version) in $python"
code=0
PYTHONPATH="$scratch:$root:$root/runtimes:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}" \
  PYTHONDONTWRITEBYTECODE=1 \
  "$python" -m edgeadapt_bench.gpu.gpu --out "$root/docs/measurements" \
  --elsewhere "$root/build/gpu" "$@" || code=$?
exit "$code"
