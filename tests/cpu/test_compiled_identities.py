"""What must be equal whatever the numbers: parts and whole, rows alone and together, one thread and two."""

from collections.abc import Callable

import cases
import oracle
import pytest
import torch
from cases import as_state, as_tuple, by_name
from compiled import (
    BACKEND,
    everything,
    given,
    gradients_of,
    identical,
    kitchen,
    layer_of,
    leaves_of,
    normal,
    ragged,
    same,
    threads,
    values_of,
)
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import refold as rf

STEPS, HIDDEN = 6, 19
CELLS = {
    "lstm": "lstm",
    "gru_cho": "gru_cho",
    "two_layer_feedback": "two_layer_feedback",
    "kitchen": kitchen,
}
every = pytest.mark.parametrize("name", CELLS)


def some(name: str, hidden: int = HIDDEN, **options) -> rf.Recurrent:
    return layer_of(CELLS[name], hidden, **options)


# ---------------------------------------------------------------- a run in parts


@every
def test_one_step_at_a_time_is_the_whole_run(name: str) -> None:
    layer = some(name, num_layers=1)
    for batch in (1, 7):
        x, states = given(layer, STEPS, batch)
        with torch.no_grad():
            y, final = layer(x, as_state(states))
            state, outputs = as_state(states), []
            for t in range(STEPS):
                out, state = layer(x[t : t + 1], state)
                outputs.append(out)
        same(by_name(torch.cat(outputs), state), by_name(y, final))


@every
def test_steps_and_halves_have_the_whole_runs_gradients(name: str) -> None:
    """They flow from call to call through the states."""
    layer = some(name)
    x, states = given(layer, STEPS, 7)
    leaves = leaves_of(layer, x, states)

    def in_parts(cuts: list[int]) -> dict[str, Tensor]:
        state, outputs = as_state(states), []
        for part in x.split(cuts):
            out, state = layer(part, state)
            outputs.append(out)
        values = by_name(torch.cat(outputs), state)
        return values | gradients_of(values, leaves)

    whole = in_parts([STEPS])
    for cuts in ([1] * STEPS, [3, 3], [1, 5], [4, 2]):
        same(in_parts(cuts), whole, what=str(cuts))


# ---------------------------------------------------------------- rows alone and together


@pytest.mark.parametrize("bidirectional", [False, True])
@every
def test_a_ragged_batch_is_each_row_alone(name: str, bidirectional: bool) -> None:
    """Lengths in any order, some of them zero; values and all gradients."""
    layer, batch = some(name, bidirectional=bidirectional), 33
    x, states = given(layer, STEPS, batch)
    lengths = ragged(STEPS, batch)
    leaves = leaves_of(layer, x, states)
    together = by_name(*layer(x, as_state(states), lengths))
    rows = []
    for b, length in enumerate(lengths):
        start = as_state([s[:, b : b + 1] for s in states])
        out, state = layer(x[:length, b : b + 1], start)
        blank = out.new_zeros(STEPS - length, *out.shape[1:])
        rows.append(by_name(torch.cat([out, blank]), state))
    alone = {key: torch.cat([row[key] for row in rows], 1) for key in together}
    same(together | gradients_of(together, leaves), alone | gradients_of(alone, leaves))


@every
def test_a_row_is_the_same_wherever_it_stands(name: str) -> None:
    """Other rows beside it, another place, another tile: the same bits."""
    layer, batch = some(name), 33
    x, states = given(layer, STEPS, batch)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor(ragged(STEPS, batch))
    for ends in (None, lengths):
        first = by_name(*layer(x, as_state(states), ends))
        turned = [s[:, order] for s in states]
        second = by_name(
            *layer(x[:, order], as_state(turned), None if ends is None else ends[order])
        )
        identical(second, {key: v[:, order] for key, v in first.items()})
        some_rows = [s[:, 5:18] for s in states]
        third = by_name(
            *layer(x[:, 5:18], as_state(some_rows), None if ends is None else ends[5:18])
        )
        same(third, {key: v[:, 5:18] for key, v in first.items()}, 1e-13)


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e300])
@every
def test_padding_never_leaks(name: str, junk: float) -> None:
    """The same bits whatever stands in it, in x and in the gradient that arrives."""
    layer, batch = some(name, num_layers=2 if name == "lstm" else 1, bidirectional=True), 33
    x, states = given(layer, STEPS, batch)
    lengths = ragged(STEPS, batch)
    leaves = leaves_of(layer, x, states)
    found = []
    for filling in (0.0, junk):
        padded = torch.arange(STEPS)[:, None, None] >= torch.tensor(lengths)[None, :, None]
        values = by_name(*layer(x.masked_fill(padded, filling), as_state(states), lengths))
        factors = [normal(*v.shape, seed=7 + k) for k, v in enumerate(values.values())]
        factors[0] = factors[0].masked_fill(padded, filling)
        gradients = torch.autograd.grad(
            list(values.values()), list(leaves.values()), factors, materialize_grads=True
        )
        found.append(values | dict(zip(leaves, gradients, strict=True)))
        assert all(bool(v.isfinite().all()) for v in found[-1].values())
    identical(*found)


@pytest.mark.parametrize("lengths", [[0] * 9, [STEPS] * 9, [1] * 9, [0] * 8 + [2], [5] + [0] * 8])
def test_lengths_that_are_all_full_short_or_empty(lengths: list[int]) -> None:
    layer, twin = (layer_of("lstm", HIDDEN, b, bidirectional=True) for b in (BACKEND, "reference"))
    x, states = given(layer, STEPS, 9)
    same(everything(layer, x, states, lengths), everything(twin, x, states, lengths))


# ---------------------------------------------------------------- directions, stacks, packed sequences


@every
def test_both_directions_are_two_runs_and_a_reversed_list(name: str) -> None:
    both, batch = some(name, bidirectional=True), 7
    runs = {reverse: some(name) for reverse in (False, True)}
    for reverse, layer in runs.items():
        with torch.no_grad():
            for key, p in cases.parameters(layer).items():
                p.copy_(cases.parameters(both, 0, reverse)[key])
    x, states = given(both, STEPS, batch)
    lengths = ragged(STEPS, batch)
    turned = oracle.reversed_rows(x, lengths)
    one = by_name(*runs[False](x, as_state([s[:1] for s in states]), lengths))
    other = by_name(*runs[True](turned, as_state([s[1:] for s in states]), lengths))
    expected = {key: torch.cat([one[key], other[key]]) for key in one if key != "output"}
    back = oracle.reversed_rows(other["output"], lengths)
    expected["output"] = torch.cat([one["output"], back], -1)
    same(by_name(*both(x, as_state(states), lengths)), expected, 1e-14)


@pytest.mark.parametrize(
    "options",
    [{"num_layers": 3}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}],
    ids=str,
)
@pytest.mark.parametrize("name", ["lstm", "gru_cho", "two_layer_feedback"])
def test_stacks_and_layouts_are_the_references(name: str, options: dict[str, int]) -> None:
    found = []
    for backend in (BACKEND, "reference"):
        layer = some(name, backend=backend, **options)
        x, states = given(layer, STEPS, 13)
        if layer.batch_first:
            x = x.detach().transpose(0, 1).requires_grad_()
        found.append(everything(layer, x, states, ragged(STEPS, 13)))
    same(*found)


@pytest.mark.parametrize("ordered", [True, False])
def test_packed_sequences_go_in_and_come_out(ordered: bool) -> None:
    layer = some("lstm", num_layers=2, bidirectional=True)
    x, states = given(layer, STEPS, 13)
    lengths = [max(1, n) for n in ragged(STEPS, 13)]
    lengths = sorted(lengths, reverse=True) if ordered else lengths
    leaves = leaves_of(layer, x, states)
    plain = by_name(*layer(x, states, lengths))
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=ordered)
    y, final = layer(packed, states)
    values = by_name(pad_packed_sequence(y, total_length=STEPS)[0], final)
    same(values | gradients_of(values, leaves), plain | gradients_of(plain, leaves), 1e-14)


def test_any_stride_of_anything_is_the_same() -> None:
    """x, states, weights and the gradients that arrive: transposed, expanded, every second, from an odd start."""
    layer = some("lstm")
    x, states = given(layer, STEPS, 7)
    leaves = leaves_of(layer, x, states)
    plain = everything(layer, x, states)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "transposed": lambda v: v.transpose(0, -1).contiguous().transpose(0, -1),
        "every second": lambda v: torch.stack([v, v], -1).flatten(-2)[..., ::2],
        "odd start": lambda v: torch.cat([v.new_zeros(1), v.flatten()])[1:].view_as(v),
        "negated": lambda v: torch._neg_view(-v),  # type: ignore[attr-defined]
    }
    for what, form in forms.items():
        values = values_of(layer, form(x), tuple(form(s) for s in states))
        names = sorted(values)
        factors = [form(normal(*values[k].shape, seed=40 + i)) for i, k in enumerate(names)]
        found = torch.autograd.grad([values[k] for k in names], list(leaves.values()), factors)
        gradients = {f"dE/d {k}": g for k, g in zip(leaves, found, strict=True)}
        same(values | gradients, plain, 1e-14, what)
    row = given(layer, STEPS, 1)[0].detach()
    identical(
        by_name(*layer(row.expand(-1, 7, -1))), by_name(*layer(row.repeat(1, 7, 1))), "expanded"
    )
    with torch.no_grad():
        for p in layer.parameters():
            if p.dim() == 2:
                p.data = p.data.T.contiguous().T
    same(everything(layer, x, states), plain, 1e-14, "weights stored by columns")


# ---------------------------------------------------------------- threads


@pytest.mark.parametrize(("hidden", "batch"), [(64, 33), (19, 7), (64, 2), (64, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every
def test_any_number_of_threads_gives_the_same_bits(
    name: str, dtype: torch.dtype, hidden: int, batch: int
) -> None:
    """Outputs, states and gradients."""
    layer = some(name, hidden, dtype=dtype)
    x, states = given(layer, 30, batch)
    for lengths in (None, ragged(30, batch)):
        found = []
        for count in (1, 2, 3):
            with threads(count):
                found.append(everything(layer, x, states, lengths))
        identical(found[1], found[0], "2 threads")
        identical(found[2], found[0], "3 threads")


# ---------------------------------------------------------------- one graph, several backwards


@every
def test_a_second_backward_gives_the_same_again(name: str) -> None:
    """Nothing of what the first needs is written over."""
    layer = some(name)
    x, states = given(layer, STEPS, 7)
    leaves = list(leaves_of(layer, x, states).values())
    values = values_of(layer, x, states, ragged(STEPS, 7))
    factors = [normal(*v.shape, seed=k) for k, v in enumerate(values.values())]
    before = {k: v.detach().clone() for k, v in values.items()}
    runs = []
    for again in (True, True, False):
        found = torch.autograd.grad(
            list(values.values()), leaves, factors, retain_graph=again, materialize_grads=True
        )
        runs.append(dict(enumerate(found)))
    identical(runs[1], runs[0])
    identical(runs[2], runs[0])
    identical(values, before, "values after their backwards")
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(list(values.values()), leaves, factors)


def test_backwards_from_different_values_of_one_graph() -> None:
    """First from one value, then from another; each as if it were alone."""
    layer = some("lstm")
    x, states = given(layer, STEPS, 7)
    leaves = leaves_of(layer, x, states)
    values = values_of(layer, x, states)
    for part in ("final 1", "output", "c", "output"):
        found = torch.autograd.grad(
            (values[part] * 1.5).sum(), list(leaves.values()), retain_graph=True
        )
        fresh = torch.autograd.grad(
            (values_of(layer, x, states)[part] * 1.5).sum(), list(leaves.values())
        )
        identical(dict(enumerate(found)), dict(enumerate(fresh)), part)


def test_gradients_add_up_in_the_leaves() -> None:
    layer = some("lstm")
    x, states = given(layer, STEPS, 7)
    for _ in range(2):
        layer(x, states)[0].square().sum().backward()
    twice = {key: p.grad for key, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    layer(x, states)[0].square().sum().backward()
    once = {key: 2 * p.grad for key, p in layer.named_parameters() if p.grad is not None}
    same(twice, once)


CHANGES: dict[str, Callable[[rf.Recurrent, Tensor, tuple[Tensor, ...]], object]] = {
    "x": lambda layer, x, states: x.mul_(2.0),
    "part of x": lambda layer, x, states: x[2, 1].zero_(),
    "a state": lambda layer, x, states: states[0].add_(1.0),
    "a matrix": lambda layer, x, states: cases.parameters(layer)["f.W_h"].mul_(0.5),
    "a matrix of inputs": lambda layer, x, states: cases.parameters(layer)["g.W_x"].zero_(),
    "an optimiser's step": lambda layer, x, states: torch.optim.SGD(
        layer.parameters(), lr=1.0
    ).step(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_changed_before_backward_is_refused_by_torch(what: str) -> None:
    layer = some("lstm")
    x, states = given(layer, STEPS, 7)
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    y, _ = layer(x, states)
    with torch.no_grad():
        CHANGES[what](layer, x, states)
    with pytest.raises(RuntimeError, match=r"modified.*inplace|inplace.*modified"):
        y.sum().backward()


@pytest.mark.parametrize("what", ["output", "h", "c", "final 0", "final 1"])
def test_results_changed_in_place_never_give_a_wrong_gradient(what: str) -> None:
    """What a caller does to y is its own: torch refuses it, or the gradient is right."""
    layer = some("lstm")
    x, states = given(layer, STEPS, 7)
    leaves = leaves_of(layer, x, states)
    values = values_of(layer, x, states)
    expected = torch.autograd.grad(3 * values[what].sum(), list(leaves.values()))
    values = values_of(layer, x, states)
    try:
        values[what].mul_(3.0)
        found = torch.autograd.grad(values[what].sum(), list(leaves.values()))
    except RuntimeError as error:
        assert "inplace" in str(error) or "in-place" in str(error)
    else:
        same(dict(enumerate(found)), dict(enumerate(expected)))


def test_results_do_not_share_memory_with_what_came_in_or_with_each_other() -> None:
    """A caller may write into any of them."""
    layer = some("lstm")
    for steps in (0, 1, STEPS):
        x, states = given(layer, steps, 7)
        with torch.no_grad():
            values, final = layer(x, states, return_states="all")
            tensors = {**values, **{f"final {k}": s for k, s in enumerate(as_tuple(final))}}
            kept = {key: v.clone() for key, v in tensors.items() if key not in ("output", "h")}
            start = [s.clone() for s in states]
            tensors["h"].fill_(77.0)
            tensors["final 0"].fill_(78.0)
        identical({"0": states[0], "1": states[1]}, {"0": start[0], "1": start[1]})
        del kept["final 0"]
        identical({key: tensors[key] for key in kept}, kept)


def test_several_graphs_at_once() -> None:
    """Calls whose backwards come later, in another order, and with another number of threads between."""
    layer = some("lstm")
    batches = [given(layer, steps, 7, seed) for seed, steps in enumerate((6, 6, 3, 9))]
    expected = [everything(layer, x, states) for x, states in batches]
    values = [values_of(layer, x, states) for x, states in batches]
    for k in (2, 0, 3, 1):
        x, states = batches[k]
        with threads(1 + k % 2):
            found = gradients_of(values[k], leaves_of(layer, x, states))
        identical(values[k] | found, expected[k], f"call {k}")


def test_states_that_are_handed_on_stay_as_they_were() -> None:
    """A stream of steps keeps every state it has seen: none is written over by a later step."""
    layer, twin = (layer_of("lstm", HIDDEN, b, num_layers=2) for b in (BACKEND, "reference"))
    x, states = given(layer, 12, 3)
    state: tuple[Tensor, ...] = tuple(s.detach() for s in states)
    seen, copies, outputs = [], [], []
    with torch.no_grad():
        for t in range(12):
            y, state = layer(x[t : t + 1], state)
            seen.append((y, *state))
            copies.append([v.clone() for v in (y, *state)])
            outputs.append(y)
        expected = by_name(*twin(x, states))
    for found, copy in zip(seen, copies, strict=True):
        identical(dict(enumerate(found)), dict(enumerate(copy)))
    same(by_name(torch.cat(outputs), state), expected)


def test_a_stream_sees_what_changes_between_its_steps() -> None:
    """Other rows, other weights, other layers in turn, gradients wanted now and then."""
    pairs = [
        [layer_of(name, HIDDEN, b) for b in (BACKEND, "reference")] for name in ("lstm", "gru_cho")
    ]
    for t in range(12):
        layer, twin = pairs[t % 2]
        x, states = given(layer, 1 + (t % 5 == 4), (1, 1, 3, 1, 7)[t % 5], seed=t)
        if t % 4 == 2:
            with torch.no_grad():
                for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
                    p.mul_(0.9)
                    q.mul_(0.9)
        if t % 3 == 0:
            same(everything(layer, x, states), everything(twin, x, states), what=str(t))
        else:
            with torch.no_grad():
                found, expected = (values_of(made, x, states) for made in (layer, twin))
            same(found, expected, what=str(t))


# ---------------------------------------------------------------- memory="small"


@pytest.mark.parametrize("name", ["lstm", "two_layer_feedback", "kitchen"])
def test_little_memory_gives_the_same(name: str) -> None:
    """Runs of every length from none to several stretches, whole and ragged, backwards twice."""
    small, fast = some(name, memory="small"), some(name, backend="reference")
    for steps in (0, 1, 2, 3, 4, 5, 8, 9, 10, 17, 40):
        x, states = given(small, steps, 7)
        for lengths in (None, ragged(steps, 7, steps)):
            expected = everything(fast, x, states, lengths)
            same(everything(small, x, states, lengths), expected, 1e-11, f"{steps} steps")
    leaves = leaves_of(small, x, states)
    values = values_of(small, x, states)
    error = torch.stack([v.square().sum() for v in values.values()]).sum()
    runs = [torch.autograd.grad(error, list(leaves.values()), retain_graph=True) for _ in range(3)]
    for again in runs[1:]:
        identical(dict(enumerate(again)), dict(enumerate(runs[0])))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_little_memory_in_stacks_with_any_number_of_threads(bidirectional: bool) -> None:
    layer = some("lstm", num_layers=2, bidirectional=bidirectional, memory="small")
    twin = some("lstm", num_layers=2, bidirectional=bidirectional, backend="reference")
    x, states = given(layer, 20, 9)
    lengths = ragged(20, 9)
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(everything(layer, x, states, lengths))
    identical(found[1], found[0])
    same(found[0], everything(twin, x, states, lengths))
