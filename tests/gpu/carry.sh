#!/usr/bin/env bash
# Fills tests/gpu/wheels with what tests/gpu/run_all.sh needs, for a machine that has no network:
#
#   tests/gpu/carry.sh                    for this machine and its python3
#   tests/gpu/carry.sh aarch64 3.10       for a Jetson with JetPack 6; aarch64 3.12 for JetPack 7;
#                                         x86_64 3.11 and so on
#
# With EDGEADAPT_GPU_CUDART=1 also nvidia-cuda-runtime, whose licence is NVIDIA's: downloading it
# means accepting that. The folder is ignored by git and stays under 64 MiB; torch, TensorRT and
# ONNX Runtime's GPU builds are not carried.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
most=$((64 << 20))
case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

target=()
if [ $# -eq 2 ]; then
  for tag in manylinux2014 manylinux_2_17 manylinux_2_27 manylinux_2_28; do
    target+=(--platform "${tag}_$1")
  done
  target+=(--python-version "$2" --implementation cp --only-binary=:all:)
elif [ $# -ne 0 ]; then
  echo "carry.sh takes nothing, or a processor and a Python version: carry.sh aarch64 3.10" >&2
  exit 2
fi
# pip asks the Python that runs it, not the target, what a condition on the version means
if [ $# -eq 2 ]; then
  set -- -r "$here/requirements.txt" tomli typing-extensions
else
  set -- -r "$here/requirements.txt"
fi
if [ "${EDGEADAPT_GPU_CUDART:-0}" = 1 ]; then set -- "$@" nvidia-cuda-runtime; fi

rm -rf "$here/wheels"
"${PYTHON:-python3}" -m pip --disable-pip-version-check download -q --prefer-binary \
  --dest "$here/wheels" ${target[@]+"${target[@]}"} "$@"
size=$(du -sb "$here/wheels" | cut -f1)
if [ "$size" -gt "$most" ]; then
  echo "$here/wheels has $((size >> 20)) MiB, more than the 64 MiB it may have; removed" >&2
  rm -rf "$here/wheels"
  exit 1
fi
echo "$here/wheels: $(find "$here/wheels" -type f | wc -l) files, $((size >> 20)) MiB"
