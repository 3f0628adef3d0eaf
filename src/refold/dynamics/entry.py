"""rf.dynamics: from a network, a layer, a cell with its parameters, or a function, to what its dynamics are."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from refold import cells
from refold.data.batch import Batch, Sequences
from refold.errors import DataError
from refold.ir.trace import Cell
from refold.nn.layer import Recurrent
from refold.nn.wiring import FED_BACK, Network

from .folded import Folded, folded
from .given import layer_of
from .record import Dynamics
from .system import Function, System, flow_map
from .vary import varied
from .whole import Whole, is_wired

WHERE = "rf.dynamics(...)"


def dynamics(
    target: nn.Module | Cell | str | Callable[..., Any],
    x: Any = None,
    state: Any = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    closed: bool = False,
    flow: bool = False,
    dt: float | None = None,
) -> Dynamics:
    """What the dynamics of a recurrence are: its state is everything that a step carries, in float64.

    Arguments
        target      an rf.Network, an rf.Recurrent, a layer of rf.nn; a cell (or its name) with `parameters`; or a
                    function of the state, h -> h, with data (h, x) -> h. Nothing of it is changed: its parameters are
                    copied, and the network is taken as it is in evaluation
        x           the data that drive it; without data it runs free, its input held at 0
        state       where it starts; what the cell declares where none is given. A function needs one
        parameters  of a cell: a tensor or a number for each by its name in the equation
        closed      the output of a network goes through its head and is the next input; so it is in any case for a
                    network of shape one-to-many
        flow        the function is dh/dt; a step is then the classical Runge-Kutta method over dt
        dt          the time that a step takes: 1, or for a cell under @rf.flow its own

    Shapes  x (T, B, m) or (T, m); state (N,) or (B, N), all states side by side in the order of `.order`, or as the
            layer takes it

    Errors  RefoldError for what is no map of a state (a bidirectional layer); DataError for data or states that do not
            fit

    Example
        >>> henon = dynamics(lambda h: torch.stack([1 - 1.4 * h[0]**2 + h[1], 0.3 * h[0]]), state=[0.1, 0.1])
        >>> [round(float(e), 1) for e in henon.lyapunov(steps=2000).exponents]
        [0.4, -1.6]
    """
    if isinstance(target, Cell | str):
        target = layer_of(cells.of(target), parameters)
    elif parameters is not None:
        fact = f"parameters are given, and {_told(target)} is no cell"
        raise DataError(fact, "leave parameters out", WHERE)
    if isinstance(target, nn.Module):
        return _of_module(target, x, state, closed, dt)
    if not callable(target):
        fact = f"{_told(target)} is no network, layer, cell or function"
        raise DataError(fact, "give one of these", WHERE)
    return _of_function(target, x, state, flow, dt)


def _of_module(module: nn.Module, x: Any, state: Any, closed: bool, dt: float | None) -> Dynamics:
    layer = module.layer if isinstance(module, Network) else module
    head = _head(module, layer) if closed or _is_fed_back(module) else None
    if head is not None and x is not None:
        fact = "x is given, and a network that runs free reads its own output"
        raise DataError(fact, "leave x out; give state=, where it starts", WHERE)
    system = Whole(layer) if head is None and is_wired(layer) else folded(layer, head)
    data = None if x is None else _data(x, system, getattr(layer, "batch_first", False))
    rows = 1 if data is None else data.shape[1]
    start = system.starts.expand(rows, -1) if state is None else _state(state, system)
    start = start.expand(rows, -1) if len(start) == 1 else start
    if data is not None and len(start) != rows:
        fact = f"x has {rows} row(s), and state has {len(start)}"
        raise DataError(fact, "give one state for each row", WHERE)
    step = _own_dt(layer) if dt is None else dt

    def remake(name: str, value: float) -> Dynamics:
        return _of_module(varied(module, name, value), x, state, closed, dt)

    return Dynamics(system, data, start, step, module, remake, state is not None)


def _of_function(
    function: Callable[..., Any], x: Any, state: Any, flow: bool, dt: float | None
) -> Dynamics:
    name = getattr(function, "__name__", type(function).__name__)
    if state is None:
        fact = "a function of the state says nothing about how many numbers a state has"
        raise DataError(fact, "give state=[...], where it starts", WHERE)
    start = torch.as_tensor(state, dtype=torch.float64)
    start = start.reshape(-1, start.shape[-1]) if start.ndim else start.reshape(1, 1)
    inputs = 0 if x is None else int(torch.as_tensor(x).shape[-1])
    step = 1.0 if dt is None else dt
    if flow and dt is None:
        raise DataError("the function is a flow, and dt is not given", "give dt=0.01, say", WHERE)
    made = flow_map(function, step) if flow else function
    system = Function(made, start.shape[1], inputs, name)
    data = None if x is None else _data(x, system, False)
    rows = 1 if data is None else data.shape[1]
    start = start.expand(rows, -1) if len(start) == 1 else start

    def remake(parameter: str, value: float) -> Dynamics:
        if parameter not in inspect.signature(function).parameters:
            fact = f"the function has no parameter {parameter!r}"
            raise DataError(fact, "name one of its keywords", "bifurcation(parameter)")
        return _of_function(partial(function, **{parameter: value}), x, state, flow, dt)

    return Dynamics(system, data, start, step, None, remake, True)


def _data(x: Any, system: System, batch_first: bool) -> Tensor:
    """(T, R, m) in float64, every number finite."""
    if isinstance(x, Batch | Sequences):
        fact = "x holds sequences, which may end at different steps"
        raise DataError(fact, "give a tensor (T, B, m) of rows that last as long", WHERE)
    data = torch.as_tensor(x, dtype=torch.float64).detach().to("cpu")
    if data.ndim == 3 and batch_first:
        data = data.transpose(0, 1)
    data = data.unsqueeze(1) if data.ndim == 2 else data
    if data.ndim != 3 or data.shape[-1] != system.inputs or not len(data):
        fact = f"x has the shape {tuple(torch.as_tensor(x).shape)}, and {system.name} reads {system.inputs} features"
        raise DataError(fact, f"give (T, B, {system.inputs}) or (T, {system.inputs})", WHERE)
    bad = (~data.isfinite()).nonzero()
    if len(bad):
        step, row, feature = bad[0].tolist()
        fact = f"x is not finite at step {step}, row {row}, feature {feature}"
        raise DataError(fact, "fill or leave out what is missing", WHERE)
    return data


def _state(state: Any, system: Folded | Whole) -> Tensor:
    """States as a layer takes them, or (R, N) as they are here, as (R, N)."""
    several = isinstance(state, tuple | list) and all(isinstance(s, Tensor) for s in state)
    # Numbers of Python are taken as they are: a tensor of them would be of float32 first.
    given = list(state) if several else [torch.as_tensor(state, dtype=torch.float64)]
    given = [s.detach().to("cpu", torch.float64) for s in given]
    levels = system.slots
    count = len(system.parts) // levels
    if several and len(given) == count:
        opened = [_opened(s, levels, system.parts[k].size) for k, s in enumerate(given)]
        flat = torch.cat([s[level] for level in range(levels) for s in opened], -1)
    else:
        one = given[0]
        flat = _opened(one, levels, system.parts[0].size).transpose(0, 1).flatten(1)
        if one.ndim < 3:
            flat = one.unsqueeze(0) if one.ndim < 2 else one
    if flat.ndim != 2 or flat.shape[1] != system.size:
        shapes = ", ".join(str(tuple(s.shape)) for s in given)
        sizes = ", ".join(f"{part.label} ({part.size})" for part in system.parts)
        raise DataError(f"state has the shape {shapes}", f"give (R, N) for {sizes}", WHERE)
    return flat


def _opened(state: Tensor, levels: int, size: int) -> Tensor:
    """(levels, R, size)"""
    if state.ndim == 3:
        return state
    return state.reshape(levels, 1, size) if state.numel() == levels * size else state[None]


def _is_fed_back(module: nn.Module) -> bool:
    return isinstance(module, Network) and module.shape in FED_BACK


def _head(module: nn.Module, layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """From the output of the layer to its next input, in float64."""
    where = "rf.dynamics(closed=True)"
    head = module.head if isinstance(module, Network) else None
    if isinstance(module, Network) and module.decoder is not None:
        fact = f"the network is {module.shape}: what runs free is its decoder"
        remedy = (
            "give rf.Network(network.decoder, network.head, 'one-to-many'), and its start as state"
        )
        raise DataError(fact, remedy, where)
    if isinstance(module, Network) and module.feedback != "value":
        fact = f"the network feeds back a {module.feedback}, the largest score, which has no derivative"
        raise DataError(fact, "give its layer, driven by data", where)
    made: Callable[[Tensor], Tensor] = nn.Identity()
    if head is not None:
        made = copy.deepcopy(head).to("cpu", torch.float64).eval().requires_grad_(False)
    reads = layer.input_features if isinstance(layer, Recurrent) else layer.input_size
    gives = layer.output_size if isinstance(layer, Recurrent) else layer.hidden_size
    assert isinstance(gives, int)
    fed = made(torch.zeros(1, gives, dtype=torch.float64))
    if fed.shape[-1] != reads:
        fact = f"an output has {fed.shape[-1]} features, and the layer reads {reads}"
        raise DataError(fact, f"give the network head={reads}", where)
    return made


def _own_dt(layer: nn.Module) -> float:
    """The time of a step, of a cell under @rf.flow that has one."""
    if not isinstance(layer, Recurrent) or layer.cell.steps is None:
        return 1.0
    named = layer._part(0, False).named()
    if "dt" in named:
        return float(named["dt"])
    return layer.cell.steps.dt or 1.0


def _told(target: object) -> str:
    return f"a {type(target).__name__}"
