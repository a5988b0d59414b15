"""What speculative decoding did in a run: what was accepted where and when, how far it guessed, what it cost and whether it paid."""

from __future__ import annotations

from store.query import Query

LONGEST = 16  # guesses of one verification


def acceptance_query(run_id: str) -> Query:
    """By place of a guess: how many were tested (none before them was rejected), and the share of those that was accepted."""
    return Query(
        """
SELECT place, count(*) FILTER (drafted >= place AND accepted >= place - 1) AS tested,
       count(*) FILTER (accepted >= place) AS accepted,
       count(*) FILTER (accepted >= place) / nullif(count(*) FILTER (drafted >= place AND accepted >= place - 1), 0) AS acceptance
FROM slices, (SELECT unnest(range(1, $longest + 1)) AS place)
WHERE run_id = $run AND kind = 'verify' GROUP BY place
HAVING count(*) FILTER (drafted >= place AND accepted >= place - 1) > 0 ORDER BY place""".strip(),
        {"run": run_id, "longest": LONGEST},
    )


def lengths_query(run_id: str) -> Query:
    """How many verifications accepted how many guesses."""
    return Query(
        """
SELECT accepted, count(*) AS verifications, count(*) FILTER (accepted = drafted) AS whole
FROM slices WHERE run_id = $run AND kind = 'verify' GROUP BY accepted ORDER BY accepted""".strip(),
        {"run": run_id},
    )


def over_time_query(run_id: str, points: int = 80) -> Query:
    """In equal stretches of time: acceptance of tested guesses, tokens per request and pass of the target, guesses per request."""
    return Query(
        """
WITH parts AS (
  SELECT i.end_ns / 1e9 AS end_s, s.drafted, s.accepted, s.emitted, max(i.end_ns / 1e9) OVER () AS last_s
  FROM slices s JOIN iterations i USING (run_id, iteration) WHERE s.run_id = $run AND s.kind <> 'prefill'
), placed AS (SELECT *, least($points - 1, floor(end_s / last_s * $points)) AS stretch FROM parts)
SELECT max(end_s) AS t, sum(accepted) / nullif(sum(least(drafted, accepted + 1)), 0) AS acceptance,
       sum(emitted) / nullif(count(*) FILTER (emitted > 0), 0) AS tokens_per_pass, avg(drafted) AS guesses
FROM placed GROUP BY stretch ORDER BY t""".strip(),
        {"run": run_id, "points": max(2, points)},
    )


def by_batch_query(run_id: str) -> Query:
    """Steps without prompt work, by requests in them and whether they verified: how long they took and how fast tokens came."""
    return Query(
        """
SELECT decode_requests AS batch, draft_tokens > 0 AS verifies, count(*) AS steps,
       avg(draft_tokens / decode_requests) AS guesses, median(end_ns - start_ns) / 1e6 AS step_ms,
       sum(emitted_tokens) / (sum(end_ns - start_ns) / 1e9) AS tokens_per_s,
       sum(emitted_tokens) / sum(decode_requests) AS tokens_per_pass
FROM iterations WHERE run_id = $run AND prefill_tokens = 0 AND decode_requests > 0
GROUP BY ALL ORDER BY batch, verifies""".strip(),
        {"run": run_id},
    )


def predictions_query(run_id: str, limit: int = 2000) -> Query:
    """Steps whose time SmartSpec predicted: the prediction and what they took; the latest ones."""
    return Query(
        """
SELECT i.iteration, d.value / 1e6 AS predicted_ms, (i.end_ns - i.start_ns) / 1e6 AS measured_ms, i.decode_requests AS batch,
       i.draft_tokens AS guesses
FROM decisions d JOIN iterations i USING (run_id, iteration)
WHERE d.run_id = $run AND d.reason = 'predicted' ORDER BY i.iteration DESC LIMIT $limit""".strip(),
        {"run": run_id, "limit": limit},
    )


def totals_query(run_id: str) -> Query:
    """One row: guesses and what became of them, tokens per pass of the target, and the share of time spent guessing."""
    return Query(
        """
WITH parts AS (SELECT * FROM slices WHERE run_id = $run AND kind <> 'prefill'), steps AS (
  SELECT * FROM iterations WHERE run_id = $run)
SELECT (SELECT sum(drafted) FROM parts)::BIGINT AS drafted, (SELECT sum(accepted) FROM parts)::BIGINT AS accepted,
       (SELECT count(*) FILTER (drafted > 0) FROM parts) AS verifications,
       (SELECT sum(accepted) / nullif(count(*) FILTER (drafted > 0), 0) FROM parts) AS mean_accepted,
       (SELECT sum(emitted) / nullif(count(*) FILTER (emitted > 0), 0) FROM parts) AS tokens_per_pass,
       (SELECT sum(draft_ns) / nullif(sum(end_ns - start_ns), 0) FROM steps) AS draft_share,
       (SELECT sum(draft_ns) / 1e6 / nullif(count(*) FILTER (draft_tokens > 0), 0) FROM steps) AS draft_ms""".strip(),
        {"run": run_id},
    )


def origins_query(run_id: str, request: int) -> Query:
    """The passes that gave a request tokens, in order: guesses verified, accepted, tokens emitted."""
    return Query(
        """
SELECT iteration, drafted, accepted, emitted FROM slices
WHERE run_id = $run AND request = $request AND emitted > 0 ORDER BY iteration""".strip(),
        {"run": run_id, "request": request},
    )
