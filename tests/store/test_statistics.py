"""Comparisons say what their intervals say, and intervals are wide enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.bootstrap import draw_weights, interval, weighted_histogram_quantile, weighted_quantile
from store.samples import RunSamples, attainment_by_scale, with_slo
from store.slo import Slo
from store.statistics import STATISTICS, Effect, compare, in_words, small_samples, verdict
from tests.examples import examples

REQUESTS = 80


def synthetic(random: np.random.Generator, run: str, factor: float = 1.0, drift: float = 0.03) -> RunSamples:
    """A run whose requests differ among each other, with noise of each request and of the run as a whole."""
    own = np.random.default_rng(1).lognormal(4, 0.6, REQUESTS)  # the workload: the same requests in every run
    machine = np.exp(random.normal(0, drift))
    latency = own * factor * machine * random.lognormal(0, 0.1, REQUESTS)
    gaps = random.lognormal(2, 0.3, (REQUESTS, 40)) * factor * machine
    edges = 10 ** (np.arange(0, 301) / 100)
    counts = np.stack([np.histogram(row, edges)[0] for row in gaps]).astype(np.float32)
    names = ("ttft_ms", "tpot_ms", "e2e_ms", "scheduling_delay_ms", "normalized_latency_ms")
    totals = {
        "itl_ms": float(np.quantile(gaps, 0.5)),
        "itl_ms_p99": float(np.quantile(gaps, 0.99)),
        "output_tokens_per_s": 1000 / (factor * machine),
        "preemptions": 0.0,
    }
    return RunSamples(run, dict.fromkeys(names, latency), counts, edges, totals)


def experiment(seed: int, factor: float, repeats: int = 5) -> dict[str, list[RunSamples]]:
    random = np.random.default_rng(seed)
    return {
        "a": [synthetic(random, f"a{r}") for r in range(repeats)],
        "b": [synthetic(random, f"b{r}", factor) for r in range(repeats)],
    }


@pytest.fixture(scope="module")
def against_itself() -> list[dict[str, dict[str, Effect]]]:
    return [compare(experiment(seed, 1.0, repeats=4), "a") for seed in range(40)]


@pytest.mark.parametrize("name", ["ttft_ms", "ttft_ms_p99", "itl_ms", "itl_ms_p99", "output_tokens_per_s"])
def test_of_40_comparisons_of_a_with_itself_no_more_than_5_show_a_difference(
    name: str, against_itself: list[dict[str, dict[str, Effect]]]
) -> None:
    shown = 0
    for effects in against_itself:
        effect = effects[name]["b"]
        assert effect.difference_interval is not None
        shown += not effect.difference_interval[0] <= 0 <= effect.difference_interval[1]
    assert shown <= 5


def test_a_real_difference_is_shown_with_its_direction() -> None:
    effects = compare(experiment(7, 1.5), "a")
    assert effects["ttft_ms"]["b"].verdict == "slower"
    assert effects["output_tokens_per_s"]["b"].verdict == "slower"
    ratio = effects["itl_ms"]["b"].ratio_interval
    assert ratio is not None
    assert ratio[0] < 1.5 < ratio[1]
    assert compare(experiment(7, 0.6), "a")["itl_ms_p99"]["b"].verdict == "faster"


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (compare(experiment(3, 1.2), "a", seed=5)["ttft_ms_p99"]["b"] for _ in range(2))
    assert first == second


def test_one_repeat_never_gives_a_verdict() -> None:
    effects = compare(experiment(2, 3.0, repeats=1), "a")
    assert {e["b"].verdict for e in effects.values()} == {"too noisy, run more"}


def test_more_repeats_narrow_the_interval() -> None:
    widths = []
    for repeats in (2, 5, 20):
        interval = compare(experiment(11, 1.0, repeats), "a")["output_tokens_per_s"]["b"].ratio_interval
        assert interval is not None
        widths.append(interval[1] - interval[0])
    assert widths[0] > widths[1] > widths[2]


def test_counts_that_never_change_differ_exactly_or_not_at_all() -> None:
    runs = experiment(1, 1.0, repeats=2)
    assert compare(runs, "a")["preemptions"]["b"].verdict == "no difference seen"
    worse = [
        RunSamples(r.run_id, r.requests, r.gaps, r.gap_edges_ms, r.totals | {"preemptions": 3.0}) for r in runs["b"]
    ]
    effect = compare({"a": runs["a"], "b": worse}, "a")["preemptions"]["b"]
    assert (effect.verdict, effect.ratio, effect.difference_interval) == ("worse", None, (3.0, 3.0))


def test_the_verdict_follows_the_interval() -> None:
    latency, speed = STATISTICS["ttft_ms"], STATISTICS["output_tokens_per_s"]
    assert verdict(latency, (-5, -1), (0.8, 0.95), 3) == "faster"
    assert verdict(speed, (-5, -1), (0.8, 0.95), 3) == "slower"
    assert verdict(latency, (-1, 1), (0.97, 1.04), 3) == "no difference seen"
    assert verdict(latency, (-9, 9), (0.5, 1.9), 3) == "too noisy, run more"


def test_words_name_what_got_worse_beside_what_got_better() -> None:
    effects = {
        "itl_ms_p99": {"on": Effect(10, (9, 11), -40, (-45, -35), 0.2, (0.15, 0.25), "faster", 8, 5)},
        "ttft_ms": {"on": Effect(30, (29, 31), 10, (8, 12), 1.5, (1.4, 1.6), "slower", 8, 5)},
    }
    words = in_words(effects, "on", "off")
    assert "Better than off: ITL, p99 x0.2" in words
    assert "At the price of TTFT, p50 x1.5" in words


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(st.floats(0.001, 1e6), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.99, 1.0]),
    st.integers(0, 99),
)
def test_a_weighted_quantile_is_numpys_quantile_of_the_repeated_values(
    values: list[float], share: float, seed: int
) -> None:
    array = np.array(values)
    weights = draw_weights(len(array), seed)[:20]
    expected = [np.quantile(np.repeat(array, row.astype(int)), share) for row in weights]
    assert weighted_quantile(array, weights, share) == pytest.approx(expected, rel=1e-9)


def test_missing_values_are_left_out() -> None:
    weights = np.ones((1, 4), np.float32)
    assert weighted_quantile(np.array([np.nan, 1, 3, np.nan]), weights, 0.5)[0] == 2
    assert np.isnan(weighted_quantile(np.full(4, np.nan), weights, 0.5)[0])


def test_binned_quantiles_are_close_to_exact_ones() -> None:
    values = np.random.default_rng(0).lognormal(2, 0.5, 5000)
    edges = 10 ** (np.arange(0, 401) / 100)
    counts = np.histogram(values, edges)[0][None].astype(np.float32)
    for share in (0.5, 0.9, 0.99):
        quantile = weighted_histogram_quantile(counts, edges, np.ones((1, 1), np.float32), share)[0]
        assert quantile == pytest.approx(np.quantile(values, share), rel=0.024)


def test_an_interval_of_repeats_that_agree_is_the_requests_own() -> None:
    draws = np.linspace(9, 11, 1001)
    low, high = interval(10, draws, np.array([10.0, 10.0, 10.0]))
    assert (low, high) == pytest.approx((9.05, 10.95), abs=0.01)
    wider = interval(10, draws, np.array([9.0, 10.0, 11.0]))
    assert wider[0] < low
    assert wider[1] > high


def test_attainment_counts_every_submitted_request_and_has_an_interval() -> None:
    latency = np.linspace(10, 100, 10)
    run = RunSamples(
        "r",
        {"ttft_ms": latency, "tpot_ms": np.full(10, 5.0)},
        np.zeros((10, 0), np.float32),
        np.zeros(1),
        {"makespan_s": 2.0},
        np.full(10, 30.0),
        submitted=20,
    )
    slo = Slo("test", ttft=50, tpot=10)
    met = with_slo(run, slo, None)
    assert met.totals["slo_attainment"] == 5 / 20
    assert met.totals["in_time_per_s"] == 2.5
    assert attainment_by_scale([run], slo, None, np.array([0.4, 1, 2])).tolist() == [0, 0.25, 0.5]
    effects = compare({"a": [met, met], "b": [met, met]}, "a")
    low, high = effects["slo_attainment"]["a"].interval or (1, 1)
    assert 0 < low < 0.25 < high < 1
    assert effects["in_time_per_s"]["b"].difference == 0
    assert effects["slo_attainment"]["b"].verdict == "no difference seen"


def test_a_percentile_of_few_requests_is_told_by_the_repeat_with_the_fewest() -> None:
    runs = experiment(3, 1.0, repeats=2)
    runs["b"][1].requests["ttft_ms"] = np.where(np.arange(REQUESTS) < 30, runs["b"][1].requests["ttft_ms"], np.nan)
    effects = compare(runs, "a")
    assert (effects["ttft_ms_p99"]["a"].samples, effects["ttft_ms_p99"]["b"].samples) == (REQUESTS, 30)
    assert effects["itl_ms_p99"]["a"].samples == REQUESTS * 40
    assert effects["output_tokens_per_s"]["a"].samples is None
    said = small_samples({name: {v: e.as_dict() for v, e in by.items()} for name, by in effects.items()})
    assert "TTFT: p99 rests on too few of 30 samples: p99 is close to the largest." in said
    assert not any(words.startswith("ITL") for words in said)
