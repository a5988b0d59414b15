"""Prompts of a person's own in one field of text."""

from __future__ import annotations

from collections.abc import Sequence

DIVIDER = "---"


def prompts_as_text(prompts: Sequence[str]) -> str:
    """Prompts as they stand in a field of text."""
    several_lines = any("\n" in prompt or prompt.strip() != prompt or prompt == DIVIDER for prompt in prompts)
    return f"\n{DIVIDER}\n".join(prompts) if several_lines else "\n".join(prompts)


def prompts_from_text(text: str) -> list[str]:
    """One prompt a line; where there are lines of ``---``, one between two of these."""
    lines = text.splitlines()
    if DIVIDER not in (line.strip() for line in lines):
        return [line.strip() for line in lines if line.strip()]
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == DIVIDER:
            parts.append([])
        else:
            parts[-1].append(line)
    return [prompt for part in parts if (prompt := "\n".join(part).strip("\n"))]
