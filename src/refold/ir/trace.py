"""From a Python function to a cell: run it once on symbols, check what it returns, keep the graph."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, NoReturn, overload

from refold.errors import EquationError
from refold.shapes import Shape, shape_of, shape_text

from .affine import AffineSymbol
from .check import check
from .declare import Affine, Bias, Declaration, Input, Scalar, State, Weight, named
from .graph import SLOT, Graph, Init, Leaf, Output, Place, Slot
from .ops import OPS
from .show import free_name
from .source import place_of, place_of_default, place_of_return, rebound, shown
from .symbol import READING, Reading, Step, Symbol, kind_of

if TYPE_CHECKING:
    from .flow import Steps

Equation = Callable[..., object]
Arguments = Mapping[str, Symbol | AffineSymbol]
# Runs an equation on symbols: what the cell gives back, its new states in the order declared.
Solve = Callable[[Reading, Equation, Arguments], object]


@dataclass(frozen=True, slots=True)
class Norms:
    """That the reverse step also measures what it does to the norm of the adjoint (see `refold.plan.omega`).

    weight  the input of one number a step that Omega is multiplied with; the step itself does not read it
    form    "ratio" or "squared"
    """

    weight: str
    form: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A recurrence that was read: its name, where it comes from, and the graph of one step.

    Source  `source` names the paper that the equations follow.
    """

    name: str
    graph: Graph
    source: str = ""
    about: str = ""
    starts: tuple[float, ...] = ()  # what each state holds before the first step, in declared order
    equation: Equation | None = field(default=None, compare=False, repr=False)
    steps: Steps | None = field(default=None, compare=False, repr=False)  # of a flow: its solver
    norms: Norms | None = None

    def __call__(self, *arguments: object, **named_arguments: object) -> NoReturn:
        inside = READING.get()
        raise EquationError(
            f"cell '{self.name}' was called like a function.",
            f"Make a layer of it: rf.Recurrent({self.name}, input_size=..., hidden_size=...).",
            inside.here() if inside else "",
        )

    def __reduce__(self) -> tuple[object, ...]:
        # The function itself does not travel: decorated, its name means this Cell. The graph is all that is needed.
        kept = (self.name, self.graph, self.source, self.about, self.starts)
        return (Cell, (*kept, None, None, self.norms))


@overload
def cell(equation: Equation) -> Cell: ...
@overload
def cell(*, source: str = "", name: str | None = None) -> Callable[[Equation], Cell]: ...
def cell(
    equation: Equation | None = None, *, source: str = "", name: str | None = None
) -> Cell | Callable[[Equation], Cell]:
    """Read a function as a recurrence; its parameters declare what they are by their default values.

    Shapes  letters in the declarations; a batch and time are added by the layer
    Errors  EquationError: where in the source, what is so, what to write instead
    Example

        @rf.cell(source="Elman 1990")
        def elman(x=rf.Input("m"), h=rf.State("n"), *,
                  W_x=rf.Weight("n m"), W_h=rf.Weight("n n"), b=rf.Bias("n")):
            return rf.tanh(W_h @ h + W_x @ x + b)
    """
    if equation is None:
        return lambda function: read(named_function("cell", function), source, name)
    return read(named_function("cell", equation), source, name)


def named_function(decorator: str, equation: object) -> FunctionType:
    """What a decorator was put above, if it is a function.

    Errors  EquationError for anything else
    """
    if not isinstance(equation, FunctionType):
        raise EquationError(
            f"rf.{decorator} was given {kind_of(equation)}, and a cell is read from a function.",
            f"Write @rf.{decorator}, or @rf.{decorator}(source=...), above a def.",
        )
    return equation


def read(
    equation: FunctionType,
    source: str,
    name: str | None,
    solve: Solve = lambda reading, equation, arguments: equation(**arguments),
    more: Mapping[str, Declaration] | None = None,
    steps: Steps | None = None,
) -> Cell:
    """The cell that a function describes.

    solve  runs the function: once, where it gives the new states; else as often as a solver asks for derivatives
    more   declarations beside the function's own parameters
    """
    name = name or equation.__name__
    reading = Reading(name)
    declared = _declared(equation, name) | dict(more or {})
    arguments = {p: _argument(reading, equation, p, d) for p, d in declared.items()}
    _refuse_rebinding(equation, declared, name)
    token = READING.set(reading)
    try:
        returned = solve(reading, equation, arguments)
    finally:
        READING.reset(token)
    states = {p: d for p, d in declared.items() if isinstance(d, State)}
    outputs = _outputs(reading, equation, states, returned)
    _refuse_unused(reading, equation, arguments, outputs)
    _refuse_no_derivative(reading, outputs)
    _name_apart(reading, outputs)
    # An Affine's weights are met when it is called; they are listed where it was declared.
    order = list(declared)
    leaves = sorted(reading.leaves, key=lambda leaf: order.index(leaf.name.partition(".")[0]))
    graph = reading.builder.graph(name, leaves, outputs)
    about = inspect.cleandoc(equation.__doc__ or "")
    starts = tuple(float(s.start) for s in states.values())
    return Cell(name, check(graph), source, about, starts, equation, steps)


def _declared(equation: Equation, name: str) -> dict[str, object]:
    declared: dict[str, object] = {}
    for parameter in inspect.signature(equation).parameters.values():
        if not isinstance(parameter.default, Declaration):
            given = parameter.default
            shown_default = "nothing" if given is parameter.empty else repr(given)
            raise EquationError(
                f"parameter {parameter.name} declares {shown_default}.",
                f'Say what it is by its default value, as in {parameter.name}=rf.Weight("n m"), '
                "rf.Input, rf.State, rf.Bias, rf.Affine or rf.Scalar.",
                shown(place_of_default(equation, parameter.name, name)),
            )
        declared[parameter.name] = parameter.default
    if not any(isinstance(d, State) for d in declared.values()):
        raise EquationError(
            f"cell '{name}' declares no state, so nothing recurs.",
            'Declare what is carried from step to step, as in h=rf.State("n").',
            shown(place_of(equation, name)),
        )
    return declared


_RANKS = {
    Input: ("input", (0, 1)),
    State: ("state", (0, 1)),
    Weight: ("param", (1, 2)),
    Bias: ("param", (1,)),
}


def _argument(
    reading: Reading, equation: Equation, name: str, declared: object
) -> Symbol | AffineSymbol:
    """The symbol that stands for a parameter while the function runs."""
    place = place_of_default(equation, name, reading.cell)
    _check_settings(name, declared, place)
    if isinstance(declared, Affine):
        _shape(name, declared.size, (1,), place)
        return AffineSymbol(reading, name, declared, place)
    if isinstance(declared, Scalar):
        init = Init("constant", value=declared.value)
        return reading.declare(Leaf("param", name, (), init, declared.learn, place))
    kind, ranks = _RANKS[type(declared)]  # type: ignore[index]
    if isinstance(declared, Weight | Bias):
        text = declared.sizes if isinstance(declared, Weight) else declared.size
        shape = _shape(name, text, ranks, place)
        leaf = Leaf(kind, name, shape, named(declared.init), declared.learn, place)
    else:
        assert isinstance(declared, Input | State)
        leaf = Leaf(kind, name, _shape(name, declared.size, ranks, place), place=place)
    return reading.declare(leaf)


def _check_settings(name: str, declared: object, place: Place) -> None:
    """Initialisers are names or rf.Init, values are finite numbers."""
    for setting in ("init", "bias_init"):
        init = getattr(declared, setting, "")
        if not isinstance(init, Init | str):
            raise EquationError(
                f"{name} is declared with {setting}={init!r}.",
                'Name an initialiser, as in init="orthogonal" or init=rf.Init("constant", value=1.0).',
                shown(place),
            )
    for setting in ("start", "value"):
        value = getattr(declared, setting, 0.0)
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not math.isfinite(value):
            raise EquationError(
                f"{name} is declared with {setting}={value!r}.",
                f"Give a finite number, as in {setting}=0.5.",
                shown(place),
            )


def _shape(name: str, text: str, ranks: tuple[int, ...], place: Place) -> Shape:
    try:
        shape = shape_of(text)
    except EquationError as error:
        raise EquationError(error.fact, error.remedy, shown(place)) from None
    if len(shape) not in ranks:
        kinds = " or ".join(("a scalar", "a vector", "a matrix")[r] for r in ranks)
        raise EquationError(
            f'{name} is declared with {len(shape)} sizes, "{text}"; here it can be {kinds}.',
            'Write one size for a vector ("n"), two with a blank between for a matrix ("n m").',
            shown(place),
        )
    return shape


def _refuse_rebinding(equation: Equation, declared: dict[str, object], cell: str) -> None:
    """A name bound once means one thing. A state's name may be given to the state's new value."""
    fixed = {p for p, d in declared.items() if not isinstance(d, State)}
    found = rebound(equation, fixed)
    if found:
        name, place = found
        place = Place(cell, place.file, place.line, place.end_line, place.column, place.end_column)
        raise EquationError(
            f"the name {name} is used twice: it is declared as {declared[name]!r}, and bound again here.",
            "Give the new value a name of its own.",
            shown(place),
        )


def _outputs(
    reading: Reading, equation: Equation, states: dict[str, State], returned: object
) -> tuple[Output, ...]:
    """What the function returned, matched with the states it declares."""
    place = place_of_return(equation, reading.cell)
    step = returned if isinstance(returned, Step) else None
    if step is not None:
        returned = step.states
    values = returned if isinstance(returned, tuple) else (returned,)
    if len(values) != len(states) or returned is None:
        given = "nothing" if returned is None else f"{len(values)} value{'s' * (len(values) != 1)}"
        if isinstance(returned, list | dict):
            given = f"a {type(returned).__name__}"
        missing = list(states)[len(values) :] if returned is not None else list(states)
        raise EquationError(
            f"the states are {', '.join(states)}, and {given} came back"
            + (f": state {missing[0]} is not returned." if missing else "."),
            f"Return the new states in the order declared: return {', '.join(states)}; "
            "an output that is not the first state goes in rf.Step(..., output=y).",
            shown(place),
        )
    outputs = [_next(reading, place, n, v) for n, v in zip(states, values, strict=True)]
    if step is None:
        return (*outputs, Output(Slot("output", next(iter(states))), outputs[0].node))
    symbol = returned_symbol(reading, place, "the output", step.output)
    same = [o.slot.name for o in outputs if o.node == symbol.index]
    name = same[0] if same else _free_name("y", states)
    return (*outputs, Output(Slot("output", name), symbol.index))


def _free_name(name: str, taken: dict[str, State]) -> str:
    return name if name not in taken else "output"


def _next(reading: Reading, place: Place, name: str, value: object) -> Output:
    slot = Slot("state", name)
    declared = next(leaf.shape for leaf in reading.leaves if leaf.slot == slot)
    symbol = returned_symbol(reading, place, f"state {name}", value)
    if symbol.shape != declared:
        raise EquationError(
            f"state {name} is {shape_text(declared)}, and what is returned for it is {shape_text(symbol.shape)}.",
            "Return the states in the order declared, each with its own size.",
            shown(place),
        )
    return Output(slot, symbol.index)


def returned_symbol(reading: Reading, place: Place, what: str, value: object) -> Symbol:
    """A result of the equation: a vector or a number for each step, computed from its parameters."""
    if not isinstance(value, Symbol) or value.reading is not reading or value.boolean:
        kind = "a comparison" if isinstance(value, Symbol) else kind_of(value)
        if isinstance(value, Symbol) and value.reading is not reading:
            kind = f"a value of another cell, '{value.reading.cell}'"
        raise EquationError(
            f"{what} comes back as {kind}, not as a value of this equation.",
            "Return what was computed from the cell's parameters; a number alone is no state.",
            shown(place),
        )
    if len(value.shape) == 2:
        raise EquationError(
            f"{what} comes back as a matrix, {shape_text(value.shape)}.",
            "States and outputs are vectors; keep a matrix as several vectors, or multiply it first.",
            shown(place),
        )
    return value


def _refuse_unused(
    reading: Reading,
    equation: Equation,
    arguments: dict[str, Symbol | AffineSymbol],
    outputs: tuple[Output, ...],
) -> None:
    """A declaration that no result needs is a slip of the pen."""
    full = Graph(reading.cell, (), tuple(reading.builder.nodes), outputs)
    needed = full.before(o.node for o in outputs)
    for name, argument in arguments.items():
        if isinstance(argument, AffineSymbol):
            used = any(w.index in needed for w in argument.weights)
        else:
            used = argument.index in needed
        if not used:
            raise EquationError(
                f"{name} is declared and never used: nothing that is returned depends on it.",
                f"Use {name} in the equation, or take the parameter away.",
                shown(place_of_default(equation, name, reading.cell)),
            )


def _name_apart(reading: Reading, outputs: tuple[Output, ...]) -> None:
    """A name means one line: a new state is called as the state; a name given twice gets a prime the second time."""
    nodes = reading.builder.nodes
    used = {leaf.name for leaf in reading.leaves}
    states: dict[int, str] = {}
    for output in outputs:
        if output.slot.kind == "state" and nodes[output.node].op != SLOT:
            states.setdefault(output.node, output.slot.name)
    for i in sorted(Graph("", (), tuple(nodes), outputs).before(o.node for o in outputs)):
        label = nodes[i].label
        if i in states:
            reading.builder.name(i, states[i])
        elif label is not None and nodes[i].op != SLOT:
            reading.builder.name(i, free_name(label, used))


def _refuse_no_derivative(reading: Reading, outputs: tuple[Output, ...]) -> None:
    """Where a gradient arrives and cannot pass. Beyond rf.stop_gradient none arrives."""
    nodes = reading.builder.nodes
    full = Graph(reading.cell, (), tuple(nodes), outputs)
    moving = full.after(i for i, node in enumerate(nodes) if node.op == SLOT)
    reached = {o.node for o in outputs}
    for i in reversed(range(len(nodes))):
        node = nodes[i]
        if i not in reached or node.op == "stop_gradient":
            continue
        if OPS[node.op].derivative is None and i in moving:
            raise EquationError(
                f"rf.{node.op} has no derivative, and a gradient would have to pass through it.",
                f"Say that none should: rf.stop_gradient(rf.{node.op}(...)).",
                shown(node.place or Place(reading.cell, "", 0)),
            )
        if not OPS[node.op].boolean:
            # where's condition takes no gradient
            reached.update(node.args[1:] if node.op == "where" else node.args)
