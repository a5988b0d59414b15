"""What kernels compute with vectors of float32, and the number formats that they read and write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial, log

from engine.native.code import FLOAT, INT16, INT32, Code, Value

LOG2_E = 1 / log(2)
LEAST_POWER, MOST_POWER = -126.0, 126.0  # of two, that a float32 holds with all its digits
_POWERS = [log(2) ** n / factorial(n) for n in range(8)]  # 2^f for |f| <= 1/2, to the last digit of a float32
NUMBER_FORMATS = ("float32", "bfloat16")


def exp2(code: Code, x: Value) -> Value:
    """2 to the power of each lane; 0 below the least power, and as large as it gets beyond the most."""
    bounded = code.select(x > MOST_POWER, MOST_POWER, x)
    bounded = code.select(bounded < LEAST_POWER, LEAST_POWER, bounded)
    whole = code.intrinsic("llvm.rint", bounded)
    part = bounded - whole
    result = code.like(_POWERS[-1], x)
    for power in reversed(_POWERS[:-1]):
        result = code.fma(result, part, code.like(power, x))
    exponent = code.cast("fptosi", whole, INT32)
    moved = code.cast("bitcast", (exponent + 127) << 23, FLOAT)
    return code.select(x < LEAST_POWER, 0.0, result * moved)  # a product keeps what is no number


def silu(code: Code, x: Value) -> Value:
    """``x / (1 + e^-x)``."""
    return x / (exp2(code, x * -LOG2_E) + 1.0)


def total(code: Code, vector: Value) -> Value:
    """The sum of a vector's lanes."""
    return reduced(code, Value.__add__, vector)


def reduced(code: Code, pick: Callable[[Value, Value], Value], vector: Value) -> Value:
    """A vector's lanes made one number, two at a time."""
    while vector.lanes > 1:
        half = vector.lanes // 2
        low, high = code.shuffle(vector, vector, range(half)), code.shuffle(vector, vector, range(half, 2 * half))
        vector = pick(low, high)
    return code.lane(vector, 0)


def four_totals(code: Code, vectors: Sequence[Value]) -> Value:
    """The sums of four vectors' lanes, as one vector of four: fewer steps than four sums one by one."""
    a, b, c, d = vectors
    both = _paired(code, _paired(code, a, b), _paired(code, c, d))
    while both.lanes > 4:
        half = both.lanes // 2
        both = code.shuffle(both, both, range(half)) + code.shuffle(both, both, range(half, 2 * half))
    return both


def _paired(code: Code, a: Value, b: Value) -> Value:
    """In every four lanes: two sums of neighbours of ``a``, then two of ``b``."""
    even = [n for s in range(0, a.lanes, 4) for n in (s, s + 2, a.lanes + s, a.lanes + s + 2)]
    return code.shuffle(a, b, even) + code.shuffle(a, b, [n + 1 for n in even])


def read(code: Code, kind: str, base: Value, index: Value, lanes: int) -> Value:
    """``lanes`` numbers stored as ``kind``, as float32."""
    if kind == "float32":
        return code.load(base, index, FLOAT, lanes)
    bits = code.cast("zext", code.load(base, index, INT16, lanes), INT32) << 16
    return code.cast("bitcast", bits, FLOAT)


def write(code: Code, kind: str, value: Value, base: Value, index: Value) -> None:
    """Store float32 numbers as ``kind``, rounded to nearest, ties to even."""
    if kind == "float32":
        code.store(value, base, index)
    else:
        code.store(code.cast("trunc", _rounded_bits(code, value), INT16), base, index)


def rounded(code: Code, kind: str, value: Value) -> Value:
    """float32 numbers as ``kind`` has them."""
    if kind == "float32":
        return value
    return code.cast("bitcast", _rounded_bits(code, value) << 16, FLOAT)


def _rounded_bits(code: Code, value: Value) -> Value:
    bits = code.cast("bitcast", value, INT32)
    return (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
