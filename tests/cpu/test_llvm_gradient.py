"""Sums of products over many rows: against float64, for all shapes of tiles and blocks, and never outside the rows."""

import ctypes
import mmap
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from refold.errors import KernelError
from refold.kernels.llvm.emission import gradient_ir
from refold.kernels.llvm.machine import pool
from refold.kernels.llvm.machine.host import Host, host, kinds, machine
from refold.kernels.llvm.running import gradient
from refold.kernels.llvm.running.gradient import Operand, Output, Run, Term

HAVE = tuple(kinds(machine()))
TYPES = (torch.float32, torch.float64)
EACH = [pytest.param(v, t, id=f"{v}-{str(t)[6:]}") for v in HAVE for t in TYPES]
EPS = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        gradient.library.cache_clear()
        yield
    gradient.library.cache_clear()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def numbers(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


class Memory:
    """Tensors by number, and terms over their columns."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.tensors: list[Tensor] = []
        self.terms: list[Term] = []
        self.checks: list[tuple[Tensor, Tensor, Tensor]] = []

    def hold(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operand(self, *parts: Tensor) -> Operand:
        """Rows of views, one after the other, all of one stride; buffers begin where the views' storage begins."""
        runs = []
        for part in parts:
            whole = torch.empty(0, dtype=part.dtype).set_(part.untyped_storage())
            runs.append(Run(self.hold(whole), int(part.storage_offset()), part.shape[0]))
        return Operand(parts[0].shape[1], parts[0].stride(0), tuple(runs))

    def output(self, rows: int, columns: int, before: float, add: bool) -> tuple[Output, Tensor]:
        """A matrix inside a larger one: three columns to the right, one row above."""
        whole = torch.full((rows + 1, columns + 3), before, dtype=self.dtype)
        return Output(self.hold(whole), columns + 3, columns + 3, add), whole

    def product(self, left: list[Tensor], right: list[Tensor], add: bool = False) -> None:
        """Note a term and what it should give."""
        before = 2.5 if add else float("nan")
        shape = left[0].shape[1], right[0].shape[1]
        out, whole = self.output(*shape, before, add)
        self.terms.append(Term(self.operand(*left), self.operand(*right), out))
        lefts, rights = torch.cat(left).double(), torch.cat(right).double()
        expected = lefts.T @ rights + (2.5 if add else 0.0)
        self.checks.append((whole, expected, lefts.abs().T @ rights.abs() + 2.5))

    def sum(self, left: list[Tensor], add: bool = False) -> None:
        before = 2.5 if add else float("nan")
        whole = torch.full((left[0].shape[1] + 2,), before, dtype=self.dtype)
        self.terms.append(Term(self.operand(*left), None, Output(self.hold(whole), 1, 0, add)))
        lefts = torch.cat(left).double()
        expected = lefts.sum(0) + (2.5 if add else 0.0)
        self.checks.append((whole, expected, lefts.abs().sum(0) + 2.5))

    def run(self, target: Host) -> None:
        work = gradient.arrange(self.terms, self.dtype, target)
        gradient.run(work, [t.data_ptr() for t in self.tensors])

    def check(self) -> None:
        """Every sum is right, as far as its rounding goes, and nothing beside it was touched."""
        for whole, expected, size in self.checks:
            inner = whole[1:-1] if whole.dim() == 1 else whole[1:, :-3]
            rows = sum(run.rows for run in self.terms[0].left.runs)
            error = (inner.double() - expected).abs()
            assert bool((error <= EPS[self.dtype] * (8 + rows) ** 0.5 * 4 * size).all())
            around = whole.clone()
            (around[1:-1] if whole.dim() == 1 else around[1:, :-3]).fill_(whole.flatten()[0])
            torch.testing.assert_close(
                around, around.flatten()[0].expand_as(around), equal_nan=True
            )


def wide(rows: int, columns: int, dtype: torch.dtype, beside: int = 5, seed: int = 0) -> Tensor:
    """Columns of a wider tensor, which holds NaN elsewhere."""
    whole = torch.full((rows, columns + beside), float("nan"), dtype=dtype)
    inner = whole[:, 2 : 2 + columns]
    inner.copy_(numbers(rows, columns, dtype=dtype, seed=seed))
    return inner


SIZES = [
    *((1, 1, 1, 1), (2, 5, 3, 1), (96, 16, 4, 2), (97, 20, 1, 3), (95, 33, 5, 16), (200, 48, 8, 6)),
    *((193, 80, 7, 20), (130, 96, 13, 10), (70, 130, 2, 64), (300, 7, 40, 3), (300, 1, 64, 33)),
]


@pytest.mark.parametrize(("vectors", "dtype"), EACH)
@pytest.mark.parametrize(("rows", "units", "inputs", "hidden"), SIZES)
@pytest.mark.parametrize("add", [False, True])
def test_sums(vectors, dtype, rows, units, inputs, hidden, add):
    """An input, a state before the step in two runs, a bias: as behind a training step."""
    memory = Memory(dtype)
    left = [wide(rows, units, dtype)]
    first = wide((rows + 2) // 3, hidden, dtype, seed=1)
    history = wide(rows, hidden, dtype, seed=2)[: rows - first.shape[0]]
    memory.product(left, [wide(rows, inputs, dtype, seed=3)], add)
    memory.product(left, [first, history], add)
    memory.sum(left, add)
    memory.run(host(vectors))
    memory.check()


@pytest.mark.parametrize(("vectors", "dtype"), EACH)
def test_random_terms(vectors, dtype):
    """Lefts that overlap, touch, or lie apart; rights and sums for some of them; runs that match nowhere."""
    for seed in range(12):
        chance = random.Random(seed)
        rows = chance.choice([1, 3, 50, 129])
        memory = Memory(dtype)
        kept = wide(rows, 120, dtype, seed=seed)
        rights = [wide(rows, chance.randint(1, 30), dtype, seed=seed + i) for i in range(3)]
        for _ in range(chance.randint(1, 8)):
            start, size = chance.randrange(0, 90, 10), chance.choice([1, 8, 10, 20, 30])
            left = kept[:, start : start + size]
            if chance.random() < 0.3:
                memory.sum([left])
            else:
                cut = chance.randint(0, rows)
                right = chance.choice(rights)
                memory.product([left], [p for p in (right[:cut], right[cut:]) if len(p)])
        memory.run(host(vectors))
        memory.check()


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_shared(dtype):
    """Four gates with two operands each are one group; what differs in operands is not."""
    kept = wide(50, 4 * 24, dtype)
    x, h = wide(50, 3, dtype, seed=1), wide(50, 24, dtype, seed=2)
    memory = Memory(dtype)
    whole = memory.operand(kept)
    gates = [
        Operand(24, whole.stride, (whole.runs[0]._replace(offset=whole.runs[0].offset + 24 * g),))
        for g in range(4)
    ]
    operands = [memory.operand(x), memory.operand(h)]
    for gate in gates:
        for operand in operands:
            out, _ = memory.output(24, operand.size, 0.0, False)
            memory.terms.append(Term(gate, operand, out))
        memory.terms.append(Term(gate, None, Output(memory.hold(torch.zeros(24)), 0, 0)))
    kind = gradient_ir.kind_of(host(), dtype)
    found = list(gradient.groups(memory.terms, kind))
    assert [(g.vectors.size, len(g.rights), len(g.parts)) for g in found] == [(96, 2, 12)]
    apart = [t for t in memory.terms if not (t.left == gates[2] and t.right == operands[1])]
    sizes = [(g.vectors.size, len(g.rights)) for g in gradient.groups(apart, kind)]
    assert sizes == [(48, 2), (24, 1), (24, 2)]


def test_the_narrow_side_is_spread():
    """One left column beside 64 right ones: the right's fill the vectors."""
    memory = Memory(torch.float32)
    memory.product([numbers(10, 1)], [numbers(10, 64)])
    memory.sum([numbers(10, 1)])
    kind = gradient_ir.kind_of(host(), torch.float32)
    sizes = [g.vectors.size for g in gradient.groups(memory.terms, kind)]
    assert sizes == [64, 1]


@pytest.mark.parametrize("dtype", TYPES)
def test_one_output_of_several_terms(dtype):
    """A matrix that is used twice in a step: its terms are added up."""
    memory = Memory(dtype)
    lefts = [wide(40, 12, dtype, seed=i) for i in range(3)]
    rights = [wide(40, 9, dtype, seed=3 + i) for i in range(3)]
    out, whole = memory.output(12, 9, float("nan"), False)
    for left, right in zip(lefts, rights, strict=True):
        memory.terms.append(Term(memory.operand(left), memory.operand(right), out))
    memory.run(host())
    expected = sum(a.double().T @ b.double() for a, b in zip(lefts, rights, strict=True))
    torch.testing.assert_close(whole[1:, :-3], torch.as_tensor(expected).to(dtype))


@pytest.mark.parametrize(("vectors", "dtype"), EACH)
def test_no_rows_give_zeros(vectors, dtype):
    memory = Memory(dtype)
    empty = numbers(0, 20, dtype=dtype)
    memory.product([empty], [numbers(0, 9, dtype=dtype)])
    memory.sum([empty], add=True)
    memory.run(host(vectors))
    memory.check()
    bare = torch.full((20, 9), float("nan"), dtype=dtype)
    terms = [Term(Operand(20, 20, ()), Operand(9, 9, ()), Output(0, 0, 9))]
    gradient.run(gradient.arrange(terms, dtype, host(vectors)), [bare.data_ptr()])
    torch.testing.assert_close(bare, torch.zeros_like(bare))


def test_no_columns():
    left, right = Operand(0, 4, (Run(0, 0, 3),)), Operand(2, 4, (Run(0, 0, 3),))
    terms = [Term(left, right, Output(0, 0, 2)), Term(right, left, Output(0, 0, 0))]
    work = gradient.arrange([*terms, Term(left, None, Output(0, 0, 0))], torch.float32, host())
    gradient.run(work, [0])  # an access to address 0 would end the process


@pytest.mark.parametrize(("vectors", "dtype"), EACH)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_arrives(vectors, dtype, bad):
    """It spoils its own row or column of the outputs, and no other."""
    left, right = numbers(150, 37, dtype=dtype), numbers(150, 11, dtype=dtype)
    left[149, 35], right[3, 9] = bad, bad
    memory = Memory(dtype)
    memory.product([left], [right])
    memory.sum([left])
    memory.run(host(vectors))
    matrix, vector = memory.checks[0][0][1:, :-3], memory.checks[1][0][1:-1]
    expected = torch.zeros(37, 11, dtype=torch.bool)
    expected[35], expected[:, 9] = True, True
    torch.testing.assert_close(~matrix.isfinite(), expected)
    assert (~vector.isfinite()).nonzero().flatten().tolist() == [35]
    exact = left.T.double() @ right.double()
    torch.testing.assert_close(matrix.isnan(), exact.isnan())


@pytest.mark.skipif(bool(pool.why_alone()), reason=f"one thread here: {pool.why_alone()}")
@pytest.mark.parametrize(("vectors", "dtype"), EACH)
@pytest.mark.parametrize(("units", "inputs", "hidden"), [(80, 7, 20), (128, 8, 32), (1, 9, 300)])
def test_the_same_bits_for_any_number_of_threads(
    threads, vectors, dtype, units, inputs, hidden, monkeypatch
):
    monkeypatch.setattr(gradient, "WORTH", 1)  # every thread gets its share, however small
    found = []
    for count in (1, 2, 3, 5, 8):
        threads(count)
        memory = Memory(dtype)
        left = [wide(400, units, dtype)]
        memory.product(left, [wide(400, inputs, dtype, seed=1)])
        memory.product(left, [wide(9, hidden, dtype, seed=2), wide(391, hidden, dtype, seed=3)])
        memory.sum(left)
        memory.run(host(vectors))
        memory.check()
        found.append([whole for whole, _, _ in memory.checks])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_several_python_threads_share_a_work():
    memory = Memory(torch.float32)
    left, right = numbers(500, 70), numbers(500, 19)
    memory.product([left], [right])
    work = gradient.arrange(memory.terms, torch.float32, host())

    def once(_: int) -> Tensor:
        found = torch.zeros(71, 22)
        held = list(memory.tensors)
        held[memory.terms[0].out.buffer] = found
        gradient.run(work, [t.data_ptr() for t in held])
        return found

    with ThreadPoolExecutor(4) as pool_of_four:
        found = list(pool_of_four.map(once, range(40)))
    torch.testing.assert_close(found[0][1:, :-3], left.T @ right, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_short_sums_stay_on_one_thread(threads):
    threads(4)
    memory = Memory(torch.float32)
    memory.product([numbers(8, 64)], [numbers(8, 12)])
    phase = gradient.arrange(memory.terms, torch.float32, host()).phases[0]
    assert phase.cost // phase.least < 2


def test_long_sums_are_as_exact_as_torch():
    left, right = numbers(50_000, 32), numbers(50_000, 12)
    memory = Memory(torch.float32)
    memory.product([left], [right])
    memory.run(host())
    whole, expected, _ = memory.checks[0]
    ours = (whole[1:, :-3].double() - expected).square().mean().sqrt()
    torchs = ((left.T @ right).double() - expected).square().mean().sqrt()
    assert ours <= 2.0 * torchs


def test_one_library_for_all_sizes():
    terms = [Memory(torch.float32) for _ in range(2)]
    for memory, units in zip(terms, (5, 64), strict=True):
        memory.product([numbers(3, units)], [numbers(3, 4)])
    first, second = (gradient.arrange(m.terms, torch.float32, host()).library for m in terms)
    assert first is second


def test_rows_that_differ_are_refused():
    left, right = Operand(2, 2, (Run(0, 0, 5),)), Operand(3, 3, (Run(1, 0, 2), Run(2, 0, 2)))
    with pytest.raises(KernelError, match="left of a product has 5 rows, its right 4"):
        gradient.arrange([Term(left, right, Output(3, 0, 3))], torch.float32, host())


def test_other_types_are_refused():
    with pytest.raises(KernelError, match=r"float32 and float64, not torch\.float16"):
        gradient.arrange([], torch.float16, host())


@pytest.mark.parametrize("columns", range(1, 40))
def test_tiles_cover_all_columns(columns):
    sizes = gradient.cut(columns)
    assert sum(sizes) == columns
    assert set(sizes) <= set(gradient_ir.SIZES)


@pytest.mark.parametrize("vectors", HAVE)
def test_blocks_cover_all_columns_once(vectors):
    kind = gradient_ir.kind_of(host(vectors), torch.float32)
    for columns in range(1, 150):
        new = [
            column
            for start, count, width, shared in gradient.blocks(columns, kind)
            for column in range(start + shared, start + count)
            if count <= width * kind.lanes
        ]
        assert new == list(range(columns))


GUARDED = """
import sys
sys.path.insert(0, sys.argv[1])
from test_llvm_gradient import guarded
for vectors in sys.argv[2:]:
    guarded(vectors)
"""


def guarded(vectors: str) -> None:
    """Every operand and output ends where memory that may not be touched begins."""
    page = mmap.PAGESIZE
    keep = []

    def placed(count: int, dtype: torch.dtype) -> Tensor:
        used = -(-count * dtype.itemsize // page) * page
        area = mmap.mmap(-1, used + page)
        keep.append(area)
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + used), page, 0) == 0
        whole = torch.frombuffer(area, dtype=dtype, count=used // dtype.itemsize)
        return whole[used // dtype.itemsize - count :]

    for dtype in TYPES:
        for rows, units, inputs, hidden in (
            (1, 1, 1, 1),
            (97, 20, 3, 5),
            (10, 67, 6, 1),
            (4, 1, 40, 3),
        ):
            shapes = (rows, units), (rows, inputs), (rows, hidden), (units, inputs), (units, hidden)
            tensors = [placed(a * b, dtype).view(a, b) for a, b in shapes] + [placed(units, dtype)]
            for tensor in tensors[:3]:
                tensor.copy_(numbers(*tensor.shape, dtype=dtype))
            left, *rights = (
                Operand(t.shape[1], t.shape[1], (Run(i, 0, rows),))
                for i, t in enumerate(tensors[:3])
            )
            terms = [Term(left, r, Output(3 + i, 0, r.size)) for i, r in enumerate(rights)]
            terms.append(Term(left, None, Output(5, 0, 0)))
            work = gradient.arrange(terms, dtype, host(vectors))
            gradient.run(work, [t.data_ptr() for t in tensors])
            torch.testing.assert_close(tensors[3], tensors[0].T @ tensors[1])
            torch.testing.assert_close(tensors[4], tensors[0].T @ tensors[2])
            torch.testing.assert_close(tensors[5], tensors[0].sum(0))
    print(vectors)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is guarded with Linux's calls")
def test_nothing_outside_is_touched():
    """In a process of its own: a touch would end it."""
    script = [sys.executable, "-c", GUARDED, str(Path(__file__).parent), *HAVE]
    done = subprocess.run(script, check=False, capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == list(HAVE), done.stderr
