"""The layer: a cell applied along time, as a torch.nn.Module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from refold import cells
from refold.errors import KernelError
from refold.ir.graph import Leaf
from refold.ir.trace import Cell
from refold.ir.wrap import AS_IT_IS, Form, wrapped
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

from .constant import constant_result
from .doors import Entered, Lengths, enter, enter_states
from .events import NOTHING, Events, enter_flags
from .omega import Counting
from .parameters import Layout, Parameters
from .regularise import Regularise
from .runs import Recorded, joined, side_by_side
from .settings import (
    check_dtype,
    dropout_rate,
    keywords,
    record,
    refuse_bad_stack,
    whole,
    yes_or_no,
)
from .stacks import Gate, Stack
from .wired import Wiring

State = Tensor | tuple[Tensor, ...]


class Recurrent(Counting, nn.Module):
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
        regularise    what is dropped in training: see `Regularise`
        stack         how layers are joined, and how far back each looks: see `Stack`
        sizes         a number for every further letter of the cell, and values for its fixed scalars

    Shapes
        x       (T, B, features), (T, features), or a PackedSequence; a cell with several inputs reads them side by side
                in declared order, and every layer of a stack reads all but the first from x itself
        y       (T, B, output_features), 0 past a row's length
        state   (num_layers x directions, B, size): a tensor for a cell with one state, else a tuple in declared order
        lengths (B,), whole numbers in any order, 0 allowed: a row of length 0 keeps its initial state
        resets  (T, B) bool, as x has its steps and rows: before a flagged step the states start anew
        mask    (T, B) bool: where it is false the step is left out; states stay as they are, and the output is 0

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
        regularise: Regularise = Regularise(),  # noqa: B008  (a frozen record)
        stack: Stack = Stack(),  # noqa: B008
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **sizes: float,
    ):
        super().__init__()
        self.cell = cells.of(cell)
        self.input_size = whole("input_size", input_size, least=0)
        self.hidden_size = whole("hidden_size", hidden_size)
        self.num_layers = whole("num_layers", num_layers)
        self.bidirectional = yes_or_no("bidirectional", bidirectional)
        self.directions = 1 + self.bidirectional
        self.batch_first = yes_or_no("batch_first", batch_first)
        self.dropout = dropout_rate(dropout, self.num_layers)
        self.backend = backend
        self.memory = memory
        self.learn_state = yes_or_no("learn_state", learn_state)
        self.regularise = record("regularise", regularise, Regularise)
        self.stack = record("stack", stack, Stack)
        self.regularise.check(self.cell)
        self.stack.check(self.num_layers)
        self._spread = self.stack.spread(self.num_layers)
        self._dilated = max(self._spread) > 1
        self.sizes, self._scalars = keywords(
            self.cell, sizes, inspect.signature(Recurrent).parameters
        )
        graph = self.cell.graph
        self.state_sizes = {leaf.name: self._width(leaf, 0) for leaf in graph.leaves_of("state")}
        self._input_widths = tuple(self._width(leaf, 0) for leaf in graph.leaves_of("input"))
        output = graph.outputs_of("output")[0]
        leaf = Leaf("output", output.slot.name, graph.nodes[output.node].shape)
        self.output_size = self._width(leaf, 0)
        self.output_features = self.output_size * self.directions
        if self.num_layers > 1:
            refuse_bad_stack(self.cell, leaf, self.output_features, self._width)
        self._kernels: dict[tuple[bool, Form, str, torch.dtype], Kernel] = {}
        self._probes: list[dict[str, Tensor]] | None = None
        self._recorded: list[Recorded] | None = None
        self._ready: Callable[..., tuple[Any, Any] | None] | None = None
        check_dtype(dtype)
        for layer in range(self.num_layers):
            for reverse in range(self.directions):
                part = Parameters(self._layout(layer), device, dtype)
                self.add_module(_part_name(layer, bool(reverse)), part)
            if layer > 0 and self.stack.kind == "highway":
                self.add_module(f"highway{layer}", Gate(self.output_features, device, dtype))
        self.kernel  # a backend that cannot run is refused now, not at the first call  # noqa: B018

    # What a call does -------------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: State | None = None,
        lengths: Lengths = None,
        *,
        return_states: str = "last",
        resets: Tensor | None = None,
        mask: Tensor | None = None,
        reset_state: State | None = None,
    ) -> tuple[Any, State]:
        """Run the batch; (y, the states after each row's own last step).

        return_states="all" gives, in place of y, a dict: each state by its name in the equation, and "output", for
        every step of the top layer, shaped as y.

        A reset starts from reset_state, of the shape that a state has in a layer without dilation; without it from the
        learned start, where states are learned, else from what the cell declares. A flag at a step that is left out
        counts. In reverse a flag parts the sequence at the same place: the state of the step before it starts anew.
        """
        happens = resets is not None or mask is not None or reset_state is not None
        if torch.compiler.is_compiling():
            if not happens and self._can_be_traced(x):
                return self._run(x, state, lengths, return_states)
            # A loop in Python over frozen records is nothing that dynamo could rebuild; what is around it compiles.
            eager: Any = torch.compiler.disable(self._run)
            return eager(x, state, lengths, return_states, resets, mask, reset_state)
        if (
            self._ready is not None
            and lengths is None
            and not happens
            and return_states == "last"
            and not torch.is_grad_enabled()
        ):
            found = self._ready(x, state)
            if found is not None:
                return found
        return self._run(x, state, lengths, return_states, resets, mask, reset_state)

    def _run(
        self,
        x: Tensor | PackedSequence,
        state: State | None,
        lengths: Lengths,
        return_states: str,
        resets: Tensor | None = None,
        mask: Tensor | None = None,
        reset_state: State | None = None,
    ) -> tuple[Any, State]:
        if return_states not in ("last", "all"):
            raise KernelError(f'return_states is "{return_states}".', 'Choose "last" or "all".')
        like = self._part(0, False).like
        packed = (
            self._probes is None
            and isinstance(x, PackedSequence)
            and self.kernel.backend == COMPILED
            and self._is_plain()
            and self._counting is None
        )
        batch = enter(x, lengths, self.input_features, self.batch_first, like, packed)
        events = NOTHING
        if resets is not None or mask is not None or reset_state is not None:
            events = self._events(resets, mask, reset_state, batch, like)
        layers = sum(self._spread) * self.directions
        states = enter_states(state, self.state_sizes, layers, batch, like)
        for kept in (self._probes, self._recorded):
            if kept is not None:
                kept.clear()
        inputs = self._inputs(events.inputs(batch.x))
        top: dict[str, Tensor] = {}
        finals: list[tuple[Tensor, ...]] = []
        calls: list[Call] = []
        for layer in range(self.num_layers):
            below = top.get("output")
            if below is not None:
                dropped = nn.functional.dropout(below, self.dropout, self.training)
                inputs = (dropped, *inputs[1:])
            histories = return_states == "all" and layer == self.num_layers - 1
            histories = histories or self._recorded is not None
            top = self._layer(layer, inputs, states, batch, histories, finals, calls, events)
            if below is not None and self.stack.kind != "plain":
                gate = self._modules.get(f"highway{layer}")
                top["output"] = self.stack.joined(below, top["output"], gate)
        if torch.compiler.is_compiling():
            pass
        elif torch.is_grad_enabled():
            self._ready = (
                None  # weights are about to change, through .data perhaps, which nobody is told
            )
        elif batch.lengths is None and batch.rows is None and events is NOTHING:
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
        events: Events = NOTHING,
    ) -> dict[str, Tensor]:
        """One layer, its directions joined: the output and, with `histories`, every state, for all steps."""
        runs = []
        plain = events is NOTHING and self._is_plain() and self._counting is None
        for reverse in range(self.directions):
            part = self._part(layer, bool(reverse))
            first = self._first(part, layer, reverse, states, batch.batch)
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
            calls.append(call)
            runs.append(
                self._call(layer > 0, call)
                if plain
                else self._wired(layer, reverse, call, part, events)
            )
        finals += self._finals(layer, runs)
        return side_by_side(runs, self.state_sizes, histories)

    # What is wired around the cell ------------------------------------------------------------------------------------

    def _is_plain(self) -> bool:
        """Whether nothing is wired around the cell in a call without flags."""
        if self._dilated:
            return False
        return not self.regularise.random or (not self.training and self._form() == AS_IT_IS)

    def _form(self, events: Events = NOTHING) -> Form:
        resets = ""
        if events.resets is not None:
            resets = "learned" if self.learn_state else "declared"
            resets = resets if events.starts is None else "given"
        form = self.regularise.form(self.cell, self.training, events.mask is not None, resets)
        terms = self._counting
        return form if terms is None else replace(form, omega=terms.form)

    def _wired(self, layer: int, reverse: int, call: Call, part: Parameters, events: Events) -> Run:
        form, spread = self._form(events), self._spread[layer]
        index = layer * self.directions + reverse
        around = (self.cell, form, self.regularise, self.training)
        wiring = Wiring(*around, spread, events, index, self._counting)
        return wiring.run(call, part, self._recording(self._kernel(layer > 0, form), spread))

    def _events(
        self,
        resets: Tensor | None,
        mask: Tensor | None,
        reset_state: State | None,
        batch: Entered,
        like: Tensor,
    ) -> Events:
        if reset_state is not None and resets is None:
            raise KernelError(
                "reset_state is given, and no resets.", "Pass resets, or leave reset_state out."
            )
        flags = enter_flags(resets, "resets", batch)
        layers = self.num_layers * self.directions
        starts = enter_states(reset_state, self.state_sizes, layers, batch, like)
        return Events(flags, enter_flags(mask, "mask", batch), starts)

    def _first(
        self,
        part: Parameters,
        layer: int,
        reverse: int,
        states: tuple[Tensor, ...] | None,
        rows: int,
    ) -> tuple[Tensor, ...]:
        """The states before the first step, (B, size); of a dilated layer (d, B, size)."""
        d = self._spread[layer]
        if states is None:
            first = part.first(rows)
            return first if d == 1 else tuple(s.expand(d, *s.shape) for s in first)
        at = sum(self._spread[:layer]) * self.directions + reverse
        if d == 1:
            return tuple(s[at] for s in states)
        return tuple(s[at : at + d * self.directions : self.directions] for s in states)

    def _finals(self, layer: int, runs: list[Run]) -> list[tuple[Tensor, ...]]:
        """The final states of a layer's directions, in the order in which they are given out."""
        d = self._spread[layer]
        if d == 1:
            return [run.final for run in runs]
        return [tuple(s[slot] for s in run.final) for slot in range(d) for run in runs]

    def train(self, mode: bool = True) -> Recurrent:
        """Set the layer to training, or to evaluation: nothing is dropped, and zoneout takes its expectation."""
        self._ready = None
        return super().train(mode)

    def _call(self, stacked: bool, call: Call) -> Run:
        if torch.compiler.is_compiling():
            return traced(self._operator(stacked), call)
        return self._recording(self._kernel(stacked))(call)

    def _can_be_traced(self, x: object) -> bool:
        alone = self._probes is None and self._terms is None
        direct = isinstance(x, Tensor) and alone and self._is_plain()
        return direct and self._operator(False) != ""

    @constant_result
    def _operator(self, stacked: bool) -> str:
        """The name of a kernel among torch's operators, which exist from now on; nothing where there is none."""
        return operator_of(self._kernel(stacked))

    def _make_ready(self, calls: list[Call]) -> None:
        """Make further calls without gradients ready, where that can be."""
        self._ready = None
        every = [self._part(layer, False).homes() for layer in range(self.num_layers)]
        homes = [kept for kept in every if kept is not None]
        form = self._form()
        kernels = [self._kernel(layer > 0, form) for layer in range(self.num_layers)]
        compiled = all(kernel.backend == COMPILED for kernel in kernels)
        direct = not self.bidirectional and self._probes is None and self.dropout == 0
        direct = direct and self.stack.kind == "plain" and not self._dilated
        direct = direct and not (self.training and self.regularise.random)
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
            assert isinstance(part, Parameters | Gate)
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
        zeros = tuple(s.new_zeros(steps, *s.shape[-2:]).requires_grad_() for s in first)
        self._probes.append(dict(zip(self.state_sizes, zeros, strict=True)))
        return zeros

    @contextmanager
    def record(self) -> Iterator[list[Recorded]]:
        """Within, each call keeps what its kernels were given and what they gave, with probes and all states.

        Gives a list with one record for each layer and direction, in the order of `probe`.
        """
        with self.probe():
            outer, self._recorded = self._recorded, []
            try:
                yield self._recorded
            finally:
                self._recorded = outer

    def _recording(self, kernel: Kernel, spread: int = 1) -> Callable[[Call], Run]:
        if self._recorded is None:
            return kernel
        recorded = self._recorded

        def keep(call: Call) -> Run:
            run = kernel(call)
            recorded.append(Recorded(kernel, call, run, spread))
            return run

        return keep

    # Kernels ----------------------------------------------------------------------------------------------------------

    @property
    def kernel(self) -> Kernel:
        """The kernel of the first layer; `.backend` and `.reason` say which and why."""
        return self._kernel(False)

    def _kernel(self, stacked: bool, form: Form = AS_IT_IS) -> Kernel:
        like = self._part(0, False).like
        key = (stacked, form, like.device.type, like.dtype)
        if key not in self._kernels:
            letters = self._letters(int(stacked))
            cell = wrapped(self.cell, form).cell
            self._kernels[key] = build(
                cell, letters, self.backend, like.device, like.dtype, self.memory
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
        held = dict.fromkeys(("_probes", "_recorded", "_terms", "_ready"))
        return {**self.__dict__, "_kernels": {}, **held}

    # Sizes ------------------------------------------------------------------------------------------------------------

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
            "regularise": (self.regularise, Regularise()),
            "stack": (self.stack, Stack()),
        }
        changed = [f"{name}={value}" for name, (value, usual) in settings.items() if value != usual]
        sizes = [f"{name}={value}" for name, value in (self.sizes | self._scalars).items()]
        return ", ".join(
            [self.cell.name, str(self.input_size), str(self.hidden_size), *changed, *sizes]
        )


def _part_name(layer: int, reverse: bool) -> str:
    return f"l{layer}_reverse" if reverse else f"l{layer}"
