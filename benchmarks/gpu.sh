#!/usr/bin/env bash
# Everything there is to prove and measure on a GPU, in one command, inside 9 minutes, without network:
#
#   benchmarks/gpu.sh [--only tests|measurements|speculation|run] [OUT]
#
# Results and logs go to OUT (default: benchmarks/results). Where a call may not take that long, several calls do the same: results for
# the same commit and GPU are put together in OUT/gpu.json. Settings by environment:
#
#   GPU_OPTIONS       of the measurements, e.g. GPU_OPTIONS="--parts common,steps"
#   TEST_SECONDS      the tests are ended after this long (170), and what they found until then is shown
#   SERVESCOPE_COMMIT the commit that these files are of, where they came without their own history: it goes into the results
#   MEASURE_SECONDS   likewise the measurements (330); a part is begun only while less than 9/11 of it have passed
#
# Speculation needs the embedded model's weights, so it comes only where it is asked for: --only speculation, within MEASURE_SECONDS;
# GPU_OPTIONS="--loads 1,64 --workloads chat" takes a part of it. What it has when the time is up is in OUT/speculation_gpu.json.
#
# Whole runs with chunked prefill on and off, as `servescope run` serves them, need duckdb, gguf and typer too: --only run, within MEASURE_SECONDS;
# RUN_OPTIONS="--model MODEL --export FOLDER" as benchmarks.gpu_run takes them. OUT/gpu_run.json has what they gave.
#
# Kernels that the measurements need are compiled beside the tests, in processes of their own.
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
only=all
if [ "${1:-}" = --only ]; then
  only=${2:-}
  case $only in tests | measurements | speculation | run) shift 2 ;; *) echo "--only takes tests, measurements, speculation or run" >&2; exit 2 ;; esac
fi
test_seconds=${TEST_SECONDS:-170}
measure_seconds=${MEASURE_SECONDS:-330}
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

# Say of a step that ran out of time that it did: what a log shows of it may look like success.
ended() { # STEP CODE SECONDS SETTING
  [ "$2" = 0 ] && return
  status=1
  if [ "$2" = 124 ] || [ "$2" = 137 ]; then
    echo "!! $1 did not end within $3 s: set $4 higher, or see the log"
  else
    echo "!! $1 ended with $2"
  fi
}

status=0
cores=$(nproc)
compiling=
if [ "$only" = all ] || [ "$only" = measurements ]; then
  capability=$("$python" -c 'import torch; print("{}{}".format(*torch.cuda.get_device_capability()))')
  "$python" -m benchmarks.compile_kernels --capability "$capability" --set models --jobs $((cores > 4 ? cores / 2 : 1)) \
    >"$out/gpu-compiled.log" 2>&1 &
  compiling=$!
fi

if [ "$only" = all ] || [ "$only" = tests ]; then
  echo "== kernels and graphs against the reference, fresh random inputs, poisoned caches"
  timeout --signal=INT --kill-after=20 "$test_seconds" \
    "$python" -m pytest -q -n $((cores > 12 ? 12 : cores)) --timeout "$test_seconds" -p no:cacheprovider \
    tests/engine/test_triton_*.py tests/engine/test_kernels.py tests/engine/test_graphs.py tests/engine/test_longer_graphs.py tests/engine/test_cuda_paths.py tests/engine/test_swap_cuda.py \
    tests/engine/test_large_pools.py \
    >"$out/gpu-tests.log" 2>&1
  ended "the tests" $? "$test_seconds" TEST_SECONDS
  tail -n 15 "$out/gpu-tests.log"
fi

if [ "$only" = all ] || [ "$only" = measurements ]; then
  wait "$compiling" || echo "!! not every kernel could be compiled ahead: see $out/gpu-compiled.log"
  echo "== measurements"
  # shellcheck disable=SC2086
  timeout "$measure_seconds" "$python" -m benchmarks.gpu --minutes "$(awk "BEGIN { print $measure_seconds * 9 / 660 }")" \
    --json "$out/gpu.json" --merge ${GPU_OPTIONS:-} 2>"$out/gpu-errors.log"
  ended "the measurements" $? "$measure_seconds" MEASURE_SECONDS
  [ -s "$out/gpu-errors.log" ] && tail -n 25 "$out/gpu-errors.log"
fi

if [ "$only" = speculation ]; then
  echo "== speculation on real weights"
  # shellcheck disable=SC2086
  timeout "$measure_seconds" "$python" -m benchmarks.speculation --device cuda --json "$out/speculation_gpu.json" --merge ${GPU_OPTIONS:-}
  ended "speculation" $? "$measure_seconds" MEASURE_SECONDS
fi

if [ "$only" = run ]; then
  echo "== whole runs, recorded, ingested and exported"
  # shellcheck disable=SC2086
  timeout "$measure_seconds" "$python" -m benchmarks.gpu_run --json "$out/gpu_run.json" ${RUN_OPTIONS:-}
  ended "the runs" $? "$measure_seconds" MEASURE_SECONDS
fi
exit $status
