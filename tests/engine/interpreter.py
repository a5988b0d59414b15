"""Triton's interpreter, made quicker: nearly half its time went into looking up again, for every call of a function within a kernel,
which parts of the language it stands in for."""

from __future__ import annotations

import inspect
from typing import Any


def quicken() -> None:
    """Look the names up once, and stand in once per launch for each function. What is computed stays as it is."""
    import triton.language as tl
    from triton.runtime import interpreter

    built_in: dict[Any, list[str]] = {}
    ready: set[Any] = set()  # functions for which this launch has prepared the language

    def patch_builtin(package: Any, builder: Any, scope: Any) -> None:
        if package not in built_in:
            built_in[package] = [name for name, one in inspect.getmembers(package) if tl.core.is_builtin(one)]
        for name in built_in[package]:
            if tl.core.is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, builder, scope)

    launch = interpreter.GridExecutor.__call__

    def launched(self: Any, *arguments: Any, **named: Any) -> None:
        ready.clear()
        launch(self, *arguments, **named)

    def called(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.fn not in ready:
            interpreter._patch_lang(self.fn)
            ready.add(self.fn)
        try:
            return self.rewrite()(*arguments, **named)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    interpreter._patch_builtin = patch_builtin
    interpreter.GridExecutor.__call__ = launched
    interpreter.InterpretedFunction.__call__ = called
