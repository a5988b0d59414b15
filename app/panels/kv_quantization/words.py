"""Words of the KV cache's quality section."""

from __future__ import annotations

from app.words.charts import ChartWords
from app.words.text import PROVENANCE

QUALITY = {
    "how": "Each codec against full precision with this run's model and real weights, on English reference text that "
    "was held back. Every token attends to the cache as it is stored. Perplexity: how surprised the model is by the "
    "text. KL divergence: how far the law of the next token moves. Greedy agreement: how much of a continuation is "
    "equal before the first difference. Logit change, cut otherwise: the largest change of a logit when the same text "
    "is read in other pieces.",
    "button": "Reads a few texts once at full precision and once per codec, in a process of its own: minutes on a "
    "CPU, seconds on a GPU.",
    "none": "Not measured yet for this run.",
    "stored": "How keys and values are stored: a codec, or the model's own format at full precision.",
    "bits": "Bits that one stored number takes on average, with the steps and minima stored beside it; 16 or 32 at "
    "full precision.",
    "bits_served": "The same for a request of this workload's mean length, of which the last tokens stay exact: what "
    "decides how many requests fit.",
    "gain": "How many times more tokens the packed pool holds than the same bytes, exact windows among them, would at "
    "full precision.",
    "chart": "Right is more room, up is more loss. Room is what packed blocks take; exact windows beside the pool are "
    "not in it.",
    "heads": "How far the stored keys and values of each layer and KV head are from the true ones, relative to their "
    "size.",
}
"""Words of the KV cache's quality section."""

AGAINST = ChartWords(
    "Against full precision",
    "Each codec's figures as multiples of full precision's, by the runs in the table. To the right is more: more "
    "room, more requests at once and more output are good, a longer step and a higher perplexity are not.",
    "iteration",
    ("running", "start_ns", "end_ns"),
)

CROSSOVER = ChartWords(
    "Step time against context",
    "Steps that only decode, with the codec and without, compared at the same number of requests and in the same band "
    "of context. Below 1 the codec is faster: reading fewer bytes beats unpacking them. Marks are measured. Dashed "
    "lines are modelled: bytes saved at this device's copy bandwidth, against the time of attention over the packed "
    "cache, taken before the run began.",
    "iteration",
    ("context_tokens", "decode_requests", "start_ns", "end_ns"),
)

POOLS = ChartWords(
    "The pool, with and without",
    "Tokens that requests hold in the KV pool over time; every pool has the same bytes, the dashed line is what they "
    "hold. A cross is a preemption: a request was thrown out because the pool was full, and is computed again.",
    "iteration",
    ("blocks_used", "blocks_total", "preempted"),
)

HELP = {
    "table": "The newest run of each codec that was asked the same requests and differs from this run in nothing "
    "else. For intervals over repeats, use Compare. Quality is of the codec on this model, by whichever run it was "
    "measured for.",
    "bits": "Bits of one stored number with its steps and minima. " + PROVENANCE["derived"],
    "capacity_tokens": "Tokens the KV pool holds. " + PROVENANCE["derived"],
    "capacity_requests": "The same in requests of this run's mean size. " + PROVENANCE["derived"],
    "most_running": "Most requests that held a place in one step. " + PROVENANCE["measured"],
    "decode_step_ms": "Median time of a step that only decodes. " + PROVENANCE["measured"],
    "decode_requests": "Requests in such a step on average: with more of them a step is longer and gives more. "
    + PROVENANCE["measured"],
    "output_tokens_per_s": "Output tokens per second, first arrival to last token. " + PROVENANCE["measured"],
    "preemptions": "Requests thrown out of the KV pool. " + PROVENANCE["measured"],
    "perplexity_ratio": "Perplexity on held text as a multiple of full precision's. " + PROVENANCE["measured"],
    "kl": "How far the law of the next token moves, mean over the text, in nats. " + PROVENANCE["measured"],
    "agreement": "Positions of the text whose most likely next token is the same. " + PROVENANCE["measured"],
    "greedy_agreement": "How much of greedy continuations is equal before the first difference. "
    + PROVENANCE["measured"],
    "disturbed": "What visibly disturbed the machine while the run was served; its times are worth less then.",
    "codec": "A codec that these requests have not been served with yet.",
    "run": "Serves the same requests at the same moments once more, with this codec and every other setting as here.",
}

CROSSOVER_HELP = {
    "faster, measured": "Context of a step (summed over its requests) from which on the "
    "codec's steps were faster, in the range that both runs reached. " + PROVENANCE["measured"],
    "faster, modelled": "The context at which what is spared by reading fewer bytes has paid "
    "for unpacking them and for what every step takes more; never where unpacking takes "
    "longer. " + PROVENANCE["modelled"],
    "step time, measured": "Median step time as a multiple of full precision's, least to most over the bands of "
    "context. " + PROVENANCE["measured"],
    "at context, tok": "Where the bands compared lie: tokens of context in a step, summed over its requests. "
    + PROVENANCE["measured"],
    "spared per tok, modelled": "Bytes not read per token of context, at the copy bandwidth measured before the run. "
    + PROVENANCE["modelled"],
    "unpacking per tok": "What attention over the packed cache takes per token of context "
    "beyond reading its bytes: timed alone before the run began, at two contexts. " + PROVENANCE["derived"],
    "more per step": "What it takes in every step whatever its context: packing the new tokens, mixing channels. "
    "Timed likewise. " + PROVENANCE["derived"],
}

CHARTS = {"codecs-against": AGAINST, "codecs-crossover": CROSSOVER, "codecs-pools": POOLS}
