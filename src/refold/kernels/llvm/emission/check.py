"""What must hold of a program before code is made of it: nothing is read or written beside a row."""

from __future__ import annotations

from collections.abc import Iterator

from refold.errors import KernelError
from refold.kernels.llvm.lowering.program import Access, Accumulator, Folds, Line, Program, Sweep
from refold.kernels.llvm.machine.compile import FAULT

Use = tuple[str, Access, int, bool]  # what for, where, numbers in a row, whether it may be left out


def check(program: Program) -> None:
    """Every access lies within its buffer's rows, and is there in every row that it is read in.

    Errors  KernelError when one does not
    """
    for number, step in enumerate(program.passes):
        for what, access, size, optional in uses(step):
            if fault := fault_of(program, access, size, optional):
                raise KernelError(f"{program.name}, pass {number}: {what} {fault}.", FAULT)


def fault_of(program: Program, access: Access, size: int, optional: bool) -> str:
    """What is wrong with an access; nothing when all is well."""
    buffer = program.buffers[access.buffer]
    name = f"{buffer.role} {buffer.name}".strip()
    end = access.column + size
    if not 0 <= access.column <= end <= buffer.width:
        return f"takes columns {access.column} to {end} of {name}, which has {buffer.width}"
    if access.when == "now":
        return ""
    if buffer.span != "steps":
        return f"takes the step {access.when} of {name}, which has no steps"
    if access.otherwise is not None:
        return fault_of(program, access.otherwise, size, optional)
    return (
        "" if optional else f"takes {name} of the step {access.when}, which some rows do not have"
    )


def uses(step: Sweep | Folds) -> Iterator[Use]:
    """Everything that a pass reads or writes."""
    if isinstance(step, Sweep):
        yield from reads(step.lines, step.size)
        for accumulator in step.accumulators:
            yield from sums(accumulator, step.size)
        for store in step.stores:
            yield "a store", store.access, step.size, False
        return
    for fold in step.folds:
        yield from reads(fold.lines, fold.size)
    yield from reads(step.lines, 1)
    for store in step.stores:
        yield "a store", store.access, 1, False


def reads(lines: tuple[Line, ...], size: int) -> Iterator[Use]:
    for i, line in enumerate(lines):
        if isinstance(line.attr, Access):
            yield f"line {i}", line.attr, 1 if line.scalar else size, False


def sums(accumulator: Accumulator, size: int) -> Iterator[Use]:
    for product in accumulator.products:
        yield "a product", product.operand, product.size, True
    for bias in accumulator.biases:
        yield "a bias", bias, size, False
    if accumulator.start is not None:
        yield "a start", accumulator.start, size, False
