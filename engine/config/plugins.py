"""Techniques from elsewhere: modules that register a policy, a codec, a panel or the like when they are imported.

An installed package names its module as an entry point of the group ``servescope.techniques``, the environment
variable names modules of a work in progress. Command line, lab and every engine process import the same ones before
they read a setting.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os

from engine.config.errors import EngineError

GROUP = "servescope.techniques"
VARIABLE = "SERVESCOPE_PLUGINS"


def load_plugins() -> list[str]:
    """Import what is named, once per process; returns the modules' names.

    Raises:
        EngineError: of kind ``bad-plugin``: a module is missing, or fails when it is imported.
    """
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    modules = {name: VARIABLE for name in named if name}
    modules |= {point.module: f"{GROUP}: {point.name}" for point in importlib.metadata.entry_points(group=GROUP)}
    for module, field in modules.items():
        try:
            importlib.import_module(module)
        except Exception as error:
            message = f"This module cannot be imported ({type(error).__name__}: {error})."
            raise EngineError("bad-plugin", field, module, message, _mend(field)) from error
    return list(modules)


def _mend(field: str) -> str:
    if field == VARIABLE:
        return f"Name modules that Python finds (PYTHONPATH), with commas between, or unset {VARIABLE}."
    return "Mend or uninstall the package it comes from."
