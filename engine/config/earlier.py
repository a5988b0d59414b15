"""Specs that an earlier version stored, in today's words.

A stored spec holds every setting there was when it was written. One that came later was not chosen then, so it is read
as what the engine did before there was one, whatever its default is today. ``RunSpec`` reads itself this way; who reads
a part of a stored spec alone comes here.

    spec_version 1   kv_quantization may lack wide_keys: int4 then stored 4-bit keys, and its usual group was 32
                     channels
    spec_version 2   has it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

SPEC_VERSION: Literal[2] = 2
INT4_GROUP = 32  # of version 1; heads that it does not divide had the largest power of two that does


def spec_of_today(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored spec, or what a database keeps of one, as this version would have written it."""
    spec = dict(stored)
    if spec.get("spec_version") != 1:
        return spec
    engine = spec.get("engine")
    if isinstance(engine, Mapping) and isinstance(engine.get("kv_quantization"), Mapping):
        spec["engine"] = {**engine, "kv_quantization": codec_of_today(engine["kv_quantization"])}
    return spec | {"spec_version": SPEC_VERSION}


def codec_of_today(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings of a codec, all of them as they were."""
    codec = dict(stored)
    if codec.get("codec") != "int4" or "wide_keys" in codec:
        return codec
    group = INT4_GROUP if codec.get("group") is None else codec["group"]
    return codec | {"wide_keys": False, "group": group}
