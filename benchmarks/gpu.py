"""All GPU measurements: whole runs, single steps and attention beside the limits measured on the same device.

``python -m benchmarks.gpu [--parts NAME,...] [--minutes N] [--dry-run] [--json FILE [--merge]] [--check]``

The file is written after every part. With ``--merge`` it keeps what it has of an earlier call for the same commit on the same kind of
GPU, so that parts can be measured in several calls.

Random weights of named shapes: speed does not depend on what they say. ``--dry-run`` goes through the same code with a tiny
shape, on a CPU with interpreted kernels where there is no GPU; its figures mean nothing and are not saved.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

if "--dry-run" in sys.argv and not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

import torch

from benchmarks.gpu_parts import longer, packed, profile, serving, shared, steps
from benchmarks.gpu_parts.bench import Bench
from benchmarks.harness import Report, some_of
from benchmarks.merging import arguments, earlier_results, finish, save

PARTS = {
    "tokens": serving.same_tokens,
    "common": serving.common,
    "longer": longer.longer_steps,
    "steps": steps.forward_passes,
    "profile": profile.where_time_goes,
    "smallest": serving.smallest_steps,
    "attention": steps.attention_alone,
    "recording": serving.recording,
    "packed": packed.packed,
    "shared": shared.shared,
    "peer": serving.beside_transformers,
}


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    about = f"some of {', '.join(PARTS)}, with commas"
    parser.add_argument("--parts", type=some_of(PARTS), default=list(PARTS), help=about)
    parser.add_argument("--minutes", type=float, default=7.0, help="start no further part after this long")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes; figures mean nothing")
    options = parser.parse_args(words)
    if not torch.cuda.is_available() and not options.dry_run:
        parser.error("there is no GPU here; --dry-run goes through the code without one")
    path: Path | None = None if options.dry_run else options.json
    earlier = earlier_results(parser, options)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    bench = Bench(Report("gpu", device=str(device)), device, options.dry_run)
    bench.measure_peaks()
    started = time.perf_counter()
    failed, times = [], []
    for name in options.parts:
        if time.perf_counter() - started > options.minutes * 60:
            failed.append((name, "not started: out of time"))
            continue
        begin = time.perf_counter()
        try:
            PARTS[name](bench)
        except Exception as error:  # a part that fails must not cost the others' figures
            traceback.print_exc()
            failed.append((name, f"{type(error).__name__}: {error}"[:300]))
        bench.free()
        times.append((name, time.perf_counter() - begin))
        if path:
            save(path, bench.report, earlier)  # whatever ends this process before its end
    bench.report.table("parts", ["part", "s"], times)
    if failed:
        bench.report.table("parts that gave no figures", ["part", "why"], failed)
    return finish(bench.report, options, path, earlier) or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())
