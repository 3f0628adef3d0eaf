"""The layer: a cell applied along time, as a torch.nn.Module."""

from __future__ import annotations

import inspect
import numbers
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from refold import cells
from refold.errors import EquationError, KernelError
from refold.ir.graph import Leaf
from refold.ir.trace import Cell
from refold.kernels import autograd as _derived  # noqa: F401  (registers its backend)
from refold.kernels.base import (
    COMPILED,
    Call,
    Kernel,
    Run,
    build,
    operator_of,
    ready,
    traced,
)
from refold.plan.cost import letters

from .doors import Entered, Lengths, enter, enter_states
from .parameters import Layout, Parameters

State = Tensor | tuple[Tensor, ...]


class Recurrent(nn.Module):
    """A cell run over sequences, forward in time or in both directions, in one layer or a stack of them.

    Arguments
        cell          a `Cell`, or the name of one in the zoo
        input_size    the letter m: features of x (of the first input, where a cell declares several)
        hidden_size   the letter n
        num_layers    a stack: each layer reads the output of the one below
        bidirectional a second network from each sequence's last step to its first; outputs are joined
        batch_first   x and y are (batch, time, feature); states never are
        dropout       between layers, in training only
        backend       "auto", "llvm" (compiled for the processor), "reference" (torch's autograd through the step) or
                      "derived" (the plan's own adjoint, step by step); "auto" is "llvm" where that can run, and
                      `layer.kernel.reason` says why it is what it is
        memory        "fast", or "small": what is stored for the way back (see `refold.kernels.base.build`)
        learn_state   the states before the first step are parameters, used when none are given
        sizes         a number for every further letter of the cell, and values for its fixed scalars

    Shapes
        x       (T, B, features), (T, features), or a PackedSequence; a cell with several inputs reads them side by side
                in declared order, and every layer of a stack reads all but the first from x itself
        y       (T, B, output_features), 0 past a row's length
        state   (num_layers x directions, B, size): a tensor for a cell with one state, else a tuple in declared order
        lengths (B,), whole numbers in any order, 0 allowed: a row of length 0 keeps its initial state

    Errors
        EquationError  a letter without a number, a keyword that the cell does not know, a size below 1
        KernelError    an input, state or lengths that do not fit: both sides are named

    Example
        layer = rf.Recurrent("lstm", input_size=8, hidden_size=64)
        y, (h, c) = layer(torch.randn(20, 4, 8))
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        backend: str = "auto",
        *,
        memory: str = "fast",
        learn_state: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes: float,
    ):
        super().__init__()
        self.cell = cells.of(cell)
        self.input_size = _whole("input_size", input_size, least=0)
        self.hidden_size = _whole("hidden_size", hidden_size)
        self.num_layers = _whole("num_layers", num_layers)
        self.bidirectional = _yes_or_no("bidirectional", bidirectional)
        self.directions = 1 + self.bidirectional
        self.batch_first = _yes_or_no("batch_first", batch_first)
        self.dropout = _dropout(dropout, self.num_layers)
        self.backend = backend
        self.memory = memory
        self.learn_state = _yes_or_no("learn_state", learn_state)
        self.sizes, self._scalars = self._settings(sizes)
        graph = self.cell.graph
        self.state_sizes = {leaf.name: self._width(leaf, 0) for leaf in graph.leaves_of("state")}
        self._input_widths = tuple(self._width(leaf, 0) for leaf in graph.leaves_of("input"))
        output = graph.outputs_of("output")[0]
        leaf = Leaf("output", output.slot.name, graph.nodes[output.node].shape)
        self.output_size = self._width(leaf, 0)
        self.output_features = self.output_size * self.directions
        if self.num_layers > 1:
            self._refuse_bad_stack(leaf)
        self._kernels: dict[tuple[bool, str, torch.dtype], Kernel] = {}
        self._probes: list[dict[str, Tensor]] | None = None
        self._ready: Callable[..., tuple[Any, Any] | None] | None = None
        _check_dtype(dtype)
        for layer in range(self.num_layers):
            for reverse in range(self.directions):
                part = Parameters(self._layout(layer), device, dtype)
                self.add_module(_part_name(layer, bool(reverse)), part)
        self.kernel  # a backend that cannot run is refused now, not at the first call  # noqa: B018

    # What a call does -------------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        lengths: Lengths = None,
        *,
        return_states: str = "last",
    ) -> tuple[Any, State]:
        """Run the batch; (y, the states after each row's own last step).

        return_states="all" gives, in place of y, a dict: each state by its name in the equation, and "output", for
        every step of the top layer, shaped as y.
        """
        if torch.compiler.is_compiling():
            if self._can_be_traced(x):
                return self._run(x, state, lengths, return_states)
            # A loop in Python over frozen records is nothing that dynamo could rebuild; what is around it compiles.
            eager: Any = torch.compiler.disable(self._run)
            return eager(x, state, lengths, return_states)
        if (
            self._ready is not None
            and lengths is None
            and return_states == "last"
            and not torch.is_grad_enabled()
        ):
            found = self._ready(x, state)
            if found is not None:
                return found
        return self._run(x, state, lengths, return_states)

    def _run(
        self,
        x: Tensor | PackedSequence,
        state: State | None,
        lengths: Lengths,
        return_states: str,
    ) -> tuple[Any, State]:
        if return_states not in ("last", "all"):
            raise KernelError(f'return_states is "{return_states}".', 'Choose "last" or "all".')
        like = self._part(0, False).like
        packed = (
            self._probes is None
            and isinstance(x, PackedSequence)
            and self.kernel.backend == COMPILED
        )
        batch = enter(x, lengths, self.input_features, self.batch_first, like, packed)
        layers = self.num_layers * self.directions
        states = enter_states(state, self.state_sizes, layers, batch, like)
        if self._probes is not None:
            self._probes.clear()
        inputs = self._inputs(batch.x)
        top: dict[str, Tensor] = {}
        finals: list[tuple[Tensor, ...]] = []
        calls: list[Call] = []
        for layer in range(self.num_layers):
            if layer > 0:
                below = nn.functional.dropout(top["output"], self.dropout, self.training)
                inputs = (below, *inputs[1:])
            histories = return_states == "all" and layer == self.num_layers - 1
            top = self._layer(layer, inputs, states, batch, histories, finals, calls)
        if torch.compiler.is_compiling():
            pass
        elif torch.is_grad_enabled():
            self._ready = (
                None  # weights are about to change, through .data perhaps, which nobody is told
            )
        elif batch.lengths is None and batch.rows is None:
            self._make_ready(calls)
        final = tuple(batch.state_out(joined(s)) for s in zip(*finals, strict=True))
        y = {name: batch.out(v) for name, v in top.items()}
        return (y if return_states == "all" else y["output"]), (
            final[0] if len(final) == 1 else final
        )

    def _layer(
        self,
        layer: int,
        inputs: tuple[Tensor, ...],
        states: tuple[Tensor, ...] | None,
        batch: Entered,
        histories: bool,
        finals: list[tuple[Tensor, ...]],
        calls: list[Call],
    ) -> dict[str, Tensor]:
        """One layer, its directions joined: the output and, with `histories`, every state, for all steps."""
        runs = []
        for reverse in range(self.directions):
            index = layer * self.directions + reverse
            part = self._part(layer, bool(reverse))
            first = part.first(batch.batch) if states is None else tuple(s[index] for s in states)
            call = Call(
                batch.steps,
                inputs,
                first,
                part.named(),
                batch.lengths,
                bool(reverse),
                self._new_probes(batch.steps, first),
                batch.rows,
                histories,
            )
            run = self._call(layer > 0, call)
            calls.append(call)
            finals.append(run.final)
            runs.append(run)
        names = [*(self.state_sizes if histories else ()), "output"]
        values = [(*(run.history if histories else ()), run.output) for run in runs]
        if len(runs) == 1:
            return dict(zip(names, values[0], strict=True))
        both = (torch.cat(pair, -1) for pair in zip(*values, strict=True))
        return dict(zip(names, both, strict=True))

    def _call(self, stacked: bool, call: Call) -> Run:
        if torch.compiler.is_compiling():
            return traced(self._operator(stacked), call)
        return self._kernel(stacked)(call)

    def _can_be_traced(self, x: object) -> bool:
        return isinstance(x, Tensor) and self._probes is None and self._operator(False) != ""

    @torch.compiler.assume_constant_result
    def _operator(self, stacked: bool) -> str:
        """The name of a kernel among torch's operators, which exist from now on; nothing where there is none."""
        return operator_of(self._kernel(stacked))

    def _make_ready(self, calls: list[Call]) -> None:
        """Make further calls without gradients ready, where that can be."""
        self._ready = None
        every = [self._part(layer, False).homes() for layer in range(self.num_layers)]
        homes = [kept for kept in every if kept is not None]
        kernels = [self._kernel(layer > 0) for layer in range(self.num_layers)]
        compiled = all(kernel.backend == COMPILED for kernel in kernels)
        direct = not self.bidirectional and self._probes is None and self.dropout == 0
        if compiled and direct and len(homes) == len(every):
            starts = None if self.learn_state else self.cell.starts
            self._ready = ready(kernels, calls, homes, starts, self.batch_first)

    def _inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """x cut into the cell's inputs."""
        widths = self._input_widths
        if len(widths) == 1:
            return (x,)
        return x.split(widths, -1) if widths else ()

    @property
    def input_features(self) -> int:
        """How many features x has: those of all the cell's inputs, side by side."""
        return sum(self._input_widths)

    # Parameters -------------------------------------------------------------------------------------------------------

    def parameters_of(self, layer: int = 0, reverse: bool = False) -> dict[str, Tensor]:
        """The parameters of one layer and direction by their names in the equation: "W_h", "i.W_x", "i.b".

        What is fixed (a Scalar, a Weight with learn=False) is a buffer and not among them. A weight under one of
        torch's parametrizations comes as it is computed.
        """
        named = self._part(layer, reverse).named()
        learned = [leaf.name for leaf in self.cell.graph.leaves_of("param") if leaf.learn]
        return {name: named[name] for name in learned}

    def reset_parameters(self) -> None:
        """Draw all parameters again, each as its declaration says."""
        for part in self.children():
            assert isinstance(part, Parameters)
            part.draw()

    def _layout(self, layer: int) -> Layout:
        return Layout(
            self.cell, self._letters(layer), self._scalars, self.state_sizes, self.learn_state
        )

    def _part(self, layer: int, reverse: bool) -> Parameters:
        name = _part_name(layer, reverse)
        if name not in self._modules:
            raise KernelError(
                f"there is no layer {layer}{' in reverse' if reverse else ''}.",
                f"The layer has {self.num_layers} layers and {self.directions} directions.",
            )
        part = self._modules[name]
        assert isinstance(part, Parameters)
        return part

    # Inspection -------------------------------------------------------------------------------------------------------

    @contextmanager
    def probe(self) -> Iterator[list[dict[str, Tensor]]]:
        """Within, each call adds zeros to every state after every step, so that gradients of states can be asked for.

        Gives a list with one dict for each layer and direction: state name -> (T, B, size). The gradient of an error
        with respect to such a tensor is the adjoint: the whole derivative dE/dstate(t), through all later steps.

        Example
            with layer.probe() as probes:
                y, _ = layer(x)
            delta = torch.autograd.grad(y.square().sum(), probes[0]["h"])
        """
        outer, self._probes, self._ready = self._probes, [], None
        try:
            yield self._probes
        finally:
            self._probes = outer

    def _new_probes(self, steps: int, first: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._probes is None:
            return None
        zeros = tuple(s.new_zeros(steps, *s.shape).requires_grad_() for s in first)
        self._probes.append(dict(zip(self.state_sizes, zeros, strict=True)))
        return zeros

    # Kernels ----------------------------------------------------------------------------------------------------------

    @property
    def kernel(self) -> Kernel:
        """The kernel of the first layer; `.backend` and `.reason` say which and why."""
        return self._kernel(False)

    def _kernel(self, stacked: bool) -> Kernel:
        like = self._part(0, False).like
        key = (stacked, like.device.type, like.dtype)
        if key not in self._kernels:
            letters = self._letters(int(stacked))
            self._kernels[key] = build(
                self.cell, letters, self.backend, like.device, like.dtype, self.memory
            )
        return self._kernels[key]

    def operators(self) -> tuple[str, ...]:
        """The names under which torch's operators find the compiled kernels, which they do in this process from now on.

        A program that torch.export has written down calls them: a process that loads it makes the same layer first,
        and calls this. Empty where nothing is compiled.
        """
        kernels = {self._kernel(layer > 0) for layer in range(self.num_layers)}
        return tuple(sorted({operator_of(kernel) for kernel in kernels} - {""}))

    def __getstate__(self) -> dict[str, Any]:
        # Kernels are made again where they are needed; they hold compiled code and functions without names.
        return {**self.__dict__, "_kernels": {}, "_probes": None, "_ready": None}

    # Sizes ------------------------------------------------------------------------------------------------------------

    def _settings(self, given: dict[str, float]) -> tuple[dict[str, int], dict[str, float]]:
        """Keywords parted into numbers for letters and values for fixed scalars."""
        known = sorted(letters(self.cell.graph) - {"m", "n"})
        scalars = [leaf.name for leaf in self.cell.graph.leaves_of("param") if leaf.shape == ()]
        taken = {*inspect.signature(Recurrent).parameters, *known, "m", "n"} & set(scalars)
        if taken:
            raise EquationError(
                f"cell '{self.cell.name}' calls a scalar {min(taken)}, which is a size or a setting of the layer.",
                "Give the scalar another name.",
            )
        strange = [name for name in given if name not in (*known, *scalars)]
        if strange:
            raise EquationError(
                f"cell '{self.cell.name}' has neither a size nor a scalar called {strange[0]}.",
                f"Its sizes are {', '.join(['m', 'n', *known])}; its scalars {', '.join(scalars) or 'none'}. "
                "m is input_size and n is hidden_size.",
            )
        missing = [letter for letter in known if letter not in given]
        if missing:
            raise EquationError(
                f"cell '{self.cell.name}' needs a number for the size {missing[0]}.",
                f"Pass it by keyword: rf.Recurrent(..., {missing[0]}=...).",
            )
        sizes = {letter: _whole(letter, given[letter]) for letter in known}
        return sizes, {name: _number(name, given[name]) for name in scalars if name in given}

    def _refuse_bad_stack(self, output: Leaf) -> None:
        """A layer above the first reads the output of the one below, and its states have the sizes of the first's."""
        if not self.cell.graph.leaves_of("input"):
            raise EquationError(
                f"cell '{self.cell.name}' reads no input, and a stack hands each layer the output of the one below.",
                "Set num_layers=1.",
            )
        first = self.cell.graph.leaves_of("input")[0]
        if self._width(first, 1) != self.output_features:
            raise EquationError(
                f"input {first.name} of cell '{self.cell.name}' has {self._width(first, 1)} numbers, "
                f"and the layer below gives {self.output_features}.",
                f'Declare it {first.name}=rf.Input("m"), or set num_layers=1.',
            )
        for leaf in (*self.cell.graph.leaves_of("state"), output):
            if self._width(leaf, 1) != self._width(leaf, 0):
                raise EquationError(
                    f"{leaf.kind} {leaf.name} of cell '{self.cell.name}' has {self._width(leaf, 0)} numbers in the "
                    f"first layer and {self._width(leaf, 1)} above it: its size {leaf.shape[0]} follows what is read.",
                    "Choose input_size equal to the output's size, or set num_layers=1.",
                )

    def _letters(self, layer: int) -> dict[str, int]:
        below = self.input_size if layer == 0 else self.output_features
        return {**self.sizes, "m": below, "n": self.hidden_size}

    def _width(self, leaf: Leaf, layer: int) -> int:
        return leaf.shape[0].at(self._letters(layer)) if leaf.shape else 1

    def __repr__(self) -> str:
        # One line, as torch.nn.LSTM has it: the children only hold parameters.
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        settings = {
            "num_layers": (self.num_layers, 1),
            "bidirectional": (self.bidirectional, False),
            "batch_first": (self.batch_first, False),
            "dropout": (self.dropout, 0.0),
            "memory": (self.memory, "fast"),
            "learn_state": (self.learn_state, False),
        }
        changed = [f"{name}={value}" for name, (value, usual) in settings.items() if value != usual]
        sizes = [f"{name}={value}" for name, value in (self.sizes | self._scalars).items()]
        return ", ".join(
            [self.cell.name, str(self.input_size), str(self.hidden_size), *changed, *sizes]
        )


def joined(states: tuple[Tensor, ...]) -> Tensor:
    """The final states of all layers and directions."""
    return states[0].unsqueeze(0) if len(states) == 1 else torch.stack(states)


def _part_name(layer: int, reverse: bool) -> str:
    return f"l{layer}_reverse" if reverse else f"l{layer}"


def _number(name: str, value: object, example: float = 0.5) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise EquationError(
            f"{name} is {value!r}, and must be a number.", f"Pass {name}={example}, say."
        )
    return float(value)


def _whole(name: str, value: object, least: int = 1) -> int:
    example = 2 if name == "num_layers" else 64
    number = _number(name, value, example)
    if not number.is_integer() or number < least:
        raise EquationError(
            f"{name} is {value!r}, and must be a whole number, at least {least}.",
            f"Pass {name}={example}, say.",
        )
    return int(number)


def _yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise EquationError(f"{name} is {value!r}.", f"Pass {name}=True or {name}=False.")
    return value


def _check_dtype(dtype: object) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise EquationError(
            f"dtype is {dtype}, and gradients need real numbers.",
            "Choose torch.float32 or torch.float64.",
        )


def _dropout(value: object, layers: int) -> float:
    value = _number("dropout", value)
    if not 0 <= value <= 1:
        raise EquationError(
            f"dropout is {value!r}, and a probability lies between 0 and 1.",
            "Pass dropout=0.1, say.",
        )
    if value > 0 and layers == 1:
        warnings.warn(
            "dropout acts between layers, and this stack has one: it does nothing. Set num_layers=2 or more.",
            UserWarning,
            stacklevel=3,
        )
    return float(value)
