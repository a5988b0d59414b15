"""What the five scenarios tell people to expect comes out on machines of every speed.

The scheduler, the pool and the arrivals are real; a step's time is a formula's (``modelled``), so these runs are the same everywhere. One
run on the real engine holds the first lesson to it; ``tests/soak`` does with one core and at half the speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

import scenarios
from engine.config import apply_overrides
from engine.request import Request
from scenarios.lengths import Fixed
from scenarios.schema import Scenario
from tests.scenarios.modelled import ANY_TOKEN, MACHINES, TWO_CORES, Machine, Served, serve_here, serve_modelled

ALL = list(MACHINES)
FEW = ["two cores", "one core", "GPU"]
HEADER = 6  # tokens by which an answer is recognised in its prompt


@cache
def served(name: str, machine: str, *settings: str) -> Served:
    """A scenario sized to a machine and served there; engine settings change how the same requests are served."""
    spec = scenarios.build(name, {"dtype": "float32"}, measure=MACHINES[machine].rates)
    given = dict(setting.split("=", 1) for setting in settings)
    if machine == "GPU" and spec.engine.chunked_prefill is not None and given.get("chunked_prefill") != "off":
        given["chunked_prefill.token_budget"] = "512"  # the default there
    spec = spec.model_copy(update={"engine": apply_overrides(spec.engine, given)})
    return serve_modelled(spec, MACHINES[machine], copying if name == "copy-heavy" else any_token)


def any_token(request: Request, place: int) -> int:
    return ANY_TOKEN


def copying(request: Request, place: int) -> int:
    """What followed the prompt's last tokens where they stood before, as far as the prompt goes; then nothing that was there."""
    ids = request.prompt_token_ids
    at = next(i for i in range(len(ids) - HEADER - 1, -1, -1) if ids[i : i + HEADER] == ids[-HEADER:]) + HEADER
    return ids[at + place] if at + place < len(ids) - HEADER else ANY_TOKEN + place % 2


def whole_prompt_ms(machine: Machine, tokens: int) -> float:
    return machine.base + machine.token * tokens


def stalls_are_whole_prompts(machine: str) -> None:
    off = served("starter", machine, "chunked_prefill=off")
    shortest = min(r.num_prompt_tokens for r in off.of("long-prompt"))
    assert off.itl(0.99) >= whole_prompt_ms(MACHINES[machine], shortest)


def chunks_end_the_stalls(machine: str) -> None:
    on, off = served("starter", machine), served("starter", machine, "chunked_prefill=off")
    assert on.itl(0.99) <= 0.6 * off.itl(0.99)
    assert on.itl(1.0) <= 0.6 * off.itl(1.0)
    assert on.ttft("long-prompt") > off.ttft("long-prompt")


def a_shared_prompt_is_computed_once(machine: str) -> None:
    on, off = served("shared-prompt", machine, "prefix_sharing=on"), served("shared-prompt", machine)
    assert on.prefill_tokens < 0.3 * off.prefill_tokens
    assert on.ttft() < 0.7 * off.ttft()
    assert on.totals.peak_kv_tokens < 0.7 * off.totals.peak_kv_tokens
    assert [r.output_token_ids for r in on.requests] == [r.output_token_ids for r in off.requests]


def copies_are_guessed(machine: str) -> None:
    on, off = served("copy-heavy", machine, "speculation.control=fixed"), served("copy-heavy", machine)
    assert on.totals.iterations < 0.8 * off.totals.iterations
    assert on.tpot() < off.tpot()
    assert [r.output_token_ids for r in on.requests] == [r.output_token_ids for r in off.requests]


def guessing_gains_less_in_large_batches(machine: str) -> None:
    def gain(places: str) -> float:
        given = (f"max_num_seqs={places}", "speculation.control=fixed")
        return served("copy-heavy", machine, given[0]).tpot() / served("copy-heavy", machine, *given).tpot()

    assert gain("1") > gain("4")


def a_larger_pool_preempts_nobody(machine: str) -> None:
    small, large = served("memory-bound", machine), served("memory-bound", machine, "kv_blocks=400")
    assert small.totals.preemptions > 0
    assert large.totals.preemptions == 0
    assert large.prefill_tokens < small.prefill_tokens
    assert large.tokens_per_s > small.tokens_per_s


def fewer_bits_hold_more(machine: str) -> None:
    full, packed = served("memory-bound", machine), served("memory-bound", machine, "kv_quantization.codec=int8")
    assert packed.capacity_tokens > 1.5 * full.capacity_tokens
    assert packed.totals.preemptions < full.totals.preemptions


def batches_give_more_than_they_cost(machine: str) -> None:
    few, many = served("chat", machine, "max_num_seqs=1"), served("chat", machine)
    more, slower = many.tokens_per_s / few.tokens_per_s, many.tpot() / few.tpot()
    assert more > 1.5
    assert more > slower


def quick_starter() -> Scenario:
    """The first lesson in a few seconds: one answer each, three long prompts."""
    whole = scenarios.load("starter")
    chat, long_prompt = (whole.workload.groups[name] for name in ("chat", "long-prompt"))
    groups = {
        "chat": chat.model_copy(update={"requests": 6, "output_tokens": Fixed(tokens=44), "ignore_eos": True}),
        "long-prompt": long_prompt.model_copy(
            update={
                "requests": 3,
                "arrivals": long_prompt.arrivals.model_copy(update={"start_s": 0.4, "think_s": 0.1}),
                "output_tokens": Fixed(tokens=8),
            }
        ),
    }
    workload = whole.workload.model_copy(update={"groups": groups})
    return whole.model_copy(update={"workload": workload})


Claim = Callable[[str], None]
CLAIMS: dict[str, list[tuple[str, Claim, list[str]]]] = {
    "starter": [("Off: ", stalls_are_whole_prompts, ALL), ("On: ", chunks_end_the_stalls, ALL)],
    "shared-prompt": [("With prefix sharing", a_shared_prompt_is_computed_once, FEW)],
    "copy-heavy": [
        ("With prompt-lookup", copies_are_guessed, FEW),
        ("In large batches", guessing_gains_less_in_large_batches, FEW),
    ],
    "memory-bound": [
        ("A larger pool", a_larger_pool_preempts_nobody, FEW),
        ("A KV cache in fewer bits", fewer_bits_hold_more, ["two cores"]),  # sizes only, whatever the machine
    ],
    "chat": [("More requests at once", batches_give_more_than_they_cost, [*FEW, "slow float32"])],
}
EVERY = [(claim, machine) for claims in CLAIMS.values() for _, claim, machines in claims for machine in machines]


@pytest.mark.parametrize("name", CLAIMS)
def test_every_expectation_is_held_to(name: str):
    lines = [line.says for line in scenarios.load(name).expectations]
    assert [line[: len(begin)] for line, (begin, *_) in zip(lines, CLAIMS[name], strict=True)] == [
        begin for begin, *_ in CLAIMS[name]
    ]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("claim", "machine"), EVERY, ids=lambda value: getattr(value, "__name__", value))
def test_what_a_scenario_expects_comes_out_on_every_machine(claim: Claim, machine: str):
    claim(machine)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_machine_at_half_the_speed_sees_the_same_in_twice_the_time(name: str):
    fast, slow = served(name, "two cores"), served(name, "half the speed")
    assert slow.duration_ms == pytest.approx(2 * fast.duration_ms, rel=1e-3)
    assert slow.itl(0.99) == pytest.approx(2 * fast.itl(0.99), rel=1e-3)
    assert slow.totals.iterations == fast.totals.iterations


@pytest.mark.rare
def test_the_first_lesson_holds_on_the_real_engine_of_this_machine():
    """Served in turns, on and off and off and on, so that what else the machine does falls on both sides."""
    spec = scenarios.resolve(quick_starter(), "starter", measure=TWO_CORES.rates)
    gaps: dict[str, list[np.ndarray]] = {"on": [], "off": []}
    for switch in ("on", "off", "off", "on"):
        engine = apply_overrides(spec.engine, {"chunked_prefill": switch, "overlap": "off"})
        served = serve_here(spec.model_copy(update={"engine": engine}))
        gaps[switch] += [np.diff(times) for times in served.token_ms.values()]
    on, off = (np.percentile(np.concatenate(gaps[switch]), 99) for switch in ("on", "off"))
    assert on <= 0.6 * off
