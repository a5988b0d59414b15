"""A step and the KV cache as formulas with a run's own numbers put in.

Every figure is one of the rows, or computed here from those beside it.
"""

from __future__ import annotations

from app.words.plain import counted, milliseconds
from app.words.text import number, scaled, three_digits
from store.kv_bytes import KVBytes
from store.step_cost import StepCost

Row = tuple[str, str, str]
"""What it is, its formula with the numbers, what comes out."""


def token_rows(step: StepCost) -> list[Row]:
    """What one token of the step cost, a row for each thing it cost."""
    share, n = 1 / step.tokens, step.tokens
    spared = f" - {scaled(step.spared_bytes, 'B')} read once for several" if step.spared_bytes else ""
    return [
        ("Weights read", f"{scaled(step.weight_bytes, 'B')} / {n}", scaled(step.weight_bytes * share, "B")),
        (
            "Keys and values read",
            f"({scaled(step.kv_token_bytes, 'B')} × {counted(step.read_tokens, 'token')}{spared}) / {n}",
            scaled(step.read_bytes * share, "B"),
        ),
        (
            "Keys and values written",
            f"{scaled(step.kv_token_bytes, 'B')} × {counted(step.computed, 'token')} / {n}",
            scaled(step.written_bytes * share, "B"),
        ),
        ("Arithmetic", f"{scaled(step.flops, 'FLOP')} / {n}", scaled(step.flops * share, "FLOP")),
        ("Share of the batch", f"1 / {n}", f"{three_digits(100 * share)} %"),
        ("Time of the engine", f"{milliseconds(step.ms)} / {n}", milliseconds(step.ms * share)),
    ]


def token_sentence(step: StepCost) -> str:
    """Who shares the step, and what that does to the cost of one."""
    weights = step.weight_bytes / step.bytes
    read = f"{weights:.0%} of what it moved were weights, {1 - weights:.0%} keys and values."
    if step.gives:
        gave = f"Step {step.iteration} gave {counted(step.emitted, 'token')} to {counted(step.requests, 'request')}"
        alone = (
            "Nobody shares its weights: a second request beside it would."
            if step.requests == 1
            else "All share one walk through the weights; each reads keys and values of its own."
        )
        return f"{gave} in {milliseconds(step.ms)}, for which every one of them waited. {read} {alone}"
    return (
        f"Step {step.iteration} computed {counted(step.computed, 'token')}, {step.prompt_tokens:,} of them of prompts, "
        f"in {milliseconds(step.ms)}. {read} A prompt's tokens share the walk through the weights as a batch does."
    )


def roofline_rows(step: StepCost) -> list[Row]:
    """Where the step stands against the device's measured limits."""
    rows = [
        (
            "Arithmetic per byte",
            f"{scaled(step.flops, 'FLOP')} / {scaled(step.bytes, 'B')}",
            f"{three_digits(step.intensity)} FLOP/B",
        )
    ]
    if step.balance is None or step.flops_per_s is None or step.bytes_per_s is None:
        return rows
    arithmetic, memory = step.arithmetic_ms or 0.0, step.memory_ms or 0.0
    rows += [
        (
            "The bend of this device",
            f"{scaled(step.flops_per_s, 'FLOP/s')} / {scaled(step.bytes_per_s, 'B/s')}",
            f"{three_digits(step.balance)} FLOP/B",
        ),
        (
            "Least time for the bytes",
            f"{scaled(step.bytes, 'B')} / {scaled(step.bytes_per_s, 'B/s')}",
            milliseconds(memory),
        ),
        (
            "Least time for the arithmetic",
            f"{scaled(step.flops, 'FLOP')} / {scaled(step.flops_per_s, 'FLOP/s')}",
            milliseconds(arithmetic),
        ),
    ]
    if step.forward_ms > 0:
        least = max(arithmetic, memory)
        rows.append(
            (
                "Share of the limit reached",
                f"{milliseconds(least)} / {milliseconds(step.forward_ms)} in the model",
                f"{three_digits(100 * least / step.forward_ms)} %",
            )
        )
    return rows


def roofline_sentence(step: StepCost) -> str:
    """Which limit the step stands under."""
    if step.balance is None:
        return "The limits of this device were not measured in this run, so nothing says which of them holds."
    if step.intensity < step.balance:
        more = step.balance / step.intensity
        return (
            f"Left of the bend: memory is the limit. The step could do {three_digits(more)} times the arithmetic for "
            "each byte before arithmetic took over, which is what a larger batch does."
        )
    return "Right of the bend: arithmetic is the limit, and every further token makes the step longer."


def kv_rows(kv: KVBytes, prompt: int, output: int, requests: int) -> list[Row]:
    """The bytes of requests of these lengths with this run's model and codec."""
    tokens = prompt + output
    each = kv.of(tokens)
    window = f" + {scaled(kv.window_bytes, 'B')} exact window" if kv.window_bytes else ""
    rows = [
        (
            "A token",
            f"2 × {kv.layers} layers × {kv.kv_heads} KV heads × {kv.head_dim} numbers × {number(kv.bits)} bits / 8",
            scaled(kv.per_token, "B"),
        ),
        ("A request", f"{scaled(kv.per_token, 'B')} × ({prompt:,} + {output:,}) tokens{window}", scaled(each, "B")),
    ]
    if requests > 1:
        rows.append(("All of them", f"{requests:,} × {scaled(each, 'B')}", scaled(kv.of(tokens, requests), "B")))
    return rows


def kv_sentence(kv: KVBytes, prompt: int, output: int, requests: int) -> str:
    """Whether this run's pool would hold them all at once."""
    fit = kv.at_once(prompt + output)
    if fit is None or kv.capacity_tokens is None:
        return ""
    held = f"The pool of this run holds {kv.capacity_tokens:,} tokens: {counted(fit, 'such request')} at once"
    windows = " (as many as there are exact windows)" if kv.windows is not None and fit == kv.windows else ""
    if fit >= requests:
        return f"{held}{windows}, which is enough."
    return f"{held}{windows}. The others wait, or throw somebody out as their answers grow."
