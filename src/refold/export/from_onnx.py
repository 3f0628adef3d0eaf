"""ONNX's RNN, GRU and LSTM nodes as torch modules, compiled as any cell is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from refold.errors import KernelError
from refold.ir.trace import Cell
from refold.kernels import autograd as _derived  # noqa: F401  (registers its backend)
from refold.kernels.base import Call, Kernel, Run, build, operator_of, traced
from refold.nn.constant import constant_result
from refold.nn.doors import whole_lengths

from .fit import fitted
from .node import Node, read
from .operators import cell_of
from .source import named, shown, sought, tensor_of

WEIGHTS = ("W", "R", "B", "P")


def from_onnx(
    source: Any,
    initializers: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    backend: str = "auto",
) -> OnnxNode:
    """A recurrent node of ONNX as a torch module, which meets its specification (opset 1 to 22) to the letter.

    Arguments
        source        an onnx.NodeProto, an onnx.ModelProto, or the path of a file .onnx
        initializers  the node's constant inputs, under the operator's names (W, R, B, P, ...) or the graph's: tensors,
                      arrays or TensorProtos. A model's own need not be given
        name          which node, where a model has several recurrent ones: its own name or that of an output
        backend       as in `rf.Recurrent`

    Errors
        EquationError  another operator, or attributes that it cannot have
        KernelError    initializers that do not fit, or that the node does not have; onnx is needed and not installed
        DataError      a file that cannot be read, a model without such a node, or with several and no name

    Example
        lstm = rf.from_onnx("model.onnx")
        y, y_h, y_c = lstm(torch.randn(20, 4, 8))
    """
    proto, found = sought(source, name)
    node = read(proto)
    own = {k: v for k, v in found.items() if k in node.inputs.values()}
    held = named({**own, **(initializers or {})}, node.inputs, node.where)
    return OnnxNode(
        node, {k: tensor_of(v, k, node.where) for k, v in held.items() if k != "X"}, backend
    )


class OnnxNode(nn.Module):
    """A recurrent node of ONNX. Its forward takes the node's inputs and gives its outputs.

    Weights that are initializers are parameters, under the operator's names (W, R, B, P); sequence_lens and initial
    states that are initializers are buffers. All other inputs of the node are arguments of the forward, by position in
    the node's order, or by the operator's or the graph's name. Those that are held can be given by name as well, and
    are then used in place of what is held. sequence_lens and initial states may be left out.

    Shapes
        X         (steps, batch, input); with layout 1 (batch, steps, input)
        Y         (steps, directions, batch, hidden); (batch, steps, directions, hidden). 0 past a row's length
        Y_h, Y_c  (directions, batch, hidden); (batch, directions, hidden): the states after each row's own last step,
                  in its direction; a row of length 0 keeps its initial state

    `outputs` says which of them the node gives: it is those, in order, that the forward returns, always as a tuple.
    `cells` holds the equation of each direction, for `rf.explain`.
    """

    def __init__(self, node: Node, held: Mapping[str, Tensor], backend: str = "auto"):
        super().__init__()
        self.node = node
        self.backend = backend
        self.cells: tuple[Cell, ...] = tuple(cell_of(settings) for settings in node.settings)
        self.outputs = node.outputs
        self._kernels: dict[tuple[object, ...], Kernel] = {}
        sizes = fitted(node, held)
        for name, tensor in held.items():
            if name not in WEIGHTS:
                self.register_buffer(name, tensor.detach().clone())
            elif isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor.detach().clone()))
        if (
            "W" in held and "R" in held
        ):  # a backend that cannot run is refused now, not at the first call
            for index in range(len(self.cells)):
                self._kernel(_key(index, sizes, held["W"]))

    def forward(self, *given: Tensor | None, **named: Tensor | None) -> tuple[Tensor, ...]:
        inputs = self._inputs(given, named)
        sizes = fitted(self.node, inputs)
        by_row = self.node.layout == 1
        x = inputs["X"].transpose(0, 1) if by_row else inputs["X"]
        lengths = whole_lengths(
            inputs.get("sequence_lens"), sizes["steps"], sizes["batch"], "sequence_lens"
        )
        states = [self._state(name, inputs, sizes) for name in self.node.operator.states]
        runs = []
        for index, backwards in enumerate(self.node.backwards):
            weights = {name: inputs[name][index] for name in WEIGHTS if name in inputs}
            first = tuple(s[index] for s in states)
            call = Call(sizes["steps"], (x,), first, weights, lengths, backwards, histories=False)
            runs.append(self._call(index, sizes, call))
        # (steps, directions, batch, hidden), and each state as (directions, batch, hidden)
        values = [torch.stack([run.output for run in runs], 1)]
        values += [torch.stack(final) for final in zip(*(r.final for r in runs), strict=True)]
        if by_row:
            values = [values[0].permute(2, 0, 1, 3), *(v.transpose(0, 1) for v in values[1:])]
        made = dict(zip(self.node.operator.outputs, values, strict=True))
        return tuple(made[name] for name in self.outputs)

    # Inputs -----------------------------------------------------------------------------------------------------------

    def _inputs(
        self, given: tuple[Tensor | None, ...], named: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """All inputs of a call under the operator's names: those held, with what is given in their place."""
        inputs = self.node.inputs
        held = {name: getattr(self, name) for name in inputs if hasattr(self, name)}
        open_ = [name for name in inputs if name not in held]
        if len(given) > len(open_):
            raise KernelError(
                f"{len(given)} inputs came in by position, and the node leaves {len(open_)} open.",
                f"In order, they are {', '.join(open_)}; what is held is given by name.",
                self.node.where,
            )
        by_position = dict(zip(open_, given, strict=False))
        by_name = _under_own(inputs, named, self.node.where)
        twice = sorted(by_position.keys() & by_name.keys())
        if twice:
            raise KernelError(
                f"{twice[0]} came in twice.", "Give it by position or by name.", self.node.where
            )
        found = {n: t for n, t in (held | by_position | by_name).items() if t is not None}
        self._refuse_missing(found)
        for name, value in found.items():
            if not isinstance(value, Tensor):
                raise KernelError(
                    f"{name} is a {type(value).__name__}.",
                    "Convert it, for instance with torch.as_tensor.",
                    self.node.where,
                )
        return found

    def _refuse_missing(self, found: Mapping[str, Tensor]) -> None:
        needed = [n for n in ("X", *WEIGHTS) if n in self.node.inputs and n not in found]
        if needed:
            own = self.node.inputs[needed[0]]
            raise KernelError(
                f"the node reads {needed[0]} (here '{own}'), and it is neither held nor given.",
                f"Pass {needed[0]}=..., or make the module with rf.from_onnx(..., initializers={{...}}).",
                self.node.where,
            )

    def _state(self, name: str, inputs: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
        """(directions, batch, hidden)"""
        if name in inputs:
            return inputs[name].transpose(0, 1) if self.node.layout == 1 else inputs[name]
        return inputs["X"].new_zeros(sizes["directions"], sizes["batch"], sizes["hidden"])

    # Kernels ----------------------------------------------------------------------------------------------------------

    def _call(self, index: int, sizes: Mapping[str, int], call: Call) -> Run:
        key = _key(index, sizes, call.inputs[0])
        if torch.compiler.is_compiling():
            return traced(self._operator(key), call)
        return self._kernel(key)(call)

    def _kernel(self, key: tuple[Any, ...]) -> Kernel:
        if key not in self._kernels:
            index, m, n, device, dtype = key
            cell, letters = self.cells[index], {"m": m, "n": n}
            self._kernels[key] = build(cell, letters, self.backend, torch.device(device), dtype)
        return self._kernels[key]

    @constant_result
    def _operator(self, key: tuple[Any, ...]) -> str:
        return operator_of(self._kernel(key))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kernels": {}}  # they hold compiled code, and are made again

    def extra_repr(self) -> str:
        node = self.node
        changed = [f"hidden_size={node.hidden_size}"] if node.hidden_size else []
        changed += [f"direction={node.direction}"] if node.direction != "forward" else []
        changed += [f"layout={node.layout}"] if node.layout else []
        return ", ".join([node.op, *([node.name] if node.name else []), *changed])


def _key(index: int, sizes: Mapping[str, int], like: Tensor) -> tuple[Any, ...]:
    """What a kernel is made for."""
    return index, sizes["input"], sizes["hidden"], like.device.type, like.dtype


def _under_own(
    inputs: Mapping[str, str], given: Mapping[str, Tensor | None], where: str
) -> dict[str, Tensor | None]:
    """Inputs given by name, under the operator's names."""
    of = {own: name for name, own in inputs.items()} | {name: name for name in inputs}
    strange = [name for name in given if name not in of]
    if strange:
        raise KernelError(
            f"the node has no input {strange[0]}.", f"Its inputs are {shown(inputs)}.", where
        )
    return {of[name]: value for name, value in given.items()}
