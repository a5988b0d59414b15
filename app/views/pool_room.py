"""How much the KV pool holds, as figures with their explanations."""

from __future__ import annotations

from app.words.text import PROVENANCE
from store.pool_room import PoolRoom

WORDS = {
    "tokens": "Tokens whose keys and values the run's KV pool could hold.",
    "could_hold": "Tokens whose keys and values the pool's share of the free memory could hold, whatever the workload.",
    "requests": "Requests of this run's mean size (prompt and output) that fit, each with memory of its own: into the "
    "memory's share where the pool took no more of it than the workload needs, else into the pool. With a codec that "
    "keeps the last tokens of a request exact, no more than there are such windows.",
}


def capacity_figures(held: PoolRoom) -> list[tuple[str, str, str]]:
    """Label, value and help of each figure of a pool's capacity: what it took, what the memory could hold, whom that
    serves.
    """
    derived = PROVENANCE["derived"]
    requests = "–" if held.requests is None else f"{held.requests:,.1f}"
    tokens = " ".join(filter(None, (WORDS["tokens"], held.why_in_words, derived)))
    figures = [("KV capacity", f"{held.tokens:,} tok", tokens)]
    if held.is_trimmed:
        figures.append(("Memory could hold", f"{held.could_hold_tokens:,} tok", f"{WORDS['could_hold']} {derived}"))
    figures.append(("Max concurrent requests", f"{requests}", f"{WORDS['requests']} {derived}"))
    return figures
