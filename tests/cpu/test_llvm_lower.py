"""Programs mean what their plans mean: worked out pass by pass with torch, they give the reference's numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from cases import CASES, noise, seeded
from random_cells import Draw
from torch import Tensor
from torch.testing import assert_close

import refold as rf
from refold.ir.graph import Node, Slot
from refold.kernels.llvm import lower
from refold.kernels.llvm.program import Access, Folds, Line, Matrix, Product, Program, Sweep
from refold.kernels.loop import Lines
from refold.kernels.spellings import spelled
from refold.plan.cost import letters
from refold.plan.plan import Plan, plan

STEPS, BATCH = 4, 3


@dataclass
class Machine:
    """A program over whole batches of equal lengths; every buffer starts as NaN, so that nothing unwritten is read."""

    program: Program
    matrices: dict[Slot, Tensor]
    given: dict[tuple[str, str], Tensor]
    memory: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = {"steps": (STEPS, BATCH), "rows": (BATCH,), "once": ()}
        for buffer in self.program.buffers:
            key = (buffer.role, buffer.name)
            if key in self.given:
                self.memory.append(self.given[key].clone())
            else:
                start = 0.0 if buffer.role in ("scratch", "sums") else float("nan")
                shape = (*rows[buffer.span], buffer.width)
                self.memory.append(torch.full(shape, start, dtype=torch.float64))

    def run(self, times: range) -> None:
        for t in times:
            for one in self.program.passes:
                self._pass(one, t)

    def find(self, role: str, name: str = "") -> Tensor:
        number = self.program.find(role, name)
        assert number is not None
        return self.memory[number]

    def view(self, access: Access, size: int, t: int) -> Tensor | None:
        """The columns that an access names, or None where it names nothing."""
        buffer = self.program.buffers[access.buffer]
        assert access.column + size <= buffer.width, (buffer, access, size)
        values = self.memory[access.buffer]
        if buffer.span == "steps":
            t += {"now": 0, "before": -1, "after": 1}[access.when]
            if not 0 <= t < STEPS:
                return None if access.otherwise is None else self.view(access.otherwise, size, t)
            values = values[t]
        return values[..., access.column : access.column + size]

    def matrix(self, matrix: Matrix) -> Tensor:
        value = self.matrices[matrix.slot]
        return value.T if matrix.transposed else value

    def product(self, product: Product, t: int) -> Tensor | None:
        operand = self.view(product.operand, product.size, t)
        return None if operand is None else product.sign * operand @ self.matrix(product.matrix).T

    def _pass(self, one: Sweep | Folds, t: int) -> None:
        if isinstance(one, Sweep):
            found: list[Tensor] = []
            for accumulator in one.accumulators:
                total = torch.zeros(BATCH, one.size, dtype=torch.float64)
                parts = [self.product(p, t) for p in accumulator.products]
                starts = [] if None in parts and accumulator.start else accumulator.biases
                if None in parts and accumulator.start:
                    starts = [accumulator.start]
                for access in starts:
                    total = total + self.view(access, one.size, t)
                found.append(sum((p for p in parts if p is not None), total))
            values = self._lines(one.lines, one.size, t, accumulators=found)
            size = one.size
        else:
            folded = []
            for fold in one.folds:
                lines = self._lines(fold.lines, fold.size, t)
                for op, line in fold.results:
                    vector = lines[line].expand(BATCH, fold.size)
                    folded.append(vector.sum(-1, True) if op == "sum" else vector.amax(-1, True))
            values = self._lines(one.lines, 1, t, folded=folded)
            size = 1
        for store in one.stores:
            target = self.view(store.access, size, t)
            assert target is not None
            target.copy_(values[store.line] + (target if store.add else 0.0))

    def _lines(
        self,
        lines: tuple[Line, ...],
        size: int,
        t: int,
        accumulators: list[Tensor] | None = None,
        folded: list[Tensor] | None = None,
    ) -> list[Tensor]:
        values: list[Tensor] = []
        for line in lines:
            if line.op == "const":
                values.append(torch.tensor([line.attr], dtype=torch.float64))
            elif line.op == "read":
                assert isinstance(line.attr, Access)
                value = self.view(line.attr, 1 if line.scalar else size, t)
                assert value is not None
                values.append(value.clone())
            elif line.op in ("acc", "fold"):
                values.append((accumulators or folded or [])[line.attr])  # type: ignore[index]
            else:
                function = spelled(Node(line.op, (), (), line.attr), {})
                values.append(function(*[values[a] for a in line.args]))
        return values


def check(cell: rf.Cell, sizes: dict[str, int], memory: str = "fast") -> None:
    layer = seeded(
        rf.Recurrent(cell, sizes["m"], sizes["n"], dtype=torch.float64, **_others(sizes))
    )
    the_plan = plan(cell, memory)
    params = {
        n: p.detach().clone().requires_grad_() for n, p in layer._part(0, False).named().items()
    }
    fixed = _fixed(the_plan, sizes, params)
    step = the_plan.forward.graph
    given: dict[tuple[str, str], Tensor] = {}
    for k, leaf in enumerate(step.leaves_of("input")):
        given["input", leaf.name] = noise(STEPS, BATCH, layer._width(leaf, 0), seed=k)
    for k, (name, size) in enumerate(layer.state_sizes.items()):
        given["first", name] = noise(BATCH, size, seed=50 + k)
    vectors = {(s.kind, s.name): v.detach().reshape(-1) for s, v in fixed.items() if v.dim() < 2}
    matrices = {s: v.detach() for s, v in fixed.items() if v.dim() == 2}
    # The reference, with every gradient that there is.
    x = torch.cat([given["input", leaf.name] for leaf in step.leaves_of("input")], -1)
    x.requires_grad_()
    states = [given["first", name].clone().requires_grad_() for name in layer.state_sizes]
    called = [s[None] for s in states]
    y, final = layer(x, called[0] if len(called) == 1 else tuple(called), return_states="all")
    finals = (final,) if isinstance(final, Tensor) else final
    wants = {name: noise(*y[name].shape, seed=70 + k) for k, name in enumerate(y)}
    ends = [noise(*f[0].shape, seed=90 + k) for k, f in enumerate(finals)]
    error = sum((y[name] * wants[name]).sum() for name in y)
    error = error + sum((f[0] * e).sum() for f, e in zip(finals, ends, strict=True))
    learned = {n: p for n, p in layer._part(0, False).named().items() if p.requires_grad}
    expected = torch.autograd.grad(error, [x, *states, *learned.values()], allow_unused=True)
    # Forward.
    ahead = Machine(lower.forward(the_plan, sizes, True), matrices, given | vectors)
    ahead.run(range(STEPS))
    for name in layer.state_sizes:
        assert_close(ahead.find("state", name), y[name].detach(), rtol=0, atol=1e-11)
    if the_plan.output_state is None:
        output = step.outputs_of("output")[0].slot.name
        assert_close(ahead.find("output", output), y["output"].detach(), rtol=0, atol=1e-11)
    # Backward.
    known = given | vectors
    if ahead.program.find("kept") is not None:
        known["kept", ""] = ahead.find("kept")
    for k, name in enumerate(layer.state_sizes):
        known["state", name] = ahead.find("state", name)
        known["direct", name] = wants[name].clone()
        known["final", name] = ends[k]
    if the_plan.output_state is None:
        known["given", output] = wants["output"]
    else:
        known["direct", list(layer.state_sizes)[the_plan.output_state]] += wants["output"]
    inputs, direct = (True,) * len(step.leaves_of("input")), (True,) * len(layer.state_sizes)
    back = Machine(lower.backward(the_plan, sizes, inputs, direct, True), matrices, known)
    back.run(range(STEPS - 1, -1, -1))
    gradient = torch.cat([back.find("grad", leaf.name) for leaf in step.leaves_of("input")], -1)
    _same(gradient, expected[0], "x")
    for k, carry in enumerate(back.program.carries):
        found = torch.zeros(BATCH, carry.size, dtype=torch.float64)
        if carry.rest is not None:
            found = found + back.view(carry.rest.access, carry.size, 0)
        for product in carry.products:
            found = found + back.product(product, 0)
        _same(found, expected[1 + k], carry.state)
    totals = _totals(back)
    lines = Lines(the_plan.once_back, sizes)
    values = lines.numbers(x)
    for slot, i in lines.slots.items():
        if slot.kind == "total":
            values[i] = totals.get(slot.name, torch.zeros_like(fixed[Slot("once", slot.name)]))
        else:
            values[i] = fixed[slot].detach()
    lines.work_out(range(len(lines.graph.nodes)), values)
    for o in lines.graph.outputs:
        totals[o.slot.name] = totals.get(o.slot.name, 0.0) + values[o.node]
    for name, want in zip(learned, expected[1 + len(states) :], strict=True):
        _same(totals.get(name, torch.zeros(1)), want, name)


def _same(found: Tensor, want: Tensor | None, what: str) -> None:
    want = torch.zeros_like(found) if want is None else want.reshape(found.shape)
    scale = max(1.0, float(want.abs().max()))
    assert_close(found, want, rtol=0, atol=1e-9 * scale, msg=lambda m: f"{what}: {m}")


def _totals(back: Machine) -> dict[str, Tensor]:
    totals: dict[str, Tensor] = {}
    for total in back.program.totals:
        steps = back.program.buffers[total.left.access.buffer].span == "steps"
        value = 0.0
        for t in range(STEPS if steps else 1):
            left = back.view(total.left.access, total.left.size, t)
            if total.right is None:
                value = value + left.sum(0)
            else:
                value = value + left.T @ back.view(total.right.access, total.right.size, t)
        totals[total.slot.name] = totals.get(total.slot.name, 0.0) + value
    return totals


def _fixed(the_plan: Plan, sizes: dict[str, int], params: dict[str, Tensor]) -> dict[Slot, Tensor]:
    once = Lines(the_plan.once, sizes)
    values = once.numbers(torch.zeros(1, dtype=torch.float64))
    known = {Slot("param", n): p.reshape(1) if p.dim() == 0 else p for n, p in params.items()}
    values |= {i: known[slot] for slot, i in once.slots.items()}
    once.work_out(range(len(once.graph.nodes)), values)
    return known | {o.slot: values[o.node] for o in once.graph.outputs}


def _others(sizes: dict[str, int]) -> dict[str, int]:
    return {letter: n for letter, n in sizes.items() if letter not in "mn"}


@pytest.mark.parametrize("memory", ["fast", "small"])
@pytest.mark.parametrize("name", CASES)
def test_cases(name, memory):
    case = CASES[name]
    cell = rf.cells.get(case.cell) if isinstance(case.cell, str) else case.cell
    check(cell, {"m": 3, "n": 4, **case.sizes}, memory)


@pytest.mark.parametrize("seed", range(120))
def test_random_cells(seed):
    cell = Draw(seed).cell()
    sizes = {"m": 3, "n": 4, "k": 2}
    read = {"m", "n"} | letters(cell.graph)
    check(cell, {k: v for k, v in sizes.items() if k in read}, ("fast", "small")[seed % 2])
