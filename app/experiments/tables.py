"""The tables of an experiment's result: columns and rows once; page, HTML, terminal and CSV only render them.

``result`` is what ``app.experiments.judge`` gives of a comparison or a sweep, and ``rate_search.capacity_result`` of a
search for capacity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.experiments.rate_search import STOPPED_EARLY, repeats_in_words
from app.words.glossary import spelled_out
from app.words.table import Column, Row, Table, figure_of, words_of
from app.words.text import number
from store.statistics import BAD, GOOD, STATISTICS, small_samples

OPEN = 1000.0  # an interval whose ends lie such a factor apart says nothing
INTERVALS = (
    "Intervals of 95 %: requests resampled, repeats by Student's t. Ratio and difference are against the baseline."
)


def with_interval(value: float | None, around: Sequence[float | None] | None) -> str:
    """``12.3 (11.9 to 12.8)``; an interval wider than any use is called open."""
    if value is None:
        return ""
    low, high = around or (None, None)
    if low is None or high is None:
        return number(value)
    if low > 0 and high > OPEN * low:
        return f"{number(value)} (open: run more)"
    return f"{number(value)} ({number(low)} to {number(high)})"


def _around(title: str, prefix: str = "") -> Column:
    """A figure with its interval."""
    keys = (title, f"{prefix}low", f"{prefix}high")
    return Column(title, keys, lambda row: with_interval(row[keys[0]], (row[keys[1]], row[keys[2]])))


def _figure(row: Row) -> str:
    about = STATISTICS[row["metric"]]
    return f"{about.title}, {about.unit}" if about.unit else about.title


def _verdict(row: Row) -> str:
    mark = "▲ " if row["verdict"] in GOOD else "▼ " if row["verdict"] in BAD else ""
    return f"{mark}{row['verdict'] or 'baseline'}"


def _holds(row: Row) -> str:
    return "yes" if row["held"] else "no, stopped early" if row.get(STOPPED_EARLY) else "no"


FIGURES = (
    Column("figure", ("metric",), _figure),
    words_of("variant", "variant"),
    _around("value"),
    _around("difference", "difference_"),
    _around("ratio", "ratio_"),
    Column("verdict", ("verdict", "pairs", "repeats"), _verdict),
    Column(
        "samples",
        (),  # files keep their columns
        lambda row: "" if row["samples"] is None else f"{row['samples']:,}",
        help="Of a percentile: how many it rests on in the repeat with the fewest.",
    ),
)

SERVED = (
    words_of("variant", "variant"),
    Column("run", ("run_id",), lambda row: str(row["run_id"]), "run", "Opens the run."),
    words_of("same tokens as the baseline", "same_tokens"),
    figure_of("clock, MHz", "clock_mhz", "%.0f"),
    figure_of("temperature, °C", "temperature_c", "%.0f"),
    figure_of("machine's CPU, %", "host_cpu_percent", "%.0f"),
    words_of("disturbed by", "disturbed"),
)

EXPECTED = (
    words_of("what should come out", "says"),
    words_of("in the runs", "outcome"),
    words_of("figures", "why"),
)

RATES = (
    words_of("variant", "variant"),
    figure_of("requests/s", "requests_per_s", "%.3f"),
    figure_of("SLO attainment", "attainment", "percent"),
    figure_of("ITL p99, ms", "itl_ms_p99", ""),
    figure_of("ITL samples", "itl_samples", "localized"),
    figure_of("scheduling delay p50, ms", "scheduling_delay_ms", ""),
    figure_of("output tokens/s", "output_tokens_per_s", ""),
    Column("holds", ("held", STOPPED_EARLY), _holds),
    figure_of("disturbances", "disturbances", ""),
    Column("run", ("run_id",), lambda row: str(row["run_id"]), "run", "Opens the run."),
)


def figures_table(result: Mapping[str, Any], metrics: Sequence[str] | None = None, group: str | None = None) -> Table:
    """Every figure of every variant with its interval, and what it says against the baseline. ``metrics``: only
    these. ``group``: of this group of requests alone.
    """
    effects = result["metrics"] if group is None else result["groups"][group]
    rows = [
        {"metric": metric, "variant": variant} | _flat(effect)
        for metric in metrics or effects
        for variant, effect in effects.get(metric, {}).items()
    ]
    latencies = spelled_out("TTFT", "ITL", "TPOT", "E2E latency")
    note = " ".join([INTERVALS, latencies, *small_samples(effects)])
    title = "Figures" if group is None else f"Figures of {group}"
    return Table(title, FIGURES, rows, note, "Every figure with its interval and what it says")


def _flat(effect: Mapping[str, Any]) -> dict[str, Any]:
    """An effect with the ends of its intervals as columns of their own."""
    row: dict[str, Any] = {key: effect[key] for key in ("verdict", "pairs", "repeats", "samples")}
    for key, interval, prefix in (
        ("value", "interval", ""),
        ("difference", "difference_interval", "difference_"),
        ("ratio", "ratio_interval", "ratio_"),
    ):
        low, high = effect[interval] or (None, None)
        row |= {key: effect[key], f"{prefix}low": low, f"{prefix}high": high}
    return row


def differs_table(result: Mapping[str, Any]) -> Table:
    """Settings that differ between the variants in what was served."""
    names = list(result["variants"])
    columns = (words_of("setting", "setting"), *(words_of(name, f"variant {n}") for n, name in enumerate(names)))
    rows = [
        {"setting": key} | {f"variant {n}": by_variant[name] for n, name in enumerate(names)}
        for key, by_variant in result["differs"].items()
    ]
    return Table("What differs in the settings", columns, rows)


def expected_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """What the scenario says should come out, and what the runs say of it."""
    return Table("What should come out", EXPECTED, list(lines), summary="What the scenario expects, seen or refuted")


def served_table(result: Mapping[str, Any]) -> Table:
    """The runs, and the machine's state while each was served."""
    rows = [
        {
            "variant": name,
            "run_id": run_id,
            "same_tokens": "yes" if about["same_tokens_as_baseline"] else "no",
            "disturbed": "; ".join(machine.get("disturbances") or []) or "nothing seen",
        }
        | {key: machine.get(key) for key in ("clock_mhz", "temperature_c", "host_cpu_percent")}
        for name, about in result["variants"].items()
        for run_id, machine in zip(about["runs"], about["machine"], strict=True)
    ]
    return Table("Served", SERVED, rows, summary="The runs and the machine's state while each was served")


def rates_table(result: Mapping[str, Any]) -> Table:
    """Every rate that a search for capacity tried, and what it showed."""
    rows = [{"variant": name} | probe for name, about in result["variants"].items() for probe in about["probes"]]
    note = " ".join(
        [f"A rate holds with {result['criterion']}.", repeats_in_words(result["repeats"]), *result["notes"]]
    )
    return Table("Rates tried", RATES, rows, note, "Every rate tried and what it showed")


def asked_table(result: Mapping[str, Any]) -> Table:
    """What each variant of a search for capacity was served with."""
    columns = (words_of("variant", "variant"), words_of("settings", "settings"))
    rows = [
        {
            "variant": name,
            "settings": ", ".join(f"{key}={value}" for key, value in about["settings"].items())
            or "as the scenario has it",
        }
        for name, about in result["variants"].items()
    ]
    return Table("Variants", columns, rows)
