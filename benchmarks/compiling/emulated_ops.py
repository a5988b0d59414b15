"""What each PTX instruction does to a block's threads."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.compiling.driver import WARP

_TYPES = {"f": "f", "s": "i", "u": "u", "b": "u"}


class Fault(RuntimeError):
    """An access that the hardware would refuse, or that touches memory of nobody."""


class Unsupported(NotImplementedError):
    """An instruction that is not emulated."""


def value_type(kind: str) -> np.dtype:
    """The numpy type of a PTX one; bf16 and tf32 are held as their bits."""
    if kind == "pred":
        return np.dtype(bool)
    if kind in ("bf16", "bf16x2", "tf32"):
        return np.dtype("u2" if kind == "bf16" else "u4")
    return np.dtype(f"{_TYPES[kind[0]]}{max(1, int(kind[1:]) // 8)}")


def _kind(op: str) -> str:
    return op.rsplit(".", 1)[1]


def _registers(operand: str) -> list[str]:
    return [part.strip() for part in operand.strip("{} ").split(",")]


def _quiet(work: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return work(*arguments)

    return wrapped


def _simple(function: Callable[..., np.ndarray]) -> Callable[..., None]:
    """An instruction whose operands and result have the type that its name ends with."""

    def run(block: Any, s: Any) -> None:
        kind = _kind(s.op)
        if kind.endswith("16x2") and kind[0] in "su":  # two numbers in a register
            pairs = (block.get(name, "u32").copy().view(f"{_TYPES[kind[0]]}2") for name in s.operands[1:])
            block.set(s.operands[0], np.ascontiguousarray(function(*pairs)).view(np.uint32))
            return
        block.set(s.operands[0], function(*(block.get(name, kind) for name in s.operands[1:])))

    return _quiet(run)


def _shift(block: Any, s: Any) -> None:
    kind = _kind(s.op)
    x, by = block.get(s.operands[1], kind), block.get(s.operands[2], "u32")
    bits = 8 * x.dtype.itemsize
    most = np.minimum(by, bits - 1).astype(x.dtype)
    if s.op.startswith("shl"):
        result = np.where(by >= bits, x.dtype.type(0), x << most)
    else:
        over = x >> np.full_like(x, bits - 1) if x.dtype.kind == "i" else np.zeros_like(x)
        result = np.where(by >= bits, over, x >> most)
    block.set(s.operands[0], result.astype(x.dtype))


def _mul(block: Any, s: Any) -> None:
    kind = _kind(s.op)
    operands = [block.get(name, kind) for name in s.operands[1:3]]
    if ".wide" in s.op:
        wide = value_type(kind[0] + str(2 * int(kind[1:])))
        result = operands[0].astype(wide) * operands[1].astype(wide)
        kind = kind[0] + str(2 * int(kind[1:]))
    elif ".hi" in s.op:
        wide = value_type(kind[0] + str(2 * int(kind[1:])))
        product = operands[0].astype(wide) * operands[1].astype(wide)
        result = (product >> wide.type(int(kind[1:]))).astype(value_type(kind))
    else:
        result = operands[0] * operands[1]
    if s.op.startswith("mad"):
        result = result + block.get(s.operands[3], kind)
    block.set(s.operands[0], result)


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (a.astype(np.float64) * b.astype(np.float64) + c.astype(np.float64)).astype(a.dtype)


def _div(block: Any, s: Any) -> None:
    kind = _kind(s.op)
    a, b = (block.get(name, kind) for name in s.operands[1:3])
    if kind[0] == "f":
        result = a / b
    else:
        safe = np.where(b == 0, b.dtype.type(1), b)
        whole = np.abs(a) // np.abs(safe) if a.dtype.kind == "i" else a // safe
        whole = np.where((a < 0) != (safe < 0), -whole, whole) if a.dtype.kind == "i" else whole
        result = whole if s.op.startswith("div") else a - whole * safe
    block.set(s.operands[0], result.astype(a.dtype))


_COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip


def _setp(block: Any, s: Any) -> None:
    _, compare, *rest = s.op.split(".")
    kind = rest[-1]
    if kind == "f16x2":  # the lower halves, and the upper ones
        halves = [block.get(name, "u32").copy().view(np.float16).reshape(-1, 2) for name in s.operands[1:3]]
        for n, name in enumerate(s.operands[0].split("|")):
            block.set(name, _COMPARE[compare](halves[0][:, n], halves[1][:, n]))
        return
    a, b = (block.get(name, kind) for name in s.operands[1:3])
    if compare in _COMPARE:
        result = _COMPARE[compare](a, b)
        if kind[0] == "f" and compare in ("ne",):
            result &= ~(np.isnan(a) | np.isnan(b))
    else:  # the unordered ones: true where one is not a number
        result = _COMPARE[compare.removesuffix("u")](a, b) | np.isnan(a) | np.isnan(b)
    if rest[0] in ("and", "or", "xor"):
        other = block.get(s.operands[3].lstrip("!"), "pred")
        other = ~other if s.operands[3].startswith("!") else other
        result = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[rest[0]](result, other)
    block.set(s.operands[0].partition("|")[0], result)


def _selp(block: Any, s: Any) -> None:
    kind = _kind(s.op)
    a, b = (block.get(name, kind) for name in s.operands[1:3])
    block.set(s.operands[0], np.where(block.get(s.operands[3], "pred"), a, b))


def _mov(block: Any, s: Any) -> None:
    to, source = s.operands
    kind = _kind(s.op)
    if to.startswith("{"):
        bits, names = block.get(source, "u" + kind[1:]), _registers(to)
        each = int(kind[1:]) // len(names)
        for n, name in enumerate(names):
            part = (bits >> bits.dtype.type(n * each)) & bits.dtype.type(2**each - 1)
            block.set(name, part.astype(value_type(f"u{each}")))
    elif source.startswith("{"):
        names = _registers(source)
        each = int(kind[1:]) // len(names)
        wide = value_type("u" + kind[1:])
        bits = np.zeros(block.threads, wide)
        for n, name in enumerate(names):
            bits |= block.get(name, f"u{each}").astype(wide) << wide.type(n * each)
        block.set(to, bits)
    elif kind == "pred":
        block.set(to, block.get(source, "pred") if source.startswith("%") else np.full(block.threads, source != "0"))
    else:
        block.set(to, block.get(source, kind).copy())


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _cvt(block: Any, s: Any) -> None:
    *how, to, source = s.op.split(".")[1:]
    if to in ("bf16x2", "f16x2"):
        high, low = (block.get(name, "f32") for name in s.operands[1:3])
        half = to_bf16 if to == "bf16x2" else (lambda x: x.astype(np.float16).view(np.uint16))
        block.set(s.operands[0], half(high).astype(np.uint32) << np.uint32(16) | half(low).astype(np.uint32))
        return
    x = block.get(s.operands[1], source)
    if source == "bf16":
        x = from_bf16(x)
    if to == "tf32":
        result = (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
        result = np.where(np.isfinite(x), result, x.view(np.uint32))
    elif to == "bf16":
        result = to_bf16(x)
    elif value_type(to).kind in "iu" and x.dtype.kind == "f":
        x = np.rint(x) if any(mode in how for mode in ("rni",)) else np.floor(x) if "rmi" in how else np.trunc(x)
        result = np.nan_to_num(x).astype(np.int64).astype(value_type(to))
    else:
        result = x.astype(value_type(to))
    if result.dtype.itemsize == 1:
        result = result.astype(np.int16 if result.dtype.kind == "i" else np.uint16)
    block.set(s.operands[0], result)


def _bytes(values: list[np.ndarray], width: int) -> np.ndarray:
    """[threads, bytes] of registers' values, each cut to ``width`` bytes."""
    return np.concatenate([_cut(v, width) for v in values], 1)


def _cut(values: np.ndarray, width: int) -> np.ndarray:
    values = np.ascontiguousarray(values.astype(np.uint64))
    return values.view(np.uint8).reshape(len(values), 8)[:, :width]


def _vector(op: str) -> int:
    match = re.search(r"\.v(\d)", op)
    return int(match[1]) if match else 1


def _ld(block: Any, s: Any) -> None:
    space, kind = s.op.split(".")[1], _kind(s.op)
    if space == "param":
        name, _, _ = s.operands[1].strip("[]").partition("+")
        value, _ = block.params[name]
        dtype = np.dtype("f4") if isinstance(value, float) else value_type(kind)
        number = value if isinstance(value, float) else int(value) % 2 ** (8 * dtype.itemsize)
        block.set(s.operands[0], np.full(block.threads, number, dtype if dtype.kind == "f" else f"u{dtype.itemsize}"))
        return
    width, count = int(kind[1:]) // 8, _vector(s.op)
    data = np.zeros((block.threads, width * count), np.uint8)
    data[block.active] = _read(block, s, space, block.address(s.operands[1])[block.active], width * count)
    for n, name in enumerate(_registers(s.operands[0])):
        part = np.ascontiguousarray(data[:, n * width : (n + 1) * width]).view(value_type("u" + kind[1:]))[:, 0]
        if kind in ("s8",):
            part = part.view(np.int8).astype(np.int32)
        block.set(name, part)


def _read(block: Any, s: Any, space: str, addresses: np.ndarray, width: int) -> np.ndarray:
    if space.startswith("shared"):
        if (addresses % np.uint64(width)).any():
            raise Fault(f"misaligned shared address: {s.text}")
        return block.shared[addresses.astype(np.int64)[:, None] + np.arange(width)]
    data = np.zeros((len(addresses), width), np.uint8)
    for array, which, places in block.memory.each(addresses, width, s.text):
        data[which] = array[places]
    return data


def _st(block: Any, s: Any) -> None:
    space, kind = s.op.split(".")[1], _kind(s.op)
    width = int(kind[1:]) // 8
    names = _registers(s.operands[1])
    values = _bytes([block.get(name, "u" + kind[1:]) for name in names], width)[block.active]
    addresses = block.address(s.operands[0])[block.active]
    if space.startswith("shared"):
        block.shared[addresses.astype(np.int64)[:, None] + np.arange(values.shape[1])] = values
    else:
        for array, which, places in block.memory.each(addresses, values.shape[1], s.text):
            array[places] = values[which]


def _cp(block: Any, s: Any) -> None:
    if "commit_group" in s.op:
        block.copies.append([])
    elif "wait" in s.op:
        left = int(s.operands[0]) if s.operands else 0
        for group in block.copies[: len(block.copies) - 1 - left]:
            for copy in group:
                copy()
            group.clear()
    elif s.op.startswith("cp.async.c"):
        width, active = int(s.operands[2], 0), block.active.copy()
        wanted = block.get(s.operands[3], "u32")[active] if len(s.operands) > 3 else np.full(active.sum(), width)
        to = block.address(s.operands[0])[active].astype(np.int64)
        source = block.address(s.operands[1])[active]
        if (to % width).any():
            raise Fault(f"misaligned shared address: {s.text}")
        data = np.zeros((len(to), width), np.uint8)
        if (some := wanted == width).any():
            data[some] = _read(block, s, "global", source[some], width)

        def copy() -> None:
            block.shared[to[:, None] + np.arange(width)] = data

        block.copies[-1].append(copy)
    else:
        raise Unsupported(s.text)


def _shfl(block: Any, s: Any) -> None:
    x, by = block.get(s.operands[1], "u32"), block.get(s.operands[2], "u32")
    lane = np.arange(block.threads)
    mode = s.op.split(".")[2]
    within = lane % WARP
    source = {"bfly": within ^ by, "idx": by & 31, "up": within - by, "down": within + by}[mode].astype(np.int64)
    inside = (source >= 0) & (source < WARP)
    block.set(
        s.operands[0].partition("|")[0], np.where(inside, x[np.where(inside, lane // WARP * WARP + source, lane)], x)
    )


def _prmt(block: Any, s: Any) -> None:
    a, b, chosen = (block.get(name, "u32") for name in s.operands[1:4])
    both = np.concatenate([_cut(a, 4), _cut(b, 4)], 1)
    result = np.zeros(block.threads, np.uint32)
    for n in range(4):
        nibble = (chosen >> np.uint32(4 * n)) & np.uint32(15)
        byte = both[np.arange(block.threads), (nibble & 7).astype(np.int64)]
        byte = np.where(nibble & 8, np.where(byte & 128, 255, 0), byte).astype(np.uint32)
        result |= byte << np.uint32(8 * n)
    block.set(s.operands[0], result)


def _bfe(block: Any, s: Any) -> None:
    x, at, count = block.get(s.operands[1], "u32"), block.get(s.operands[2], "u32"), block.get(s.operands[3], "u32")
    part = ((x.astype(np.uint64) >> at) & ((np.uint64(1) << count.astype(np.uint64)) - np.uint64(1))).astype(np.int64)
    if ".s" in s.op:
        part = np.where((part >> (count.astype(np.int64) - 1)) & 1, part - (1 << count.astype(np.int64)), part)
    block.set(s.operands[0], part.astype(np.int32))


def _lop3(block: Any, s: Any) -> None:
    a, b, c = (block.get(name, "u32") for name in s.operands[1:4])
    table, result = int(s.operands[4], 0), np.zeros(block.threads, np.uint32)
    for n in range(8):
        if table >> n & 1:
            result |= (a if n & 4 else ~a) & (b if n & 2 else ~b) & (c if n & 1 else ~c)
    block.set(s.operands[0], result)


def _warps(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, WARP)


def _matrices(s: Any) -> int:
    return int(re.search(r"\.x(\d)", s.op)[1])  # type: ignore[index]


def _ldmatrix(block: Any, s: Any) -> None:
    count = _matrices(s)
    addresses = _warps(block.address(s.operands[1]).astype(np.int64))[:, : 8 * count]
    rows = block.shared[addresses[..., None] + np.arange(16)]  # [warps, 8 * count, 16 bytes]
    halves = np.ascontiguousarray(rows).view(np.uint16).reshape(len(addresses), count, 8, 8)
    if ".trans" in s.op:
        halves = halves.swapaxes(2, 3)
    words = np.ascontiguousarray(halves).view(np.uint32).reshape(len(addresses), count, WARP)
    for n, name in enumerate(_registers(s.operands[0])):
        block.set(name, words[:, n].reshape(-1))


def _stmatrix(block: Any, s: Any) -> None:
    count = _matrices(s)
    addresses = _warps(block.address(s.operands[0]).astype(np.int64))[:, : 8 * count]
    for n, name in enumerate(_registers(s.operands[1])):
        halves = np.ascontiguousarray(_warps(block.get(name, "u32"))).view(np.uint16).reshape(-1, 8, 8)
        if ".trans" in s.op:
            halves = np.ascontiguousarray(halves.swapaxes(1, 2))
        block.shared[addresses[:, 8 * n : 8 * n + 8, None] + np.arange(16)] = halves.view(np.uint8).reshape(-1, 8, 16)


_GROUP, _IN_GROUP = np.arange(WARP) // 4, np.arange(WARP) % 4


def _mma(block: Any, s: Any) -> None:
    shape, kind = s.op.split(".")[3], s.op.split(".")[-2]
    if (shape, kind) not in (("m16n8k8", "tf32"), ("m16n8k16", "bf16"), ("m16n8k16", "f16")):
        raise Unsupported(s.text)
    a, b, c = (np.stack([_warps(block.get(r, "u32")) for r in _registers(operand)], 1) for operand in s.operands[1:4])
    warps = len(a)
    each = 1 if kind == "tf32" else 2
    depth = 8 if kind == "tf32" else 16
    left, right = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8))
    for register in range(4):
        row = _GROUP + 8 * (register % 2)
        for n in range(each):
            left[:, row, each * _IN_GROUP + n + depth // 2 * (register // 2)] = _element(a[:, register], n, kind)
    for register in range(2):
        for n in range(each):
            right[:, each * _IN_GROUP + n + depth // 2 * register, _GROUP] = _element(b[:, register], n, kind)
    product = left @ right
    for n, name in enumerate(_registers(s.operands[0])):
        part = product[:, _GROUP + 8 * (n // 2), 2 * _IN_GROUP + n % 2]
        block.set(name, (part + np.ascontiguousarray(c[:, n]).view(np.float32)).astype(np.float32).reshape(-1))


def _element(words: np.ndarray, n: int, kind: str) -> np.ndarray:
    if kind == "tf32":
        return (words & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)
    bits = (words >> np.uint32(16 * n)).astype(np.uint16)
    return (from_bf16(bits) if kind == "bf16" else bits.view(np.float16)).astype(np.float64)


def _nothing(block: Any, s: Any) -> None:
    """What orders memory has no effect where everything happens in order."""


OPS: dict[str, Callable[..., None]] = {
    "add": _simple(lambda a, b: a + b),
    "sub": _simple(lambda a, b: a - b),
    "mul": _quiet(_mul),
    "mad": _quiet(_mul),
    "fma": _simple(_fma),
    "div": _quiet(_div),
    "rem": _quiet(_div),
    "and": _simple(lambda a, b: a & b),
    "or": _simple(lambda a, b: a | b),
    "xor": _simple(lambda a, b: a ^ b),
    "not": _simple(lambda a: ~a),
    "neg": _simple(lambda a: -a),
    "abs": _simple(np.abs),
    "min": _simple(np.fmin),
    "max": _simple(np.fmax),
    "ex2": _simple(np.exp2),
    "lg2": _simple(np.log2),
    "rcp": _simple(lambda a: 1 / a),
    "sqrt": _simple(np.sqrt),
    "rsqrt": _simple(lambda a: 1 / np.sqrt(a)),
    "shl": _quiet(_shift),
    "shr": _quiet(_shift),
    "setp": _quiet(_setp),
    "selp": _selp,
    "mov": _mov,
    "cvt": _quiet(_cvt),
    "ld": _ld,
    "st": _st,
    "cp": _cp,
    "shfl": _quiet(_shfl),
    "prmt": _prmt,
    "bfe": _bfe,
    "lop3": _lop3,
    "ldmatrix": _ldmatrix,
    "stmatrix": _stmatrix,
    "mma": _quiet(_mma),
    "fence": _nothing,
    "membar": _nothing,
    "griddepcontrol": _nothing,
}
