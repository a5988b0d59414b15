"""How a request's keys and values lie in memory."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from engine.config.settings import LARGEST_COUNT, Settings, setting

LEAST_PAGE_KIB = 4


class KVLayout(Settings):
    """Each request's keys and values lie in one piece, reserved in full length or mapped as it grows; or in blocks, and
    what memory is used for is recorded."""

    kind: Literal["demand-paged", "reserve-max", "paged"] = setting(
        "demand-paged",
        "Layout",
        "demand-paged: one range of addresses for each request, and pages of memory are mapped behind it as it grows. "
        "reserve-max: one range for each request, all of whose memory is reserved from the start. paged: in blocks "
        "anywhere in the pool, as without this technique, with the same figures recorded.",
        group="Contiguous KV",
        paper="vAttention (2024)",
    )
    max_tokens: int | None = setting(
        None,
        "Length of a range",
        "Tokens that a range has room for. Empty: the longest request of the workload, or the longest sequence where "
        "clients ask as the run goes on. Requests that may grow beyond it are refused.",
        group="Contiguous KV",
        unit="tokens",
        ge=2,
        le=LARGEST_COUNT,
    )
    page_kib: int = setting(
        LEAST_PAGE_KIB,
        "Page size",
        "Memory that is mapped at once behind one layer's keys or values of one head: a power of two. Larger pages are "
        "mapped less often, and waste more behind short requests.",
        group="Contiguous KV",
        unit="KiB",
        ge=LEAST_PAGE_KIB,
        le=2**20,
        paper="vAttention (2024)",
    )
    deferred_reclaim: bool = setting(
        True,
        "Deferred reclaim",
        "On: pages of a request that ended stay mapped for the one that takes its range next, until memory is short. "
        "Off: they are given back at once.",
        group="Contiguous KV",
        paper="vAttention (2024)",
    )

    @property
    def is_contiguous(self) -> bool:
        return self.kind != "paged"

    def reads(self, name: str) -> bool:
        if name in ("page_kib", "deferred_reclaim"):
            return self.kind == "demand-paged"
        return name != "max_tokens" or self.is_contiguous

    @field_validator("page_kib")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"kv_layout.page_kib must be a power of two (4, 8, ... 2048, ...), not {value}")
        return value
