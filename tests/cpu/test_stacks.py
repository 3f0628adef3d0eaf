"""Residual, highway and dilated stacks: against loops over layers, and against every d-th step run by itself."""

import pytest
import torch
from by_hand import NAMES
from cases import BATCH, HIDDEN, INPUT, STEPS, as_state, as_tuple, initial, make, noise
from torch.testing import assert_close

import refold as rf
from refold.nn.stacks import Gate

backends = pytest.mark.parametrize("backend", ["reference", "llvm"])
cells = pytest.mark.parametrize("name", NAMES)


def single(layer, index, **sizes):
    """One layer of a stack as a layer of its own."""
    width = INPUT if index == 0 else layer.output_features
    alone = rf.Recurrent(
        layer.cell, width, layer.hidden_size, bidirectional=layer.bidirectional,
        backend="reference", dtype=torch.float64, **sizes,
    )  # fmt: skip
    own = layer.state_dict()
    alone.load_state_dict({k: own[k.replace("l0", f"l{index}", 1)] for k in alone.state_dict()})
    return alone


@cells
@backends
@pytest.mark.parametrize("kind", ["residual", "highway"])
def test_a_stack_is_a_loop_over_its_layers(name, backend, kind):
    layer = make(name, backend, num_layers=3, bidirectional=True, stack=rf.Stack(kind))
    x = noise(STEPS, BATCH, INPUT).requires_grad_()
    lengths = [6, 2, 4]
    y, final = layer(x, lengths=lengths)
    below, ends = x, []
    for index in range(3):
        above, state = single(layer, index, **layer.sizes)(below, lengths=lengths)
        ends.append(as_tuple(state))
        if index == 0:
            below = above
        elif kind == "residual":
            below = below + above
        else:
            gate = dict(layer.get_submodule(f"highway{index}").named_parameters())
            t = torch.sigmoid(below @ gate["W_T"].T + gate["b_T"])
            below = t * above + (1 - t) * below
    assert_close(y, below, rtol=0, atol=1e-10)
    for mine, theirs in zip(as_tuple(final), zip(*ends, strict=True), strict=True):
        assert_close(mine, torch.cat(theirs), rtol=0, atol=1e-10)
    v = noise(*y.shape, seed=5)
    mine, theirs = (torch.autograd.grad((o * v).sum(), x)[0] for o in (y, below))
    assert_close(mine, theirs, rtol=0, atol=1e-10)


def test_gates_learn_start_nearly_closed_and_are_drawn_again():
    layer = rf.Recurrent("gru", 3, 4, num_layers=2, stack=rf.Stack("highway"))
    gate = layer.get_submodule("highway1")
    assert isinstance(gate, Gate)
    assert gate.b_T.tolist() == [-1.0] * 4
    layer(torch.randn(5, 2, 3))[0].sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in gate.parameters())
    before = gate.W_T.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(before, gate.W_T)


@cells
@backends
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_dilated_layer_is_every_dth_step_run_by_itself(name, backend, bidirectional):
    """Values, final states and gradients, for ragged rows and T no multiple of d."""
    d, steps, lengths = 3, 8, [8, 4, 2]
    layer = make(name, backend, bidirectional=bidirectional, stack=rf.Stack(dilations=(d,)))
    plain = make(name, "reference", bidirectional=bidirectional)
    x = noise(steps, BATCH, INPUT).requires_grad_()
    states = initial(name, BATCH, d * layer.directions)
    y, final = layer(x, as_state(states), lengths)
    outputs, ends = torch.zeros_like(y), [torch.zeros_like(s) for s in states]
    for b, count in enumerate(lengths):
        for r in range(d):
            slots = [r] + [(count - 1 - r) % d] * bidirectional  # slot of the first step read
            nexts = [(r - count) % d] + [(-1 - r) % d] * bidirectional
            first = tuple(
                torch.stack([s[j * layer.directions + k, b] for k, j in enumerate(slots)])[:, None]
                for s in states
            )
            piece = x[r:count:d, b : b + 1]
            own, last = plain(piece, as_state(first), [piece.shape[0]])
            outputs = outputs.index_put((torch.arange(r, count, d), torch.tensor(b)), own[:, 0])
            for e, s in zip(ends, as_tuple(last), strict=True):
                for k, j in enumerate(nexts):
                    e[j * layer.directions + k, b] = s[k, 0].detach()
    assert_close(y, outputs, rtol=0, atol=1e-12)
    for mine, theirs in zip(as_tuple(final), ends, strict=True):
        assert_close(mine.detach(), theirs, rtol=0, atol=1e-12)
    v = noise(*y.shape, seed=5)
    mine = torch.autograd.grad((y * v).sum(), [x, *states, *layer.parameters()])
    theirs = torch.autograd.grad((outputs * v).sum(), [x, *states, *plain.parameters()])
    for a, b in zip(mine, theirs, strict=True):
        assert_close(a, b, rtol=0, atol=1e-10)


@backends
@pytest.mark.parametrize("cut", [1, 4, 7])
def test_two_halves_with_the_state_carried_are_one_run(backend, cut):
    layer = make("lstm", backend, num_layers=3, stack=rf.Stack("residual", dilations=(1, 2, 4)))
    x = noise(9, BATCH, INPUT)
    whole, end = layer(x)
    first, state = layer(x[:cut])
    second, last = layer(x[cut:], state)
    assert [s.shape for s in state] == [(7, BATCH, HIDDEN)] * 2
    assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-12)
    for a, b in zip(last, end, strict=True):
        assert_close(a, b, rtol=0, atol=1e-12)


def test_halves_of_rows_of_several_lengths_are_one_run():
    layer = make("gru", "llvm", stack=rf.Stack(dilations=(3,)))
    x = noise(9, BATCH, INPUT)
    whole, end = layer(x, lengths=[9, 5, 4])
    first, state = layer(x[:5], lengths=[5, 1, 4])
    rest = torch.stack([x[5:, 0], x[1:5, 1], x[5:, 2]], 1)
    second, last = layer(rest, state, [4, 4, 0])
    assert_close(second[:, 0], whole[5:, 0], rtol=0, atol=1e-12)
    assert_close(second[:, 1], whole[1:5, 1], rtol=0, atol=1e-12)
    assert_close(torch.cat([first[:1, 1], second[:, 1]]), whole[:5, 1], rtol=0, atol=1e-12)
    assert_close(last, end, rtol=0, atol=1e-12)


@backends
def test_a_reset_parts_a_dilated_sequence_too(backend):
    """Both directions; at the end, slots with no step after the reset hand on their start."""
    layer = make(
        "lstm", backend, bidirectional=True, learn_state=True, stack=rf.Stack(dilations=(3,))
    )
    x = noise(8, 2, INPUT)
    for at in (1, 4, 7):
        resets = torch.zeros(8, 2, dtype=torch.bool)
        resets[at, 0] = True
        y, final = layer(x, resets=resets)
        (before, ends), (after, last) = layer(x[:at]), layer(x[at:])
        assert_close(y[:, 0], torch.cat([before, after])[:, 0], rtol=0, atol=1e-14)
        for mine, early, late in zip(final, ends, last, strict=True):
            assert_close(mine[0::2, 0], late[0::2, 0], rtol=0, atol=1e-14)
            assert_close(mine[1::2, 0], early[1::2, 0], rtol=0, atol=1e-14)
        assert_close(y[:, 1], layer(x)[0][:, 1], rtol=0, atol=1e-14)


def test_a_dilated_layer_starts_anew_from_a_given_state():
    layer = make("gru", "llvm", stack=rf.Stack(dilations=(2,)))
    x, start = noise(5, 1, INPUT), noise(1, 1, HIDDEN, seed=8)
    resets = torch.tensor([False, False, True, False, False])[:, None]
    y, final = layer(x, resets=resets, reset_state=start)
    alone, last = layer(x[2:], start.expand(2, 1, HIDDEN))
    assert_close(y[2:], alone, rtol=0, atol=1e-14)
    assert_close(final, last, rtol=0, atol=1e-14)


def test_random_masks_of_a_dilated_layer_are_those_of_its_rows():
    """One mask along time for a row, whichever of its sequences a step belongs to."""

    @rf.cell(source="the output shows what is read of a state of ones")
    def echo(x=rf.Input("n"), h=rf.State("n", start=1.0), *, W=rf.Weight("n n", init="identity")):
        return rf.Step(x, output=W @ h)

    rates = rf.Regularise(recurrent=0.5)
    layer = rf.Recurrent(echo, 30, 30, regularise=rates, stack=rf.Stack(dilations=(2,)))
    y = layer(torch.ones(6, 4, 30))[0]
    assert torch.equal(y, y[:1].expand_as(y))
    assert {0.0, 2.0} == set(y.unique().tolist())


@backends
def test_probes_of_a_dilated_layer_lie_along_time(backend):
    layer = make("elman", backend, stack=rf.Stack(dilations=(2,)))
    with layer.probe() as probes:
        y, _ = layer(noise(5, BATCH, INPUT))
    (delta,) = torch.autograd.grad(y[4].sum(), probes[0]["h"])
    assert delta.shape == (5, BATCH, HIDDEN)
    assert [bool(d.any()) for d in delta] == [True, False, True, False, True]


def test_all_states_of_a_dilated_layer_lie_along_time():
    layer = make("lstm", "llvm", stack=rf.Stack(dilations=(2,)))
    y, _ = layer(noise(5, BATCH, INPUT), return_states="all")
    assert y["c"].shape == (5, BATCH, HIDDEN)
    assert torch.equal(y["h"], y["output"])


def test_calls_without_gradients_run_the_same_stack():
    layer = make("gru", "llvm", num_layers=2, stack=rf.Stack("residual", (1, 2)))
    x = noise(STEPS, BATCH, INPUT)
    y = layer(x)[0]
    with torch.no_grad():
        assert torch.equal(layer(x)[0], y)
        assert torch.equal(layer(x)[0], y)
        assert layer(x[:0])[0].shape == (0, BATCH, HIDDEN)


def test_a_stack_is_shown():
    layer = rf.Recurrent("gru", 3, 4, num_layers=2, stack=rf.Stack("residual", dilations=(1, 2)))
    assert (
        repr(layer)
        == 'Recurrent(gru, 3, 4, num_layers=2, stack=Stack("residual", dilations=(1, 2)))'
    )


@pytest.mark.parametrize("given", [(0,), (1.5,), (True,), 2, "12"])
def test_dilations_are_positive_whole_numbers(given):
    with pytest.raises(
        rf.EquationError, match="must be whole numbers, at least 1, one for each layer"
    ):
        rf.Stack(dilations=given)


def test_stacks_that_cannot_be_are_refused():
    with pytest.raises(rf.EquationError, match='there is no stack "dense"'):
        rf.Stack("dense")
    with pytest.raises(rf.EquationError, match=r"there are 2 dilations, \(1, 2\), and 3 layers"):
        rf.Recurrent("gru", 3, 4, num_layers=3, stack=rf.Stack(dilations=(1, 2)))
    with pytest.raises(rf.EquationError, match="a residual stack joins a layer with the one below"):
        rf.Recurrent("gru", 3, 4, stack=rf.Stack("residual"))
    with pytest.raises(rf.EquationError, match=r"stack is 'residual', and must be an rf\.Stack"):
        rf.Recurrent("gru", 3, 4, num_layers=2, stack="residual")  # type: ignore[arg-type]
    with pytest.raises(
        rf.KernelError, match=r"state h is \(2, 3, 4\), and \(3, 3, 4\) is expected"
    ):
        layer = rf.Recurrent("gru", 3, 4, num_layers=2, stack=rf.Stack(dilations=(1, 2)))
        layer(torch.zeros(5, 3, 3), torch.zeros(2, 3, 4))
