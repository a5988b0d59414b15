"""How fast this machine serves a model: whole prompts and decode steps, timed in a few seconds before a scenario is
sized.

``python -m engine.timing`` reads the engine's settings as JSON on standard input and prints one JSON object per line:
``{"phase": ..., "share": ...}`` while it works, ``{"rates": {...}}`` or ``{"error": {...}}`` at the end.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.block_table import blocks_for
from engine.config import EngineConfig, RequestSpec, RunSpec, Sampling, load_plugins
from engine.config.rates import BATCH, MachineRates
from engine.executor import Executor
from engine.failures import describe
from engine.model.device import resolve_device
from engine.phases import Progress, silent
from engine.start.build import allocate, build_engine
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.requests import make_requests
from engine.start.warmup import warm_up
from engine.texts import prose
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

PROMPT = {"cpu": 256, "cuda": 4096}  # tokens: long enough that a whole prompt's rate shows
SHORT_PROMPT = 16
STEPS = 8  # decode steps timed at once
TRIES = 3  # the shortest counts: other work on the machine only ever adds
WORDS = 400


def measure_rates(config: EngineConfig, progress: Progress = silent) -> MachineRates:
    """Serve made-up requests with the model, device, number format and threads of ``config``, every technique off.

    Raises:
        EngineError: the model cannot be loaded or served here.
    """
    device = resolve_device(config.device)
    prompt, size = PROMPT[device.type], config.block_size
    blocks = blocks_for(prompt + 1, size) + BATCH * blocks_for(SHORT_PROMPT + STEPS + 1, size)
    quiet = EngineConfig(
        model=config.model,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        attention_backend=config.attention_backend,
        cuda_graphs=config.cuda_graphs,
        graphs_of_longer_steps=config.graphs_of_longer_steps,
        overlap=config.overlap,
        block_size=config.block_size,
        seed=config.seed,
        chunked_prefill=None,
        max_num_seqs=BATCH,
        max_num_batched_tokens=prompt,
        kv_blocks=blocks,
        recording="off",
        keep_text=False,
        sampling=Sampling(ignore_eos=True),
    )
    prepared = prepare(_spec(quiet, BATCH, SHORT_PROMPT, STEPS + 1), progress)
    length = min(prompt, prepared.max_model_len // 2)
    progress("timing", 0.0)
    warm_up(prepared)
    executor = allocate(prepared)
    prompt_s = _shortest(prepared, executor, 1, length, 1)
    progress("timing", 0.4)
    steps_s = {}
    for count in (1, BATCH):
        first_s = _shortest(prepared, executor, count, SHORT_PROMPT, 1)
        steps_s[count] = (_shortest(prepared, executor, count, SHORT_PROMPT, STEPS + 1) - first_s) / STEPS
        progress("timing", 0.7 if count == 1 else 1.0)
    return MachineRates(
        prefill_tokens_per_s=length / prompt_s,
        step_ms=max(1e-3, 1e3 * steps_s[1]),
        batch_step_ms=max(1e-3, 1e3 * steps_s[BATCH]),
        tokens_per_word=_tokens_per_word(prepared),
        longest=prepared.max_model_len,
    )


def _spec(config: EngineConfig, count: int, prompt: int, output: int) -> RunSpec:
    """``count`` requests at once, each with a prompt and an answer of so many tokens."""
    requests = tuple(
        RequestSpec(request_id=str(index), prompt_token_ids=tuple(range(1, prompt + 1)), max_tokens=output)
        for index in range(count)
    )
    return RunSpec(run_id="timing", scenario="none", engine=config, requests=requests)


def _shortest(prepared: Prepared, executor: Executor, count: int, prompt: int, output: int) -> float:
    """Seconds that it takes to serve such requests, at best."""
    spec = _spec(prepared.spec.engine, count, prompt, output)
    return min(_seconds(prepared, executor, spec) for _ in range(TRIES))


def _seconds(prepared: Prepared, executor: Executor, spec: RunSpec) -> float:
    requests = make_requests(spec, prepared.model, prepared.device, prepared.max_model_len)
    trial = replace(prepared, spec=spec, requests=requests)
    folder = tempfile.TemporaryDirectory(prefix="servescope-")
    with folder, Recorder(Path(folder.name), "off", clock := RunClock()) as recorder:
        engine = build_engine(trial, recorder, clock, executor)
        began = time.perf_counter()
        engine.run(requests)
        return time.perf_counter() - began


def _tokens_per_word(prepared: Prepared) -> float:
    words = prose("held").split()[:WORDS]
    ids = prepared.model.tokenizer.prompt(" ".join(words), chat=False, system=None, length=None)
    return len(ids) / len(words)


def _report(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def main() -> int:
    """Measure in this process, reporting on standard output."""
    try:
        load_plugins()
        config = EngineConfig.model_validate_json(sys.stdin.read())
        rates = measure_rates(config, lambda phase, share: _report({"phase": phase, "share": share}))
    except Exception as error:
        traceback.print_exc()
        _report({"error": describe(error)})
        return 1
    _report({"rates": rates.model_dump()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
