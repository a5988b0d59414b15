#!/usr/bin/env bash
# Everything there is to prove and measure on a GPU, in one command, inside 8 minutes, without network:
#
#   benchmarks/gpu.sh [OUT]      results and logs go to OUT (default: benchmarks/results); options for the
#                                measurements in GPU_OPTIONS, e.g. GPU_OPTIONS="--parts common,steps"
#
# Wanted on the machine: Python 3.12 with torch 2.11 (CUDA), triton 3.6, transformers 5.17, numpy, pyarrow, safetensors, tokenizers,
# psutil, nvidia-ml-py, rich, filelock, pytest, pytest-timeout, pytest-xdist, hypothesis. What else the engine imports comes as wheels in
# the folder WHEELS (default: wheels/), fetched on any machine with network by
#
#   pip download --only-binary=:all: --no-deps --python-version 3.12 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
#     -d wheels pydantic==VERSION pydantic-core==VERSION annotated-types typing-inspection platformdirs
#
# with pydantic's version from constraints.txt and pydantic-core's as pydantic's own metadata asks. No database and no page is needed.
set -u -o pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
wheels=${WHEELS:-wheels}
python=${PYTHON:-python3}
mkdir -p "$out"

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G "$wheels/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$site" "$wheels"/*.whl || exit 1
fi
export TRITON_INTERPRET=0
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
"$python" - <<'PY' || exit 1
import importlib.util, sys
missing = [n for n in ("torch", "triton", "numpy", "pyarrow", "pydantic", "platformdirs", "rich", "psutil", "pytest", "hypothesis")
           if importlib.util.find_spec(n) is None]
if missing:
    sys.exit(f"missing on this machine: {', '.join(missing)}; bring wheels as the head of this file says")
import torch
if not torch.cuda.is_available():
    sys.exit("PyTorch sees no GPU here")
print(torch.cuda.get_device_name(), "torch", torch.__version__)
PY

status=0
echo "== kernels and graphs against the reference, fresh random inputs, poisoned caches"
workers=$(( $(nproc) > 8 ? 8 : $(nproc) ))
timeout 170 "$python" -m pytest -q -n "$workers" --timeout 160 -p no:cacheprovider \
  tests/engine/test_triton_attention.py tests/engine/test_triton_packed.py tests/engine/test_triton_shared.py tests/engine/test_kernels.py \
  tests/engine/test_graphs.py \
  >"$out/gpu-tests.log" 2>&1 || status=1
tail -n 15 "$out/gpu-tests.log"

echo "== measurements"
# shellcheck disable=SC2086
timeout 330 "$python" -m benchmarks.gpu --minutes 4.5 --json "$out/gpu.json" ${GPU_OPTIONS:-} 2>"$out/gpu-errors.log" || status=1
[ -s "$out/gpu-errors.log" ] && tail -n 25 "$out/gpu-errors.log"
exit $status
