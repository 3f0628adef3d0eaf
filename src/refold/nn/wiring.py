"""Networks of all shapes: a layer, a head, and how they are wired along time.

    one-to-one        x(1) -> y(1)                 the folded cell, used once
    one-to-many       x(1) -> y(1) ... y(U)        each output is the next input
    many-to-one       x(1) ... x(T) -> y           the final outputs of the layer
    many-to-many      x(1) ... x(T) -> y(1) ... y(T)
    encoder-decoder   x(1) ... x(T) -> y(1) ... y(U)
                      the encoder's final states start the decoder, whose outputs are its inputs

Batches are ragged throughout: `lengths` counts the steps of each row of x, `target_lengths` those
of each row of y, and what lies behind is neither read nor written.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from refold.errors import KernelError, RefoldError

from .doors import Lengths, whole_lengths
from .heads import both_directions, final_outputs, zero_past
from .layer import Recurrent, State

Shape = Literal["one-to-one", "one-to-many", "many-to-one", "many-to-many", "encoder-decoder"]
Feedback = Literal["value", "class"]

FED_BACK: tuple[Shape, ...] = ("one-to-many", "encoder-decoder")
ONE_INPUT: tuple[Shape, ...] = ("one-to-one", "one-to-many")


class Network(nn.Module):
    """A recurrent layer with a head, wired in one of five shapes.

    `head` maps an output of the layer (of the decoder, where there is one) to y: a module, a
    number k for torch.nn.Linear(features, k), or None for the output itself. `feedback` says what
    of y is the next input where outputs are fed back: "value" y itself, "class" the one-hot vector
    of the largest score, the targets then being classes (integers).

    Shapes  x (T, B, m); one-to-one and one-to-many take (B, m), or (1, B, m). Without a batch: (T,
    m), or (m,). y is (T, B, k) for many-to-many, (U, B, k) for one-to-many and encoder-decoder,
    (B, k) for many-to-one and one-to-one; zero past each row's length.

    Errors  RefoldError for parts that do not fit together, KernelError for a call that does not
    fit the shape, both with the name of the shape; KernelError for lengths that are no lengths.

    Example
        >>> net = Network(Recurrent("gru", 3, 8), head=2, shape="many-to-one")
        >>> net(torch.zeros(5, 4, 3), lengths=[5, 2, 0, 3]).shape
        torch.Size([4, 2])

    Source  the five shapes after Karpathy 2015; encoder-decoder of Sutskever, Vinyals & Le 2014
    (states handed over); feeding the true output back in training, "teacher forcing", of Williams
    & Zipser 1989.
    """

    def __init__(
        self,
        layer: Recurrent,
        head: nn.Module | int | None = None,
        shape: Shape = "many-to-many",
        *,
        decoder: Recurrent | None = None,
        feedback: Feedback = "value",
    ) -> None:
        super().__init__()
        self.shape: Shape = shape
        self.feedback: Feedback = feedback
        _check_parts(layer, decoder, shape, feedback)
        self.layer = layer
        self.decoder = decoder
        self.head = _head(head, self._last_layer.output_features, layer, _where(self))
        _check_loop(self)

    @property
    def _last_layer(self) -> Recurrent:
        return self.layer if self.decoder is None else self.decoder

    def extra_repr(self) -> str:
        return f"shape={self.shape!r}" + f", feedback={self.feedback!r}" * (self.shape in FED_BACK)

    def forward(
        self,
        x: Tensor,
        lengths: Lengths = None,
        state: State | None = None,
        *,
        steps: int | None = None,
        target: Tensor | None = None,
        target_lengths: Lengths = None,
    ) -> Tensor:
        """Run the network.

        one-to-many and encoder-decoder need the number U of outputs: `steps`, or `target_lengths`
        (whose largest is taken), or `target` (U, B, k). With `target` the true outputs are fed
        back instead of the network's own (training); without it the network runs free
        (prediction). `state` is the initial state of the (encoding) layer.
        """
        _check_call(self, x, lengths, steps, target, target_lengths)
        x, state, target, batched = self._with_batch(x, state, target)
        rows = whole_lengths(lengths, x.shape[0], x.shape[1])
        match self.shape:
            case "one-to-one":
                y = self._headed(self.layer(x, state)[0][0])
            case "many-to-one":
                outputs = self.layer(x, state, rows)[0]
                y = self._headed(final_outputs(outputs, rows, self.layer.directions))
            case "many-to-many":
                # A head's bias would stand behind the end of a row.
                y = zero_past(self._headed(self.layer(x, state, rows)[0]), rows)
            case "one-to-many":
                y = self._fed_back(x, state, steps, target, target_lengths)
            case "encoder-decoder":
                final = self.layer(x, state, rows)[1]
                final = both_directions(final) if self.layer.directions == 2 else final
                first = x.new_zeros(1, x.shape[1], self._last_layer.input_features)
                y = self._fed_back(first, final, steps, target, target_lengths)
        return y if batched else y.squeeze(-2)

    def stretch(
        self, x: Tensor, lengths: Lengths = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """A stretch of longer sequences: y, and the states from which the next stretch goes on.

        Shapes  x (T, B, m), y (T, B, k); many-to-many only, in one direction.

        Errors  KernelError for another shape, or a layer that also runs in reverse.
        """
        where = _where(self)
        if self.shape != "many-to-many" or self.layer.directions == 2:
            fact = "a stretch ends where a longer sequence goes on, "
            fact += (
                "and the layer also reads in reverse"
                if self.layer.directions == 2
                else f"and {self.shape} has to see the whole"
            )
            raise KernelError(fact, "use shape='many-to-many' and one direction", where)
        _check_call(self, x, lengths, None, None, None)
        rows = whole_lengths(lengths, x.shape[0], x.shape[1])
        y, after = self.layer(x, state, rows)
        return zero_past(self._headed(y), rows), after

    def _with_batch(
        self, x: Tensor, state: State | None, target: Tensor | None
    ) -> tuple[Tensor, State | None, Tensor | None, bool]:
        """x as (T, B, m): adds the axis of time to a single input, and that of the batch."""
        if self.shape in ONE_INPUT and x.ndim < 3:
            x = x.unsqueeze(0)
        if x.ndim == 3:
            return x, state, target, True
        if isinstance(state, tuple | list):
            state = tuple(_with_row(part) for part in state)
        elif state is not None:
            state = _with_row(state)
        return x.unsqueeze(1), state, None if target is None else target.unsqueeze(1), False

    def _fed_back(
        self,
        first: Tensor,
        state: State | None,
        steps: int | None,
        target: Tensor | None,
        target_lengths: Lengths,
    ) -> Tensor:
        """The outputs y(1) ... y(U) of the layer that reads its own past outputs."""
        layer, batch = self._last_layer, first.shape[1]
        most = target.shape[0] if target is not None else steps
        rows = whole_lengths(target_lengths, most, batch, "target_lengths")
        if target is not None:
            told = zero_past(target, rows)[:-1]
            inputs = torch.cat([first, self._as_input(told, first)])
            return zero_past(self._headed(layer(inputs, state, rows)[0]), rows)
        outputs, x = [], first
        for _ in range(_number(self, steps, rows)):
            y, state = layer(x, state)
            outputs.append(self._headed(y))
            x = self._as_input(outputs[-1], first)
        return zero_past(torch.cat(outputs), rows)

    def _as_input(self, y: Tensor, like: Tensor) -> Tensor:
        """What the next step reads of outputs (or targets) y."""
        size = self._last_layer.input_features
        if y.is_floating_point() and y.shape[-1] != size:
            fact = f"{y.shape[-1]} features are fed back to a layer that reads {size}"
            raise KernelError(fact, f"let head and target have {size} features", _where(self))
        if self.feedback == "value":
            return y
        if y.is_floating_point():
            return nn.functional.one_hot(y.argmax(-1), size).to(like.dtype)
        strange = (y < 0) | (y >= size)
        if strange.any():
            fact = f"target holds class {int(y[strange][0])}, and the layer reads {size} classes"
            raise KernelError(fact, f"give classes from 0 to {size - 1}", _where(self))
        return nn.functional.one_hot(y.long(), size).to(like.dtype)

    def _headed(self, outputs: Tensor) -> Tensor:
        return outputs if self.head is None else self.head(outputs)


def _number(net: Network, steps: int | None, rows: Tensor | None) -> int:
    """How many outputs a free run has."""
    if steps is not None:
        return steps
    if rows is None or not rows.any():
        fact = "target_lengths are all 0: nothing is to be written"
        raise KernelError(fact, "give at least one step", _where(net))
    return int(rows.max())


def _with_row(state: Any) -> Any:
    """A state of one row, with the axis of the batch; the layer refuses what cannot have one."""
    return state.unsqueeze(1) if isinstance(state, Tensor) and state.ndim else state


def _head(head: Any, features: int, layer: nn.Module, where: str) -> nn.Module | None:
    if head is None or isinstance(head, nn.Module):
        return head
    if _is_whole(head) and head > 0:
        weight = next(layer.parameters(), torch.empty(()))
        return nn.Linear(features, int(head), device=weight.device, dtype=weight.dtype)
    remedy = "give a module, such as torch.nn.Tanh(), or a number of features, at least 1"
    raise RefoldError(f"head is {head!r}", remedy, where)


# What is refused.


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _where(net: Network) -> str:
    return f"rf.Network(shape={net.shape!r})"


def _check_parts(layer: Any, decoder: Any, shape: Shape, feedback: Feedback) -> None:
    where = f"rf.Network(shape={shape!r})"
    if shape not in get_args(Shape):
        raise RefoldError(f"no shape {shape!r}", "one of: " + ", ".join(get_args(Shape)), where)
    if feedback not in get_args(Feedback) or (feedback == "class" and shape not in FED_BACK):
        fact = f"feedback={feedback!r}, but {shape} feeds nothing back"
        if shape in FED_BACK:
            fact = f"no feedback {feedback!r}"
        raise RefoldError(fact, "leave it at 'value'; 'class' is for " + ", ".join(FED_BACK), where)
    for name, part in (("layer", layer), ("decoder", decoder)):
        if part is not None or name == "layer":
            _check_layer(name, part, where)
    if shape == "encoder-decoder" and decoder is None:
        raise RefoldError(
            "this shape needs a second layer that writes the outputs",
            f"give decoder=rf.Recurrent(cell, k, {layer.directions * layer.output_size}), "
            "k the features of an output",
            where,
        )
    if shape != "encoder-decoder" and decoder is not None:
        fact = f"a decoder is given, which {shape} does not have"
        raise RefoldError(fact, "leave it out, or use shape='encoder-decoder'", where)
    if decoder is not None:
        _check_handover(layer, decoder, where)


def _check_layer(name: str, part: Any, where: str) -> None:
    if not isinstance(part, Recurrent):
        fact = f"{name} is a {type(part).__name__}, not an rf.Recurrent"
        raise RefoldError(fact, f"give {name}=rf.Recurrent(cell, input_size, hidden_size)", where)
    if part.batch_first:
        fact = f"{name} is batch_first, but a network computes on (T, B, features)"
        raise RefoldError(fact, f"build {name} without batch_first", where)


def _check_handover(layer: Recurrent, decoder: Recurrent, where: str) -> None:
    ends = [size * layer.directions for size in layer.state_sizes.values()]
    starts = list(decoder.state_sizes.values())
    if layer.num_layers != decoder.num_layers or ends != starts:
        joined = ", both directions joined" * (layer.directions == 2)
        fact = (
            f"the encoder ends with {layer.num_layers} layer(s) of states {_told(layer, ends)}"
            f"{joined}; the decoder starts with {decoder.num_layers} layer(s) of states "
            f"{_told(decoder, starts)}"
        )
        raise RefoldError(fact, "give the decoder the same layers, states and sizes", where)


def _told(layer: Recurrent, sizes: Sequence[int]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in zip(layer.state_sizes, sizes, strict=True))


def _check_loop(net: Network) -> None:
    """The head reads the layer's output; where outputs are fed back, the layer reads the head's."""
    layer, head, where = net._last_layer, net.head, _where(net)
    if isinstance(head, nn.Linear) and head.in_features != layer.output_features:
        fact = f"the head reads {head.in_features} features, the layer gives "
        fact += f"{layer.output_features} ({layer.output_size} x {layer.directions} direction(s))"
        raise RefoldError(fact, f"give head={head.out_features}, which makes the Linear", where)
    if net.shape not in FED_BACK:
        return
    if layer.directions == 2:
        part = "decoder" if net.decoder is not None else "layer"
        fact = f"the {part} is bidirectional: its reverse direction would read outputs that are "
        raise RefoldError(
            fact + "not yet written", f"build the {part} with bidirectional=False", where
        )
    reads = layer.input_features
    if reads == 0:
        fact = f"cell '{layer.cell.name}' reads no input, and an output is to be fed back to it"
        raise RefoldError(fact, "use shape='many-to-many', with x of no features", where)
    if head is None or isinstance(head, nn.Linear):
        given = layer.output_features if head is None else head.out_features
        if given != reads:
            fact = f"an output has {given} features, but is fed back to a layer that reads {reads}"
            raise RefoldError(fact, f"give head={reads}", where)


def _check_call(
    net: Network,
    x: Any,
    lengths: Lengths,
    steps: int | None,
    target: Tensor | None,
    target_lengths: Lengths,
) -> None:
    where = _where(net)
    single = net.shape in ONE_INPUT
    shapes = "(B, m), (1, B, m) or (m,)" if single else "(T, B, m) or (T, m)"
    if not isinstance(x, Tensor):
        fact = f"x is a {type(x).__name__}, not a tensor {shapes}"
        remedy = "a packed sequence is opened by torch.nn.utils.rnn.pad_packed_sequence"
        raise KernelError(fact, remedy, where)
    if x.ndim not in ((1, 2, 3) if single else (2, 3)):
        raise KernelError(f"x has shape {tuple(x.shape)}", f"give {shapes}", where)
    if single and x.ndim == 3 and x.shape[0] != 1:
        fact = f"x has shape {tuple(x.shape)}: {x.shape[0]} steps, where one input is read"
        raise KernelError(fact, f"give {shapes}, or use shape='many-to-many'", where)
    if lengths is not None and (single or x.ndim == 2):
        fact = "lengths is given, but x has one step" if single else "lengths is given without rows"
        raise KernelError(fact, "leave lengths out", where)
    if net.shape in FED_BACK:
        _check_outputs(net, x, steps, target, target_lengths)
        return
    for name, value in (("steps", steps), ("target", target), ("target_lengths", target_lengths)):
        if value is not None:
            fact = f"{name} is given, but {net.shape} feeds nothing back"
            raise KernelError(fact, f"leave {name} out", where)


def _check_outputs(
    net: Network,
    x: Tensor,
    steps: int | None,
    target: Tensor | None,
    target_lengths: Lengths,
) -> None:
    where = _where(net)
    if steps is None and target is None and target_lengths is None:
        raise KernelError(
            "the number of outputs is not known",
            "give steps=U for a free run, or target=d to train",
            where,
        )
    if steps is not None and not (_is_whole(steps) and steps > 0):
        raise KernelError(f"steps is {steps!r}", "give a whole number, at least 1", where)
    if target is None:
        return
    if not isinstance(target, Tensor):
        fact = f"target is a {type(target).__name__}"
        raise KernelError(fact, "give a tensor, padded where its rows end", where)
    unbatched = x.ndim == (1 if net.shape == "one-to-many" else 2)
    classes = net.feedback == "class"
    rank = 3 - unbatched - classes
    kind = "integer" if classes else "float"
    if target.ndim != rank or target.is_floating_point() == classes or not len(target):
        axes = ["U"] + ["B"] * (not unbatched) + ["k"] * (not classes)
        fact = f"target is {target.dtype} of shape {tuple(target.shape)}"
        other = "value" if classes else "class"
        remedy = f"give {kind} ({', '.join(axes)}), U at least 1, or feedback={other!r}"
        raise KernelError(fact, remedy, where)
    if steps is not None and steps != len(target):
        fact = f"steps is {steps}, but target has {len(target)} steps"
        raise KernelError(fact, "leave steps out: target says it", where)
    if not unbatched and target.shape[1] != x.shape[-2]:
        fact = f"target has {target.shape[1]} rows, and x has {x.shape[-2]}"
        raise KernelError(fact, "give one row of target for each row of x", where)
