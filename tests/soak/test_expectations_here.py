"""The expectations of the five scenarios on the real engine: as this machine is, with one core, and at half the speed.

``tests/scenarios/test_expectations.py`` holds the same claims to a modelled machine; here that model is held to the truth. Part of
``make soak`` only: each of the runs takes minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest

import scenarios
from engine.config import EngineConfig, apply_overrides
from engine.config.rates import MachineRates
from engine.timing import measure_rates
from tests.scenarios import test_expectations as expectations
from tests.scenarios.modelled import Machine, Served, serve_here

SLOWDOWN = {"as it is": 1.0, "one core": 1.0, "half the speed": 2.0}
SAME_TOKENS = {"dtype": "float32", "device": "cpu", "threads": "1"}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.rare,
]


@pytest.fixture(params=SLOWDOWN)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    cores = os.sched_getaffinity(0)
    if request.param == "one core":
        os.sched_setaffinity(0, {min(cores)})
    monkeypatch.setattr(expectations, "served", served)
    monkeypatch.setattr(expectations, "MACHINES", dict.fromkeys(SLOWDOWN))
    monkeypatch.setattr(expectations, "whole_prompt_ms", lambda _, tokens: most_of_a_prompt_ms(request.param, tokens))
    yield request.param
    os.sched_setaffinity(0, cores)


@cache
def rates(machine: str) -> MachineRates:
    """What was measured; at half the speed, of a machine that takes twice as long."""
    measured, slow = measure_rates(apply_overrides(EngineConfig(), SAME_TOKENS)), SLOWDOWN[machine]
    return measured.model_copy(
        update={
            "prefill_tokens_per_s": measured.prefill_tokens_per_s / slow,
            "step_ms": measured.step_ms * slow,
            "batch_step_ms": measured.batch_step_ms * slow,
        }
    )


def most_of_a_prompt_ms(machine: str, tokens: int) -> float:
    """Less than computing a whole prompt takes: rates are of shorter prompts and of a quiet moment."""
    return 0.5 * 1e3 * tokens / rates(machine).prefill_tokens_per_s


@cache
def served(name: str, machine: str, *settings: str) -> Served:
    spec = scenarios.build(name, SAME_TOKENS, measure=lambda config: rates(machine))
    engine = apply_overrides(spec.engine, dict(setting.split("=", 1) for setting in settings))
    return serve_here(spec.model_copy(update={"engine": engine}), SLOWDOWN[machine])


@pytest.mark.parametrize(
    "claim",
    [claim for claims in expectations.CLAIMS.values() for _, claim, _ in claims],
    ids=lambda claim: claim.__name__,
)
def test_what_a_scenario_expects_comes_out_here(claim: expectations.Claim, machine: str):
    claim(machine)


def test_the_modelled_machine_serves_starter_as_this_one_does():
    """The p99 ratio of on and off, modelled with a line through this machine's own rates, against the measured one."""
    measured = rates("as it is")
    per_sequence = max(0.0, measured.batch_step_ms - measured.step_ms) / 7
    base = max(0.0, measured.step_ms - per_sequence)
    token = max(0.0, 1e3 * 256 / measured.prefill_tokens_per_s - base) / 256
    model = Machine(base=base, token=token, sequence=max(0.0, per_sequence - token), pair=0.0)
    spec = scenarios.build("starter", SAME_TOKENS, measure=lambda config: measured)

    def ratio(serve) -> float:
        on, off = (
            serve(spec.model_copy(update={"engine": apply_overrides(spec.engine, {"chunked_prefill": switch})}))
            for switch in ("on", "off")
        )
        return on.itl(0.99) / off.itl(0.99)

    modelled = ratio(lambda s: expectations.serve_modelled(s, model))
    assert ratio(serve_here) == pytest.approx(modelled, abs=0.25)
