"""Two or more ways to serve the same requests, compared with their uncertainty.

A variant's value is the mean over repeats of a statistic over requests. Against the baseline it is paired twice: the
same draws of requests are used on both sides, and repeat ``k`` of one is set against repeat ``k`` of the other, which
ran next to it. ``store.bootstrap.interval`` says how the interval comes about. A verdict says what the interval says
and nothing more; with a single repeat, what runs differ by is unknown, and so is the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from store.bootstrap import draw_weights, interval, weighted_histogram_quantile, weighted_quantile
from store.metrics import METRICS, too_few_in_words
from store.samples import RunSamples

Verdict = Literal["faster", "slower", "better", "worse", "no difference seen", "too noisy, run more"]
Interval = tuple[float, float]

SMALL = 0.10  # an interval of the ratio that stays this close to 1 shows no difference; a wider one shows noise
MOST_NAMED = 4  # figures of which nothing can be said; the table has them all
FAST_UNITS = ("ms", "s", "ms/token", "tokens/s", "requests/s")


@dataclass(frozen=True)
class Statistic:
    """A figure that is compared: a metric of ``store.metrics``, at a percentile where it has a distribution."""

    name: str
    metric: str
    share: float | None = None

    @property
    def title(self) -> str:
        suffix = f", p{round(100 * self.share)}" if self.share is not None else ""
        return METRICS[self.metric].title + suffix

    @property
    def unit(self) -> str:
        return METRICS[self.metric].unit


STATISTICS: dict[str, Statistic] = {
    s.name: s
    for s in (
        Statistic("ttft_ms", "ttft_ms", 0.5),
        Statistic("ttft_ms_p99", "ttft_ms", 0.99),
        Statistic("itl_ms", "itl_ms", 0.5),
        Statistic("itl_ms_p99", "itl_ms", 0.99),
        Statistic("stalls", "stalls"),
        Statistic("tpot_ms", "tpot_ms", 0.5),
        Statistic("tpot_ms_p99", "tpot_ms", 0.99),
        Statistic("e2e_ms", "e2e_ms", 0.5),
        Statistic("e2e_ms_p99", "e2e_ms", 0.99),
        Statistic("scheduling_delay_ms", "scheduling_delay_ms", 0.5),
        Statistic("normalized_latency_ms", "normalized_latency_ms", 0.5),
        Statistic("output_tokens_per_s", "output_tokens_per_s"),
        Statistic("output_tokens_per_s_steady", "output_tokens_per_s_steady"),
        Statistic("requests_per_s", "requests_per_s"),
        Statistic("makespan_s", "makespan_s"),
        Statistic("slo_attainment", "slo_attainment"),
        Statistic("in_time_per_s", "in_time_per_s"),
        Statistic("iteration_ms", "iteration_ms"),
        Statistic("host_share", "host_share"),
        Statistic("acceptance_rate", "acceptance_rate"),
        Statistic("prefix_hit_rate", "prefix_hit_rate"),
        Statistic("preemptions", "preemptions"),
        Statistic("energy_per_token_j", "energy_per_token_j"),
        Statistic("peak_kv_tokens", "peak_kv_tokens"),
    )
}


@dataclass(frozen=True)
class Effect:
    """One statistic of one variant. ``difference`` and ``ratio`` are against the baseline; None where there is none."""

    value: float
    interval: Interval | None
    difference: float | None = None
    difference_interval: Interval | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None
    verdict: Verdict | None = None
    pairs: int = 0  # requests that both sides have a figure of
    repeats: int = 0
    samples: int | None = None  # of a percentile: how many it rests on in the repeat with the fewest

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


OF_A_GROUP = tuple(
    name
    for name in STATISTICS
    if name.startswith(("ttft_", "itl_", "tpot_", "e2e_")) or name in ("stalls", "output_tokens_per_s")
)
"""What is compared of a group of requests alone."""


def compare(
    variants: Mapping[str, Sequence[RunSamples]],
    baseline: str,
    *,
    seed: int = 0,
    statistics: Sequence[str] = tuple(STATISTICS),
) -> dict[str, dict[str, Effect]]:
    """``{statistic: {variant: Effect}}``; a statistic that no variant has is left out.

    ``variants``: each variant's runs, one per repeat, in the order they are paired. ``statistics``: only these.
    """
    size = max((len(own) for runs in variants.values() for run in runs for own in run.requests.values()), default=0)
    weights = draw_weights(size, seed)
    by_statistic: dict[str, dict[str, Effect]] = {}
    for statistic in (STATISTICS[name] for name in statistics):
        samples = {name: _Drawn.of(runs, statistic, weights) for name, runs in variants.items()}
        effects = {
            name: _effect(statistic, drawn, None if name == baseline else samples[baseline])
            for name, drawn in samples.items()
            if drawn is not None
        }
        if effects:
            by_statistic[statistic.name] = effects
    return by_statistic


@dataclass(frozen=True)
class _Drawn:
    """A statistic of each repeat ``[repeats]``, and of each repeat under each draw ``[repeats, draws]``."""

    repeats: np.ndarray
    draws: np.ndarray
    known: np.ndarray  # [requests] whether the request has a figure in every repeat
    samples: int | None  # that a percentile rests on in the repeat with the fewest

    @classmethod
    def of(cls, runs: Sequence[RunSamples], statistic: Statistic, weights: np.ndarray) -> _Drawn | None:
        """None where a repeat lacks the statistic."""
        values, draws = [], []
        known = np.ones(weights.shape[1], bool)
        for run in runs:
            value, drawn, has = _statistic(run, statistic, weights)
            if not np.isfinite(value):
                return None
            values.append(value)
            draws.append(drawn)
            known &= has
        samples = (
            None if statistic.share is None else min((run.samples_of(statistic.metric) for run in runs), default=0)
        )
        return cls(np.array(values), np.array(draws), known, samples) if values else None


def value_of(run: RunSamples, statistic: Statistic) -> float:
    """A statistic's value in one run; NaN where the run has none."""
    size = max((len(own) for own in run.requests.values()), default=0)
    return _statistic(run, statistic, np.ones((1, size), np.float32))[0]


def _statistic(run: RunSamples, statistic: Statistic, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Its value in one run, its value under each draw of requests, and which requests it rests on."""
    size = weights.shape[1]
    if statistic.metric in run.requests and statistic.share is not None:
        values = np.full(size, np.nan)
        values[: len(run.requests[statistic.metric])] = run.requests[statistic.metric]
        drawn = weighted_quantile(values, weights, statistic.share)
        return float(drawn[0]), drawn[1:], ~np.isnan(values)
    value = run.totals.get(statistic.name, np.nan)
    has = np.zeros(size, bool)
    if statistic.metric in ("slo_attainment", "in_time_per_s") and "slo_attainment" in run.requests:
        met = run.requests["slo_attainment"]  # 1 or 0 of each submitted request
        has[: len(met)] = True
        weight = weights[:, : len(met)]
        shares = weight @ met / np.maximum(weight.sum(axis=1), 1)
        return value, value * shares[1:] / shares[0] if shares[0] else np.zeros(len(weights) - 1), has
    if statistic.metric == "itl_ms" and statistic.share is not None and run.gaps.size:
        counts = run.gaps[:size]
        drawn = weighted_histogram_quantile(counts, run.gap_edges_ms, weights[:, : len(counts)], statistic.share)
        has[: len(counts)] = counts.sum(axis=1) > 0
        return value, value * drawn[1:] / drawn[0], has  # the bins give the scatter, the rows the value
    return value, np.full(len(weights) - 1, value), has


def _effect(statistic: Statistic, own: _Drawn, base: _Drawn | None) -> Effect:
    value, draws = float(own.repeats.mean()), own.draws.mean(axis=0)
    has_spread = len(own.repeats) > 1 or bool(np.ptp(draws) > 0)
    around = _around(value, draws, own.repeats) if has_spread else None
    if base is None:
        return Effect(value, around, repeats=len(own.repeats), samples=own.samples)
    count = min(len(own.repeats), len(base.repeats))
    mine, theirs = own.repeats[:count], base.repeats[:count]
    base_value, base_draws = float(base.repeats.mean()), base.draws.mean(axis=0)
    difference = value - base_value
    difference_interval = interval(difference, draws - base_draws, mine - theirs)
    ratio = ratio_interval = None
    positive = min(own.repeats.min(), base.repeats.min(), np.nanmin(draws), np.nanmin(base_draws)) > 0
    if positive:
        ratio = value / base_value
        low, high = interval(float(np.log(ratio)), np.log(draws / base_draws), np.log(mine / theirs))
        ratio_interval = (float(np.exp(low)), float(np.exp(high)))
    return Effect(
        value,
        around,
        difference,
        difference_interval,
        ratio,
        ratio_interval,
        verdict(statistic, difference_interval, ratio_interval, count),
        int((own.known & base.known).sum()),
        len(own.repeats),
        own.samples,
    )


def _around(value: float, draws: np.ndarray, repeats: np.ndarray) -> Interval:
    """The value's interval; of a positive figure by its logarithm, so that it stays positive."""
    if min(repeats.min(), np.nanmin(draws)) <= 0:
        return interval(value, draws, repeats)
    low, high = interval(float(np.log(value)), np.log(draws), np.log(repeats))
    return float(np.exp(low)), float(np.exp(high))


def verdict(statistic: Statistic, difference: Interval, ratio: Interval | None, repeats: int) -> Verdict:
    """What the interval says: of the ratio where there is one, else of the difference."""
    if repeats < 2:
        return "too noisy, run more"
    metric = METRICS[statistic.metric]
    low, high = ratio if ratio is not None else (1 + difference[0], 1 + difference[1])
    if low <= 1 <= high:
        narrow = low >= 1 / (1 + SMALL) and high <= 1 + SMALL if ratio is not None else difference == (0.0, 0.0)
        return "no difference seen" if narrow else "too noisy, run more"
    improved = (high < 1) == (metric.better == "lower")
    if statistic.unit in FAST_UNITS:
        return "faster" if improved else "slower"
    return "better" if improved else "worse"


def small_samples(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What to say beside percentiles that rest on too few samples. ``metrics``: of a comparison's result, as plain data."""
    fewest: dict[str, int] = {}
    for name, by_variant in metrics.items():
        metric = STATISTICS[name].metric
        counts = [effect["samples"] for effect in by_variant.values() if effect.get("samples") is not None]
        fewest[metric] = min([*counts, fewest.get(metric, 2**62)])
    said = []
    for metric, count in fewest.items():
        shares = [
            s.share for s in STATISTICS.values() if s.metric == metric and s.share is not None and s.name in metrics
        ]
        said.append(too_few_in_words(METRICS[metric].title, count, shares))
    return [words for words in said if words]


GOOD: frozenset[str] = frozenset({"faster", "better"})
BAD: frozenset[str] = frozenset({"slower", "worse"})


def in_words(effects: Mapping[str, Mapping[str, Effect]], variant: str, baseline: str) -> str:
    """One variant against the baseline in two sentences: what got better, what got worse, what remains open."""
    gained, lost, open_ones, same = [], [], [], []
    for name, by_variant in effects.items():
        effect = by_variant.get(variant)
        if effect is None or effect.verdict is None:
            continue
        title = _lower_first(STATISTICS[name].title)
        if effect.verdict in GOOD:
            gained.append(f"{title} {_by(effect)}")
        elif effect.verdict in BAD:
            lost.append(f"{title} {_by(effect)}")
        elif effect.verdict == "no difference seen":
            same.append(title)
        else:
            open_ones.append(title)
    parts = []
    if gained:
        parts.append(f"Better than {baseline}: {', '.join(gained)}.")
    if lost:
        parts.append(f"{'At the price of' if gained else 'Worse than ' + baseline + ':'} {', '.join(lost)}.")
    if not gained and not lost:
        parts.append(
            f"No difference from {baseline} is shown." if same else f"Nothing is shown against {baseline} yet."
        )
    if open_ones:
        more = f" and {len(open_ones) - MOST_NAMED} more" if len(open_ones) > MOST_NAMED else ""
        parts.append(f"Too noisy to say, run more: {', '.join(open_ones[:MOST_NAMED])}{more}.")
    return f"{variant}: " + " ".join(parts)


def _by(effect: Effect) -> str:
    if effect.ratio is None or effect.ratio_interval is None:
        return f"({effect.difference:+.3g})"
    low, high = effect.ratio_interval
    return f"x{effect.ratio:.3g} ({low:.3g} to {high:.3g})"


def _lower_first(text: str) -> str:
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
