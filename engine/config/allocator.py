"""How the C library hands out memory to an engine process. It reads this when a process starts, so whoever starts one
decides it.

By default glibc maps every large tensor anew and gives it back at once, and each of its 4 KiB pages is faulted in and
cleared by the kernel at first touch: of a step with long contexts that is most of the time. Kept memory is used again
as it is; huge pages (2 MiB, asked for by ``madvise``, where the system allows that) spare the processor most of its
address translations, which reading weights and keys is full of.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLE = "GLIBC_TUNABLES"  # other C libraries do not read it; a glibc older than 2.35 ignores the first
TUNABLES = {
    "glibc.malloc.hugetlb": "1",
    "glibc.malloc.mmap_max": "0",
    "glibc.malloc.trim_threshold": str(512 << 20),  # what lies free beyond is given back
}


def with_tunables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for an engine process. What it says about the allocator already stays as it is."""
    said = [part for part in environment.get(VARIABLE, "").split(":") if part]
    names = {part.split("=")[0] for part in said}
    said += [f"{name}={value}" for name, value in TUNABLES.items() if name not in names]
    return {**environment, VARIABLE: ":".join(said)}


def here() -> bool:
    """Whether this process was started so."""
    return with_tunables(os.environ)[VARIABLE] == os.environ.get(VARIABLE)
