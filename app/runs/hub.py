"""Nothing is fetched from the model hub unless somebody named the model here.

A run's settings may come from a stranger's file. What is begun from a shown run (the same requests again, its quality
measured) takes only models that are on this machine; a model typed into the panel or after ``--set model=`` may be
fetched.
"""

from __future__ import annotations

from app.errors import LabError
from engine.config import EngineConfig


def require_models_here(engine: EngineConfig) -> None:
    """Raises ``LabError`` when a model of these settings would have to be fetched."""
    from engine.config.models import is_hub_name, on_this_machine

    named = {"model": engine.model}
    if engine.speculation is not None and engine.speculation.draft_model is not None:
        named["speculation.draft_model"] = engine.speculation.draft_model
    for field, name in named.items():
        if is_hub_name(name) and not on_this_machine(name):
            raise LabError(
                "model-not-here",
                field=field,
                value=name,
                message=f"The model {name} is not on this machine, and a shown run fetches none by itself.",
                mend="To fetch it, type its name as the Model in the panel and start a run.",
            )
