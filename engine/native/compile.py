"""From a kernel's code to a function that can be called. Takes a fraction of a second; nothing is kept on disk."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Hashable
from functools import cache
from typing import Any

from engine.native import team


class Kernel:
    """A compiled kernel."""

    def __init__(self, engine: Any, name: str, arguments: int) -> None:
        """``arguments``: how many the kernel reads, the counter included."""
        self._engine = engine  # owns the code
        self._address = engine.get_function_address(name)
        self._alone = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(self._address)
        self._block = ctypes.c_int64 * arguments
        self._count = arguments

    def __call__(self, threads: int, *values: int) -> None:
        """Run it on ``threads`` threads; ``values``: its arguments, addresses as numbers."""
        assert len(values) == self._count - 1
        arguments = self._block(0, *values)
        if threads > 1:
            team.run(self._address, ctypes.addressof(arguments), threads)
        else:
            self._alone(ctypes.addressof(arguments))


def lacking() -> str | None:
    """Why kernels cannot be compiled here; None where they can."""
    if importlib.util.find_spec("llvmlite") is None:
        return "llvmlite is not installed"
    return _refused()


@cache
def _refused() -> str | None:
    import llvmlite.binding as llvm

    try:
        llvm.check_jit_execution()
        _machine()
    except (OSError, RuntimeError) as error:
        return f"this system runs no code that is made while it runs ({error})"
    return None


@cache
def widest() -> int:
    """Numbers of 32 bits that this processor handles at once."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return 16
    return 8 if features.get("avx2") else 4


def lanes_for(*widths: int) -> int:
    """The largest vector that divides all ``widths``; 0: none does."""
    return next((n for n in (16, 8, 4) if n <= widest() and all(width % n == 0 for width in widths)), 0)


@cache
def compiled(write: Callable[..., None], *parameters: Hashable) -> Kernel:
    """The kernel that ``write(code, *parameters)`` writes."""
    import llvmlite.binding as llvm

    from engine.native.code import Code

    code = Code(write.__name__)
    write(code, *parameters)
    module = llvm.parse_assembly(code.finish())
    module.verify()
    machine = _machine()
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = tuning.slp_vectorization = False  # the code says what is a vector
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return Kernel(engine, write.__name__, code.argument_count)


def _machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)
