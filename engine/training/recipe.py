"""What training depends on."""

from __future__ import annotations

from dataclasses import dataclass

HELD_OUT = (0, 5)  # shards that are never trained on, both of them greedy chat
CHECKPOINT = "checkpoint.safetensors"  # in the work folder


@dataclass(frozen=True)
class Recipe:
    """What training depends on beside the target."""

    shards: int
    steps: int
    batch: int  # sequences
    rate: float  # of learning, at its highest
    layers: int  # of the head, copies of the target's last ones
    vocabulary: int  # tokens that can be guessed
    fuse_width: int
    seed: int

    @property
    def training_shards(self) -> list[int]:
        return [n for n in range(self.shards) if n not in HELD_OUT]
