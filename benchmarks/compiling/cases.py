"""Which shapes are compiled, and the engine's own device side driven through them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu_parts.bench import decode_plan
from benchmarks.gpu_parts.shared import decode_plan as shared_plan
from engine.attention.groups import GroupRule
from engine.attention.packed import obstacle
from engine.backends import make_attention
from engine.config.errors import EngineError
from engine.config.techniques import KVQuantization
from engine.gpu.executor import GpuExecutor
from engine.kv.cache import KVCache
from engine.kv.codecs import Codec, make_codec
from engine.kv.quantized import QuantizedCache
from engine.model.decoder import Decoder, Layer
from engine.model.norm import RMSNorm
from engine.model.shape import RANDOM, ModelShape
from engine.scheduling.plan import Plan, Slice

CPU = torch.device("cpu")
BLOCKS = 2  # of a pool that nothing is read from
TAILS = 4  # of sequences with an exact window; several share one here
TOKEN_IDS = 4096  # more than the plans use
FULL_GRID = 1024  # sequences, or tiles times KV heads, that fill any device: nothing is split

#: Settings of KV quantization by name; those that the kernels cannot read are left out of the shapes.
CODECS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "int8": {"codec": "int8"},
    "int8, groups of 16": {"codec": "int8", "group": 16},
    "int8, bfloat16 steps": {"codec": "int8", "metadata": "bfloat16"},
    "int4": {"codec": "int4"},
    "int4, 4 bits a key": {"codec": "int4", "wide_keys": False},
    "int4, groups of 16": {"codec": "int4", "group": 16},
    "int4, float32 steps": {"codec": "int4", "metadata": "float32"},
    "fp8": {"codec": "fp8"},
    "kivi": {"codec": "kivi"},
    "kivi, 4 bits": {"codec": "kivi", "key_bits": 4, "value_bits": 4},
    "kivi, 4 bits a key": {"codec": "kivi", "key_bits": 4, "value_bits": 2},
}
USUAL_CODECS = ("none", "int8", "int4", "fp8")
HEAD_SIZES = (64, 80, 96, 128, 256)
GROUPS = (1, 2, 3, 4, 5, 7, 8, 16)
BLOCK_SIZES = (16, 24, 32, 64, 128, 256)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Case:
    """One shape of a model and its cache."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype = torch.bfloat16
    codec: str = "none"
    block_size: int = 16
    qk_norm: bool = False
    hidden: int = 256
    intermediate: int = 512
    vocab: int = 49_152
    ways: tuple[int, ...] = ()  # numbers of the plans that are driven; empty: all

    @classmethod
    def of(cls, name: str, **more: Any) -> Case:
        """A shape by its name."""
        shape = RANDOM[name]
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in dataclasses.asdict(shape).items() if key in names} | more)

    @property
    def title(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.heads}/{self.kv_heads} x {self.head_dim}, {dtype}, {self.codec}, blocks of {self.block_size}"

    def make_codec(self) -> Codec | None:
        """None: full precision."""
        asked = CODECS[self.codec]
        return None if asked is None else make_codec(KVQuantization(**asked), self.head_dim, self.block_size)

    @property
    def readable(self) -> bool:
        """Whether the kernels can read such a cache."""
        try:
            codec = self.make_codec()
        except EngineError:  # such groups do not divide such a head
            return False
        return codec is None or obstacle("triton", codec, exact_prefill=False) is None

    @property
    def windowed(self) -> bool:
        """Whether the last tokens of its sequences stay exact."""
        codec = self.make_codec()
        return codec is not None and codec.window > 0

    def launch(self) -> None:
        """Everything a model of this shape launches, from the batch to its tokens, without graphs and as graphs record it."""
        executor = GpuExecutor(self.decoder(), self.attention())
        plans = list(self.plans())
        for plan in [plans[number % len(plans)] for number in self.ways] or plans:
            for number, part in enumerate(plan.slices):
                part.request.tail = number % TAILS
            batch = executor.build(plan)
            executor.tokens(batch, executor.forward(batch))
        if not self.ways:
            executor.capture_graphs(2, 4 * self.block_size)

    def attention(self) -> Any:
        codec, dimensions = self.make_codec(), (1, self.kv_heads, self.head_dim, BLOCKS, self.block_size)
        if codec is None:
            cache = KVCache(*dimensions, self.dtype, CPU)
        else:
            cache = QuantizedCache(codec, *dimensions, self.dtype, CPU, tails=TAILS if codec.window else 0)
            if codec.fixed_scales:
                cache.set_scales(torch.ones(1, 2, self.kv_heads))
            elif codec.rotates:
                cache.centre = torch.zeros(1, self.kv_heads, self.head_dim, dtype=self.dtype)
        rule = None if codec is not None and codec.window else GroupRule()  # the settings allow one of the two
        return make_attention("triton", cache, self.heads, self.kv_heads, self.head_dim, rule=rule)

    def decoder(self) -> Decoder:
        """One layer whose matrix products return memory as they find it."""
        shape = dataclasses.replace(RANDOM["tiny"], layers=1, max_position=16, **self._dimensions())
        ones = torch.ones(self.hidden, dtype=self.dtype)
        heads = self.heads + self.kv_heads
        layer = Layer(
            RMSNorm(ones, 1e-5),
            self._product(shape.q_width + 2 * shape.kv_width),
            RMSNorm(torch.ones(heads, self.head_dim, dtype=self.dtype), 1e-6) if self.qk_norm else None,
            self._product(self.hidden),
            RMSNorm(ones, 1e-5),
            self._product(2 * self.intermediate),
            self._product(self.hidden),
        )
        embedding = torch.zeros(1, dtype=self.dtype).expand(TOKEN_IDS, self.hidden)
        return Decoder(shape, embedding, [layer], RMSNorm(ones, 1e-5), self._product(self.vocab))

    def _dimensions(self) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(ModelShape)}
        return {name: value for name, value in vars(self).items() if name in names}

    def _product(self, width: int) -> Any:
        return lambda x: torch.empty(x.shape[0], width, dtype=self.dtype)

    def plans(self) -> Iterator[Plan]:
        """Batches that take every way through the attention: split along the cache or not, one token or several, prefixes shared."""
        size, group = self.block_size, self.heads // self.kv_heads
        full = FULL_GRID // self.kv_heads + 1
        yield decode_plan(1, 100, size)
        yield decode_plan(full, 1, size)
        for count in (1, full):
            yield Plan([Slice(s.request, 5, 4, False) for s in decode_plan(count, 8, size).slices])
        for rows in (64, 65):  # the tiles change there
            yield decode_plan(1, 0, size, prefill=-(-rows // group))
        yield decode_plan(1, 0, size, prefill=full * 128 // group)
        for rows in (16, 17, 65):
            yield shared_plan(max(2, -(-rows // group)), 2 * size, size)


#: Shapes that the measurements and the lab serve.
MODELS = (
    Case.of("smollm2-135m"),
    Case.of("smollm2-135m", dtype=torch.float32),
    Case.of("qwen3-0.6b"),
    Case.of("llama-3.1-8b"),
    *(Case.of("llama-3.1-8b", codec=codec) for codec in USUAL_CODECS[1:]),
    Case.of("tiny", dtype=torch.float32),
)


def usual() -> list[Case]:
    """A sample in which every value of every dimension occurs, and every head size with every usual codec."""
    cases = list(MODELS)
    for number, head_dim in enumerate(HEAD_SIZES):
        for index, codec in enumerate(USUAL_CODECS):
            group = GROUPS[(number + 3 * index) % len(GROUPS)]
            size = BLOCK_SIZES[(2 * number + index) % len(BLOCK_SIZES)]
            cases.append(Case(2 * group, 2, head_dim, DTYPES[(number + index) % 2], codec, size))
        cases.append(Case(2 * GROUPS[number], 2, head_dim, torch.float32, USUAL_CODECS[number % 4], 16))
    cases += [Case(8, 2, 64, codec=codec) for codec in CODECS if codec not in USUAL_CODECS]
    cases.append(Case(16, 1, 128, torch.float32))
    return [case for case in cases if case.readable]


def sample() -> list[Case]:
    """As ``usual``, with three ways through the attention for each shape, taken in turn; those of the models come first, and are all taken."""
    first, *rest = [case for case in usual() if case not in MODELS[1:]]
    return [first, *(dataclasses.replace(case, ways=(n, n + 3, n + 6)) for n, case in enumerate([*MODELS[1:], *rest]))]


def exhaustive() -> list[Case]:
    """All head sizes, groups, dtypes and codecs; block sizes in turn."""
    cases = list(MODELS)
    for head_dim in HEAD_SIZES:
        for group in range(1, 17):
            for dtype in DTYPES:
                for codec in CODECS:
                    size = BLOCK_SIZES[len(cases) % len(BLOCK_SIZES)]
                    cases.append(Case(2 * group, 2, head_dim, dtype, codec, size))
    return [case for case in cases if case.readable]


SETS: dict[str, Callable[[], list[Case]]] = {
    "sample": sample,
    "models": lambda: list(MODELS),
    "usual": usual,
    "all": exhaustive,
}
