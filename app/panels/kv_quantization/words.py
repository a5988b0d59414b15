"""Words of the KV cache's quality section."""

from __future__ import annotations

QUALITY = {
    "how": "Each codec against full precision with this run's model and real weights, on English reference text that was held back. "
    "Every token attends to the cache as it is stored. Perplexity: how surprised the model is by the text. KL: how far the law of the "
    "next token moves. Same greedy text: how much of a continuation is equal before the first difference. Logits, cut otherwise: the largest "
    "change of a logit when the same text is read in other pieces.",
    "button": "Reads a few texts once at full precision and once per codec, in a process of its own: minutes on a CPU, seconds on a GPU.",
    "none": "Not measured yet for this run.",
    "stored": "How keys and values are stored: a codec, or the model's own format at full precision.",
    "tokens": "Tokens whose keys and values the run's KV pool could hold.",
    "could_hold": "Tokens whose keys and values the pool's share of the free memory could hold, whatever the workload.",
    "requests": "Requests of this run's mean size (prompt and output) that fit, each with memory of its own: into the memory's share where the "
    "pool took no more of it than the workload needs, else into the pool. With a codec that keeps "
    "the last tokens of a request exact, no more than there are such windows.",
    "bits": "Bits that one stored number takes on average, with the steps and minima stored beside it; 16 or 32 at full precision.",
    "bits_served": "The same for a request of this workload's mean length, of which the last tokens stay exact: what decides how many requests fit.",
    "gain": "How many times more tokens the packed pool holds than the same bytes, exact windows among them, would at full precision.",
    "chart": "Right is more room, up is more loss. Room is what packed blocks take; exact windows beside the pool are not in it.",
    "heads": "How far the stored keys and values of each layer and KV head are from the true ones, relative to their size.",
}
"""Words of the KV cache's quality section."""
