"""What a page has drawn reaches the browser whole.

A part of a page that is drawn by itself (a Streamlit fragment), asked for while the whole page is being drawn, is drawn
right after it. Streamlit then drops what it had still to send of that part from the whole drawing, as it is about to
send it again, but still says that the whole page was drawn. The browser takes the part's fields for gone, forgets what
they hold, and shows them empty when they come.
"""

from __future__ import annotations

from streamlit.runtime.forward_msg_queue import ForwardMsgQueue

_drop = ForwardMsgQueue.clear


def keep_whole_drawings() -> None:
    """Have Streamlit send the rest of a drawing before it says that the page was drawn."""
    setattr(ForwardMsgQueue, "clear", _keep_or_drop)  # noqa: B010 (a plain assignment has a type of its own)


def _keep_or_drop(
    queue: ForwardMsgQueue, retain_lifecycle_msgs: bool = False, fragment_ids_this_run: list[str] | None = None
) -> None:
    """``ForwardMsgQueue.clear``; but nothing is dropped for a part, as if it had been sent already. What other parts
    have still to send may stand inside what would be dropped.
    """
    if retain_lifecycle_msgs and fragment_ids_this_run is not None:
        queue._delta_index_map = {}  # what comes is sent after what is there, not in its place
        return
    _drop(queue, retain_lifecycle_msgs, fragment_ids_this_run)
