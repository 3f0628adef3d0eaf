"""Programs written by hand, an interpreter of programs in NumPy, and a caller of their compiled form."""

import ctypes
from dataclasses import dataclass, replace

import numpy as np
import torch

from refold.ir.graph import Slot
from refold.kernels.llvm.emission.emit import module_of
from refold.kernels.llvm.emission.pack import packer
from refold.kernels.llvm.lowering.program import (
    Access,
    Accumulator,
    Buffer,
    Fold,
    Folds,
    Line,
    Matrix,
    Product,
    Program,
    Store,
    Sweep,
)
from refold.kernels.llvm.lowering.schedule import tiles
from refold.kernels.llvm.machine.compile import compile_module

# The interpreter ------------------------------------------------------------------------------------------------------

MATH = {
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "relu": lambda a: np.where(a < 0, 0, a),
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "abs": np.abs,
    "stop_gradient": lambda a: a,
}


@dataclass
class Memory:
    """What the buffers of a program hold: arrays (rows, width), and their modes; the matrices; the entries."""

    arrays: list
    modes: list
    matrices: dict
    entries: list

    def copy(self):
        return replace(self, arrays=[a.copy() for a in self.arrays])


class Interpreter:
    """Runs a program as its records say, for all rows of an entry at once, in the arrays' own type."""

    def __init__(self, program, memory):
        self.program, self.memory = program, memory

    def run(self):
        with np.errstate(all="ignore"):
            for entry in self.memory.entries:
                for step in self.program.passes:
                    (self.sweep if isinstance(step, Sweep) else self.folds)(step, entry)

    def place(self, access, entry):
        """(array, its rows, column); None where there is no such step."""
        begin, end, has_before, has_after, *firsts = entry
        if {"before": not has_before, "after": not has_after}.get(access.when, False):
            return None if access.otherwise is None else self.place(access.otherwise, entry)
        array, span = self.memory.arrays[access.buffer], self.program.buffers[access.buffer].span
        if span == "once":
            return array, slice(0, 1), access.column
        first = 0
        if span == "steps":
            mode = self.memory.modes[access.buffer]
            first = firsts[3 * mode + ("now", "before", "after").index(access.when)]
        return array, slice(first + begin, first + end), access.column

    def read(self, access, entry, size):
        found = self.place(access, entry)
        assert found is not None
        array, rows, column = found
        assert 0 <= column <= column + size <= array.shape[1]
        return array[rows, column : column + size].copy()

    def lines(self, lines, entry, size, given):
        values = []
        for line in lines:
            args = [values[a] for a in line.args]
            if line.op == "read":
                value = self.read(line.attr, entry, 1 if line.scalar else size)
            elif line.op == "const":
                value = np.full((1, 1), line.attr, self.memory.arrays[0].dtype)
            elif line.op in ("acc", "fold"):
                value = given[line.attr]
            elif line.op == "pow":
                value = args[0] ** line.attr
            else:
                value = (MATH.get(line.op) or getattr(np, line.op))(*args)
            values.append(value)
        return values

    def stores(self, stores, values, entry, size):
        for s in stores:
            found = self.place(s.access, entry)
            assert found is not None
            array, rows, column = found
            target = array[rows, column : column + size]
            target[:] = target + values[s.line] if s.add else values[s.line]

    def sweep(self, step, entry):
        sums = [self.accumulated(a, entry, step.size) for a in step.accumulators]
        values = self.lines(step.lines, entry, step.size, sums)
        self.stores(step.stores, values, entry, step.size)

    def accumulated(self, accumulator, entry, size):
        if accumulator.start is not None and not entry[3]:
            total = self.read(accumulator.start, entry, size)
        else:
            total = np.zeros((1, size), self.memory.arrays[0].dtype)
            for bias in accumulator.biases:
                total = total + self.read(bias, entry, size)
        total = total + np.zeros((entry[1] - entry[0], 1), total.dtype)
        for product in accumulator.products:
            if self.place(product.operand, entry) is not None:
                matrix = self.memory.matrices[product.matrix.slot]
                matrix = matrix.T if product.matrix.transposed else matrix
                operand = self.read(product.operand, entry, product.size)
                total = total + product.sign * (operand @ matrix.T)
        return total

    def folds(self, step, entry):
        results = []
        for fold in step.folds:
            values = self.lines(fold.lines, entry, fold.size, [])
            for how, line in fold.results:
                value = np.broadcast_to(values[line], (entry[1] - entry[0], fold.size))
                results.append((value.sum if how == "sum" else value.max)(1, keepdims=True))
        values = self.lines(step.lines, entry, 1, results)
        self.stores(step.stores, values, entry, 1)


# The compiled form ----------------------------------------------------------------------------------------------------

FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class Compiled:
    """A program's machine code for one host and one type of numbers."""

    def __init__(self, program, host, dtype):
        self.program, self.host, self.dtype = program, host, dtype
        self.tiles = tiles(program, host, dtype)
        self.text = module_of(program, self.tiles, host, dtype)
        self.library = compile_module(self.text, host)
        self.function = FUNCTION(self.library.address("run"))

    def packed(self, memory):
        """The packed weights of each pass."""
        pack = FUNCTION(packer(self.host, self.dtype).address("pack"))
        areas = []
        for tile in self.tiles:
            size = tile.size if tile else 0
            area = np.full(size + 16, np.nan, memory.arrays[0].dtype)
            jobs = []
            for p in tile.packs if tile else ():
                matrix = memory.matrices[p.matrix.slot]
                matrix = matrix.T if p.matrix.transposed else matrix
                assert matrix.shape == (p.rows, p.columns)
                row, column = (s // matrix.itemsize for s in matrix.strides)
                target = area.ctypes.data + p.offset * area.itemsize
                jobs.append([matrix.ctypes.data, target, row, column, p.rows, p.columns])
                jobs[-1] += [p.block_stride, p.k_stride, p.width, int(p.sign)]
            table = np.array(jobs, np.int64)
            pack(table.ctypes.data, 0, len(jobs))
            assert not np.isnan(area[:size]).any() and np.isnan(area[size:]).all()
            areas.append(area)
        return areas

    def run(self, memory, bounds):
        areas = self.packed(memory)
        entries, rows = np.array(memory.entries, np.int64), np.array(bounds, np.int64)
        words = [len(memory.entries), entries.ctypes.data, rows.ctypes.data, 0]
        for array, mode in zip(memory.arrays, memory.modes, strict=True):
            words += [array.ctypes.data, mode]
        context = np.array(words + [a.ctypes.data for a in areas], np.int64)
        self.function(context.ctypes.data, 0, len(bounds) - 1)


# Calls ----------------------------------------------------------------------------------------------------------------


def memory_for(program, counts, dtype, *, two_steps=(), backwards=False, seed=0):
    """Random contents of every buffer, for steps of `counts` rows each (falling)."""
    rng = np.random.default_rng(seed)
    batch = max(counts)
    spans = {"steps": sum(counts), "rows": batch, "once": 1}
    modes = [int(b.span == "steps" and b.name in two_steps) for b in program.buffers]
    shapes = [
        (2 * batch if mode else spans[b.span], b.width)
        for b, mode in zip(program.buffers, modes, strict=True)
    ]
    kind = np.float32 if dtype == torch.float32 else np.float64
    arrays = [rng.uniform(-1, 1, shape).astype(kind) for shape in shapes]
    matrices = {}
    for step in program.passes:
        for accumulator in getattr(step, "accumulators", ()):
            for p in accumulator.products:
                shape = (p.size, step.size) if p.matrix.transposed else (step.size, p.size)
                scale = 1 / np.sqrt(p.size)
                matrices[p.matrix.slot] = (scale * rng.uniform(-1, 1, shape)).astype(kind)
    return Memory(arrays, modes, matrices, entries_of(counts, backwards))


def entries_of(counts, backwards):
    """Steps in time, or from the last to the first; rows that end at a step are an entry of their own."""
    batch = max(counts)
    firsts = np.cumsum([0, *counts])
    found = []
    for t, count in enumerate(counts):
        later = counts[t + 1] if t + 1 < len(counts) else 0
        places = [firsts[t], firsts[max(t - 1, 0)], firsts[t + 1] if later else firsts[t]]
        places += [t % 2 * batch, (t + 1) % 2 * batch, (t + 1) % 2 * batch]
        for begin, end, has_after in ((0, later, 1), (later, count, 0)):
            if begin < end:
                found.append([begin, end, int(t > 0), has_after, *map(int, places)])
    return found[::-1] if backwards else found


# Programs -------------------------------------------------------------------------------------------------------------


class Lines:
    """Writes lines: each call gives the number of the new one."""

    def __init__(self):
        self.lines = []

    def __call__(self, op, *args, attr=None, scalar=False):
        self.lines.append(Line(op, args, attr, scalar))
        return len(self.lines) - 1

    def read(self, buffer, column=0, when="now", otherwise=None, scalar=False):
        access = Access(buffer, column, when, otherwise and Access(*otherwise))
        return self("read", attr=access, scalar=scalar)


def weight(name, transposed=False):
    return Matrix(Slot("param", name), transposed)


GATES = "ifgo"


def lstm_forward(m, n):
    """Keeps the gates."""
    buffers = [
        Buffer("input", "x", "steps", m),
        Buffer("state", "h", "steps", n),
        Buffer("state", "c", "steps", n),
        Buffer("first", "h", "rows", n),
        Buffer("first", "c", "rows", n),
        Buffer("kept", "", "steps", 4 * n),
        *[Buffer("param", "b" + gate, "once", n) for gate in GATES],
    ]
    before = Access(1, 0, "before", Access(3))
    sums = tuple(
        Accumulator(
            (
                Product(weight("W" + gate), Access(0), m),
                Product(weight("U" + gate), before, n),
            ),
            (Access(6 + k),),
        )
        for k, gate in enumerate(GATES)
    )
    do = Lines()
    ops = ("sigmoid", "sigmoid", "tanh", "sigmoid")
    i, f, g, o = (do(op, do("acc", attr=k)) for k, op in enumerate(ops))
    c = do("add", do("mul", f, do.read(2, 0, "before", (4,))), do("mul", i, g))
    h = do("mul", o, do("tanh", c))
    stores = [Store(h, Access(1)), Store(c, Access(2))]
    stores += [Store(v, Access(5, k * n)) for k, v in enumerate((i, f, g, o))]
    return Program("lstm", tuple(buffers), (Sweep(n, sums, tuple(do.lines), tuple(stores)),))


def lstm_backward(n):
    """Works in place: the adjoints of the gates take over the columns of the gates. Sums up the gradient of a bias."""
    buffers = (
        Buffer("state", "c", "steps", n),
        Buffer("first", "c", "rows", n),
        Buffer("kept", "", "steps", 4 * n),
        Buffer("direct", "h", "steps", n),
        Buffer("final", "h", "rows", n),
        Buffer("final", "c", "rows", n),
        Buffer("rest", "c", "steps", n),
        Buffer("sums", "", "rows", n + 3),
    )
    products = tuple(
        Product(weight("U" + gate, True), Access(2, k * n, "after"), n)
        for k, gate in enumerate(GATES)
    )
    do = Lines()
    i, f, g, o = (do.read(2, k * n) for k in range(4))
    dh = do("add", do("acc", attr=0), do.read(3))
    tanh_c = do("tanh", do.read(0))
    one = do("const", attr=1.0)
    arriving = do.read(6, 0, "after", (5,))
    through = do("mul", do("mul", dh, o), do("sub", one, do("mul", tanh_c, tanh_c)))
    dc = do("add", arriving, through)

    def gate(d, y):
        return do("mul", d, do("mul", y, do("sub", one, y)))

    adjoints = [
        gate(do("mul", dc, g), i),
        gate(do("mul", dc, do.read(0, 0, "before", (1,))), f),
        do("mul", do("mul", dc, i), do("sub", one, do("mul", g, g))),
        gate(do("mul", dh, tanh_c), o),
    ]
    stores = [Store(v, Access(2, k * n)) for k, v in enumerate(adjoints)]
    stores += [Store(do("mul", dc, f), Access(6)), Store(adjoints[0], Access(7, 2), add=True)]
    sums = (Accumulator(products, (), Access(4)),)
    return Program("lstm", buffers, (Sweep(n, sums, tuple(do.lines), tuple(stores)),))


def normed(m, n):
    """Folds: the mean; the variance and two greatest values; h = (z - mean) / deviation + sin(scale * greatest)."""
    buffers = (
        Buffer("input", "x", "steps", m),
        Buffer("state", "h", "steps", n),
        Buffer("first", "h", "rows", n),
        Buffer("scratch", "", "rows", n + 4),
        Buffer("param", "scale", "once", 1),
        Buffer("param", "gain", "once", n),
    )
    before = Access(1, 0, "before", Access(2))
    sums = (
        Accumulator(
            (Product(weight("W"), Access(0), m), Product(weight("U"), before, n, -1.0)),
            (Access(5), Access(5)),
        ),
    )
    do = Lines()
    first = Sweep(n, sums, (Line("acc", attr=0),), (Store(0, Access(3, 1)),))
    fold = Fold(n, (Line("read", attr=Access(3, 1)),), (("sum", 0),))
    mean = do(
        "div", do("fold", attr=0, scalar=True), do("const", attr=float(n), scalar=True), scalar=True
    )
    second = Folds((fold,), tuple(do.lines), (Store(mean, Access(3, 0)),))
    do = Lines()
    away = do("sub", do.read(3, 1), do.read(3, 0, scalar=True))
    square = do("mul", away, away)
    positive = do("lt", do("const", attr=0.0, scalar=True), away)
    chosen = do("where", positive, away, do("const", attr=-0.25, scalar=True))
    folds = (
        Fold(n, tuple(do.lines), (("sum", square), ("max", chosen))),
        Fold(m, (Line("read", attr=Access(0)),), (("max", 0),)),
    )
    do = Lines()
    variance = do(
        "div", do("fold", attr=0, scalar=True), do("const", attr=float(n), scalar=True), scalar=True
    )
    variance = do("add", variance, do("const", attr=1e-5, scalar=True), scalar=True)
    one_over = do("pow", variance, attr=-0.5, scalar=True)
    both = do("add", do("fold", attr=1, scalar=True), do("fold", attr=2, scalar=True), scalar=True)
    stores = (Store(one_over, Access(3, n + 1)), Store(both, Access(3, n + 2)))
    third = Folds(folds, tuple(do.lines), stores)
    do = Lines()
    away = do("sub", do.read(3, 1), do.read(3, 0, scalar=True))
    scaled = do("mul", do.read(4, scalar=True), do.read(3, n + 2, scalar=True), scalar=True)
    h = do("add", do("mul", away, do.read(3, n + 1, scalar=True)), do("sin", scaled, scalar=True))
    fourth = Sweep(n, (), tuple(do.lines), (Store(h, Access(1)),))
    return Program("normed", buffers, (first, second, third, fourth))


def two_sizes(m, n, k):
    """Two states of sizes n and k, in columns of wider rows; ten accumulators; numbers from the next step; a sum."""
    buffers = (
        Buffer("input", "x", "steps", m + 2),
        Buffer("state", "h", "steps", n + 5),
        Buffer("state", "s", "steps", k),
        Buffer("first", "h", "rows", n),
        Buffer("first", "s", "rows", k + 1),
        Buffer("more", "", "steps", n + k),
        Buffer("final", "h", "rows", n),
        Buffer("sums", "", "rows", k),
        Buffer("param", "b", "once", n),
        Buffer("param", "number", "once", 3),
    )
    h = Access(1, 3, "before", Access(3))
    s = Access(2, 0, "before", Access(4, 1))
    x = Access(0, 1)
    later = Access(5, 0, "after")
    sums = []
    for a in range(10):
        products = [Product(weight(f"A{a}"), x, m)]
        if a % 2:
            products.append(Product(weight(f"B{a}"), h, n, -1.0))
        if a % 3 == 0:
            products.append(Product(weight(f"C{a}"), s, k))
        if a % 4 == 1:
            products.append(Product(weight(f"D{a}"), later, n))
            products.append(Product(weight(f"E{a}"), Access(5, n, "after"), k))
        if a == 7:
            products.append(Product(weight("F7"), h, n))
        biases = (Access(8),) * (a % 3)
        sums.append(Accumulator(tuple(products), biases, Access(6) if a % 4 == 1 else None))
    do = Lines()
    values = [do("tanh", do("acc", attr=a)) for a in range(10)]
    total = values[0]
    for value in values[1:]:
        total = do("add", total, do("mul", value, do.read(1, 3, "before", (3,))))
    total = do("mul", total, do.read(9, 2, scalar=True))
    third = do("div", total, do("const", attr=3.0))
    one = Sweep(
        n, tuple(sums), tuple(do.lines), (Store(third, Access(1, 3)), Store(total, Access(5)))
    )
    do = Lines()
    small = Accumulator(
        (Product(weight("G"), Access(1, 3), n), Product(weight("H"), s, k)), (), None
    )
    new = do("maximum", do("sigmoid", do("acc", attr=0)), do.read(2, 0, "before", (4, 1)))
    two = Sweep(
        k,
        (small,),
        tuple(do.lines),
        (Store(new, Access(2)), Store(new, Access(7), add=True), Store(new, Access(5, n))),
    )
    return Program("two", buffers, (one, two))
