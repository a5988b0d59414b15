"""Resampling requests: how a statistic moves when other requests of the same kind had come.

A draw is a weight per request (how often it was drawn). Every statistic is computed for all draws at once; the same
draws are used for every run of a comparison, which is what pairs them.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

DRAWS = 1000
CONFIDENCE = 0.95
MOST_CELLS = 4_000_000  # draws x requests held at once


def draw_weights(requests: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """How often each request was drawn, ``[1 + draws, requests]``; the first row is the sample as it is (all ones)."""
    draws = max(200, min(draws, MOST_CELLS // max(1, requests)))
    weights = np.ones((1 + draws, requests), np.float32)
    if requests:
        random = np.random.default_rng(seed)
        weights[1:] = random.multinomial(requests, np.full(requests, 1 / requests), size=draws)
    return weights


def weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """The quantile of ``values [n]`` (NaN left out) under each row of ``weights [draws, n]``; NaN where nothing is left.

    With weights of one this is numpy's linear interpolation between order statistics.
    """
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    if not len(order):
        return np.full(len(weights), np.nan)
    ranked = values[order]
    reached = np.cumsum(weights[:, order], axis=1, dtype=np.float64)
    place = share * (reached[:, -1:] - 1)  # between order statistics floor(place) and floor(place) + 1
    low = np.clip((reached <= np.floor(place)).sum(axis=1), 0, len(order) - 1)
    high = np.clip((reached <= np.floor(place) + 1).sum(axis=1), 0, len(order) - 1)
    part = (place - np.floor(place))[:, 0]
    quantiles = ranked[low] + part * (ranked[high] - ranked[low])
    return np.where(reached[:, -1] > 0, quantiles, np.nan)


def weighted_histogram_quantile(counts: np.ndarray, edges: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """The quantile of binned samples (``counts [n, bins]``, ``edges [bins + 1]``) under each row of weights."""
    drawn = weights.astype(np.float32) @ counts  # [draws, bins]
    reached = np.cumsum(drawn, axis=1, dtype=np.float64)
    if not reached.shape[1]:
        return np.full(len(weights), np.nan)
    target = share * reached[:, -1]
    bin_of = np.minimum((reached < target[:, None]).sum(axis=1), reached.shape[1] - 1)
    rows = np.arange(len(weights))
    inside, whole = drawn[rows, bin_of], reached[rows, bin_of]
    part = np.where(inside > 0, (target - (whole - inside)) / np.maximum(inside, 1), 0.5)
    quantiles = edges[bin_of] * (edges[bin_of + 1] / edges[bin_of]) ** np.clip(part, 0, 1)
    return np.where(reached[:, -1] > 0, quantiles, np.nan)


def interval(
    value: float, request_draws: np.ndarray, repeats: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The interval around ``value``.

    ``request_draws``: the value under each draw of requests (the percentile bootstrap). ``repeats``: the value of each
    repeat; what they scatter is a second, independent source, and with a handful of repeats only Student's t is honest
    about it. The two half-widths add in quadrature.
    """
    tail = (1 - confidence) / 2
    draws = request_draws[np.isfinite(request_draws)]
    low, high = np.quantile(draws, [tail, 1 - tail]) - value if draws.size else (0.0, 0.0)
    spread = 0.0
    if len(repeats) > 1:
        spread = float(stdtrit(len(repeats) - 1, 1 - tail) * np.std(repeats, ddof=1) / np.sqrt(len(repeats)))
    return float(value - np.hypot(min(0.0, low), spread)), float(value + np.hypot(max(0.0, high), spread))
