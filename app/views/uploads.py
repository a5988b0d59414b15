"""Files that a page takes in. Streamlit keeps them in the lab's memory for as long as their page is open, and two
minutes longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamlit.runtime.scriptrunner import get_script_run_ctx

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile


def forget(upload: UploadedFile) -> None:
    """Take the file out of the lab's memory; its widget says from the next run on that there is none."""
    context = get_script_run_ctx()
    remove = getattr(context.uploaded_file_mgr, "remove_file", None) if context is not None else None
    if context is not None and remove is not None:
        remove(session_id=context.session_id, file_id=upload.file_id)
