"""The doors of a layer: whatever form a batch comes in, inside it is (T, B, feature) with lengths or None.

Everything that a kernel relies on is checked here, so that no kernel has to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from refold.errors import KernelError
from refold.kernels.rows import Rows

Lengths = Tensor | Sequence[int] | None
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Entered:
    """A batch inside the house, and how to hand results back in the form it came in.

    Shapes  x (T, B, features); lengths (B,) int64 on the CPU, or None when every row lasts T steps.
            With `rows` x is packed as these say, (rows in all, features), and so is all that goes along with it
    """

    x: Tensor
    steps: int
    batch: int
    lengths: Tensor | None
    packed: PackedSequence | None
    batched: bool
    batch_first: bool
    rows: Rows | None = None

    def out(self, y: Tensor) -> Tensor | PackedSequence:
        """An output (T, B, size), or a packed one, in the caller's form."""
        if self.packed is not None:
            if self.rows is not None:
                return self.packed._replace(data=y)
            return _repacked(y, self.packed, self.lengths)
        if not self.batched:
            return y.squeeze(1)
        return y.transpose(0, 1) if self.batch_first else y

    def state_in(self, state: Tensor) -> Tensor:
        """A state (layers, B, size) in the order in which rows lie here."""
        order = self.rows and self.rows.order
        return state if order is None else state.index_select(1, order)

    def state_out(self, state: Tensor) -> Tensor:
        """A state (layers, B, size) in the caller's form: only the batch can be missing."""
        back = self.rows and self.rows.back
        if back is not None:
            return state.index_select(1, back)
        return state if self.batched else state.squeeze(1)


def enter(
    x: Tensor | PackedSequence,
    lengths: Lengths,
    features: int,
    batch_first: bool,
    like: Tensor,
    keep_packed: bool = False,
) -> Entered:
    """Check a batch against a layer and bring it to the inner form.

    keep_packed  a PackedSequence stays packed

    Errors  KernelError: x is no tensor, or of another rank, size, dtype or device than the weights `like`; lengths do
            not fit the batch
    """
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise KernelError(
                "x is a PackedSequence, and lengths are given as well.",
                "A PackedSequence knows its lengths: leave lengths out.",
            )
        x = x._replace(data=cast_like(x.data, like))
        _like_weights(x.data, "x", like)
        _features(x.data, features, "a PackedSequence of")
        if keep_packed:
            return _still_packed(x, batch_first)
        padded, counted = pad_packed_sequence(x)
        steps, rows = padded.shape[:2]
        return Entered(padded, steps, rows, counted, x, True, batch_first)
    if not isinstance(x, Tensor):
        raise KernelError(
            f"x is a {type(x).__name__}, and a layer reads a torch tensor or a PackedSequence.",
            "Convert it first, for instance with torch.as_tensor(x).",
        )
    if x.dim() not in (2, 3):
        raise KernelError(
            f"x has {x.dim()} dimensions, {tuple(x.shape)}; a layer reads (time, batch, {features}) "
            f"or, unbatched, (time, {features}).",
            "For one feature a step, add the feature axis with x.unsqueeze(-1).",
        )
    x = cast_like(x, like)
    _like_weights(x, "x", like)
    _features(x, features, "x of shape")
    batched = x.dim() == 3
    if not batched:
        x = x.unsqueeze(1)
    elif batch_first:
        x = x.transpose(0, 1)
    steps, rows = x.shape[:2]
    return Entered(x, steps, rows, whole_lengths(lengths, steps, rows), None, batched, batch_first)


def _still_packed(x: PackedSequence, batch_first: bool) -> Entered:
    sizes = x.batch_sizes
    counts = tuple(sizes.tolist())
    falling = not bool((sizes[1:] > sizes[:-1]).any())
    if not counts or not falling or counts[-1] < 1 or sum(counts) != x.data.shape[0]:
        raise KernelError(
            f"the PackedSequence has {x.data.shape[0]} rows, and its batch_sizes do not fall or do not add up to them.",
            "Make it with torch.nn.utils.rnn.pack_padded_sequence.",
        )
    rows = Rows(len(counts), counts[0], counts, None, x.sorted_indices, x.unsorted_indices)
    return Entered(x.data, len(counts), counts[0], None, x, True, batch_first, rows)


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """Under torch.autocast, what comes in half precision from ops before is brought to the weights' precision."""
    if x.dtype in HALF and like.dtype not in HALF and torch.is_autocast_enabled(x.device.type):
        return x.to(like.dtype)
    return x


def enter_states(
    state: Tensor | Sequence[Tensor] | None,
    sizes: Mapping[str, int],
    layers: int,
    batch: Entered,
    like: Tensor,
) -> tuple[Tensor, ...] | None:
    """Check initial states: one tensor for a cell with one state, a tuple in declared order for several.

    Shapes  each (layers, B, size), or (layers, size) when x is unbatched
    Errors  KernelError: another number of states, another shape, dtype or device
    """
    if state is None:
        return None
    states = tuple(state) if isinstance(state, tuple | list) else (state,)
    tensors = [s for s in states if isinstance(s, Tensor)]
    for name, s in zip(sizes, states, strict=False):
        if not isinstance(s, Tensor):
            raise KernelError(
                f"state {name} is a {type(s).__name__}, and a layer reads torch tensors.",
                "Pass a tensor for a cell with one state, a tuple of tensors for several.",
            )
    if len(states) != len(sizes):
        raise KernelError(
            f"the cell has {len(sizes)} state{'s' * (len(sizes) != 1)} ({', '.join(sizes)}), "
            f"and {len(states)} came in.",
            "Pass a tensor for a cell with one state, a tuple in the order declared for several.",
        )
    entered = []
    for (name, size), s in zip(sizes.items(), tensors, strict=True):
        rows = (batch.batch,) if batch.batched else ()
        expected = (layers, *rows, size)
        if tuple(s.shape) != expected:
            raise KernelError(
                f"state {name} is {tuple(s.shape)}, and {expected} is expected: "
                f"(layers x directions, {'batch, ' if batch.batched else ''}size).",
                "batch_first does not apply to states, as in torch.nn.",
            )
        s = cast_like(s, like)
        _like_weights(s, f"state {name}", like)
        entered.append(batch.state_in(s) if batch.batched else s.unsqueeze(1))
    return tuple(entered)


def whole_lengths(
    lengths: Lengths, steps: int | None, rows: int, name: str = "lengths"
) -> Tensor | None:
    """Lengths given by a caller, checked: one whole number for each row, at most the steps (None: not yet known).

    Shapes  (B,) int64 on the CPU
    Errors  KernelError: anything else than that
    """
    if lengths is None:
        return None
    if torch.compiler.is_compiling():
        return torch.as_tensor(
            lengths
        )  # a graph holds no checks of numbers: the operator makes them
    try:
        counted = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise KernelError(
            f"{name} cannot be read as a tensor: {error}.",
            "Pass a list of whole numbers, one for each row.",
        ) from None
    whole = not (counted.is_floating_point() or counted.is_complex() or counted.dtype == torch.bool)
    if not whole and counted.numel() > 0:
        raise KernelError(
            f"{name} are {counted.dtype}, and must be whole numbers.",
            f"Convert them with {name}.long().",
        )
    if tuple(counted.shape) != (rows,):
        raise KernelError(
            f"{name} have shape {tuple(counted.shape)}, and the batch has {rows} rows.",
            "Pass one length for each row.",
        )
    counted = counted.detach().to("cpu", torch.int64)
    strange = counted < 0 if steps is None else (counted < 0) | (counted > steps)
    if strange.any():
        raise KernelError(
            f"{name} hold {int(counted[strange][0])}, and "
            + ("no length is negative." if steps is None else f"there are {steps} steps."),
            "Pass 0 or more." if steps is None else f"Lengths lie between 0 and {steps}.",
        )
    return counted


def _features(x: Tensor, features: int, form: str) -> None:
    if x.shape[-1] != features:
        raise KernelError(
            f"{form} {tuple(x.shape)} has {x.shape[-1]} features, and the layer reads {features}.",
            "Give the layer that input_size, or check the order of the axes (batch_first).",
        )


def _like_weights(x: Tensor, name: str, like: Tensor) -> None:
    if x.dtype != like.dtype:
        raise KernelError(
            f"{name} is {x.dtype}, and the weights are {like.dtype}.",
            f"Convert the one, x.to({like.dtype}), or the other, layer.to({x.dtype}).",
        )
    if x.device != like.device:
        raise KernelError(
            f"{name} is on {x.device}, and the weights are on {like.device}.",
            f'Move the one, x.to("{like.device}"), or the other, layer.to("{x.device}").',
        )
    if x.layout != torch.strided:
        raise KernelError(f"{name} is stored as {x.layout}.", "Convert it with x.to_dense().")


def _repacked(y: Tensor, packed: PackedSequence, lengths: Tensor | None) -> PackedSequence:
    assert lengths is not None
    if packed.sorted_indices is not None:
        y = y.index_select(1, packed.sorted_indices)
        lengths = lengths.index_select(0, packed.sorted_indices.cpu())
    data = pack_padded_sequence(y, lengths).data
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
