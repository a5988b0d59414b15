"""What is left to send of a page is not dropped when a part of it is drawn anew right after it."""

from __future__ import annotations

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

from app.server.serve import configure_streamlit

PANEL = "panel"
ENDS = ForwardMsg.ScriptFinishedStatus


def drawn(text: str, fragment: str = "", place: int = 0) -> ForwardMsg:
    message = ForwardMsg()
    message.metadata.delta_path.extend([0, place])
    message.delta.fragment_id = fragment
    message.delta.new_element.text.body = text
    return message


def ended(how: int) -> ForwardMsg:
    message = ForwardMsg()
    message.script_finished = how
    return message


def left(queue: ForwardMsgQueue) -> list[str]:
    """What the browser is sent, in order."""
    return [
        m.delta.new_element.text.body if m.HasField("delta") else ENDS.Name(m.script_finished) for m in queue.flush()
    ]


@pytest.fixture
def queue() -> ForwardMsgQueue:
    configure_streamlit()
    return ForwardMsgQueue()


def test_a_part_of_a_page_that_was_drawn_to_its_end_is_sent_before_the_end(queue: ForwardMsgQueue) -> None:
    for message in (drawn("chart"), drawn("seed", PANEL, 1), ended(ENDS.FINISHED_SUCCESSFULLY)):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=[PANEL])  # as Streamlit does before it draws the part
    queue.enqueue(drawn("seed, anew", PANEL, 1))
    assert left(queue) == ["chart", "seed", "FINISHED_SUCCESSFULLY", "seed, anew"]


def test_a_part_stays_whole_where_a_part_of_its_own_has_still_to_come(queue: ForwardMsgQueue) -> None:
    for message in (drawn("place", PANEL), drawn("chart in it", "inner", 1)):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=[PANEL])
    assert left(queue) == ["place", "chart in it"], "a browser cannot put a chart into a place that is not there"


def test_a_page_that_is_drawn_anew_is_sent_once(queue: ForwardMsgQueue) -> None:
    for message in (drawn("chart"), ended(ENDS.FINISHED_SUCCESSFULLY)):
        queue.enqueue(message)
    queue.clear(retain_lifecycle_msgs=True)
    assert left(queue) == ["FINISHED_EARLY_FOR_RERUN"]
