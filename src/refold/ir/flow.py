"""From a differential equation to a cell: write dh/dt, choose a solver, and a step of the solver is a step of the cell.

The function is run once for each derivative that the solver asks for, on the states that it has arrived at, so the
cell is a graph like any other: it has an adjoint, it is compiled, and it can be looked at. Inputs are held constant
within a step.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from types import FunctionType
from typing import Any, overload

from refold.errors import EquationError
from refold.shapes import shape_text

from .declare import Declaration, Input, Scalar, State
from .graph import SLOT, Builder, Graph, Output, Slot
from .ops import OPS, Term, constant, same
from .rewrite import fold
from .source import place_of, place_of_default, place_of_return, shown
from .symbol import Reading, Step
from .trace import Arguments, Cell, Equation, named_function, read, returned_symbol

_STEP = 0.1  # dt, where none is given: small beside a time constant of 1, the usual unit of time


@dataclass(frozen=True, slots=True)
class Steps:
    """How a differential equation is stepped. dt: None where the equation declares it itself, or leaves it at 0.1."""

    solver: str = "rk4"
    dt: float | None = None
    substeps: int = 1


@overload
def flow(equation: Equation) -> Cell: ...
@overload
def flow(
    *,
    source: str = "",
    name: str | None = None,
    solver: str = "rk4",
    dt: float | None = None,
    substeps: int = 1,
) -> Callable[[Equation], Cell]: ...
def flow(
    equation: Equation | None = None,
    *,
    source: str = "",
    name: str | None = None,
    solver: str = "rk4",
    dt: float | None = None,
    substeps: int = 1,
) -> Cell | Callable[[Equation], Cell]:
    """Read a function that returns the derivative of each state, and make a cell of a step of a solver.

    solver    "euler", "heun", "rk4" (orders 1, 2, 4), or "exponential_euler": exact where a state's own derivative is
              a constant times the state plus what does not change
    dt        the time from step to step, 0.1 where none is given: a Scalar of the cell, which a layer's keyword dt
              overrides. A parameter dt=rf.Input("") of the function makes it an input, one number a step;
              dt=rf.Scalar(0.1, learn=True) a learned number
    substeps  the solver takes so many steps of dt / substeps for one of the cell

    The output is the first state, or what rf.Step(..., output=y) gives, worked out at the new states.

    Errors  EquationError: where in the source, what is so, what to write instead
    Example

        @rf.flow(solver="rk4", dt=0.1)
        def decay(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m"), tau=rf.Scalar(1.0)):
            return (W @ x - h) / tau
    """
    steps = Steps(solver, dt, substeps)
    if equation is None:
        return lambda function: _read(named_function("flow", function), source, name, steps)
    return _read(named_function("flow", equation), source, name, steps)


def stepped(
    cell: Cell,
    *,
    solver: str | None = None,
    dt: float | None = None,
    substeps: int | None = None,
    name: str | None = None,
) -> Cell:
    """The same differential equation, stepped another way. What is not given stays.

    Errors  EquationError for a cell that is no flow, or was loaded from a file: its function did not travel
    Example coarse = rf.stepped(rf.cells.get("ctrnn"), solver="euler", dt=0.5)
    """
    if not isinstance(cell, Cell) or cell.steps is None or cell.equation is None:
        shown_name = f"cell '{cell.name}'" if isinstance(cell, Cell) else repr(cell)
        raise EquationError(
            f"rf.stepped was given {shown_name}, which has no differential equation to step.",
            "Give it a cell that was written under @rf.flow, in this process.",
        )
    old = cell.steps
    steps = Steps(solver or old.solver, old.dt if dt is None else dt, old.substeps)
    if substeps is not None:
        steps = Steps(steps.solver, steps.dt, substeps)
    return _read(named_function("flow", cell.equation), cell.source, name or cell.name, steps)


def _read(equation: FunctionType, source: str, name: str | None, steps: Steps) -> Cell:
    name = name or equation.__name__
    _check(equation, name, steps)
    more = {} if "dt" in signature(equation).parameters else {"dt": Scalar(steps.dt or _STEP)}
    return read(equation, source, name, partial(_solve, steps), more, steps)


def _solve(steps: Steps, reading: Reading, equation: Equation, arguments: Arguments) -> object:
    """The new states, as a cell returns them."""
    run = _Run(reading, equation, arguments)
    dt = Term(reading.builder, arguments["dt"].index)  # type: ignore[union-attr]
    if steps.substeps > 1:
        dt = dt / float(steps.substeps)
    states = run.first
    for _ in range(steps.substeps):
        states = _SOLVERS[steps.solver](run, states, dt)
    new = [reading.adopt(state) for state in states]
    return run.result(states, new) if run.has_output else tuple(new)


States = Sequence[Term]
Solver = Callable[["_Run", States, Term], States]


class _Run:
    """The equation while a solver asks it for derivatives."""

    def __init__(self, reading: Reading, equation: Equation, arguments: Arguments):
        self.reading, self.equation = reading, equation
        own = signature(equation).parameters
        self.arguments = {name: a for name, a in arguments.items() if name in own}
        self.names = [name for name, p in own.items() if isinstance(p.default, State)]
        slots: Any = [arguments[name] for name in self.names]
        self.first = [Term(reading.builder, slot.index) for slot in slots]
        self.has_output = False

    def derivatives(self, states: States) -> States:
        """dh/dt of every state at some states, checked."""
        returned = self._returned(states)
        place = place_of_return(self.equation, self.reading.cell)
        if isinstance(returned, Step):
            self.has_output = True
            returned = returned.states
        values = returned if isinstance(returned, tuple) else (returned,)
        if len(values) != len(self.names) or returned is None:
            count = "nothing" if returned is None else f"{len(values)} value"
            raise EquationError(
                f"the states are {', '.join(self.names)}, and {count}{'s' * (len(values) != 1)} came back.",
                "Return the derivative of each state in the order declared: "
                f"return {', '.join(f'd{name}' for name in self.names)}.",
                shown(place),
            )
        found = []
        for name, state, value in zip(self.names, states, values, strict=True):
            symbol = returned_symbol(self.reading, place, f"the derivative of {name}", value)
            if symbol.shape != state.shape:
                raise EquationError(
                    f"state {name} is {shape_text(state.shape)}, and its derivative is {shape_text(symbol.shape)}.",
                    "Return the derivatives in the order in which the states are declared, each with its state's size.",
                    shown(place),
                )
            if symbol.node.op != SLOT and symbol.node.label is None:
                self.reading.builder.name(symbol.index, f"d{name}")
            found.append(Term(self.reading.builder, symbol.index))
        return found

    def moved(
        self, states: States, dt: Term, weights: Sequence[float], slopes: Sequence[States]
    ) -> States:
        """states + the sum of weight * dt * slope, called as the states are."""
        found = []
        for k, state in enumerate(states):
            for weight, slope in zip(weights, slopes, strict=True):
                if weight:
                    state = state + (dt if weight == 1 else weight * dt) * slope[k]
            self.reading.builder.name(state.index, self.names[k])
            found.append(state)
        return found

    def result(self, states: States, new: Sequence[object]) -> Step:
        """The new states with the output that the equation gives at them."""
        returned = self._returned(states)
        assert isinstance(returned, Step)
        return Step(*new, output=returned.output)

    def _returned(self, states: States) -> object:
        self.reading.again()
        symbols = map(self.reading.adopt, states)
        return self.equation(**{**self.arguments, **dict(zip(self.names, symbols, strict=True))})


# Solvers --------------------------------------------------------------------------------------------------------------


def _runge_kutta(
    nodes: Sequence[Sequence[float]], weights: Sequence[float], run: _Run, states: States, dt: Term
) -> States:
    """An explicit Runge-Kutta method by its Butcher tableau."""
    slopes = [run.derivatives(states)]
    for row in nodes:
        slopes.append(run.derivatives(run.moved(states, dt, row, slopes)))
    return run.moved(states, dt, weights, slopes)


def _exponential_euler(run: _Run, states: States, dt: Term) -> States:
    """h + dt phi(dt J) f with phi(z) = (exp(z) - 1) / z and J the explicit diagonal of df/dh.

    Source  Hochbruck & Ostermann 2010, Exponential integrators, with the diagonal in place of the whole Jacobian
    """
    slopes = run.derivatives(states)
    found = []
    for name, state, slope in zip(run.names, states, slopes, strict=True):
        rate = explicit(run.reading.builder, slope.index, state.index)
        factor = dt
        if rate is not None:
            factor = dt * _phi(dt * rate)
            run.reading.builder.name(factor.index, "dt_phi")
        new = state + factor * slope
        run.reading.builder.name(new.index, name)
        found.append(new)
    return found


_SOLVERS: dict[str, Solver] = {
    "euler": partial(_runge_kutta, (), (1.0,)),
    "exponential_euler": _exponential_euler,
    "heun": partial(_runge_kutta, ((1.0,),), (1 / 2, 1 / 2)),
    "rk4": partial(
        _runge_kutta, ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    ),
}

# (exp(z) - 1) / z and its derivative lose digits near 0: there, the series. 15 terms are exact to the last bit of a
# double within 1/2, and at 1/2 the quotient has lost one.
_NEAR = 0.5
_TERMS = 15


def _phi(z: Term) -> Term:
    """(exp(z) - 1) / z, and 1 at 0."""
    near = (z * z).do("lt", _NEAR * _NEAR)
    small = near.do("where", z, 0.0)
    large = near.do("where", 1.0, z)  # what is not taken stays finite, or its gradient of 0 is nan
    series = small * (1 / math.factorial(_TERMS)) + 1 / math.factorial(_TERMS - 1)
    for k in range(_TERMS - 2, 0, -1):
        series = series * small + 1 / math.factorial(k)
    phi = near.do("where", series, large.do("expm1") / large)
    for name, term in (("z", z), ("z_near", small), ("z_far", large), ("phi", phi)):
        z.builder.name(term.index, name)
    return phi


def explicit(builder: Builder, result: int, state: int) -> Term | None:
    """The derivative of each element of a line with respect to the same element of a state, along elementwise lines.

    What goes through a product, a reduction, a join or a cut is held: it counts as a constant. None: nothing is left.
    """
    reached = Graph("", (), tuple(builder.nodes), ()).after([state])
    shape = builder.nodes[state].shape
    writer = Builder(builder.nodes)
    gradient = {result: constant(writer, 1.0)}
    for i in range(result, state, -1):
        node = writer.nodes[i]
        rule = OPS[node.op].derivative
        if i not in gradient or i not in reached or rule is None or OPS[node.op].shape is not same:
            continue
        terms = rule(gradient[i], Term(writer, i), *(Term(writer, a) for a in node.args))
        for argument, term in zip(node.args, terms, strict=True):
            if term is not None and argument in reached and writer.nodes[argument].shape == shape:
                known = gradient.get(argument)
                gradient[argument] = term if known is None else known + term
    if state not in gradient:
        return None
    return _copied(builder, writer, gradient[state].index)


def _copied(builder: Builder, writer: Builder, index: int) -> Term | None:
    """A line of another builder, and what it needs, simplified; None for 0."""
    graph = fold(writer.graph("", (), [Output(Slot("output", ""), index)]))
    moved: list[int] = []
    for node in graph.nodes:
        line = builder.add(node.reading(tuple(moved[a] for a in node.args)))
        if OPS[node.op].derivative is None:  # the sign of |h|' is flat
            line = Term(builder, line).do("stop_gradient").index
        moved.append(line)
    found = Term(builder, moved[graph.outputs[0].node])
    return None if found.node.op == "const" and found.node.attr == 0.0 else found


# What is refused ------------------------------------------------------------------------------------------------------


def _check(equation: FunctionType, name: str, steps: Steps) -> None:
    """The settings, and what the function declares under the name dt."""
    where = shown(place_of(equation, name))
    if steps.solver not in _SOLVERS:
        raise EquationError(
            f"there is no solver {steps.solver!r}.", f"Choose one of {', '.join(_SOLVERS)}.", where
        )
    whole = isinstance(steps.substeps, int) and not isinstance(steps.substeps, bool)
    if not whole or steps.substeps < 1:
        raise EquationError(
            f"substeps is {steps.substeps!r}, and a solver takes a whole number of them.",
            "Pass substeps=4, say.",
            where,
        )
    if steps.dt is not None:
        _check_dt(steps.dt, where)
    if "dt" not in signature(equation).parameters:
        return
    declared = signature(equation).parameters["dt"].default
    where = shown(place_of_default(equation, "dt", name))
    if steps.dt is not None:
        raise EquationError(
            f"dt is declared in the function, as {declared!r}, and given to rf.flow as {steps.dt!r}.",
            "Give the time from step to step in one of the two places.",
            where,
        )
    if isinstance(declared, Scalar):
        _check_dt(declared.value, where)
    elif isinstance(declared, Declaration) and declared != Input(""):
        raise EquationError(
            f"dt is declared as {declared!r}, and in a flow it is the time from step to step: one number.",
            'Declare dt=rf.Input("") or dt=rf.Scalar(0.1), or call what is meant here by another name.',
            where,
        )


def _check_dt(dt: object, where: str) -> None:
    if not isinstance(dt, numbers.Real) or isinstance(dt, bool) or not 0 < float(dt) < math.inf:
        raise EquationError(
            f"dt is {dt!r}, and the time from step to step is a positive number.",
            "Pass dt=0.1, say.",
            where,
        )
