"""A part of a page that is drawn by itself reaches the browser in one burst.

Streamlit sends what a script draws as it is drawn, some fifty messages for a panel, and the browser draws the page anew
for every few that it has got. A browser on the cores that the server computes on slows the server down meanwhile, and
gets the messages further apart. Held until the part is drawn, they are painted once.
"""

from __future__ import annotations

from typing import Any

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner import ScriptRunnerEvent

HOLD_S = 0.15
"""As long at most, for parts that say how far they are."""
FRAGMENT_IDS = 4
"""Where they stand among the arguments of an event of Streamlit's script runner."""


class BurstSession(AppSession):
    """A browser's session that holds what a fragment draws until it is drawn, or for ``HOLD_S``."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._holds = 0  # the fragments' runs so far
        self._holding = False

    def flush_browser_queue(self) -> list[ForwardMsg]:
        """What is to be sent; nothing while a fragment is being drawn."""
        return [] if self._holding else super().flush_browser_queue()

    def _handle_scriptrunner_event_on_event_loop(self, sender: Any, event: ScriptRunnerEvent, *args: Any) -> None:
        try:
            super()._handle_scriptrunner_event_on_event_loop(sender, event, *args)
        finally:
            if event is ScriptRunnerEvent.SCRIPT_STARTED:
                self._begin(args[FRAGMENT_IDS])
            elif event is not ScriptRunnerEvent.ENQUEUE_FORWARD_MSG:
                self._let_go()

    def _begin(self, parts: list[str] | None) -> None:
        """Hold what a run of fragments draws; a run of the whole page is sent as it comes."""
        self._let_go()
        if parts:
            self._holds += 1
            self._holding = True
            self._event_loop.call_later(HOLD_S, self._let_go, self._holds)

    def _let_go(self, hold: int | None = None) -> None:
        """Send what was held. ``hold``: only if it is still held for that run."""
        if self._holding and hold in (None, self._holds):
            self._holding = False
            if self._message_enqueued_callback:
                self._message_enqueued_callback()
