"""What the linear layers alone allow: every other part of a step taken to be free.

``plain`` multiplies with ``F.linear`` on the weights as ``transformers`` holds them. ``packed`` is stricter: projections that
share their input joined into one, weights in oneDNN's own blocked order, which plain calls have to arrange for every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness import seconds
from benchmarks.peers.huggingface import load
from benchmarks.peers.work import AT_ONCE, MAX_BATCH_TOKENS


class Plain:
    """One weight matrix [out, in] and the call that multiplies by it."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight, self.dtype, self.in_features = weight, weight.dtype, weight.shape[1]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)


class Packed(Plain):
    """The same with the weight in oneDNN's order."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().clone(), AT_ONCE)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")


def measure(dtype: str, threads: int) -> dict[str, Any]:
    """Seconds of all linear layers for one decode step of 16 rows, and prompt tokens/s in chunks of 512."""
    model = load(dtype, threads)
    layers = [
        [module.weight for module in layer.modules() if isinstance(module, torch.nn.Linear)]
        for layer in model.model.layers
    ]
    head = model.lm_head.weight
    result: dict[str, Any] = {"resolved": {"torch": torch.__version__, "threads": torch.get_num_threads()}}
    with torch.inference_mode():
        result["plain"] = _time([[Plain(w) for w in weights] for weights in layers], Plain(head))
        if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            joined = [_joined(layer) for layer in model.model.layers]
            result["packed"] = _time([[Packed(w) for w in weights] for weights in joined], Packed(head))
    return result


def tokens_per_s(times: dict[str, float], prompt_tokens: int, output_tokens: int) -> float:
    """Output tokens/s when a step is its linear layers and nothing else: every decode step full, every chunk full."""
    decode_s = output_tokens / AT_ONCE * times["decode_step_s"]
    prefill_s = prompt_tokens / times["prefill_tokens_per_s"]
    return output_tokens / (decode_s + prefill_s)


def _joined(layer: Any) -> list[torch.Tensor]:
    """A layer's weights with those that share their input stacked: q, k, v and gate, up."""
    attention, mlp = layer.self_attn, layer.mlp
    return [
        torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
        attention.o_proj.weight,
        torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        mlp.down_proj.weight,
    ]


def _time(layers: Sequence[Sequence[Plain]], head: Plain) -> dict[str, float]:
    """The decode step ends in the vocabulary; of a chunk at most one row does, so there it is left out."""

    def body(rows: int) -> None:
        for layer in layers:
            for multiply in layer:
                multiply(inputs[rows, multiply.in_features])

    def step() -> None:
        body(AT_ONCE)
        head(inputs[AT_ONCE, head.in_features])

    widths = {multiply.in_features for layer in layers for multiply in layer} | {head.in_features}
    inputs = {(n, w): torch.randn(n, w, dtype=head.dtype) for n in (AT_ONCE, MAX_BATCH_TOKENS) for w in widths}
    return {
        "decode_step_s": seconds(step, repeats=15),
        "prefill_tokens_per_s": MAX_BATCH_TOKENS / seconds(lambda: body(MAX_BATCH_TOKENS), repeats=7),
    }
