"""Compiled kernels run on a CPU: PTX, instruction by instruction, all threads of a block at once.

Triton's interpreter runs a kernel's Python; this runs what the compiler made of it, layouts, asynchronous copies and matrix
fragments included, so that what a compiler gets wrong shows without a GPU. Every global access is checked: it has to lie in an
argument's memory, at a multiple of its own width. An asynchronous copy arrives when it is waited for. What is not emulated is
refused by name (Hopper's ``wgmma`` above all: tiles of 64 rows and more).

What instructions do, and which thread holds what of a matrix, is NVIDIA's "PTX ISA", https://docs.nvidia.com/cuda/parallel-thread-execution.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.compiling import driver
from benchmarks.compiling.driver import WARP
from benchmarks.compiling.emulated_ops import OPS, Fault, Unsupported, value_type

_LABEL = re.compile(r"^(\$\w+|\w+):")
_STATEMENT = re.compile(r"^(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.S)


@dataclass
class Statement:
    """One instruction."""

    guard: str | None
    negated: bool
    op: str
    operands: list[str]
    text: str


@dataclass
class Program:
    """A parsed entry function."""

    statements: list[Statement]
    labels: dict[str, int]
    params: list[tuple[str, str]]  # name, type
    threads: int


def parse(ptx: str) -> Program:
    """The one entry function of a module."""
    entry = re.search(r"\.entry\s+(\w+)\((.*?)\)\s*(?:\.\w+\s+[\d, ]+\s*)*\{(.*)\n\}", ptx, re.S)
    assert entry is not None
    params = [
        (match[2], match[1])
        for match in re.finditer(r"\.param\s+\.(\w+)(?:\s+\.ptr[^,]*?)?\s+(\w+_param_\d+)", entry[2])
    ]
    threads = int(re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", ptx)[1])  # type: ignore[index]
    statements: list[Statement] = []
    labels: dict[str, int] = {}
    body = re.sub(r"//[^\n]*", "", entry[3]).split(".section", 1)[0]
    for part in body.split(";"):
        text = part.strip()
        while text:
            label = _LABEL.match(text)
            if label and not text.startswith(label[1] + "::"):
                labels[label[1]] = len(statements)
                text = text[label.end() :].strip()
            elif text[0] in "{}" and not _STATEMENT.match(text):
                text = text[1:].strip()
            elif text.startswith((".loc", ".file")):
                text = text.partition("\n")[2].strip()
            else:
                break
        if not text or text.startswith("."):
            continue
        match = _STATEMENT.match(text)
        if match is None:
            raise Unsupported(text)
        statements.append(Statement(match[2], bool(match[1]), match[3], split_operands(match[4]), text))
    return Program(statements, labels, params, threads)


def split_operands(text: str) -> list[str]:
    """At commas outside braces and brackets."""
    operands, depth, last = [], 0, 0
    for at, char in enumerate(text):
        depth += char in "{[("
        depth -= char in "}])"
        if char == "," and depth == 0:
            operands.append(text[last:at].strip())
            last = at + 1
    if text[last:].strip():
        operands.append(text[last:].strip())
    return operands


@dataclass
class Memory:
    """Arguments' memory by address."""

    segments: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        base = storage.data_ptr()
        if all(base != known for known, _ in self.segments):
            array = np.ctypeslib.as_array(_bytes_at(base, storage.nbytes()))
            self.segments.append((base, array))

    def each(self, addresses: np.ndarray, width: int, text: str) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Segments, which accesses lie in each, and where in it [accesses, width].

        Raises:
            Fault: an access lies in none, or at no multiple of its width.
        """
        if (addresses % np.uint64(width)).any():
            raise Fault(f"misaligned address: {text}")
        left = np.ones(len(addresses), bool)
        for base, array in self.segments:
            inside = left & (addresses >= base) & (addresses + np.uint64(width) <= base + len(array))
            if inside.any():
                places = (addresses[inside] - np.uint64(base)).astype(np.int64)
                yield array, inside, places[:, None] + np.arange(width)
                left &= ~inside
        if left.any():
            raise Fault(f"outside all arguments: {text}")


def _bytes_at(address: int, count: int) -> Any:
    return (ctypes.c_uint8 * count).from_address(address)


class Block:
    """One block's threads: registers, shared memory, where each thread is."""

    def __init__(
        self, program: Program, memory: Memory, params: dict[str, Any], place: Sequence[int], shared: int
    ) -> None:
        self.program, self.memory, self.params, self.place = program, memory, params, place
        self.threads = program.threads
        self.shared = np.full(shared + 16, 0xFF, np.uint8)  # NaN in every float: nothing is zero by luck
        self.registers: dict[str, np.ndarray] = {}
        self.pc = np.zeros(self.threads, np.int64)
        self.waiting = np.zeros(self.threads, bool)
        self.done = np.zeros(self.threads, bool)
        self.active = np.ones(self.threads, bool)
        self.copies: list[list[Callable[[], None]]] = [[]]
        self.special = {
            "%tid.x": np.arange(self.threads, dtype=np.uint32),
            "%ntid.x": np.full(self.threads, self.threads, np.uint32),
            "%laneid": np.arange(self.threads, dtype=np.uint32) % WARP,
            **{f"%ctaid.{axis}": np.full(self.threads, n, np.uint32) for axis, n in zip("xyz", place, strict=True)},
        }

    def run(self) -> None:
        while not self.done.all():
            ready = ~self.done & ~self.waiting
            if not ready.any():
                self.waiting[:] = False
                continue
            at = int(self.pc[ready].min())
            self.active = ready & (self.pc == at)
            self.step(self.program.statements[at], at)

    def step(self, statement: Statement, at: int) -> None:
        active = self.active
        if statement.guard is not None:
            held = self.registers[statement.guard]
            active = active & (~held if statement.negated else held)
        self.pc[self.active] = at + 1
        name = statement.op.partition(".")[0]
        if name == "bra":
            self.pc[active] = self.program.labels[statement.operands[0]]
        elif name in ("ret", "exit"):
            self.done |= active
        elif name in ("bar", "barrier"):
            self.waiting |= active
        elif active.any():
            self.active = active
            OPS[name](self, statement) if name in OPS else _refuse(statement)

    def get(self, operand: str, kind: str) -> np.ndarray:
        """[threads] of a type such as s32, f32, b64, pred."""
        dtype = value_type(kind)
        if operand.startswith("%"):
            raw = self.special.get(operand)
            raw = self.registers[operand] if raw is None else raw
            return raw if kind == "pred" else _seen_as(raw, dtype)
        if operand == "global_smem":
            return np.zeros(self.threads, dtype)
        return np.full(self.threads, _immediate(operand, dtype), dtype)

    def set(self, register: str, values: np.ndarray) -> None:
        """Write the active threads' values."""
        if register == "_":
            return
        values = values if values.dtype == bool else values.view(np.dtype(f"u{values.dtype.itemsize}"))
        if register.startswith("%rs") and values.dtype != np.uint16:
            values = values.astype(np.uint16)
        if register.startswith("%r") and register[2].isdigit() and values.dtype.itemsize < 4:
            values = values.astype(np.uint32)
        old = self.registers.get(register)
        if old is None or old.dtype != values.dtype:
            old = np.zeros(self.threads, values.dtype)
            self.registers[register] = old
        else:
            old = self.registers[register] = old.copy()
        old[self.active] = values[self.active]

    def address(self, operand: str) -> np.ndarray:
        """Of ``[base + offset]``, [threads] uint64."""
        base, _, offset = operand.strip("[] ").replace("+-", "+ -").partition("+")
        kind = "b64" if base.strip().startswith("%rd") else "b32"
        return self.get(base.strip(), kind).astype(np.uint64) + np.uint64(int(offset or "0", 0) % 2**64)


def _refuse(statement: Statement) -> None:
    raise Unsupported(statement.text)


def _seen_as(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if raw.dtype.itemsize == dtype.itemsize:
        return raw.view(dtype)
    bits = raw.view(np.dtype(f"u{raw.dtype.itemsize}")).astype(np.dtype(f"u{dtype.itemsize}"))
    return bits.view(dtype)


def _immediate(text: str, dtype: np.dtype) -> Any:
    if text.startswith("0f"):
        return np.frombuffer(struct.pack("<I", int(text[2:], 16)), dtype if dtype.itemsize == 4 else np.uint32)[0]
    if text.startswith("0x") and dtype.kind == "f":
        return np.frombuffer(struct.pack("<Q", int(text, 16))[: dtype.itemsize], dtype)[0]
    number = int(text.rstrip("U"), 0)
    if dtype.kind == "f":
        return np.frombuffer(struct.pack("<Q", number % 2**64)[: dtype.itemsize], dtype)[0]
    bits = 8 * dtype.itemsize
    number %= 2**bits
    return number - 2**bits if dtype.kind == "i" and number >= 2 ** (bits - 1) else number


def emulate(kernel: Any, result: Any, grid: Sequence[int], values: dict[str, Any]) -> None:
    """Run a compiled launch. ``values``: arguments by name."""
    program = _program(result)
    memory, params = Memory(), {}
    signature = result.src.signature
    names = [name for name in kernel.arg_names if signature.get(name) != "constexpr"]
    for (param, kind), name in itertools.zip_longest(program.params, names):
        value = values.get(name) if name else 0
        if isinstance(value, torch.Tensor):
            memory.add(value)
            value = value.data_ptr()
        params[param] = (value or 0, kind)
    for place in itertools.product(*(range(n) for n in (*grid, 1, 1)[:3])):
        Block(program, memory, params, place, result.metadata.shared).run()


_PROGRAMS: dict[str, Program] = {}


def _program(result: Any) -> Program:
    if result.hash not in _PROGRAMS:
        _PROGRAMS[result.hash] = parse(result.asm["ptx"])
    return _PROGRAMS[result.hash]


@contextmanager
def emulating(capability: int, processors: int) -> Any:
    """As ``driver.compiling``, and every launch then runs."""

    def launched(kernel: Any, result: Any, grid: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = {**dict(zip(kernel.arg_names, arguments, strict=False)), **named}
        emulate(kernel, result, tuple(grid), values)

    with driver.compiling(capability, processors, launched) as launches:
        yield launches
