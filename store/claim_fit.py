"""What one more decode adds to a step that also computes prompt tokens (SARATHI's marginal cost), by least squares over a run's steps."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from store.query import Query

FEWEST_STEPS = 12


def mixed_steps_query(run_id: str) -> Query:
    return Query(
        """
SELECT (end_ns - start_ns) / 1e6 AS ms, prefill_tokens, decode_requests, context_tokens
FROM iterations WHERE run_id = $run AND prefill_tokens > 0 ORDER BY iteration""".strip(),
        {"run": run_id},
    )


def marginal_decode_ms(steps: pa.Table) -> float:
    """The coefficient of decodes in ``ms = c0 + a prefill_tokens + b decode_requests + c context_tokens`` over steps with prompt tokens.

    NaN where the steps are too few, or too much alike to tell the four apart.
    """
    ms, *causes = (
        np.asarray(steps[name], np.float64) for name in ("ms", "prefill_tokens", "decode_requests", "context_tokens")
    )
    if len(ms) < FEWEST_STEPS:
        return float("nan")
    scales = [max(1.0, float(np.max(cause))) for cause in causes]
    matrix = np.column_stack([np.ones(len(ms)), *(cause / scale for cause, scale in zip(causes, scales, strict=True))])
    fitted, _, rank, _ = np.linalg.lstsq(matrix, ms, rcond=1e-6)
    return float(fitted[2] / scales[1]) if rank == matrix.shape[1] else float("nan")
