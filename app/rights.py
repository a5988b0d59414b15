"""Who may do what: the one place where it is decided.

Everybody who was let into a lab may do everything, unless a room is open (``servescope lab --workshop``). Then whoever
came by the viewers' link is a viewer, who looks and predicts and nothing else. Functions that act carry
``@needs(right)`` and refuse a viewer whatever asked for them: a button's callback, a fragment or a page. Pages leave
out what ``may`` says no to. The role is read from the cookie of the page's socket, at the entrance; what runs on no
page's behalf (the command line, the API with its token, the lab's own threads) is the owner's.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ParamSpec, Protocol, TypeVar

from app.errors import LabError

P = ParamSpec("P")
R = TypeVar("R")
Headers = Iterable[tuple[bytes, bytes]]
MOST_SESSIONS = 4096


class Right(StrEnum):
    """What only some may do; the value completes "may not ..."."""

    START = "start runs"
    MEASURE = "start comparisons and measurements"
    CANCEL = "cancel, stop or move runs"
    RENAME = "rename, tag or write notes"
    DELETE = "delete or bring back"
    EXPORT = "export"
    SQL = "query the database"
    KEEP = "save, change or take in files"
    PRESENT = "present"


@dataclass(frozen=True)
class Visitor:
    """Who asks. ``member``: a viewer's name in the room, drawn at random when they joined."""

    role: str
    member: str = ""

    @property
    def is_viewer(self) -> bool:
        return self.role == VIEWER


OWNER, VIEWER = "owner", "viewer"
EVERYTHING = frozenset(Right)
THE_OWNER, A_STRANGER = Visitor(OWNER), Visitor(VIEWER)


class Judge(Protocol):
    """What tells people apart while a room is open."""

    def visitor_of(self, headers: Headers) -> Visitor:
        """Who sent a request with these headers; a viewer without a name where they say nothing."""

    def rights_of_viewers(self) -> frozenset[Right]:
        """What viewers may do now."""


_judge: Judge | None = None
_by_itself: ContextVar[bool] = ContextVar("by_itself", default=False)
_one_at_a_time = threading.Lock()
_sessions: OrderedDict[str, Visitor] = OrderedDict()  # a page whose socket broke a moment ago is still its visitor's


def judge_by(judge: Judge | None) -> None:
    """Tell people apart from now on (None: everybody may do everything)."""
    global _judge
    _judge = judge
    with _one_at_a_time:
        _sessions.clear()


@contextlib.contextmanager
def by_itself() -> Iterator[None]:
    """For what the lab does of its own accord while it serves somebody: it needs no right of theirs."""
    before = _by_itself.set(True)
    try:
        yield
    finally:
        _by_itself.reset(before)


def visitor() -> Visitor:
    """On whose behalf the calling thread works."""
    if _judge is None or _by_itself.get():
        return THE_OWNER
    session = _session()
    if session is None:
        return THE_OWNER
    headers = _headers(session)
    if headers is None:
        return _sessions.get(session, A_STRANGER)
    who = _judge.visitor_of(headers)
    _remember(session, who)
    return who


def _remember(session: str, who: Visitor) -> None:
    """Keep whose page it is; of too many the one that asked longest ago is forgotten."""
    with _one_at_a_time:  # every page is drawn in a thread of its own
        _sessions[session] = who
        _sessions.move_to_end(session)
        while len(_sessions) > MOST_SESSIONS:
            _sessions.popitem(last=False)


def may(right: Right) -> bool:
    """Whether the visitor has this right."""
    return right in rights_of(visitor())


def rights_of(who: Visitor) -> frozenset[Right]:
    """All that somebody may do now."""
    return EVERYTHING if not who.is_viewer else _judge.rights_of_viewers() if _judge is not None else frozenset()


def require(right: Right) -> None:
    """Raises ``LabError`` where the visitor lacks the right."""
    if not may(right):
        raise LabError(
            "not-allowed",
            field="role",
            value=VIEWER,
            message=f"Viewers of a room may not {right}.",
            mend="The presenter can.",
        )


def needs(right: Right) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function refuse whoever lacks the right, before it does anything."""

    def guarded(act: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(act)
        def asked(*args: P.args, **kwargs: P.kwargs) -> R:
            require(right)
            return act(*args, **kwargs)

        return asked

    return guarded


def offered_with(right: Right) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Have a function that draws controls draw none for whoever lacks the right."""

    def guarded(draw: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(draw)
        def drawn(*args: P.args, **kwargs: P.kwargs) -> None:
            if may(right):
                draw(*args, **kwargs)

        return drawn

    return guarded


def _session() -> str | None:
    """The page's session that the calling thread works for; None for one that works for no page."""
    if "streamlit" not in sys.modules:
        return None
    from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

    context = get_script_run_ctx(suppress_warning=True)
    return None if context is None else context.session_id


def _headers(session: str) -> list[tuple[bytes, bytes]] | None:
    """The headers with which the session's socket was opened; None where it is closed."""
    from streamlit import runtime

    if not runtime.exists():
        return None
    client: Any = runtime.get_instance().get_client(session)
    context = getattr(client, "client_context", None)
    if context is None:
        return None
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in context.headers]
