"""Capacity: the highest rate of arrivals that a scenario is still served well at, found by bisection.

A search is an experiment whose runs are decided one after the other: the same requests, drawn once, arriving faster or
slower. What was tried and what it showed stands in the experiment's file, so a search goes on wherever it stopped.

A rate holds if 90 % of the requests meet the objective (DistServe's goodput), or with ``tbt_ms`` if the median
scheduling delay is at most 2 s and the 99th percentile of the inter-token latency within that bound (Sarathi-Serve's
capacity).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.errors import LabError
from app.experiments.plan import natural_rate, plan
from app.home import Home
from engine.config import RunSpec
from store.aside import rows_aside
from store.metrics import METRICS, percentile, too_few_in_words
from store.plan import Experiment, Search, Turn, Variant
from store.samples import alone, read_samples, with_slo
from store.slo import DEFAULT_SLO, GOODPUT_ATTAINMENT, Bisection, parse_slo
from telemetry.status import LABEL_DISTURBED, LABEL_UNFINISHED, read_status

if TYPE_CHECKING:
    from scenarios.build import Measure

LOW, HIGH = 0.25, 8.0  # of the scenario's own rate: where a search begins if nothing else is said
MOST_DELAY_MS = 2000.0
STOPPED_EARLY = "stopped_early"
"""The figure of a turn whose run was stopped because its rate could not hold any more."""


def plan_capacity(
    scenario: str,
    variants: Sequence[Variant],
    *,
    repeats: int = 1,
    low: float | None = None,
    high: float | None = None,
    tolerance: float = 0.05,
    slo: str = DEFAULT_SLO,
    tbt_ms: float | None = None,
    common: Mapping[str, str] | None = None,
    measure: Measure | None = None,
) -> tuple[Experiment, dict[str, RunSpec]]:
    """A new search for each variant's capacity, and each variant's spec. Rates in requests/s, each served ``repeats``
    times.

    Raises:
        LabError: the scenario has no rate, or the range is none; else as ``app.experiments.plan.plan``.
    """
    from dataclasses import replace

    experiment, specs = plan(scenario, variants, repeats, common=common, slo=slo, fewest=1, measure=measure)
    own = natural_rate(specs[experiment.baseline])
    if own is None:
        raise LabError(
            "no-rate",
            field="scenario",
            value=scenario,
            message="All its requests come at once or after another's end, so there is no rate to search.",
            mend="Take a scenario whose requests arrive over time, such as chat.",
        )
    search = Search(low or LOW * own, high or HIGH * own, tolerance, tbt_ms)
    try:
        bisection(search)
    except ValueError as error:
        raise LabError(
            "bad-experiment", field="--low", value=search.low, message=f"{str(error)[0].upper()}{str(error)[1:]}."
        ) from error
    warm_up = Turn(experiment.baseline, 0, warm_up=True)
    return replace(experiment, kind="capacity", turns=(warm_up,), search=search), specs


def bisection(search: Search) -> Bisection:
    return Bisection(search.low, search.high, search.tolerance)


def next_turn(experiment: Experiment) -> Turn | None:
    """The rate to try next or again, the variants in turns; None when every search is over."""
    assert experiment.search is not None
    search, tried = bisection(experiment.search), {v.name: probes(experiment, v.name) for v in experiment.variants}
    for name in sorted(tried, key=lambda name: len(tried[name])):
        known = verdicts(experiment, name)
        rate = next((rate for rate, held in known.items() if held is None), None) or search.next_rate(decided(known))
        if rate is not None:
            return Turn(name, len(tried[name]), rate=rate)
    return None


def verdicts(experiment: Experiment, name: str) -> dict[float, bool | None]:
    """Of each rate that a variant was served at, whether it holds: with most of its repeats; None while they may still
    say either.
    """
    enough = experiment.repeats // 2 + 1
    held_at: dict[float, list[bool]] = {}
    for turn in probes(experiment, name):
        if turn.rate is not None:
            held_at.setdefault(turn.rate, []).append(bool(turn.held))
    return {
        rate: True if sum(held) >= enough else False if held.count(False) > experiment.repeats - enough else None
        for rate, held in held_at.items()
    }


def decided(known: Mapping[float, bool | None]) -> dict[float, bool]:
    return {rate: held for rate, held in known.items() if held is not None}


def probes(experiment: Experiment, name: str) -> list[Turn]:
    """A variant's runs that are over, without the warm-up."""
    return [turn for turn in experiment.turns if turn.variant == name and turn.done and not turn.warm_up]


def most_runs(experiment: Experiment) -> int:
    """How many runs the search takes at most."""
    assert experiment.search is not None
    return 1 + len(experiment.variants) * bisection(experiment.search).most_probes() * experiment.repeats


def measure(home: Home, experiment: Experiment, turn: Turn) -> tuple[bool, dict[str, float | None]]:
    """Whether the rate of a finished run holds, and the figures that say so.

    What a request alone would see is read from the baseline's run at the lowest rate, for all.
    """
    assert experiment.search is not None
    first = next((t.run_id for t in probes(experiment, experiment.baseline)), turn.run_id)
    with rows_aside(home.runs, [first, turn.run_id]) as rows:
        run = with_slo(read_samples(rows.con, turn.run_id), parse_slo(experiment.slo), alone(rows.con, [first]))
    figures = {
        "attainment": run.totals["slo_attainment"],
        "requests": len(run.requests["slo_attainment"]),
        "scheduling_delay_ms": percentile(run.requests["scheduling_delay_ms"], 0.5),
        "itl_ms_p99": run.totals["itl_ms_p99"],
        "itl_samples": run.samples_of("itl_ms"),
        "output_tokens_per_s": run.totals["output_tokens_per_s"],
        "disturbances": len(run.machine.get("disturbances") or ()),
    }
    known = {name: None if value is None or value != value else float(value) for name, value in figures.items()}
    bound = experiment.search.tbt_ms
    if bound is None:
        return (known["attainment"] or 0.0) >= GOODPUT_ATTAINMENT, known
    delay, gap = known["scheduling_delay_ms"], known["itl_ms_p99"]
    return delay is not None and delay <= MOST_DELAY_MS and (gap is None or gap <= bound), known


def capacity_result(home: Home, experiment: Experiment) -> dict[str, Any]:
    """What ``servescope capacity --json`` prints and the page draws, as far as the search is."""
    assert experiment.search is not None
    search = bisection(experiment.search)
    variants: dict[str, Any] = {}
    for variant in experiment.variants:
        tried = probes(experiment, variant.name)
        held, failed = search.bracket(decided(verdicts(experiment, variant.name)))
        variants[variant.name] = {
            "settings": variant.settings,
            "capacity": held,
            "bracket": [held, failed],
            "disturbed": [t.run_id for t in tried if t.figures.get("disturbances")],
            "probes": [
                {"requests_per_s": t.rate, "held": t.held, **t.figures, "run_id": t.run_id}
                for t in sorted(tried, key=lambda t: t.rate or 0.0)
            ],
        }
    labels = {label for turn in experiment.turns if turn.done for label in _labels(home, turn)} - {"warm-up"}
    return {
        **experiment.about(),
        "labels": sorted(labels),
        "criterion": criterion_in_words(experiment),
        "repeats": experiment.repeats,
        "low": search.low,
        "high": search.high,
        "tolerance": search.tolerance,
        "variants": variants,
        "notes": [*_small_samples(variants), *_stopped_early(variants)],
        "summary": [
            in_words(name, about, variants[experiment.baseline], experiment) for name, about in variants.items()
        ],
    }


def _stopped_early(variants: Mapping[str, Any]) -> list[str]:
    """What to say of rates that were not served to the end."""
    count = sum(bool(probe.get(STOPPED_EARLY)) for about in variants.values() for probe in about["probes"])
    if not count:
        return []
    what = "1 rate was" if count == 1 else f"{count} rates were"
    return [
        f"{what} stopped early: so much had missed the criterion that the rest could not mend it. Other figures there "
        "are of a part."
    ]


def _small_samples(variants: Mapping[str, Any]) -> list[str]:
    """What to say beside the rates' p99 where a run has too few samples for it."""
    probes = [probe for about in variants.values() for probe in about["probes"]]
    fewest = min((int(probe["itl_samples"]) for probe in probes if probe.get("itl_samples")), default=None)
    if fewest is None:
        return []
    words = too_few_in_words(METRICS["itl_ms"].title, fewest, (0.99,))
    return [f"The rate with the fewest samples: {words}"] if words else []


def criterion_in_words(experiment: Experiment) -> str:
    """When a rate counts as served well."""
    assert experiment.search is not None
    if experiment.search.tbt_ms is not None:
        bound = experiment.search.tbt_ms
        return (
            f"median scheduling delay within {MOST_DELAY_MS / 1e3:g} s, p99 of the inter-token latency within "
            f"{bound:g} ms"
        )
    slo = parse_slo(experiment.slo)
    return f"{GOODPUT_ATTAINMENT:.0%} of the requests in time ({slo.name}: {slo.words})"


def repeats_in_words(repeats: int) -> str:
    """How often each rate was served, and what that means for the verdict."""
    if repeats == 1:
        return "Each rate was served once."
    return f"Each rate was served up to {repeats} times, and holds where most of these do."


def in_words(name: str, about: Mapping[str, Any], base: Mapping[str, Any], experiment: Experiment) -> str:
    """A variant's capacity in a sentence, with what it is bracketed by, and against the baseline."""
    assert experiment.search is not None
    held, failed = about["bracket"]
    if not about["probes"]:
        return f"{name}: nothing tried yet."
    if held is None:
        return f"{name}: fewer than {experiment.search.low:.3g} requests/s; not even the lowest rate held."
    if failed is None:
        return f"{name}: at least {held:.3g} requests/s; a higher rate was not tried."
    said = f"{name}: {held:.3g} requests/s held, {failed:.3g} did not."
    base_held, base_failed = base["bracket"]
    if about is not base and base_held and base_failed:
        said += (
            f" That is x{held / base_held:.3g} of {experiment.baseline} ({held / base_failed:.3g} to "
            f"{failed / base_held:.3g})."
        )
    return said


def _labels(home: Home, turn: Turn) -> list[str]:
    labels = list(read_status(home.runs / turn.run_id).get("labels") or [])
    if turn.figures.get(STOPPED_EARLY):
        labels = [label for label in labels if label != LABEL_UNFINISHED]  # which is as it should be
    return [*labels, LABEL_DISTURBED] if turn.figures.get("disturbances") else labels
