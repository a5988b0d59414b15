"""The words native kernels are written in: Python that writes LLVM code, an operation a line.

A kernel is a function that is called once, with a ``Code``. Values behave like numbers; what is done to them becomes
code for this processor. Loops, conditions and what changes within them are said with ``loop``, ``when`` and
``variable``::

    total = code.variable(code.number(0.0))
    with code.loop(0, count) as i:
        total.set(total.get() + code.load(x, i, FLOAT))

Whole numbers have 64 bits (``WHOLE``), others 32 (``FLOAT``); ``lanes`` of one type make a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

WHOLE, INT32, INT16, INT8 = (ir.IntType(bits) for bits in (64, 32, 16, 8))
FLOAT, HALF = ir.FloatType(), ir.HalfType()
POINTER = ir.PointerType()
CONTRACT = ("contract",)  # products and sums may become one operation that rounds once


class Value:
    """A number, a vector of numbers or an address in the code that is being written."""

    __slots__ = ("code", "raw")

    def __init__(self, code: Code, raw: Any) -> None:
        self.code = code
        self.raw = raw

    @property
    def lanes(self) -> int:
        return self.raw.type.count if isinstance(self.raw.type, ir.VectorType) else 0

    @property
    def element(self) -> Any:
        return self.raw.type.element if self.lanes else self.raw.type

    def __add__(self, other: Any) -> Value:
        return self.code.both("add", "fadd", self, other)

    def __sub__(self, other: Any) -> Value:
        return self.code.both("sub", "fsub", self, other)

    def __mul__(self, other: Any) -> Value:
        return self.code.both("mul", "fmul", self, other)

    def __truediv__(self, other: Any) -> Value:
        return self.code.both("", "fdiv", self, other)

    def __floordiv__(self, other: Any) -> Value:
        return self.code.both("udiv", "", self, other)

    def __mod__(self, other: Any) -> Value:
        return self.code.both("urem", "", self, other)

    def __and__(self, other: Any) -> Value:
        return self.code.both("and_", "", self, other)

    def __or__(self, other: Any) -> Value:
        return self.code.both("or_", "", self, other)

    def __lshift__(self, other: Any) -> Value:
        return self.code.both("shl", "", self, other)

    def __rshift__(self, other: Any) -> Value:
        return self.code.both("lshr", "", self, other)

    def __lt__(self, other: Any) -> Value:
        return self.code.compare("<", self, other)

    def __gt__(self, other: Any) -> Value:
        return self.code.compare(">", self, other)


class Variable:
    """What is set anew within loops and conditions."""

    def __init__(self, code: Code, first: Value) -> None:
        self._code, self._type = code, first.raw.type
        self._place = code.reserve(first.raw.type)
        self.set(first)

    def get(self) -> Value:
        return Value(self._code, self._code.builder.load(self._place, typ=self._type))

    def set(self, value: Value) -> None:
        self._code.builder.store(value.raw, self._place)


class Code:
    """One kernel, ``void name(int64 *arguments)``: argument 0 counts the items that were taken, the others are what
    ``pointers`` and ``numbers`` name in order."""

    def __init__(self, name: str) -> None:
        self.module = ir.Module(name)
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [POINTER]), name)
        self._entry = self.function.append_basic_block("entry")
        body = self.function.append_basic_block("body")
        self.builder = ir.IRBuilder(body)
        self._arguments = Value(self, self.function.args[0])
        self.argument_count = 1
        self._intrinsics: dict[str, Any] = {}

    def finish(self) -> str:
        """The code's text."""
        self.builder.ret_void()
        ir.IRBuilder(self._entry).branch(self.function.basic_blocks[1])
        return str(self.module)

    # --- arguments and constants ---

    def numbers(self, count: int) -> list[Value]:
        """The next arguments as whole numbers."""
        first, self.argument_count = self.argument_count, self.argument_count + count
        return [self.load(self._arguments, i, WHOLE) for i in range(first, first + count)]

    def pointers(self, count: int) -> list[Value]:
        """The next arguments as addresses."""
        return [self.address(number) for number in self.numbers(count)]

    def address(self, number: Value) -> Value:
        return Value(self, self.builder.inttoptr(number.raw, POINTER))

    def number(self, value: float, lanes: int = 0, kind: Any = None) -> Value:
        """A constant: a whole number or a float32, as Python has it; ``lanes`` of it where they are not 0."""
        kind = kind or (WHOLE if isinstance(value, int) else FLOAT)
        if not lanes:
            return Value(self, ir.Constant(kind, value))
        return self.vector([value] * lanes, kind)

    def vector(self, values: Sequence[float], kind: Any) -> Value:
        constants = [ir.Constant(kind, value) for value in values]
        return Value(self, ir.Constant(ir.VectorType(kind, len(values)), constants))

    def like(self, value: Any, other: Value) -> Value:
        """``value`` in the form of ``other``: Python's numbers become constants, single numbers fill vectors."""
        if not isinstance(value, Value):
            constant = float(value) if other.element in (FLOAT, HALF) else value
            return self.number(constant, other.lanes, other.element)
        return self.fill(value, other.lanes) if other.lanes and not value.lanes else value

    # --- arithmetic ---

    def both(self, whole: str, broken: str, a: Value, b: Any) -> Value:
        b = self.like(b, a)
        a = self.like(a, b)
        if a.element in (FLOAT, HALF):
            return Value(self, getattr(self.builder, broken)(a.raw, b.raw, flags=CONTRACT))
        return Value(self, getattr(self.builder, whole)(a.raw, b.raw))

    def compare(self, how: str, a: Value, b: Any) -> Value:
        b = self.like(b, a)
        ask = self.builder.fcmp_ordered if a.element is FLOAT or a.element == FLOAT else self.builder.icmp_signed
        return Value(self, ask(how, a.raw, b.raw))

    def select(self, condition: Value, yes: Any, no: Any) -> Value:
        yes = self.like(yes, no) if isinstance(no, Value) else yes
        return Value(self, self.builder.select(condition.raw, yes.raw, self.like(no, yes).raw))

    def minimum(self, a: Value, b: Any) -> Value:
        b = self.like(b, a)
        return self.select(a < b, a, b)

    def maximum(self, a: Value, b: Any) -> Value:
        """``b`` where ``a`` is no number."""
        b = self.like(b, a)
        return self.select(a > b, a, b)

    def fma(self, a: Value, b: Any, c: Value) -> Value:
        """``a * b + c``, rounded once where the processor can."""
        return self.intrinsic("llvm.fmuladd", a, self.like(b, a), c)

    def sqrt(self, a: Value) -> Value:
        return self.intrinsic("llvm.sqrt", a)

    def intrinsic(self, name: str, *values: Value) -> Value:
        kind = values[0].raw.type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
        full = f"{name}.{suffix}"
        if full not in self._intrinsics:
            self._intrinsics[full] = ir.Function(self.module, ir.FunctionType(kind, [kind] * len(values)), full)
        return Value(self, self.builder.call(self._intrinsics[full], [value.raw for value in values]))

    # --- forms of numbers ---

    def fill(self, value: Value, lanes: int) -> Value:
        """A vector that is ``value`` in every lane."""
        kind = ir.VectorType(value.raw.type, lanes)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value.raw, ir.Constant(INT32, 0))
        mask = ir.Constant(ir.VectorType(INT32, lanes), [ir.Constant(INT32, 0)] * lanes)
        return Value(self, self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), mask))

    def shuffle(self, a: Value, b: Value, order: Sequence[int]) -> Value:
        mask = ir.Constant(ir.VectorType(INT32, len(order)), [ir.Constant(INT32, i) for i in order])
        return Value(self, self.builder.shuffle_vector(a.raw, b.raw, mask))

    def lane(self, vector: Value, index: int) -> Value:
        return Value(self, self.builder.extract_element(vector.raw, ir.Constant(INT32, index)))

    def cast(self, how: str, value: Value, kind: Any) -> Value:
        """``how``: LLVM's name of the conversion (zext, sext, trunc, sitofp, fptosi, fpext, bitcast); ``kind``: of one
        lane."""
        kind = ir.VectorType(kind, value.lanes) if value.lanes else kind
        return Value(self, getattr(self.builder, how)(value.raw, kind))

    # --- memory ---

    def reserve(self, kind: Any, count: int = 1, align: int = 0) -> Any:
        """Room on the stack, for all of the kernel."""
        place = ir.IRBuilder(self._entry).alloca(kind, count)
        place.type = POINTER  # numbers and vectors of them are kept there alike
        if align:
            place.align = align
        return place

    def array(self, count: int, kind: Any = FLOAT) -> Value:
        """Room for ``count`` numbers on the stack."""
        return Value(self, self.reserve(kind, count, 64))

    def at(self, base: Value, index: Any, kind: Any) -> Value:
        """The address of number ``index`` of this kind."""
        index = index if isinstance(index, Value) else self.number(index)
        return Value(self, self.builder.gep(base.raw, [index.raw], source_etype=kind))

    def load(self, base: Value, index: Any, kind: Any, lanes: int = 0) -> Value:
        place = self.at(base, index, kind)
        full = ir.VectorType(kind, lanes) if lanes else kind
        return Value(self, self.builder.load(place.raw, typ=full, align=_bytes(kind)))

    def store(self, value: Value, base: Value, index: Any) -> None:
        self.builder.store(value.raw, self.at(base, index, value.element).raw, align=_bytes(value.element))

    def variable(self, first: Value) -> Variable:
        return Variable(self, first)

    # --- order of execution ---

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int = 1) -> Iterator[Value]:
        """``range(start, stop, step)``."""
        place = self.variable(start if isinstance(start, Value) else self.number(start))
        ask, body, after = (self.function.append_basic_block(name) for name in ("ask", "loop", "after"))
        self.builder.branch(ask)
        self.builder.position_at_end(ask)
        index = place.get()
        self.builder.cbranch((index < stop).raw, body, after)
        self.builder.position_at_end(body)
        yield index
        place.set(index + step)
        self.builder.branch(ask)
        self.builder.position_at_end(after)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        yes, after = (self.function.append_basic_block(name) for name in ("when", "after"))
        self.builder.cbranch(condition.raw, yes, after)
        self.builder.position_at_end(yes)
        yield
        self.builder.branch(after)
        self.builder.position_at_end(after)

    @contextmanager
    def items(self, count: Value) -> Iterator[Value]:
        """Items 0 to ``count``, each taken by whichever thread is free."""
        ask, body, after = (self.function.append_basic_block(name) for name in ("take", "item", "done"))
        self.builder.branch(ask)
        self.builder.position_at_end(ask)
        taken = self.builder.atomic_rmw("add", self._arguments.raw, ir.Constant(WHOLE, 1), "monotonic")
        item = Value(self, taken)
        self.builder.cbranch((item < count).raw, body, after)
        self.builder.position_at_end(body)
        yield item
        self.builder.branch(ask)
        self.builder.position_at_end(after)


def _bytes(kind: Any) -> int:
    return {FLOAT: 4, HALF: 2}.get(kind) or kind.width // 8
