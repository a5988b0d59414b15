"""What a browser asks for is answered in order, and for the page that it shows.

A part of a page (a Streamlit fragment) may be asked for at any time, also in the moment in which something else ends or
begins. Streamlit loses two of these moments:

- The run before has just ended, and its last messages have not reached the session. Streamlit starts a new run at
  once and takes them for those of a run that nobody wants. Places that they would have made are missing in the browser,
  which cannot put in what comes next.
- The reader turned to another page, and a part of the page before asks. Streamlit takes the reader back to it, where
  the new page has not begun; else it tells the browser of the page before, which forgets what it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime import websocket_session_manager
from streamlit.runtime.scriptrunner import RerunData, ScriptRunnerEvent

from app.server.bursts import BurstSession


def answer_in_turn() -> None:
    """Have Streamlit make its sessions of ``OrderedSession``."""
    setattr(websocket_session_manager, "AppSession", OrderedSession)  # noqa: B010 (an assignment has a type of its own)


class OrderedSession(BurstSession):
    """A browser's session: one run's messages have arrived before the next begins, and no page that was left runs."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._waiting: list[Callable[[], None]] = []
        self._turned_to: str | None = None  # a page that was asked for and has not begun

    def request_rerun(self, client_state: ClientState | None) -> None:
        """Run the page, or a part of it unless its page was left."""
        if self._waiting:
            self._waiting.append(partial(self.request_rerun, client_state))
            return
        if client_state is not None:
            page = client_state.page_script_hash
            if not client_state.fragment_id:
                self._turned_to = page if page and page != self.page_script_hash else None
            elif self._was_left(page):
                return
        super().request_rerun(client_state)

    def _was_left(self, page: str) -> bool:
        now = self.page_script_hash if self._turned_to is None else self._turned_to
        unknown = ("", self._pages_manager.main_script_hash)  # until the first run has found which page it draws
        return page not in unknown and now not in (page, *unknown)

    def _create_scriptrunner(self, initial_rerun_data: RerunData) -> None:
        start = partial(super()._create_scriptrunner, initial_rerun_data)
        if self._scriptrunner is None:
            start()
        else:  # it has ended by itself, and its last messages are on their way
            self._waiting.append(start)

    def _handle_scriptrunner_event_on_event_loop(self, sender: Any, event: ScriptRunnerEvent, *args: Any) -> None:
        try:
            super()._handle_scriptrunner_event_on_event_loop(sender, event, *args)
        finally:
            if event is ScriptRunnerEvent.SHUTDOWN and self._scriptrunner is None:
                waiting, self._waiting = self._waiting, []
                for act in waiting:
                    act()

    def _create_new_session_message(self, page_script_hash: str, *args: Any) -> Any:
        if page_script_hash == self._turned_to:
            self._turned_to = None
        return super()._create_new_session_message(page_script_hash, *args)
