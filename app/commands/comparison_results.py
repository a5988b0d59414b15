"""Results of comparisons, sweeps and searches for capacity, as the terminal shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.commands.console import result_table, say, stdout
from app.words.states import DRAWN_ANEW

SHOWN = (
    *("ttft_ms", "ttft_ms_p99", "itl_ms", "itl_ms_p99", "stalls", "tpot_ms", "e2e_ms"),
    *("output_tokens_per_s", "slo_attainment", "in_time_per_s", "peak_kv_tokens"),
)
SHOWN_OF_RATES = ("variant", "requests/s", "SLO attainment", "ITL p99, ms", "scheduling delay p50, ms", "holds")


def print_capacity(result: dict[str, Any]) -> None:
    """A search's result as a table and sentences."""
    from app.experiments.tables import rates_table

    told = rates_table(result)
    shown = replace(told.only(SHOWN_OF_RATES), title=", ".join([result["experiment_id"], *result["labels"]]))
    stdout().print(result_table(shown, right=shown.heads[1:-1]))
    for sentence in (told.note, *result["summary"]):
        say(sentence)
    _say_disturbed(result)


def print_comparison(result: dict[str, Any]) -> None:
    """The result as a table and sentences."""
    from app.experiments.judge import goodput_in_words
    from app.experiments.tables import figures_table
    from store.statistics import small_samples

    title = ", ".join([f"{result['experiment_id']}: {result['repeats']} repeats", *result["labels"]])
    shown = figures_table(result, SHOWN).only(("figure", "variant", "value", "ratio", "verdict"))
    stdout().print(result_table(replace(shown, title=title)))
    for words in small_samples(result["metrics"]):
        say(words)
    if result["draws"] > 1:
        say(DRAWN_ANEW)
    say(f"Objective {result['slo']['name']}: {result['slo']['words']}.")
    for goodput in result["goodput"]:
        say(goodput_in_words(goodput))
    for sentence in result["summary"]:
        say(sentence)
    if result["stop"]:
        say(result["stop"]["says"])
    _say_expected(result)
    _say_disturbed(result)


def print_pair(result: dict[str, Any]) -> None:
    """Two runs side by side: a table for each group of requests, what should come out, and what one pair can tell."""
    from app.experiments.pair import pair_table

    for group in dict.fromkeys(row["group"] for row in result["figures"]):
        table = pair_table(result, group)
        stdout().print(result_table(table, right=table.heads[1:-1]))
    _say_expected(result)
    for sentence in result["says"]:
        say(sentence)


def _say_expected(result: dict[str, Any]) -> None:
    for line in result["expect"]:
        say(f"{line['outcome']}: {line['says']} {line['why']}".strip())


def _say_disturbed(result: dict[str, Any]) -> None:
    for name, about in result["variants"].items():
        if about["disturbed"]:
            say(f"{name}: disturbed while served: {', '.join(about['disturbed'])}.")
