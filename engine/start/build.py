"""From settings to a ready engine: every part made, sized and wired, in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from engine.arrivals import Arrivals
from engine.attention import AttentionBackend
from engine.attention.groups import GroupRule
from engine.attention.packed import make_attention
from engine.attention.rectangle import RectangleAttention
from engine.config import ChunkedPrefill, EngineConfig, RunSpec
from engine.config.errors import EngineError
from engine.cost import CostModel
from engine.executor import Executor
from engine.kv.cache import KVCache
from engine.kv.codecs import Codec, make_codec
from engine.kv.pool import BlockPool
from engine.kv.prefix import PrefixCache
from engine.kv.prefixes import Prefixes
from engine.kv.quantized import Fixed, QuantizedCache
from engine.kv.setup import calibrate, choose_reader, exact_prefill, has_fp8
from engine.loop import Engine
from engine.model.device import resolve_device, resolve_dtype, usual_threads
from engine.model.load import LoadedModel, load, resolve
from engine.outputs import Outputs
from engine.overlap import OverlappedEngine
from engine.request import Request
from engine.scheduling.policies import POLICIES
from engine.scheduling.policies.base import Limits
from engine.scheduling.scheduler import Scheduler
from engine.speculation.bugs import inject
from engine.speculation.head import Head
from engine.speculation.speculator import Speculator
from engine.start.attention import choose_backend, fitting_head
from engine.start.requests import check_any, make_requests, unfit
from engine.start.sizing import PoolSize, block_bytes, pool_size, spare_tokens
from engine.start.speculation import check_speculation, load_draft, load_head, make_speculator
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

DEFAULT_TOKEN_BUDGET = {"cpu": 64, "cuda": 512}

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Prepared:
    """A model loaded and a workload checked against it; ``start`` makes the engine once the run's clock exists."""

    spec: RunSpec
    model: LoadedModel
    device: torch.device
    pool: PoolSize
    max_model_len: int
    requests: list[Request]  # those that were refused included
    backend: str  # of attention
    notices: tuple[str, ...] = ()  # labels: what this device could not do as asked
    draft: LoadedModel | None = None  # guesses for the model, where speculation asks for one
    head: Head | None = None  # the same, where it asks for a trained head
    codec: Codec | None = None  # of the KV cache; None: full precision
    fixed: Fixed = field(default_factory=Fixed)  # what was found on text at start

    @property
    def num_blocks(self) -> int:
        return self.pool.taken.blocks

    @property
    def tails(self) -> int | None:
        """Sequences that may keep an exact window at once; None: the codec has none."""
        return self.pool.taken.tails

    @property
    def servable(self) -> list[Request]:
        """Requests that were not refused."""
        return [r for r in self.requests if r.refusal is None]

    @property
    def kv_capacity_tokens(self) -> int:
        return self.num_blocks * self.spec.engine.block_size

    @property
    def kv_could_hold_tokens(self) -> int:
        """Of the pool's share of the memory, whatever the workload."""
        return self.pool.most.blocks * self.spec.engine.block_size

    @property
    def uses_graphs(self) -> bool:
        return self.spec.engine.cuda_graphs and self.backend == "triton"

    @property
    def overlaps(self) -> bool:
        """Whether the next step is prepared while the device runs the last one."""
        config = self.spec.engine
        wanted = self.device.type == "cuda" if config.overlap == "auto" else config.overlap == "on"
        return wanted and config.speculation is None

    def allocate(self, progress: Progress = lambda phase, share: None) -> Executor:
        """Allocate the KV cache and make ready whatever the device needs before the clock starts."""
        config, model = self.spec.engine, self.model
        cache = self.make_cache(self.num_blocks, self.tails)
        executor = Executor(model.decoder, _attention(self.backend, config, cache, model))
        executor.draws_on_device = config.speculation is None
        if self.uses_graphs:
            executor.capture_graphs(config.max_num_seqs, self.max_model_len, progress)
        return executor

    def make_cache(self, num_blocks: int, tails: int | None) -> KVCache:
        """A KV cache of this many blocks, packed where the settings ask for it."""
        config, shape, model = self.spec.engine, self.model.shape, self.model
        dimensions = (shape.layers, shape.kv_heads, shape.head_dim, num_blocks, config.block_size)
        if self.codec is None:
            return KVCache(*dimensions, model.dtype, self.device)
        spare = spare_tokens(config)
        cache = QuantizedCache(self.codec, *dimensions, model.dtype, self.device, tails=tails or 0, spare=spare)
        self.fixed.apply(cache)
        return cache

    @property
    def kv_bytes_per_token(self) -> float:
        """Of a packed token, all layers."""
        size = self.spec.engine.block_size
        return block_bytes(self.model, size, self.codec) / size

    def start(
        self,
        recorder: Recorder,
        clock: RunClock,
        executor: Executor | None = None,
        drafter: Speculator | None = None,
    ) -> Engine:
        """Wire the engine; ``executor`` and ``drafter``: what ``allocate`` and ``make_speculator`` returned, where that was ahead of the clock."""
        config, shape, model = self.spec.engine, self.model.shape, self.model
        executor = executor or self.allocate()
        pool = BlockPool(self.num_blocks, config.block_size, journal=[] if config.recording == "full" else None)
        sharing = config.prefix_sharing
        window = None if self.codec is None else self.codec.window // config.block_size
        prefixes = (
            Prefixes(pool, window)
            if sharing is None
            else PrefixCache(pool, sharing, executor.cache.copy_block, window_blocks=window)
        )
        loop = OverlappedEngine if self.overlaps else Engine
        engine = loop(
            executor=executor,
            scheduler=Scheduler(
                pool,
                POLICIES[config.resolved_policy](self.limits),
                config.max_num_seqs,
                prefixes,
                drafter or make_speculator(self, executor.cache),
                self.tails,
            ),
            outputs=Outputs(model.tokenizer, shape.eos_token_ids, self.max_model_len, config.keep_text),
            cost=cost_model(model, self.kv_bytes_per_token),
            recorder=recorder,
            clock=clock,
            device=self.device,
            check_integrity=config.check_integrity,
        )
        if config.speculation is not None and config.speculation.inject_bug != "none":
            inject(config.speculation.inject_bug, engine)
        return engine

    @property
    def limits(self) -> Limits:
        config = self.spec.engine
        chunked = config.chunked_prefill or ChunkedPrefill()
        budget = chunked.token_budget or DEFAULT_TOKEN_BUDGET[self.device.type]
        return Limits(budget, chunked.chunk_size, config.max_num_batched_tokens)


def prepare(spec: RunSpec, progress: Progress = lambda phase, share: None) -> Prepared:
    """Load the model and check which requests can be served; those that cannot know why (``Request.refusal``).

    Raises:
        EngineError: naming the setting that cannot be served and what would be right, or the request where none can be.
    """
    config = spec.engine
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    # padded verification is a form of gathered attention
    asked = "gathered" if config.pads else config.attention_backend
    backend, notice = choose_backend(asked, device)
    if device.type == "cpu":
        torch.set_num_threads(config.threads or usual_threads())
    model = load(resolve(config.model), device, dtype, seed=config.seed, progress=progress)
    backend, larger = fitting_head(backend, asked, model.shape.head_dim)
    notices = [told for told in (notice, larger) if told]
    codec, fixed = None, Fixed()
    if config.kv_quantization is not None:
        codec = make_codec(config.kv_quantization, model.shape.head_dim, config.block_size)
        backend = choose_reader(backend, asked, codec, config, notices)
        if codec.name == "fp8" and not has_fp8(device):
            notices.append("fp8 emulated")
        model, fixed = calibrate(model, config.kv_quantization, codec, config, progress)
    max_model_len = _max_model_len(config, model)
    progress("reading prompts", 0.0)
    requests = make_requests(spec, model, device, max_model_len)
    Arrivals(requests)  # raises where one waits for another in vain
    check_any(requests)
    draft = load_draft(config, model, progress)
    head = load_head(config, model, progress)
    models = [model, draft] if draft is not None else [model]
    servable = [r for r in requests if r.refusal is None]
    size = pool_size(config, models, codec, device, servable, max_model_len)
    for request in servable:
        request.refusal = unfit(request, size.taken.blocks, config.block_size)
    check_any(requests)
    refused = sum(r.refusal is not None for r in requests)
    if refused:
        notices.append(f"{refused} of {len(requests)} requests refused")
    if config.speculation is not None and config.speculation.inject_bug != "none":
        notices.append(f"known bug: {config.speculation.inject_bug}")
    prepared = Prepared(
        spec,
        model,
        device,
        size,
        max_model_len,
        requests,
        backend,
        tuple(notices),
        draft,
        head,
        codec,
        fixed,
    )
    check_speculation(prepared)
    return prepared


def _attention(backend: str, config: EngineConfig, cache: KVCache, model: LoadedModel) -> AttentionBackend:
    heads = (model.shape.heads, model.shape.kv_heads, model.shape.head_dim)
    speculation = config.speculation
    if speculation is not None and config.pads:
        return RectangleAttention(cache, *heads, same_length=speculation.verification == "same-length")
    return make_attention(backend, cache, *heads, exact_prefill=exact_prefill(config), rule=group_rule(config))


def group_rule(config: EngineConfig) -> GroupRule | None:
    """When requests that share a prefix attend to it together; None: never."""
    sharing = config.prefix_sharing
    if sharing is None or not config.shares_attention:
        return None
    blocks = -(-sharing.min_prefix_tokens // config.block_size)
    return GroupRule(sharing.attention == "tree", sharing.min_group, blocks)


def cost_model(model: LoadedModel, kv_bytes_per_token: float | None = None) -> CostModel:
    """``kv_bytes_per_token``: as the cache stores them; None: at full precision."""
    shape = model.shape
    head = shape.vocab * shape.hidden
    return CostModel(
        body_parameters=shape.matmul_parameters - head,
        head_parameters=head,
        weight_bytes=shape.matmul_parameters * model.dtype.itemsize,
        kv_bytes_per_token=shape.kv_bytes_per_token(model.dtype.itemsize)
        if kv_bytes_per_token is None
        else kv_bytes_per_token,
        pair_flops=4 * shape.layers * shape.heads * shape.head_dim,
    )


def _max_model_len(config: EngineConfig, model: LoadedModel) -> int:
    own = model.shape.max_position
    if config.max_model_len is not None and config.max_model_len > own:
        raise EngineError(
            "too-long",
            "max_model_len",
            config.max_model_len,
            f"the model was made for at most {own:,} tokens.",
            f"Set max_model_len to {own} or less.",
        )
    return config.max_model_len or own
