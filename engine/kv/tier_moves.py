"""What was done with blocks of tiers, collected for the ``tier`` rows."""

from __future__ import annotations

from collections.abc import Callable

from engine.kv.copying import Ticket
from engine.kv.kept import TierMove


class TierMoves:
    """Loads and declined blocks each by itself, stores and losses added up from one step to the next."""

    def __init__(self, clock: Callable[[], int], block_size: int, block_bytes: int) -> None:
        self._clock = clock
        self._block_size = block_size
        self._block_bytes = block_bytes
        self._each: list[TierMove] = []
        self._summed: dict[tuple[str, str], TierMove] = {}

    def take(self) -> list[TierMove]:
        """What was done since the last call."""
        moves = [*self._each, *self._summed.values()]
        self._each, self._summed = [], {}
        return moves

    def note(self, action: str, tier: str, stored: int, ticket: Ticket | None = None, codec_ns: int = 0) -> None:
        """One block more, added to what was done since the last step.

        Args:
            stored: bytes of it, as the tier has it.
            ticket: the copy; None: there was none.
        """
        move = self._summed.setdefault((action, tier), TierMove(action, tier))
        move.time_ns = self._clock()
        if ticket is not None:
            move.duration_ns += ticket.end_ns - ticket.start_ns
            move.waited_ns += ticket.waited_ns
        move.codec_ns += codec_ns
        move.stored_bytes += stored
        self._count(move, 1)

    def each(
        self, action: str, tier: str, request: int, blocks: int, stored: int, predicted: tuple[float | None, ...]
    ) -> TierMove:
        """A row by itself; the caller adds its times.

        Args:
            predicted: seconds to load the blocks and to compute them; None where that is not known.
        """
        load_ns, recompute_ns = (-1 if seconds is None else round(1e9 * seconds) for seconds in predicted)
        move = TierMove(
            action, tier, request, self._clock(), stored_bytes=stored, load_ns=load_ns, recompute_ns=recompute_ns
        )
        self._count(move, blocks)
        self._each.append(move)
        return move

    def _count(self, move: TierMove, blocks: int) -> None:
        move.blocks += blocks
        move.tokens += blocks * self._block_size
        move.bytes += blocks * self._block_bytes
