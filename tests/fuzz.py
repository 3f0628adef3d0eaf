"""Random calls, right and wrong, of a compiled layer beside its reference; run in a process that may die.

    python tests/fuzz.py FIRST COUNT     draws the calls FIRST to FIRST + COUNT - 1 and compares them

Before each call its number is printed, so that whoever started the process knows which one killed or stopped it.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import compiled
import torch
from cases import as_tuple
from compiled import clock, drawn, kitchen
from random_cells import Draw
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import refold as rf

INPUT = 3
f32, f64 = torch.float32, torch.float64


def build(backend: str) -> list[tuple[str, rf.Recurrent]]:
    """Few layers, so that compiling them does not take over; each with something of its own."""

    def one(cell: Any, hidden: int, dtype: torch.dtype, inputs: int = INPUT, **options: Any):
        layer = rf.Recurrent(cell, inputs, hidden, backend=backend, dtype=f32, **options)
        return f"{layer} {dtype}", drawn(layer).to(dtype)  # refused at the call, where it is

    return [
        one("lstm", 16, f32),
        one("lstm", 5, f64, num_layers=2, bidirectional=True),
        one("gru", 19, f32, bidirectional=True, learn_state=True),
        one("gru_cho", 3, f64, batch_first=True),
        one("elman", 1, f32, num_layers=2),
        one("jordan", 6, f64, k=2),
        one("lstm_peephole", 37, f64, batch_first=True, bidirectional=True),
        one(kitchen, 7, f64, p=2),
        one(clock, 9, f32, 0),
        one("mgu", 4, torch.bfloat16),
        one("elman", 4, torch.float16),
        one(Draw(3).cell(), 5, f64, k=2),
        one(Draw(9).cell(), 17, f32, k=3),
    ]


# ---------------------------------------------------------------- what a call is given

Given = dict[str, Any]
STEPS, ROWS = (0, 1, 1, 2, 3, 5, 9), (0, 1, 2, 3, 5, 7, 13)
DTYPES = (
    torch.float16,
    torch.bfloat16,
    f32,
    f64,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
)


class Call:
    """One call: its arguments, drawn from a seed, the same for both layers."""

    def __init__(self, number: int, layers: int):
        self.random = r = random.Random(number)
        self.which = r.randrange(layers)
        self.generator = torch.Generator().manual_seed(number)
        # Most calls have nothing wrong or one thing, a few have several.
        self.wrong = r.choices((0.0, 0.12, 0.5), (5, 4, 1))[0]
        self.notes: list[str] = []

    def odd(self, note: str, odds: float = 1.0) -> bool:
        hit = self.random.random() < self.wrong * odds
        if hit:
            self.notes.append(note)
        return hit

    def like(self, other: int) -> int:
        """A size that is not the right one."""
        return self.random.choice([n for n in (0, 1, 2, 3, 4, 5, 8, other + 1) if n != other])

    def numbers(self, shape: list[int], dtype: torch.dtype, name: str) -> Tensor:
        """Numbers of a shape, stored in some way, some of them spoilt, with gradients or not."""
        r = self.random
        if self.odd(f"{name}: rank"):
            shape = r.choice([shape[1:], [2, *shape], [], [max(1, shape[-1])]])
        elif shape and self.odd(f"{name}: size"):
            axis = r.randrange(len(shape))
            shape = [self.like(n) if k == axis else n for k, n in enumerate(shape)]
        values = torch.randn(shape, generator=self.generator)
        if values.numel() and r.random() < 0.15:
            what = r.choice((float("nan"), float("inf"), -float("inf"), 1e30, 1e-40, 0.0))
            self.notes.append(f"{name}: holds {what}")
            values.view(-1)[r.randrange(values.numel())] = what
        values = values.to(dtype)
        if self.odd(f"{name}: dtype", 0.5):
            values = values.nan_to_num(0.0, 0.0, 0.0).to(r.choice(DTYPES))
        if self.odd(f"{name}: device", 0.3):
            values = values.to("meta")
        elif self.odd(f"{name}: layout", 0.3) and values.dim():
            values = values.to_sparse()
        else:
            values = self.stored(values, name)
        free = values.is_leaf and not values.is_inference()
        if values.is_floating_point() and free and r.random() < 0.4:
            values.requires_grad_()
        return values

    def stored(self, v: Tensor, name: str) -> Tensor:
        """The same numbers, or a repetition of some, otherwise in memory."""
        form = self.random.choice(("plain", "plain", "plain", *FORMS))
        if form == "plain" or not v.dim() or v.dtype == torch.bool:
            return v
        self.notes.append(f"{name}: {form}")
        return FORMS[form](v)

    def arguments(self, layer: rf.Recurrent) -> Given:
        r = self.random
        like = next(layer.parameters())
        steps, rows = r.choice(STEPS), r.choice(ROWS)
        batched = r.random() < 0.85
        rows = rows if batched else 1
        shape = [steps, rows, layer.input_features] if batched else [steps, layer.input_features]
        if layer.batch_first and batched:
            shape[:2] = rows, steps
        x: Any = self.numbers(shape, like.dtype, "x")
        given: Given = {"x": x}
        if r.random() < 0.5:
            runs = layer.num_layers * layer.directions
            states = [
                self.numbers([runs, rows, w] if batched else [runs, w], like.dtype, name)
                for name, w in layer.state_sizes.items()
            ]
            given["state"] = self.states(states)
        if r.random() < 0.5:
            given["lengths"] = self.lengths(steps, rows)
        if batched and steps and rows and r.random() < 0.1 and x.dim() == 3:
            given["x"] = self.packed(x, layer.batch_first)
        elif self.odd("x: no tensor", 0.2):
            given["x"] = r.choice([None, [[1.0]], 3.0, "x", (x, x)])
        if r.random() < 0.3:
            given["return_states"] = "every" if self.odd("return_states") else "all"
        return given

    def states(self, states: list[Tensor]) -> Any:
        if self.odd("state: how many", 0.3):
            return self.random.choice([(*states, states[0]), tuple(states[1:]), (), None, 1.0])
        return states[0] if len(states) == 1 else tuple(states)

    def lengths(self, steps: int, rows: int) -> Any:
        r = self.random
        lengths: list[Any] = [r.randint(0, steps) for _ in range(rows)]
        if self.odd("lengths: how many", 0.5):
            lengths = [*lengths, 1] if r.random() < 0.5 else lengths[1:]
        if lengths and self.odd("lengths: value"):
            strange = (
                -1,
                steps + 1,
                2**31,
                2**62,
                -(2**63),
                2**63,
                1.5,
                True,
                None,
                "a",
                float("nan"),
            )
            lengths[r.randrange(len(lengths))] = r.choice(strange)
        form = r.choice(("list", "tuple", "tensor", "int32", "odd"))
        if form == "odd" and not self.odd("lengths: form"):
            form = "tensor"
        if form in ("list", "tuple") or not all(type(n) is int and abs(n) < 2**63 for n in lengths):
            return tuple(lengths) if form == "tuple" else lengths
        tensor = torch.tensor(lengths, dtype=torch.int64)
        if form == "odd":
            return r.choice(
                [
                    tensor.double(),
                    tensor > 0,
                    tensor[:, None],
                    tensor.to("meta"),
                    tensor + 0j,
                    tensor.to_sparse(),
                    int(tensor.sum()),
                ]
            )
        if form == "int32" and bool((tensor.abs() < 2**31).all()):
            return tensor.to(torch.int32)
        return torch.stack([tensor, tensor], 1)[:, 0] if r.random() < 0.3 else tensor

    def packed(self, x: Tensor, batch_first: bool) -> Any:
        r = self.random
        rows, steps = x.shape[:2] if batch_first else x.shape[:2][::-1]
        if x.layout != torch.strided or x.device.type != "cpu" or not x.numel():
            return x
        lengths = torch.tensor([r.randint(1, steps) for _ in range(rows)])
        self.notes.append(f"packed {lengths.tolist()}")
        return pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)


def _inference(v: Tensor) -> Tensor:
    with torch.inference_mode():
        return v.clone()


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda v: v.transpose(0, -1).contiguous().transpose(0, -1),
    "every second": lambda v: torch.stack([v, v], -1).flatten(-2)[..., ::2],
    "steps apart": lambda v: torch.stack([v, v], 1)[:, 0],
    "odd start": lambda v: torch.cat([v.new_zeros(1), v.flatten()])[1:].view_as(v),
    "expanded": lambda v: v[:1].expand_as(v),
    "one number": lambda v: v.new_ones(()).expand_as(v),
    "repeated in the middle": lambda v: v[:, :1].expand_as(v) if v.dim() > 1 else v,
    "overlapping": lambda v: (
        torch.cat([v.flatten(), v.flatten()]).as_strided(v.shape, (1,) * v.dim())
        if v.numel()
        else v
    ),
    "negated": lambda v: torch._neg_view(-v) if v.is_floating_point() else v,  # type: ignore[attr-defined]
    "flipped": lambda v: v.flip(0),
    "a parameter": lambda v: torch.nn.Parameter(v) if v.is_floating_point() else v,
    "of a graph": lambda v: v.clone().requires_grad_() * 1.0 if v.is_floating_point() else v,
    "detached": lambda v: v.clone().requires_grad_().detach() if v.is_floating_point() else v,
    "from inference": _inference,
}


# ---------------------------------------------------------------- what comes of it

Outcome = dict[str, Tensor] | Exception


def tensors_of(result: Any) -> dict[str, Tensor]:
    y, final = result
    parts = dict(y) if isinstance(y, dict) else {"output": y}
    parts = {k: v.data if isinstance(v, PackedSequence) else v for k, v in parts.items()}
    return parts | {f"final {k}": s for k, s in enumerate(as_tuple(final))}


def outcome(layer: rf.Recurrent, given: Given, number: int) -> Outcome:
    """What comes back and the gradients of some of it; or what was raised."""
    r = random.Random(-number)
    mode = r.choice(("train", "train", "train", "no_grad", "no_grad", "inference"))
    try:
        if mode == "no_grad":
            with torch.no_grad():
                if r.random() < 0.5:
                    layer(**given)  # a second call like the first finds things prepared
                return tensors_of(layer(**given))
        if mode == "inference":
            with torch.inference_mode():
                return {k: v.clone() for k, v in tensors_of(layer(**given)).items()}
        values = tensors_of(layer(**given))
        return values | gradients(layer, given, values, r)
    except Exception as error:
        return error


def gradients(
    layer: rf.Recurrent, given: Given, values: dict[str, Tensor], r: random.Random
) -> dict[str, Tensor]:
    """From all that came back, or from one part; of everything that asks for one."""
    state = given.get("state")
    states = () if state is None else as_tuple(state)
    asked = {"x": given["x"], **{f"initial {k}": s for k, s in enumerate(states)}}
    leaves = {k: v for k, v in asked.items() if isinstance(v, Tensor) and v.requires_grad}
    if isinstance(given["x"], PackedSequence) and given["x"].data.requires_grad:
        leaves["x"] = given["x"].data
    if not r.random() < 0.2:
        leaves |= dict(layer.named_parameters())
    parts = [r.choice(sorted(values))] if r.random() < 0.3 else sorted(values)
    reached = [values[k] for k in parts if values[k].requires_grad]
    if values[parts[0]].device.type != "cpu" or not leaves:
        return {}
    if not reached:  # no step was run: whether a graph hangs on that is nobody's business
        return {f"dE/d {k}": torch.zeros_like(v) for k, v in leaves.items()}
    generator = torch.Generator().manual_seed(5)
    factors = []
    for k in parts:
        factor = torch.randn(values[k].shape, generator=generator).to(values[k].dtype)
        form = r.choice(("plain", "one number", "transposed", "odd start", "steps apart"))
        factor = factor if form == "plain" else FORMS[form](factor)
        factors += [factor] * values[k].requires_grad
    found = torch.autograd.grad(
        reached, list(leaves.values()), factors, materialize_grads=True, allow_unused=True
    )
    return {f"dE/d {k}": g for k, g in zip(leaves, found, strict=True)}


def difference(mine: Outcome, theirs: Outcome, given: Given, name: str, wild: bool) -> str:
    """What is wrong; nothing when both are the same answer. `wild`: there are NaN or infinities in what was given."""
    if isinstance(mine, Exception):
        if isinstance(mine, rf.KernelError) and refusable(given):
            return ""
        if isinstance(theirs, Exception):
            both = isinstance(mine, rf.RefoldError) == isinstance(theirs, rf.RefoldError)
            alike = both and (isinstance(mine, rf.RefoldError) or type(mine) is type(theirs))
            return "" if alike else f"{mine!r} and not {theirs!r}"
        return "" if torchs_own(mine) else repr(mine)
    if isinstance(theirs, Exception):
        return "" if torchs_own(theirs) else f"an answer and not {theirs!r}"
    if mine.keys() != theirs.keys():
        return f"{sorted(mine)} and not {sorted(theirs)}"
    for key, value in theirs.items():
        if key.startswith("dE/d") and wild and ("drawn" in name or not value.any()):
            # Which way NaN takes backwards through a comparison is nobody's rule; and where nothing is said about a
            # value, torch leaves out the product of its adjoint, which is zero, and NaN.
            continue
        if text := apart(mine[key], value):
            return f"{key} {text}"
    return ""


def torchs_own(error: Exception) -> bool:
    """torch's rule for tensors from inference mode, which each backend escapes where it happens to copy."""
    return "Inference tensors cannot be saved" in str(error)


def refusable(given: Given) -> bool:
    """What compiled code need not know: other types than float32 and float64."""
    x = given["x"].data if isinstance(given["x"], PackedSequence) else given["x"]
    return isinstance(x, Tensor) and (x.dtype not in (f32, f64) or x.device.type != "cpu")


def apart(one: Tensor, other: Tensor) -> str:
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return f"is {one.shape}, {one.dtype}, {one.device} and not {other.shape}, {other.dtype}"
    if one.device.type != "cpu":
        return ""
    tolerance = {f64: (1e-9, 1e-12), f32: (1e-3, 1e-6)}.get(one.dtype, (0.1, 1e-2))
    one, other = one.detach().double(), other.detach().double()
    finite = other.abs().nan_to_num(0.0, 0.0, 0.0)
    scale = float(finite.max()) if finite.numel() else 0.0
    bound = tolerance[0] * scale + tolerance[1]
    if torch.allclose(one, other, rtol=0.0, atol=bound, equal_nan=True):
        return ""
    return f"is off by {float((one - other).abs().nan_to_num(1e308).max()):.2e} of {scale:.2e}"


def shape_of(value: Any) -> Any:
    if isinstance(value, tuple) and not isinstance(value, PackedSequence):
        return [shape_of(v) for v in value]
    return tuple(value.shape) if isinstance(value, Tensor) else value


def main(first: int, count: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    pairs = list(zip(build(compiled.BACKEND), build("reference"), strict=True))
    bad = 0
    for number in range(first, first + count):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        call = Call(number, len(pairs))
        (name, mine), (_, reference) = pairs[call.which]
        given = call.arguments(mine)
        wild = any("holds" in note for note in call.notes)
        both = [outcome(layer, given, number) for layer in (mine, reference)]
        text = difference(both[0], both[1], given, name, wild)
        if text:
            bad += 1
            shapes = {k: shape_of(v) for k, v in given.items()}
            print(f"call {number}, {name}, {call.notes}: {text}\n    {shapes}")
    print(f"{count} calls, {bad} wrong")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
