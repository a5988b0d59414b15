"""From what was prepared to an engine: every part allocated and wired, in one place."""

from __future__ import annotations

from engine.backends import make_executor
from engine.config.errors import EngineError
from engine.cost import cost_model
from engine.executor import DECODES_ONLY, Executor, LongerSteps
from engine.halves.shared import SharedSpace
from engine.kv.cache import KVCache, Space
from engine.kv.far import FarStore
from engine.kv.pool import BlockEvent, BlockPool
from engine.kv.prefix import PrefixCache
from engine.kv.prefixes import Prefixes
from engine.kv.quantized import QuantizedCache
from engine.loop import Engine
from engine.model.memory import free_bytes
from engine.overlap import OverlappedEngine
from engine.phases import Progress, silent
from engine.scheduling.policies import POLICIES
from engine.scheduling.preemption import Preemption
from engine.scheduling.scheduler import Scheduler
from engine.speculation.speculator import Speculator
from engine.start.attention import make_run_attention
from engine.start.bugs import inject
from engine.start.prepared import Prepared
from engine.start.sizing import spare_tokens
from engine.start.speculation import make_speculator
from engine.start.swapping import emulated_far_link, make_free, make_host, make_preemption, make_priorities
from engine.start.tiers import make_tiers
from engine.start.time_to_live import make_time_to_live
from engine.stopping import Outputs
from telemetry.clock import RunClock
from telemetry.folder import TIERS_FOLDER
from telemetry.recorder import Recorder

# Launching a step takes some 10 ms of Python on a GPU's host (docs/gpu.md), in which it computes about as much.
LAUNCH_FLOPS = 1e13
MOST_RECORDED_TOKENS = 4096


def allocate(prepared: Prepared, progress: Progress = silent, space: SharedSpace | None = None) -> Executor:
    """Allocate the KV cache and make ready whatever the device needs before the clock starts. ``space``: where its
    tensors are to lie; None: as the layout says."""
    config, model = prepared.spec.engine, prepared.model
    layout = prepared.layout
    addresses = layout.addresses(prepared.num_blocks)
    cache = prepared.cache or make_cache(prepared, addresses, prepared.tails, space or layout.make_space())
    cache.host = make_host(prepared, cache)
    cache.far = make_far(prepared, cache)
    attention = make_run_attention(prepared.backend, config, cache, model)
    executor = make_executor(prepared.backend, model.decoder, attention, draws_on_device=config.speculation is None)
    if config.cuda_graphs:
        longer = longer_steps(prepared) if config.graphs_of_longer_steps else DECODES_ONLY
        executor.capture_graphs(config.max_num_seqs, prepared.max_model_len, progress, longer=longer)
    return executor


def longer_steps(prepared: Prepared) -> LongerSteps:
    """Steps with parts of prompts or guesses that take longer to launch than to compute, as far as this run has any."""
    config, cost = prepared.spec.engine, cost_model(prepared.model)
    most = min(MOST_RECORDED_TOKENS, int(LAUNCH_FLOPS / (2 * cost.body_parameters)))
    longest = 1 if config.speculation is None else 1 + config.speculation.k
    return LongerSteps(
        prompt_rows=min(most, prepared.most_new_tokens),
        verify_rows=min(most, config.max_num_seqs * longest),
        longest=longest,
    )


def make_far(prepared: Prepared, cache: KVCache) -> FarStore | None:
    """The far pool that this run's requests borrow from; None where there is none.

    Raises:
        EngineError: the host cannot give its memory.
    """
    asked = prepared.spec.engine.far_pool
    if asked is None:
        return None
    needed, free = asked.blocks * prepared.layout.block_bytes, free_bytes(prepared.device)
    if needed > free:
        raise EngineError(
            "out-of-memory",
            "far_pool.blocks",
            asked.blocks,
            f"the far pool needs {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free.",
            f"Set it to {free // prepared.layout.block_bytes} or less.",
        )
    return FarStore(cache, make_cache(prepared, asked.blocks, None), emulated_far_link(asked))


def make_cache(prepared: Prepared, num_blocks: int, tails: int | None, space: Space | None = None) -> KVCache:
    """A KV cache of this many blocks, packed where the settings ask for it."""
    config, shape, model = prepared.spec.engine, prepared.model.shape, prepared.model
    dimensions = (shape.layers, shape.kv_heads, shape.head_dim, num_blocks, config.block_size)
    if prepared.codec is None:
        cache = KVCache(*dimensions, model.dtype, prepared.device, space)
    else:
        cache = packed = QuantizedCache(
            prepared.codec,
            *dimensions,
            model.dtype,
            prepared.device,
            tails=tails or 0,
            spare=spare_tokens(config),
            space=space,
        )
        prepared.fixed.apply(packed)
    cache.contiguous = prepared.layout.length > 0
    return cache


class Parts:
    """What an engine is made of that depends on where its phases run. These are of one that computes both."""

    def pool(self, prepared: Prepared, journal: list[BlockEvent] | None, cache: KVCache) -> BlockPool:
        pool = prepared.layout.make_pool(prepared.num_blocks, journal, make_free(prepared), cache)
        pool.watched = prepared.spec.engine.kv_layout is not None
        return pool

    def prefixes(self, pool: BlockPool, window_blocks: int | None) -> Prefixes:
        """Without prefix sharing."""
        return Prefixes(pool, window_blocks)

    def preemption(self, prepared: Prepared, prefixes: Prefixes, cache: KVCache, clock: RunClock) -> Preemption:
        return make_preemption(prepared, prefixes.pool, cache, clock)


def build_engine(
    prepared: Prepared,
    recorder: Recorder,
    clock: RunClock,
    executor: Executor | None = None,
    drafter: Speculator | None = None,
    outputs: Outputs | None = None,
    parts: Parts | None = None,
) -> Engine:
    """Wire the engine; ``executor`` and ``drafter``: what ``allocate`` and ``make_speculator`` returned,
    where that was ahead of the clock. ``outputs``: None for those that tell nobody. ``parts``: None for those of one
    engine."""
    config, shape, model = prepared.spec.engine, prepared.model.shape, prepared.model
    executor, parts = executor or allocate(prepared), parts or Parts()
    journal: list[BlockEvent] | None = [] if config.recording == "full" else None
    if executor.cache.far is not None:
        executor.cache.far.begin(clock.now_ns, check=config.check_integrity)
    pool = parts.pool(prepared, journal, executor.cache)
    sharing = config.prefix_sharing
    window = None if prepared.codec is None else prepared.codec.window // config.block_size
    prefixes = (
        parts.prefixes(pool, window)
        if sharing is None
        else PrefixCache(
            pool,
            sharing,
            (executor.cache.far or executor.cache).copy_block,
            window_blocks=window,
            tiers=make_tiers(prepared, executor.cache, clock, recorder.run_dir / TIERS_FOLDER),
        )
    )
    loop = OverlappedEngine if prepared.overlaps else Engine
    engine = loop(
        executor=executor,
        scheduler=Scheduler(
            pool,
            POLICIES[config.resolved_policy](prepared.limits),
            config.max_num_seqs,
            prefixes,
            drafter or make_speculator(prepared, executor.cache),
            prepared.tails,
            parts.preemption(prepared, prefixes, executor.cache, clock),
            make_priorities(prepared),
            make_time_to_live(prepared, pool, clock),
        ),
        outputs=outputs or Outputs(model.tokenizer, shape.eos_token_ids, prepared.max_model_len, config.keep_text),
        cost=cost_model(model, prepared.kv_bytes_per_token),
        recorder=recorder,
        clock=clock,
        device=prepared.device,
        check_integrity=config.check_integrity,
    )
    if config.speculation is not None and config.speculation.inject_bug != "none":
        inject(config.speculation.inject_bug, engine)
    return engine
