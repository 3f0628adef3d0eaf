"""Folds: row by row, vectors of units summed up to numbers, then lines on these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from refold.kernels.llvm.arithmetic.lanes import constant
from refold.kernels.llvm.lowering.program import Fold, Folds

from .frame import Frame, Row, Vector, counted
from .sweep import numbers_of
from .values import I64, NEUTRAL, Part, across, joined, units, vector_of, work_out


def folds_pass(f: Frame, step: Folds) -> None:
    """Row by row: the folds, then the lines on numbers."""
    b, kind = f.b, f.kind
    first, last = f.rows
    with counted(b, last, first) as number:
        results: list[Any] = []
        for fold in step.folds:
            results += folded(f, Row(f, number), fold)
        row = Row(f, number, results=results)
        work_out(b, kind, step.lines, [s.line for s in step.stores], [row])
        ready = []
        for s in step.stores:
            value = row.known[s.line]
            ready.append(joined(b, "sum", row.read(s.access, True), value) if s.add else value)
        for value, s in zip(ready, step.stores, strict=True):
            b.store(value, row.pointer(s.access), align=kind.bytes)


def folded(f: Frame, row: Row, fold: Fold) -> list[Any]:
    """The results of one fold: some vectors at a time, then the vectors that are left, then across the lanes."""
    b, kind = f.b, f.kind
    full, rest = divmod(fold.size, kind.lanes)
    chains = max(1, min(4 // len(fold.results), full))
    turns = full // chains
    numbers_of(f, fold.lines, [row])
    row.find(fold.lines)
    sums = [[constant(kind.vector, NEUTRAL[how]) for how, _ in fold.results] for _ in range(chains)]
    if turns > 1:
        sums = fold_loop(f, row, fold, sums, turns)
    elif turns:
        sums = fold_vectors(f, row, fold, sums, [I64(n) for n in range(chains)])
    for n in range(turns * chains, full + (rest > 0)):
        chain = n % chains
        sums[chain : chain + 1] = fold_vectors(f, row, fold, [sums[chain]], [I64(n)])
    results = []
    for i, (how, _) in enumerate(fold.results):
        total = sums[0][i]
        for other in sums[1:]:
            total = joined(b, how, total, other[i])
        results.append(across(b, kind, how, total))
    return results


def fold_loop(f: Frame, row: Row, fold: Fold, sums: list[list[Any]], turns: int) -> list[list[Any]]:
    """All full vectors, as many at a time as there are chains."""
    b = f.b
    before = b.block
    with counted(b, turns) as turn:
        phis = [[b.phi(value.type) for value in chain] for chain in sums]
        first = b.mul(turn, I64(len(sums)))
        numbers = [b.add(first, I64(n)) for n in range(len(sums))]
        news = fold_vectors(f, row, fold, phis, numbers)
        for phi, old, new in zip(phis, sums, news, strict=True):
            for p, o, n in zip(phi, old, new, strict=True):
                p.add_incoming(o, before)
                p.add_incoming(n, b.block)
    return news


def fold_vectors(
    f: Frame, row: Row, fold: Fold, sums: Sequence[list[Any]], numbers: Sequence[Any]
) -> list[list[Any]]:
    """Vectors of units, each added to sums of its own."""
    b, kind = f.b, f.kind
    vectors = []
    for number in numbers:
        past = isinstance(number, ir.Constant) and number.constant >= fold.size // kind.lanes
        part = units(b, kind, fold.size, number) if past else Part(b.mul(number, I64(kind.lanes)))
        vectors.append(Vector(row, part))
    work_out(b, kind, fold.lines, [line for _, line in fold.results], vectors)
    news = []
    for v, totals in zip(vectors, sums, strict=True):
        new = []
        for (how, line), total in zip(fold.results, totals, strict=True):
            value = vector_of(b, kind, v.known[line])
            if v.part.mask is not None:
                value = b.select(v.part.mask, value, constant(kind.vector, NEUTRAL[how]))
            new.append(joined(b, how, total, value))
        news.append(new)
    return news
