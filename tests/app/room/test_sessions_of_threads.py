"""Pages are drawn in threads: whose page it is is kept for all of them at once."""

from __future__ import annotations

import threading
from collections import OrderedDict

import pytest

from app import rights
from app.rights import A_STRANGER, Visitor, judge_by


class LetsOthersIn(OrderedDict[str, Visitor]):
    """Where a thread has put an entry in, another one ends the room before the first goes on, if it may."""

    def __setitem__(self, session: str, who: Visitor) -> None:
        super().__setitem__(session, who)
        self.other = threading.Thread(target=judge_by, args=(None,))
        self.other.start()
        self.other.join(0.5)


def test_a_page_is_remembered_while_a_room_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = LetsOthersIn()
    monkeypatch.setattr(rights, "_sessions", sessions)
    rights._remember("page", A_STRANGER)
    sessions.other.join()
    assert not sessions, "the room's end came after it"
