"""Resets and masks in mid-sequence: against loops, and against the pieces run alone."""

import pytest
import torch
from by_hand import NAMES, Wired, compare, run, states_in
from cases import BATCH, INPUT, STEPS, as_state, as_tuple, initial, make, noise, parameters
from torch.testing import assert_close

import refold as rf

backends = pytest.mark.parametrize("backend", ["reference", "llvm"])
cells = pytest.mark.parametrize("name", NAMES)
LENGTHS = [6, 2, 5]
RESETS = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 1]]) == 1
MASK = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 1, 0]]) == 1


def leaves_of(x, states, layer):
    return {"x": x, **{f"initial {k}": s for k, s in enumerate(states)}, **parameters(layer)}


@cells
@backends
def test_resets_and_masks_are_the_loop(name, backend):
    """A reset at a step that is left out counts; a mask holds the states and gives zeros."""
    layer = make(name, backend)
    x, states = noise(STEPS, BATCH, INPUT).requires_grad_(), initial(name, BATCH)
    y, final = layer(x, as_state(states), LENGTHS, resets=RESETS, mask=MASK)
    wired = Wired(resets=RESETS, mask=MASK)
    expected = run(name, parameters(layer), x, states_in(states), wired, LENGTHS)
    assert torch.count_nonzero(y[~MASK]) == 0
    results = [y, *(s[0] for s in as_tuple(final))]
    compare(results, [expected[0], *expected[1]], leaves_of(x, states, layer))


@cells
@backends
def test_a_given_start_takes_its_gradient(name, backend):
    layer = make(name, backend)
    x, states = noise(STEPS, BATCH, INPUT).requires_grad_(), initial(name, BATCH)
    starts = initial(name, BATCH, seed=77)
    y, final = layer(x, as_state(states), resets=RESETS, reset_state=as_state(starts))
    wired = Wired(resets=RESETS, starts=states_in(starts))
    expected = run(name, parameters(layer), x, states_in(states), wired)
    leaves = leaves_of(x, states, layer) | {f"start {k}": s for k, s in enumerate(starts)}
    compare(
        [y, *(s[0] for s in as_tuple(final))],
        [expected[0], *expected[1]],
        leaves,
    )


@cells
@backends
def test_a_learned_start_takes_its_gradient_at_every_reset(name, backend):
    layer = make(name, backend, learn_state=True)
    x, states = noise(STEPS, BATCH, INPUT).requires_grad_(), initial(name, BATCH)
    learned = {n: p for n, p in layer.named_parameters() if "start_" in n}
    assert len(learned) == len(states)
    y, final = layer(x, as_state(states), resets=RESETS)
    starts = [p.expand(BATCH, -1) for p in learned.values()]
    wired = Wired(resets=RESETS, starts=starts)
    expected = run(name, parameters(layer), x, states_in(states), wired)
    leaves = leaves_of(x, states, layer) | learned
    compare([y, *(s[0] for s in as_tuple(final))], [expected[0], *expected[1]], leaves)


@cells
def test_regularised_resets_and_masks_are_the_loop(name):
    layer = make(name, "llvm", regularise=rf.Regularise(zoneout=0.3)).eval()
    x, states = noise(STEPS, BATCH, INPUT).requires_grad_(), initial(name, BATCH)
    y, final = layer(x, as_state(states), LENGTHS, resets=RESETS, mask=MASK)
    wired = Wired(resets=RESETS, mask=MASK, blend=dict.fromkeys(range(len(states)), 0.3))
    expected = run(name, parameters(layer), x, states_in(states), wired, LENGTHS)
    results = [y, *(s[0] for s in as_tuple(final))]
    compare(results, [expected[0], *expected[1]], leaves_of(x, states, layer))


@backends
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_reset_parts_a_sequence_in_two_that_run_alone(backend, bidirectional):
    layer = make("lstm", backend, num_layers=2, bidirectional=bidirectional)
    x = noise(7, 1, INPUT)
    resets = torch.zeros(7, 1, dtype=torch.bool)
    resets[3] = True
    y, final = layer(x, resets=resets)
    (first, ends), (second, last) = layer(x[:3]), layer(x[3:])
    assert_close(y, torch.cat([first, second]), rtol=0, atol=1e-14)
    for mine, before, after in zip(final, ends, last, strict=True):
        assert_close(mine[:: layer.directions], after[:: layer.directions], rtol=0, atol=1e-14)
        if bidirectional:
            assert_close(mine[1::2], before[1::2], rtol=0, atol=1e-14)


@cells
def test_without_gradients_nothing_differs_and_no_flag_is_the_plain_layer(name):
    layer = make(name, "llvm")
    x = noise(STEPS, BATCH, INPUT)
    with_gradients = layer(x, resets=RESETS, mask=MASK)[0]
    never = torch.zeros_like(RESETS)
    with torch.no_grad():
        layer(x)  # made ready now
        without = layer(x, resets=RESETS, mask=MASK)[0]
        assert_close(without, with_gradients, rtol=0, atol=1e-14)
        assert_close(layer(x, resets=never, mask=~never)[0], layer(x)[0], rtol=0, atol=1e-14)


@backends
def test_a_mask_of_the_first_steps_is_lengths(backend):
    layer = make("gru", backend, bidirectional=True)
    x = noise(STEPS, BATCH, INPUT)
    mask = torch.arange(STEPS)[:, None] < torch.tensor(LENGTHS)
    hidden = torch.where(mask[..., None], x, torch.nan)
    found = []
    for settings in ({"lengths": LENGTHS}, {"mask": mask}):
        y, h = layer(hidden, **settings)
        found.append(
            [y, h, *torch.autograd.grad(y.square().sum() + h.sum(), list(layer.parameters()))]
        )
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=0, atol=1e-12)


@cells
def test_any_mask_is_the_sequence_of_what_it_leaves(name):
    layer = make(name, "llvm", bidirectional=True)
    x = noise(STEPS, 1, INPUT)
    keep = MASK[:, 0]
    y, final = layer(x, mask=keep[:, None])
    alone, ends = layer(x[keep])
    assert_close(y[keep], alone, rtol=0, atol=1e-14)
    for mine, theirs in zip(as_tuple(final), as_tuple(ends), strict=True):
        assert_close(mine, theirs, rtol=0, atol=1e-14)


def test_all_states_are_held_where_a_step_is_left_out():
    layer = make("lstm", "llvm")
    y, _ = layer(noise(STEPS, BATCH, INPUT), mask=MASK, return_states="all")
    left_out = ~MASK[1:]
    for name in ("h", "c"):
        assert torch.equal(y[name][1:][left_out], y[name][:-1][left_out])
    assert torch.count_nonzero(y["output"][~MASK]) == 0


def test_flags_have_the_axes_of_x():
    x = noise(STEPS, BATCH, INPUT)
    y, _ = make("gru")(x, resets=RESETS, mask=MASK)
    first = make("gru", batch_first=True)
    assert torch.equal(first(x.transpose(0, 1), resets=RESETS.T, mask=MASK.T)[0], y.transpose(0, 1))
    alone = make("gru")(x[:, 0], resets=RESETS[:, 0], mask=MASK[:, 0])[0]
    assert_close(alone, y[:, 0], rtol=0, atol=1e-14)


def test_a_cell_starts_where_it_says():
    @rf.cell
    def count(x=rf.Input("n"), h=rf.State("n", start=5.0)):
        return h + x

    layer = rf.Recurrent(count, 1, 1)
    resets = torch.tensor([False, True, False])
    y, _ = layer(torch.ones(3, 1), torch.zeros(1, 1), resets=resets)
    assert y[:, 0].tolist() == [1.0, 6.0, 7.0]


@backends
def test_a_state_of_one_number_starts_anew(backend):
    @rf.cell
    def clock(x=rf.Input(""), t=rf.State("")):
        return t + x

    for learned in (False, True):
        layer = rf.Recurrent(clock, 1, 1, backend=backend, learn_state=learned)
        resets = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 1]]).T == 1
        y, _ = layer(torch.ones(4, 2, 1), resets=resets, mask=~resets.flip(0))
        assert y[..., 0].T.tolist() == [[1.0, 0.0, 1.0, 2.0], [0.0, 1.0, 0.0, 1.0]]
        assert len(list(layer.parameters())) == learned


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"resets": torch.zeros(6, 3)}, r"resets is torch.float32, and a flag is true or false"),
        ({"mask": [True]}, "mask is list, and a flag is true or false"),
        ({"mask": RESETS[:5]}, r"mask is \(5, 3\), and x has \(time, batch\) = \(6, 3\)"),
        ({"resets": RESETS.to("meta")}, "resets is on meta, and x is on cpu"),
        ({"reset_state": torch.zeros(1, 3, 4)}, "reset_state is given, and no resets"),
        (
            {"resets": RESETS, "reset_state": torch.zeros(2, 3, 4)},
            r"state h is \(2, 3, 4\), and \(1, 3, 4\) is expected",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(settings, text):
    with pytest.raises(rf.KernelError, match=text):
        make("gru", dtype=torch.float32)(torch.zeros(STEPS, BATCH, INPUT), **settings)


def test_a_packed_sequence_has_no_steps_to_flag():
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(3, INPUT)])
    for backend in ("reference", "llvm"):
        with pytest.raises(
            rf.KernelError, match="x is a PackedSequence, and resets has a flag for each step"
        ):
            make("gru", backend, dtype=torch.float32)(packed, resets=RESETS)
