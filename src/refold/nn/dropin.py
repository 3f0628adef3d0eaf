"""torch.nn's recurrent layers, with torch's contract, run by refold's kernels: `rf.nn.LSTM` for `torch.nn.LSTM`.

Constructor, checks of sizes, parameters and what keeps them in sync are torch's own: the layers derive from RNNBase.
From nn.LSTM itself they cannot: torch.compile refuses to look into its instances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import is_
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from refold.cells import joined
from refold.errors import KernelError
from refold.ir.trace import Cell
from refold.ir.wrap import Form, wrapped
from refold.kernels import autograd as _derived  # noqa: F401  (registers its backend)
from refold.kernels.base import COMPILED, Call, Home, Kernel, Run, build, operator_of, ready, traced

from . import init
from .constant import constant_result
from .doors import Entered, Lengths, enter, enter_states
from .omega import Counting
from .runs import joined as stacked_states
from .runs import side_by_side

# A parameter of the equation -> what torch calls it, or would: "_l0" or "_l0_reverse" follows.
STEMS = {
    "W_ih": "weight_ih",
    "W_hh": "weight_hh",
    "b_ih": "bias_ih",
    "b_hh": "bias_hh",
    "W_hr": "weight_hr",
    "g_ih": "norm_weight_ih",
    "g_hh": "norm_weight_hh",
    "g_c": "norm_weight_c",
    "b_c": "norm_bias_c",
    "p_i": "peephole_i",
    "p_f": "peephole_f",
    "p_o": "peephole_o",
}
OWN = ("W_ih", "W_hh", "b_ih", "b_hh", "W_hr")  # torch's constructor makes these
State = Tensor | tuple[Tensor, Tensor]


@dataclass(slots=True)
class Held:
    """What is made of a layer and can be made again: copies and pickles of the layer have none of it."""

    kernels: dict[tuple[bool, str, str, torch.dtype], Kernel] = field(default_factory=dict)
    ready: Callable[..., tuple[Any, Any] | None] | None = None

    def __deepcopy__(self, memo: object) -> Held:
        return Held()

    def __reduce__(self) -> tuple[type[Held], tuple[()]]:
        return Held, ()


class Layers(Counting, nn.RNNBase):
    """What RNN, LSTM and GRU share: a stack of one torch.nn cell, run by kernels."""

    # On the class, so that a torch.nn layer that becomes one of these (rf.convert), or an old pickle, has them.
    layer_norm = False
    peephole = False
    backend = "auto"
    _held: Held | None = None
    _leaves: tuple[str, ...] = ()

    def __init__(
        self,
        mode: str,
        *args: Any,
        layer_norm: bool = False,
        peephole: bool = False,
        backend: str = "auto",
        **kwargs: Any,
    ):
        super().__init__(mode, *args, **kwargs)
        for name, given in (("layer_norm", layer_norm), ("peephole", peephole)):
            if not isinstance(given, bool):
                raise TypeError(f"{name} should be of type bool, got: {type(given).__name__}")
        self.layer_norm, self.peephole, self.backend = layer_norm, peephole, backend
        self._add_extras()
        self._kernel(False)  # a backend that cannot run is refused now

    # What a call does -------------------------------------------------------------------------------------------------

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        lengths: Lengths = None,
        return_states: str = "last",
    ) -> tuple[Any, Any]:
        """Run the batch: (output, final state), as torch.nn has it.

        lengths        (beyond torch) how many steps of each row count: any order, 0 allowed; the output is 0 past them
        return_states  (beyond torch) "all" gives, in place of the output, a dict of "output" and every state of the
                       top layer by its name, at every step, each shaped as the output
        """
        if torch.compiler.is_compiling():
            if isinstance(input, Tensor) and self._terms is None and self._operator(False):
                return self._run(input, hx, lengths, return_states)
            eager: Any = torch.compiler.disable(self._run)
            return eager(input, hx, lengths, return_states)
        held = self._held
        if (
            held is not None
            and held.ready is not None
            and lengths is None
            and return_states == "last"
            and not torch.is_grad_enabled()
        ):
            found = held.ready(input, hx)
            if found is not None:
                return found
        return self._run(input, hx, lengths, return_states)

    def _run(
        self, input: Tensor | PackedSequence, hx: Any, lengths: Lengths, return_states: str
    ) -> tuple[Any, Any]:
        if return_states not in ("last", "all"):
            raise KernelError(f'return_states is "{return_states}".', 'Choose "last" or "all".')
        weights = self._weights()
        like = weights[0]
        self._check(input, hx, like, lengths)
        packed = isinstance(input, PackedSequence) and self._kernel(False).backend == COMPILED
        packed = packed and self._terms is None
        batch = enter(input, lengths, self.input_size, self.batch_first, like, packed)
        sizes = self._state_sizes()
        layers = len(self._all_weights)
        states = enter_states(hx, sizes, layers, batch, like)
        if states is None:
            states = tuple(like.new_zeros(layers, batch.batch, width) for width in sizes.values())
        top, finals, calls = self._stack(batch, states, weights, return_states == "all")
        if not torch.compiler.is_compiling():
            self._make_ready(batch, calls)
        final = tuple(batch.state_out(stacked_states(s)) for s in zip(*finals, strict=True))
        hidden = final[0] if len(final) == 1 else final
        if return_states == "all":
            return {name: batch.out(value) for name, value in top.items()}, hidden
        return batch.out(top["output"]), hidden

    def _stack(
        self, batch: Entered, states: tuple[Tensor, ...], weights: list[Tensor], histories: bool
    ) -> tuple[dict[str, Tensor], list[tuple[Tensor, ...]], list[Call]]:
        """All layers: every step of the top one by names, final states and calls of all."""
        finals, calls = [], []
        directions = 2 if self.bidirectional else 1
        given = self._parameters_of(weights)
        x, top = batch.x, {}
        for layer in range(self.num_layers):
            if layer > 0:
                x = nn.functional.dropout(top["output"], self.dropout, self.training)
            asked = histories and layer == self.num_layers - 1
            runs = []
            for reverse in range(directions):
                index = layer * directions + reverse
                call = Call(
                    batch.steps,
                    (x,),
                    tuple(s[index] for s in states),
                    next(given),
                    batch.lengths,
                    bool(reverse),
                    None,
                    batch.rows,
                    asked,
                )
                run = self._call(layer > 0, call)
                calls.append(call)
                finals.append(run.final)
                runs.append(run)
            top = side_by_side(runs, self._state_sizes(), asked)
        return top, finals, calls

    def _call(self, stacked: bool, call: Call) -> Run:
        if torch.compiler.is_compiling():
            return traced(self._operator(stacked), call)
        terms = self._counting
        if terms is None:
            return self._kernel(stacked)(call)
        return terms.run(call, self._kernel(stacked, terms.form))

    # Kernels ----------------------------------------------------------------------------------------------------------

    @property
    def kernel(self) -> Kernel:
        """The kernel of the first layer; `.backend` and `.reason` say which and why."""
        return self._kernel(False)

    def _kernel(self, stacked: bool, omega: str = "") -> Kernel:
        like = self._parameters.get("weight_ih_l0")
        if like is None:
            like = self.weight_ih_l0  # worked out: torch's parametrizations
        if self._held is None:
            self.__dict__["_held"] = Held()
        assert self._held is not None and isinstance(like, Tensor)
        kernels = self._held.kernels
        key = (stacked, omega, like.device.type, like.dtype)
        if key not in kernels:
            letters = self._letters(stacked)
            cell = wrapped(self._cell(), Form(omega=omega)).cell
            kernels[key] = build(cell, letters, self.backend, like.device, like.dtype)
        return kernels[key]

    @constant_result
    def _operator(self, stacked: bool) -> str:
        """The name of a kernel among torch's operators, which exist from now on; nothing where there is none."""
        return operator_of(self._kernel(stacked))

    def operators(self) -> tuple[str, ...]:
        """The names under which torch's operators find the compiled kernels (see `Recurrent.operators`)."""
        kernels = {self._kernel(layer > 0) for layer in range(self.num_layers)}
        return tuple(sorted({operator_of(kernel) for kernel in kernels} - {""}))

    def _make_ready(self, batch: Entered, calls: list[Call]) -> None:
        """Make further calls without gradients ready, where that can be."""
        assert self._held is not None
        self._held.ready = None
        direct = not self.bidirectional and not (self.training and self.dropout)
        kernels = [self._kernel(layer > 0) for layer in range(self.num_layers)]
        if (
            torch.is_grad_enabled()
            or batch.lengths is not None
            or batch.rows is not None
            or not direct
            or any(kernel.backend != COMPILED for kernel in kernels)
            or any(self._parameters.get(name) is None for name in self._flat_weights_names)
        ):
            return
        homes: list[list[Home]] = [
            [(self._parameters, n) for n in part] for part in self._all_weights
        ]
        starts = (0.0,) * len(calls[0].states)
        self._held.ready = ready(kernels, calls, homes, starts, self.batch_first)

    # Cells, sizes, parameters -----------------------------------------------------------------------------------------

    def _cell(self) -> Cell:
        raise NotImplementedError

    def _letters(self, stacked: bool) -> dict[str, int]:
        output = self.proj_size or self.hidden_size
        below = output * (2 if self.bidirectional else 1) if stacked else self.input_size
        letters = {"m": below, "n": self.hidden_size}
        return letters | {"r": self.proj_size} if self.proj_size else letters

    def _state_sizes(self) -> dict[str, int]:
        return {"h": self.proj_size or self.hidden_size}

    def _weights(self) -> list[Tensor]:
        """The parameters in torch's order, as they are now; the list that torch keeps of them is brought up to date."""
        held = self._parameters
        found: list[Any] = []
        for name in self._flat_weights_names:
            kept = held.get(name)
            found.append(getattr(self, name) if kept is None else kept)
        if not torch.compiler.is_compiling() and not all(map(is_, found, self._flat_weights)):
            # What is worked out from parameters is held without its graph, which no copy could follow.
            flat = [w if isinstance(w, nn.Parameter) else w.detach() for w in found]
            self.__dict__["_flat_weights"] = flat
            self.__dict__["_flat_weight_refs"] = [ref(w) for w in found]
        return found

    def _parameters_of(self, weights: list[Tensor]) -> Iterator[dict[str, Tensor]]:
        """For each layer and direction, its parameters by their names in the equation."""
        names = self._names()
        count = len(names)
        for start in range(0, len(weights), count):
            yield dict(zip(names, weights[start : start + count], strict=True))

    @constant_result
    def _names(self) -> tuple[str, ...]:
        """The parameters of the equation, in torch's order."""
        if not self._leaves:
            names = tuple(leaf.name for leaf in self._cell().graph.leaves_of("param"))
            self.__dict__["_leaves"] = names
        return self._leaves

    def _add_extras(self) -> None:
        """The parameters that torch's layers do not have, behind those that they have."""
        leaves = [x for x in self._cell().graph.leaves_of("param") if x.name not in OWN]
        if not leaves:
            return
        like = self.weight_ih_l0
        assert isinstance(like, Tensor)
        for part, names in enumerate(self._all_weights):
            suffix = names[0].removeprefix("weight_ih")
            for leaf in leaves:
                shape = [size.at(self._letters(part > 0)) for size in leaf.shape]
                tensor = torch.empty(shape, device=like.device, dtype=like.dtype)
                self.register_parameter(STEMS[leaf.name] + suffix, nn.Parameter(tensor))
                names.append(STEMS[leaf.name] + suffix)
        self._flat_weights_names = [name for part in self._all_weights for name in part]
        self._init_flat_weights()
        self._draw_extras()

    def _draw_extras(self) -> None:
        """Norms start as norms alone, peepholes as all weights."""
        leaves = self._cell().graph.leaves_of("param")
        for names in self._all_weights:
            for leaf, name in zip(leaves, names, strict=True):
                if leaf.name not in OWN:
                    init.fill(getattr(self, name), leaf.init, self.hidden_size)

    def reset_parameters(self) -> None:
        """Draw all parameters again, as torch does."""
        super().reset_parameters()
        if self.layer_norm or self.peephole:
            self._draw_extras()

    def flatten_parameters(self) -> None:
        """Nothing: it is cuDNN that wants the parameters in one piece of memory, and it does not run here."""

    def __setattr__(self, attr: str, value: Any) -> None:
        super().__setattr__(attr, value)
        if self._held is not None:
            self._held.ready = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_held": None}

    def _replicate_for_data_parallel(self) -> Any:
        replica: Any = super()._replicate_for_data_parallel()
        replica.__dict__["_held"] = None
        return replica

    def extra_repr(self) -> str:
        extras = {"layer_norm": self.layer_norm, "peephole": self.peephole}
        changed = [f"{name}=True" for name, value in extras.items() if value]
        changed += [f"backend={self.backend!r}"] if self.backend != "auto" else []
        return ", ".join([super().extra_repr(), *changed])

    # Checks, with torch's texts ---------------------------------------------------------------------------------------

    def _check(
        self, input: Tensor | PackedSequence, hx: Any, like: Tensor, lengths: Lengths
    ) -> None:
        """Whether input and hx fit.

        Errors  those of torch.nn, with their types and texts
        """
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        counts = input.batch_sizes if packed else None
        if not packed:
            if x.dim() not in (2, 3):
                instead = " tensor instead" if self.mode.startswith("RNN") else " instead"
                raise ValueError(
                    f"{type(self).__name__}: Expected input to be 2D or 3D, got {x.dim()}D{instead}"
                )
            if x.dim() == 2:
                x = x.unsqueeze(0 if self.batch_first else 1)
            if hx is not None:
                hx = self._same_rank(hx, input.dim())
        if hx is None:
            self.check_input(x, counts)
        else:
            self.check_forward_args(x, hx, counts)
        if x.device != like.device:
            raise RuntimeError(
                "Input and parameter tensors are not at the same device, found input tensor at "
                f"{x.device} and parameter tensor at {like.device}"
            )
        for state in (hx if isinstance(hx, tuple | list) else (hx,)) if hx is not None else ():
            if state.device != x.device:
                raise RuntimeError(
                    "Input and hidden tensors are not at the same device, found input tensor at "
                    f"{x.device} and hidden tensor at {state.device}"
                )
        if not packed and lengths is None and x.shape[1 if self.batch_first else 0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")

    def _same_rank(self, hx: Any, rank: int) -> Any:
        """The initial state with a batch; refused where x has one and it has none, or the other way round."""
        if hx.dim() != rank:
            form = "unbatched 2-D" if rank == 2 else "batched 3-D"
            raise RuntimeError(
                f"For {form} input, hx should also be {rank}-D but got {hx.dim()}-D tensor"
            )
        return hx.unsqueeze(1) if rank == 2 else hx


class RNN(Layers):
    """torch.nn.RNN: the same arguments, parameters and results. `backend` is refold's own."""

    def __init__(self, *args: Any, **kwargs: Any):
        _refuse_proj_size(kwargs)
        if len(args) > 3:
            nonlinearity, args = args[3], args[:3] + args[4:]
        else:
            nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        _refuse_extras("RNN", kwargs, "layer_norm", "peephole")
        self.nonlinearity = nonlinearity
        super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)

    def _cell(self) -> Cell:
        return joined.rnn("relu" if self.mode == "RNN_RELU" else "tanh", self.bias)


class LSTM(Layers):
    """torch.nn.LSTM: the same arguments, parameters and results.

    Beyond torch, by keyword: `layer_norm=True` (Ba, Kiros & Hinton 2016) adds norm_weight_ih, norm_weight_hh,
    norm_weight_c and, with bias, norm_bias_c to each layer, the biases being those of the norms; `peephole=True`
    (Gers, Schraudolph & Schmidhuber 2002) adds peephole_i, peephole_f, peephole_o; `backend` as `rf.Recurrent` has it.

    Example
        lstm = rf.nn.LSTM(10, 20, num_layers=2, batch_first=True)
        output, (h_n, c_n) = lstm(torch.randn(3, 5, 10))
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__("LSTM", *args, **kwargs)

    def _cell(self) -> Cell:
        return joined.lstm(self.bias, self.proj_size > 0, self.layer_norm, self.peephole)

    def _state_sizes(self) -> dict[str, int]:
        return {"h": self.proj_size or self.hidden_size, "c": self.hidden_size}

    def get_expected_cell_size(
        self, input: Tensor, batch_sizes: Tensor | None
    ) -> tuple[int, int, int]:
        layers, batch, _ = self.get_expected_hidden_size(input, batch_sizes)
        return layers, batch, self.hidden_size

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        self.check_input(input, batch_sizes)
        expected = (
            self.get_expected_hidden_size(input, batch_sizes),
            self.get_expected_cell_size(input, batch_sizes),
        )
        for k, size in enumerate(expected):
            text = f"Expected hidden[{k}] size {{}}, got {{}}"
            self.check_hidden_size(hidden[k], size, text)

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        h, c = hx[0], hx[1]
        return super().permute_hidden(h, permutation), super().permute_hidden(c, permutation)

    def _same_rank(self, hx: Any, rank: int) -> Any:
        h, c = hx[0], hx[1]
        if h.dim() != rank or c.dim() != rank:
            form = "unbatched 2-D" if rank == 2 else "batched 3-D"
            raise RuntimeError(
                f"For {form} input, hx and cx should also be {rank}-D "
                f"but got ({h.dim()}-D, {c.dim()}-D) tensors"
            )
        return (h.unsqueeze(1), c.unsqueeze(1)) if rank == 2 else (h, c)


class GRU(Layers):
    """torch.nn.GRU: the same arguments, parameters and results.

    Beyond torch, by keyword: `layer_norm=True` (Ba, Kiros & Hinton 2016) adds norm_weight_ih and norm_weight_hh to each
    layer, the biases being those of the norms; `backend` as `rf.Recurrent` has it.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        _refuse_proj_size(kwargs)
        _refuse_extras("GRU", kwargs, "peephole")
        super().__init__("GRU", *args, **kwargs)

    def _cell(self) -> Cell:
        return joined.gru(self.bias, self.layer_norm)


class RNNCell(nn.RNNCell):
    """torch.nn.RNNCell as it is: one step has no loop to compile, and torch's own function runs it."""


class LSTMCell(nn.LSTMCell):
    """torch.nn.LSTMCell as it is: one step has no loop to compile, and torch's own function runs it."""


class GRUCell(nn.GRUCell):
    """torch.nn.GRUCell as it is: one step has no loop to compile, and torch's own function runs it."""


def _refuse_proj_size(kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


def _refuse_extras(layer: str, kwargs: dict[str, Any], *names: str) -> None:
    for name in names:
        if name in kwargs:
            raise TypeError(f"{layer} has no option {name}; rf.nn.LSTM has.")
