"""What a batch must cost at least: modelled arithmetic and memory traffic (papers: theoretical peak analysis)."""

from __future__ import annotations

from dataclasses import dataclass

from engine.model.load import LoadedModel
from engine.scheduling.plan import Plan


@dataclass(frozen=True)
class CostModel:
    """Lower bounds per iteration for one model.

        FLOPs = 2 * N * tokens + 4 * layers * heads * head_dim * (query, key) pairs
        bytes = weights + kv_bytes_per_token * (keys read + tokens written)

    N counts the parameters a token is multiplied with; the output head only for rows that sample. Weights are read once
    per iteration, each sequence's keys and values once.
    """

    body_parameters: int  # multiplied per computed token
    head_parameters: int  # multiplied per sampled row
    weight_bytes: int
    kv_bytes_per_token: float
    pair_flops: int  # 4 * layers * heads * head_dim: score and weighted sum of one (query, key) pair

    def spared(self, tokens: int) -> float:
        """Bytes not read when that many tokens' keys and values are not read a second time."""
        return self.kv_bytes_per_token * tokens

    def prefill_flops(self, tokens: int, context: int) -> float:
        """FLOPs of computing so many tokens of one prompt after so many others."""
        pairs = tokens * context + tokens * (tokens + 1) // 2
        return 2.0 * self.body_parameters * tokens + self.pair_flops * pairs

    def of(self, plan: Plan, sampled_rows: int) -> tuple[float, float]:
        """(FLOPs, bytes) of a plan in which each sequence reads its own keys and values."""
        tokens = plan.num_tokens
        read = tokens + sum([part.context_len for part in plan.slices])
        chunks = [(part.tokens, part.context_len) for part in plan.slices if part.tokens > 1]
        pairs = read + sum(
            [n * c + n * (n + 1) // 2 - n - c for n, c in chunks]
        )  # a single token pairs with all it reads
        flops = (
            2.0 * self.body_parameters * tokens + 2.0 * self.head_parameters * sampled_rows + self.pair_flops * pairs
        )
        moved = self.weight_bytes + self.kv_bytes_per_token * (read + tokens)
        return flops, moved


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
