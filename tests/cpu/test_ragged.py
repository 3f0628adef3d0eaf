"""Rows of unequal length, cut runs, other shapes: a batch is the same as each of its rows alone."""

from functools import partial

import cases
import oracle
import pytest
import torch
from cases import (
    CASES,
    as_state,
    as_tuple,
    both_backends,
    every_cell,
    initial,
    make,
    noise,
    parameters,
)
from torch import Tensor
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)
from torch.testing import assert_close

import refold as rf

STEPS, LENGTHS = 6, [4, 6, 0, 1, 6, 3]
BATCH = len(LENGTHS)
exact = partial(assert_close, rtol=0.0, atol=1e-12)
layouts = pytest.mark.parametrize(
    ("layers", "bidirectional"), [(1, False), (1, True), (2, False), (2, True)]
)


def projection(y: Tensor, final: tuple[Tensor, ...]) -> Tensor:
    parts = [(v * noise(*v.shape, seed=40 + k)).sum() for k, v in enumerate((y, *final))]
    return torch.stack(parts).sum()


def weights_of(layer: rf.Recurrent) -> list[list[dict[str, Tensor]]]:
    directions = [False, True][: layer.directions]
    return [
        [parameters(layer, k, reverse) for reverse in directions] for k in range(layer.num_layers)
    ]


def leaves_of(layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> dict[str, Tensor]:
    named = {"x": x, **{f"initial {k}": s for k, s in enumerate(states)}}
    for k, layer_weights in enumerate(weights_of(layer)):
        for reverse, p in enumerate(layer_weights):
            named |= {f"layer {k}, direction {reverse}: {key}": w for key, w in p.items()}
    return named


def compare(mine: Tensor, theirs: Tensor, leaves: dict[str, Tensor]) -> None:
    a = torch.autograd.grad(mine, list(leaves.values()))
    b = torch.autograd.grad(theirs, list(leaves.values()))
    for key, one, other in zip(leaves, a, b, strict=True):
        scale = float(other.abs().max())
        assert scale > 1e-8, f"dE/d {key}: nothing to compare"
        assert_close(
            one, other, rtol=0.0, atol=1e-12 * scale, msg=lambda m, k=key: f"dE/d {k}: {m}"
        )


# ---------------------------------------------------------------- ragged batches


@both_backends
@every_cell
def test_values_and_gradients_equal_the_oracle(name: str, backend: str) -> None:
    """Two layers, both directions, rows in any order and one of them empty."""
    layer = make(name, backend, num_layers=2, bidirectional=True)
    x, states = noise(STEPS, BATCH, cases.INPUT).requires_grad_(), initial(name, BATCH, 4)
    y, final = layer(x, as_state(states), LENGTHS)
    theirs_y, theirs_final = oracle.stacked(CASES[name].step, weights_of(layer), x, states, LENGTHS)
    exact(y, theirs_y)
    for k, state in enumerate(as_tuple(final)):
        exact(state, theirs_final[k], msg=lambda m, k=k: f"final state {k}: {m}")
    mine, theirs = projection(y, as_tuple(final)), projection(theirs_y, theirs_final)
    compare(mine, theirs, leaves_of(layer, x, states))


@both_backends
@layouts
@pytest.mark.parametrize("name", ["lstm", "jordan"])
def test_a_ragged_batch_equals_each_row_alone(
    name: str, layers: int, bidirectional: bool, backend: str
) -> None:
    layer = make(name, backend, num_layers=layers, bidirectional=bidirectional)
    runs = layers * (1 + bidirectional)
    x, states = noise(STEPS, BATCH, cases.INPUT).requires_grad_(), initial(name, BATCH, runs)
    y, final = layer(x, as_state(states), torch.tensor(LENGTHS))
    alone_y, alone_final = [], []
    for b, length in enumerate(LENGTHS):
        start = tuple(s[:, b : b + 1] for s in states)
        if length:
            out, start = layer(x[:length, b : b + 1], as_state(start))
            alone_y.append(torch.cat([out, out.new_zeros(STEPS - length, 1, out.shape[-1])]))
        else:
            alone_y.append(y.new_zeros(STEPS, 1, y.shape[-1]))
        alone_final.append(as_tuple(start))
    rows_y = torch.cat(alone_y, 1)
    rows_final = tuple(torch.cat(s, 1) for s in zip(*alone_final, strict=True))
    exact(y, rows_y)
    for mine, theirs in zip(as_tuple(final), rows_final, strict=True):
        exact(mine, theirs)
    leaves = leaves_of(layer, x, states)
    compare(projection(y, as_tuple(final)), projection(rows_y, rows_final), leaves)


@both_backends
@every_cell
def test_all_states_are_zero_past_a_rows_length(name: str, backend: str) -> None:
    layer = make(name, backend)
    x, states = noise(STEPS, BATCH, cases.INPUT), initial(name, BATCH)
    values, final = layer(x, as_state(states), LENGTHS, return_states="all")
    run = oracle.unfold(
        CASES[name].step, parameters(layer), x, tuple(s[0] for s in states), LENGTHS
    )
    exact(values["output"], run.y)
    for k, key in enumerate(CASES[name].states):
        exact(values[key], run.states[k])
        exact(as_tuple(final)[k][0], run.final[k])
        for b, length in enumerate(LENGTHS):
            assert torch.count_nonzero(values[key][length:, b]) == 0


@both_backends
@pytest.mark.parametrize("junk", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru_cho", "elman_relu", "two_layer_feedback"])
def test_padding_never_leaks(name: str, bidirectional: bool, junk: float, backend: str) -> None:
    """Bit-identical values and gradients whatever stands in the padding; its gradient is zero."""
    layer = make(name, backend, num_layers=2, bidirectional=bidirectional)
    states = initial(name, BATCH, 2 * (1 + bidirectional))
    clean = noise(STEPS, BATCH, cases.INPUT)
    dirty = clean.clone()
    for b, length in enumerate(LENGTHS):
        dirty[length:, b] = junk
    results = []
    for x in (clean.requires_grad_(), dirty.requires_grad_()):
        y, final = layer(x, as_state(states), LENGTHS)
        leaves = list(leaves_of(layer, x, states).values())
        gradients = torch.autograd.grad(projection(y, as_tuple(final)), leaves)
        results.append([y, *as_tuple(final), *gradients])
    for a, b in zip(*results, strict=True):
        assert bool(b.isfinite().all())
        assert torch.equal(a, b)
    for b, length in enumerate(LENGTHS):
        assert torch.count_nonzero(results[1][1 + len(states)][length:, b]) == 0


@both_backends
def test_a_gradient_put_on_the_padding_of_y_goes_nowhere(backend: str) -> None:
    """y is a constant zero there, so even NaN arriving from a careless loss must not enter."""
    layer = make("lstm", backend, bidirectional=True)
    x, states = noise(STEPS, BATCH, cases.INPUT).requires_grad_(), initial("lstm", BATCH, 2)
    y, _ = layer(x, states, LENGTHS)
    v = noise(*y.shape, seed=3)
    junk = v.clone()
    for b, length in enumerate(LENGTHS):
        v[length:, b], junk[length:, b] = 0.0, float("nan")
    leaves = leaves_of(layer, x, states)
    a = torch.autograd.grad(y, list(leaves.values()), v, retain_graph=True)
    b = torch.autograd.grad(y, list(leaves.values()), junk)
    for key, one, other in zip(leaves, a, b, strict=True):
        assert torch.equal(one, other), key


@both_backends
@pytest.mark.parametrize("lengths", [[6, 6, 6], [1, 1, 1], [0, 0, 0], [2, 1, 0]])
def test_lengths_that_are_all_full_short_or_empty(lengths: list[int], backend: str) -> None:
    layer = make("gru", backend, num_layers=2, bidirectional=True)
    x, states = noise(STEPS, 3, cases.INPUT).requires_grad_(), initial("gru", 3, 4)
    y, final = layer(x, states[0], lengths)
    theirs, theirs_final = oracle.stacked(oracle.gru, weights_of(layer), x, states, lengths)
    exact(y, theirs)
    exact(final, theirs_final[0])
    given = partial(torch.autograd.grad, inputs=[x, states[0]], materialize_grads=True)
    mine, expected = given(projection(y, (final,))), given(projection(theirs, theirs_final))
    for a, b in zip(mine, expected, strict=True):
        exact(a, b)


@both_backends
def test_every_form_of_lengths_means_the_same(backend: str) -> None:
    layer, x = make("mgu", backend), noise(STEPS, BATCH, cases.INPUT)
    expected, _ = layer(x, lengths=LENGTHS)
    for form in (torch.tensor(LENGTHS), torch.tensor(LENGTHS, dtype=torch.int32), tuple(LENGTHS)):
        assert torch.equal(layer(x, lengths=form)[0], expected)
    full, _ = layer(x, lengths=[STEPS] * BATCH)
    assert torch.equal(full, layer(x)[0])


@both_backends
def test_bidirectional_is_two_runs_and_a_reversed_list(backend: str) -> None:
    """Every value and every state, with lengths: no copy of the layer's own reversal is used."""
    both = make("gru_cho", backend, bidirectional=True)
    one = {r: make("gru_cho", backend) for r in (False, True)}
    for reverse, layer in one.items():
        with torch.no_grad():
            for key, p in parameters(layer).items():
                p.copy_(parameters(both, 0, reverse)[key])
    x, (state,) = noise(STEPS, BATCH, cases.INPUT), initial("gru_cho", BATCH, 2)
    y, final = both(x, state, LENGTHS)
    turned = oracle.reversed_rows(x, LENGTHS)
    forwards, last = one[False](x, state[:1], LENGTHS)
    backwards, first = one[True](turned, state[1:], LENGTHS)
    exact(y, torch.cat([forwards, oracle.reversed_rows(backwards, LENGTHS)], -1))
    exact(final, torch.cat([last, first]))


# ---------------------------------------------------------------- PackedSequence


TORCH = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM, "elman": torch.nn.RNN}


@both_backends
@pytest.mark.parametrize("lengths", [[6, 4, 4, 1], [4, 1, 6, 4]])
@pytest.mark.parametrize("name", TORCH)
def test_packed_in_packed_out_as_torch_nn(name: str, lengths: list[int], backend: str) -> None:
    """Sorted and unsorted, stacked and bidirectional; values, order, states, gradients of x."""
    torch.manual_seed(1)
    module = TORCH[name](cases.INPUT, cases.HIDDEN, 2, bidirectional=True, dtype=torch.float64)
    layer = make(name, backend, num_layers=2, bidirectional=True)
    cases.copy_from_torch(layer, module)
    x, states = noise(STEPS, 4, cases.INPUT).requires_grad_(), initial(name, 4, 4)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=lengths[0] == 6)
    mine, final = layer(packed, as_state(states))
    theirs, theirs_final = module(packed, as_state(states))
    assert isinstance(mine, PackedSequence)
    exact(mine.data, theirs.data)
    assert torch.equal(mine.batch_sizes, theirs.batch_sizes)
    for order in ("sorted_indices", "unsorted_indices"):
        assert (getattr(mine, order) is None) == (getattr(theirs, order) is None)
        if getattr(theirs, order) is not None:
            assert torch.equal(getattr(mine, order), getattr(theirs, order))
    for a, b in zip(as_tuple(final), as_tuple(theirs_final), strict=True):
        exact(a, b)
    v = noise(*mine.data.shape, seed=5)
    given = partial(torch.autograd.grad, inputs=[x, *states], grad_outputs=v, retain_graph=True)
    for a, b in zip(given(mine.data), given(theirs.data), strict=True):
        exact(a, b)


@both_backends
def test_packed_equals_lengths(backend: str) -> None:
    layer, lengths = make("lstm_peephole", backend, num_layers=2, bidirectional=True), [2, 5, 3]
    x = noise(5, 3, cases.INPUT)
    rows = [x[:n, b] for b, n in enumerate(lengths)]
    packed, packed_state = layer(pack_sequence(rows, enforce_sorted=False))
    y, state = layer(x, lengths=lengths)
    unpacked, found = pad_packed_sequence(packed)
    assert found.tolist() == lengths
    exact(unpacked, y)
    for a, b in zip(packed_state, state, strict=True):
        exact(a, b)


@both_backends
def test_packed_with_batch_first_is_the_same(backend: str) -> None:
    """A PackedSequence has no batch axis to be first."""
    layer, other = make("gru", backend), make("gru", backend, batch_first=True)
    packed = pack_padded_sequence(noise(5, 2, cases.INPUT), torch.tensor([5, 3]))
    assert torch.equal(layer(packed)[0].data, other(packed)[0].data)
    assert torch.equal(layer(packed)[1], other(packed)[1])


# ---------------------------------------------------------------- one run in parts


@both_backends
@every_cell
def test_streaming_one_step_at_a_time_equals_the_whole_run(name: str, backend: str) -> None:
    layer = make(name, backend, num_layers=2)
    x, state = noise(STEPS, BATCH, cases.INPUT), as_state(initial(name, BATCH, 2))
    y, final = layer(x, state)
    outputs = []
    for t in range(STEPS):
        out, state = layer(x[t : t + 1], state)
        outputs.append(out)
    exact(torch.cat(outputs), y)
    for a, b in zip(as_tuple(state), as_tuple(final), strict=True):
        exact(a, b)


@both_backends
@every_cell
def test_two_halves_with_the_carried_state_equal_one_run(name: str, backend: str) -> None:
    """Gradients too: they flow from the second half through the state into the first."""
    layer = make(name, backend, num_layers=2)
    x, states = noise(STEPS, BATCH, cases.INPUT).requires_grad_(), initial(name, BATCH, 2)
    y, final = layer(x, as_state(states))
    first, middle = layer(x[:2], as_state(states))
    second, last = layer(x[2:], middle)
    halves = torch.cat([first, second])
    exact(halves, y)
    mine, theirs = projection(halves, as_tuple(last)), projection(y, as_tuple(final))
    compare(mine, theirs, leaves_of(layer, x, states))


@both_backends
def test_streaming_a_ragged_batch_with_zero_lengths(backend: str) -> None:
    """A row that has ended keeps its state while the others go on."""
    layer = make("lstm", backend)
    x, states = noise(STEPS, BATCH, cases.INPUT), initial("lstm", BATCH)
    y, final = layer(x, states, LENGTHS)
    outputs, state = [], states
    for t in range(STEPS):
        out, state = layer(x[t : t + 1], state, [int(t < n) for n in LENGTHS])
        outputs.append(out)
    exact(torch.cat(outputs), y)
    for a, b in zip(state, final, strict=True):
        exact(a, b)


# ---------------------------------------------------------------- other shapes of one batch


@both_backends
@every_cell
def test_unbatched_is_a_batch_of_one(name: str, backend: str) -> None:
    """x (T, m) and states (runs, size), as in torch.nn."""
    layer = make(name, backend, num_layers=2, bidirectional=True)
    x, states = noise(STEPS, cases.INPUT), tuple(s[:, 0] for s in initial(name, 1, 4))
    y, final = layer(x, as_state(states))
    wide, wide_final = layer(x[:, None], as_state([s[:, None] for s in states]))
    assert y.shape == (STEPS, 2 * CASES[name].output)
    assert torch.equal(y, wide[:, 0])
    for a, b in zip(as_tuple(final), as_tuple(wide_final), strict=True):
        assert torch.equal(a, b[:, 0])
    values, _ = layer(x, return_states="all")
    assert all(v.ndim == 2 for v in values.values())


@both_backends
@every_cell
def test_batch_first_turns_x_and_y_and_leaves_the_states(name: str, backend: str) -> None:
    layer = make(name, backend, bidirectional=True)
    turned = make(name, backend, bidirectional=True, batch_first=True)
    x, states = noise(STEPS, BATCH, cases.INPUT), initial(name, BATCH, 2)
    y, final = layer(x, as_state(states), LENGTHS)
    other, other_final = turned(x.transpose(0, 1), as_state(states), LENGTHS)
    assert torch.equal(other, y.transpose(0, 1))
    for a, b in zip(as_tuple(other_final), as_tuple(final), strict=True):
        assert torch.equal(a, b)
    values, _ = layer(x, return_states="all")
    others, _ = turned(x.transpose(0, 1), return_states="all")
    for key in values:
        assert torch.equal(others[key], values[key].transpose(0, 1))
    assert torch.equal(turned(x[:, 0])[0], layer(x[:, 0])[0])


@both_backends
@pytest.mark.parametrize("name", ["lstm", "jordan"])
def test_no_steps_give_the_state_back(name: str, backend: str) -> None:
    layer = make(name, backend, num_layers=2, bidirectional=True)
    x = torch.zeros(0, BATCH, cases.INPUT, dtype=torch.float64, requires_grad=True)
    states = initial(name, BATCH, 4)
    y, final = layer(x, as_state(states))
    assert y.shape == (0, BATCH, 2 * CASES[name].output)
    for a, b in zip(as_tuple(final), states, strict=True):
        exact(a, b)
    gradients = torch.autograd.grad(projection(y, as_tuple(final)), states)
    for k, (g, s) in enumerate(zip(gradients, states, strict=True)):
        exact(g, noise(*s.shape, seed=41 + k))
    empty, _ = layer(x, as_state(states), [0] * BATCH)
    assert empty.shape == y.shape


@both_backends
@pytest.mark.parametrize("name", ["lstm", "jordan"])
def test_no_rows_give_zero_gradients(name: str, backend: str) -> None:
    layer = make(name, backend, num_layers=2, bidirectional=True)
    x = torch.zeros(STEPS, 0, cases.INPUT, dtype=torch.float64, requires_grad=True)
    y, final = layer(x)
    assert y.shape == (STEPS, 0, 2 * CASES[name].output)
    sizes = [(4, 0, size) for size in CASES[name].states.values()]
    assert [tuple(s.shape) for s in as_tuple(final)] == sizes
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert torch.count_nonzero(parameter.grad) == 0
    assert layer(x, lengths=[])[0].shape == y.shape
