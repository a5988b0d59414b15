"""How much one run may ask for: what every array over its requests, every file and every list can hold without a thought."""

from __future__ import annotations

MOST_REQUESTS = 20_000
MOST_PROMPT_TOKENS = 20_000_000  # of all requests together
MOST_PROMPT_CHARACTERS = 100_000_000  # of all prompts that are given as text
MOST_SPEC_BYTES = 256 << 20
