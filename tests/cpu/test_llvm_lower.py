"""Programs mean what their plans mean: worked out pass by pass with torch, they give the reference's numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from cases import CASES, as_state, as_tuple, noise, seeded
from random_cells import Draw
from torch import Tensor
from torch.testing import assert_close

import refold as rf
from refold.ir.graph import Graph, Node, Slot
from refold.kernels.llvm.lowering import lower
from refold.kernels.llvm.lowering.program import (
    Access,
    Folds,
    Line,
    Matrix,
    Product,
    Program,
    Sweep,
)
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

    def there(self, access: Access, size: int, t: int) -> Tensor:
        """The same, where an access has to name something."""
        found = self.view(access, size, t)
        assert found is not None
        return found

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
                    total = total + self.there(access, one.size, t)
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
            target = self.there(store.access, size, t)
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
                values.append(self.there(line.attr, 1 if line.scalar else size, t).clone())
            elif line.op in ("acc", "fold"):
                values.append((accumulators or folded or [])[line.attr])  # type: ignore[index]
            else:
                function = spelled(Node(line.op, (), (), line.attr), {})
                values.append(function(*[values[a] for a in line.args]))
        return values


@dataclass
class Truth:
    """What the reference says of a cell, with an error that counts every value it gives."""

    layer: rf.Recurrent
    plan: Plan
    sizes: dict[str, int]
    given: dict[tuple[str, str], Tensor]
    values: dict[str, Tensor]  # each state and the output at every step
    wants: dict[str, Tensor]  # dE/d of each of them
    ends: list[Tensor]  # dE/d of the last states
    gradients: dict[str, Tensor | None]  # of x, of the first states, of each parameter

    @property
    def step(self) -> Graph:
        return self.plan.forward.graph

    @property
    def inputs(self) -> list[str]:
        return [leaf.name for leaf in self.step.leaves_of("input")]

    @property
    def output(self) -> str:
        return self.step.outputs_of("output")[0].slot.name


def truth(cell: rf.Cell, sizes: dict[str, int], memory: str) -> Truth:
    others: dict[str, Any] = {letter: n for letter, n in sizes.items() if letter not in "mn"}
    layer = seeded(
        rf.Recurrent(
            cell, sizes["m"], sizes["n"], backend="reference", dtype=torch.float64, **others
        )
    )
    the_plan = plan(cell, memory)
    given: dict[tuple[str, str], Tensor] = {}
    for k, leaf in enumerate(the_plan.forward.graph.leaves_of("input")):
        given["input", leaf.name] = noise(STEPS, BATCH, layer._width(leaf, 0), seed=k)
    for k, (name, size) in enumerate(layer.state_sizes.items()):
        given["first", name] = noise(BATCH, size, seed=50 + k)
    x = torch.cat([v for (role, _), v in given.items() if role == "input"], -1).requires_grad_()
    states = {name: given["first", name].clone().requires_grad_() for name in layer.state_sizes}
    y, final = layer(x, as_state([s[None] for s in states.values()]), return_states="all")
    wants = {name: noise(*y[name].shape, seed=70 + k) for k, name in enumerate(y)}
    ends = [noise(*f[0].shape, seed=90 + k) for k, f in enumerate(as_tuple(final))]
    errors = [(y[name] * wants[name]).sum() for name in y]
    errors += [(f[0] * e).sum() for f, e in zip(as_tuple(final), ends, strict=True)]
    leaves = {"x": x, **states, **layer._part(0, False).named()}
    leaves = {name: t for name, t in leaves.items() if t.requires_grad}
    found = torch.autograd.grad(torch.stack(errors).sum(), list(leaves.values()), allow_unused=True)
    values = {name: v.detach() for name, v in y.items()}
    gradients: dict[str, Tensor | None] = dict(zip(leaves, found, strict=True))
    return Truth(layer, the_plan, sizes, given, values, wants, ends, gradients)


def check(cell: rf.Cell, sizes: dict[str, int], memory: str = "fast") -> None:
    """Both programs of a cell against the reference."""
    true = truth(cell, sizes, memory)
    fixed = _fixed(true)
    vectors = {(s.kind, s.name): v.reshape(-1) for s, v in fixed.items() if v.dim() < 2}
    matrices = {s: v for s, v in fixed.items() if v.dim() == 2}
    ahead = Machine(lower.forward(true.plan, sizes, True), matrices, true.given | vectors)
    ahead.run(range(STEPS))
    for name in true.layer.state_sizes:
        _same(ahead.find("state", name), true.values[name], name)
    if true.plan.output_state is None:
        _same(ahead.find("output", true.output), true.values["output"], "output")
    inputs = (True,) * len(true.inputs)
    direct = (True,) * len(true.layer.state_sizes)
    program = lower.backward(true.plan, sizes, inputs, direct, True)
    back = Machine(program, matrices, true.given | vectors | _known(true, ahead))
    back.run(range(STEPS - 1, -1, -1))
    gradient = torch.cat([back.find("grad", name) for name in true.inputs], -1)
    _same(gradient, true.gradients["x"], "x")
    for carry in program.carries:
        found = torch.zeros(BATCH, carry.size, dtype=torch.float64)
        if carry.rest is not None:
            found = found + back.there(carry.rest.access, carry.size, 0)
        for product in carry.products:
            part = back.product(product, 0)
            assert part is not None
            found = found + part
        _same(found, true.gradients[carry.state], carry.state)
    totals = _parameters(true, fixed, _totals(back))
    learned = {leaf.name for leaf in cell.graph.leaves_of("param")} & set(true.gradients)
    for name in learned:
        _same(totals.get(name, torch.zeros(1)), true.gradients[name], name)


def _known(true: Truth, ahead: Machine) -> dict[tuple[str, str], Tensor]:
    """What the reverse step is handed."""
    known: dict[tuple[str, str], Tensor] = {}
    if ahead.program.find("kept") is not None:
        known["kept", ""] = ahead.find("kept")
    for k, name in enumerate(true.layer.state_sizes):
        known["state", name] = ahead.find("state", name)
        known["direct", name] = true.wants[name].clone()
        known["final", name] = true.ends[k]
    if true.plan.output_state is None:
        known["given", true.output] = true.wants["output"]
    else:
        known["direct", list(true.layer.state_sizes)[true.plan.output_state]] += true.wants[
            "output"
        ]
    return known


def _parameters(
    true: Truth, fixed: dict[Slot, Tensor], totals: dict[str, Tensor]
) -> dict[str, Tensor]:
    """From the totals, past what is made of parameters once."""
    lines = Lines(true.plan.once_back, true.sizes)
    values = lines.numbers(true.wants["output"])
    for slot, i in lines.slots.items():
        if slot.kind == "total":
            values[i] = totals.get(slot.name, torch.zeros_like(fixed[Slot("once", slot.name)]))
        else:
            values[i] = fixed[slot]
    lines.work_out(range(len(lines.graph.nodes)), values)
    for o in lines.graph.outputs:
        found = values[o.node]
        totals[o.slot.name] = totals[o.slot.name] + found if o.slot.name in totals else found
    return totals


def _same(found: Tensor, want: Tensor | None, what: str) -> None:
    want = torch.zeros_like(found) if want is None else want.reshape(found.shape)
    scale = max(1.0, float(want.abs().max()))
    assert_close(found, want, rtol=0, atol=1e-9 * scale, msg=lambda m: f"{what}: {m}")


def _totals(back: Machine) -> dict[str, Tensor]:
    totals: dict[str, Tensor] = {}
    for total in back.program.totals:
        steps = back.program.buffers[total.left.access.buffer].span == "steps"
        for t in range(STEPS if steps else 1):
            left = back.there(total.left.access, total.left.size, t)
            right = total.right and back.there(total.right.access, total.right.size, t)
            value = left.sum(0) if right is None else left.T @ right
            name = total.slot.name
            totals[name] = totals[name] + value if name in totals else value
    return totals


def _fixed(true: Truth) -> dict[Slot, Tensor]:
    """The parameters, and what is made of them once."""
    once = Lines(true.plan.once, true.sizes)
    values = once.numbers(true.wants["output"])
    params = {n: p.detach() for n, p in true.layer._part(0, False).named().items()}
    known = {Slot("param", n): p.reshape(1) if p.dim() == 0 else p for n, p in params.items()}
    values |= {i: known[slot] for slot, i in once.slots.items()}
    once.work_out(range(len(once.graph.nodes)), values)
    return known | {o.slot: values[o.node] for o in once.graph.outputs}


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
