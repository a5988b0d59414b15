"""How much of a process's memory other processes have, too, as the system counts it."""

from __future__ import annotations

from typing import NamedTuple

SMAPS = "/proc/self/smaps"


class AnonymousBytes(NamedTuple):
    """Resident memory that no file is behind, such as a model's weights once they are read: not libraries, nor memory
    that was mapped to be shared."""

    shared: int  # with processes that were forked from this one, or that it was forked from
    private: int


def anonymous_bytes() -> AnonymousBytes:
    """Of this process; zeros where the system does not tell."""
    shared = private = 0
    counts = False
    try:
        with open(SMAPS) as lines:
            for line in lines:
                words = line.split()
                if "-" in words[0] and not words[0].endswith(":"):  # begins a mapping: range, rights, ..., name
                    counts = len(words) < 6 or words[5].startswith("[")
                elif counts and words[0] in ("Shared_Clean:", "Shared_Dirty:"):
                    shared += int(words[1]) * 1024
                elif counts and words[0] in ("Private_Clean:", "Private_Dirty:"):
                    private += int(words[1]) * 1024
    except OSError:
        pass
    return AnonymousBytes(shared, private)
