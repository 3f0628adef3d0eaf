"""Probes: the adjoint of every state at every step, against the recursion written out by hand."""

from functools import partial

import cases
import oracle
import pytest
import torch
from cases import CASES, as_state, both_backends, initial, make, noise, parameters
from torch.testing import assert_close

import refold as rf

STEPS, BATCH = 5, 3
exact = partial(assert_close, rtol=0.0, atol=1e-12)


@both_backends
@pytest.mark.parametrize("name", ["lstm", "jordan", "two_layer_feedback"])
def test_probes_measure_the_total_derivative_of_every_state(name: str, backend: str) -> None:
    """It is what the oracle gives when it is restarted from the states at t, for every t."""
    layer, case = make(name, backend), CASES[name]
    x, states = noise(STEPS, BATCH, cases.INPUT), initial(name, BATCH)
    with layer.probe() as probes:
        y, _ = layer(x, as_state(states))
    assert [list(p) for p in probes] == [list(case.states)]
    exact(y, layer(x, as_state(states))[0])
    v = noise(*y.shape, seed=5)
    tensors = list(probes[0].values())
    gradients = torch.autograd.grad((y * v).sum(), tensors)
    for k, (probe, g) in enumerate(zip(tensors, gradients, strict=True)):
        assert probe.shape == (STEPS, BATCH, list(case.states.values())[k])
        assert torch.count_nonzero(probe) == 0
        assert torch.count_nonzero(g[:-1]) > 0
        direct = _nudged(name, parameters(layer), x, states, k, v)
        exact(g, direct, msg=lambda m, k=k: f"state {k}: {m}")


def _nudged(
    name: str,
    p: dict[str, torch.Tensor],
    x: torch.Tensor,
    states: tuple[torch.Tensor, ...],
    which: int,
    v: torch.Tensor,
) -> torch.Tensor:
    """dE/ds(t) with E = <v, y>: restart the oracle from the state at t and differentiate by it.

    What y(t) itself owes to the state at t counts too when y(t) is that state.
    """
    case = CASES[name]
    run = oracle.unfold(case.step, p, x, tuple(s[0] for s in states))
    rows = []
    for t in range(STEPS):
        here = [s[t].detach().requires_grad_() for s in run.states]
        energy = (here[which] * 0).sum()
        outputs = [k for k, s in enumerate(run.states) if torch.equal(s, run.y)]
        energy = energy + sum((here[k] * v[t]).sum() for k in outputs)
        if t + 1 < STEPS:
            energy = (
                energy + (oracle.unfold(case.step, p, x[t + 1 :], tuple(here)).y * v[t + 1 :]).sum()
            )
        rows.append(torch.autograd.grad(energy, here[which])[0])
    return torch.stack(rows)


@both_backends
def test_probes_of_a_stack_in_both_directions(backend: str) -> None:
    """One dict for each layer and direction, in x's order of time, zero gradient in the padding."""
    layer, lengths = make("lstm", backend, num_layers=2, bidirectional=True), [3, STEPS, 0]
    x = noise(STEPS, BATCH, cases.INPUT)
    with layer.probe() as probes:
        y, _ = layer(x, lengths=lengths)
    assert [list(p) for p in probes] == [["h", "c"]] * 4
    v = noise(*y.shape, seed=5)
    tensors = [t for p in probes for t in p.values()]
    gradients = torch.autograd.grad((y * v).sum(), tensors)
    for g in gradients:
        assert g.shape == (STEPS, BATCH, cases.HIDDEN)
        for b, length in enumerate(lengths):
            assert torch.count_nonzero(g[length:, b]) == 0
    # At the last step that runs nothing follows, so the adjoint of h is what the error says itself.
    top_h, last = gradients[4], [length - 1 for length in lengths[:2]]
    for b, t in enumerate(last):
        exact(top_h[t, b], v[t, b, : cases.HIDDEN])
    exact(gradients[6][0, :2], v[0, :2, cases.HIDDEN :])
    assert all(torch.count_nonzero(g) > 0 for g in gradients)


@both_backends
def test_probes_in_reverse_are_those_of_the_reversed_sequence(backend: str) -> None:
    both, one = make("gru", backend, bidirectional=True), make("gru", backend)
    with torch.no_grad():
        for key, p in parameters(one).items():
            p.copy_(parameters(both, 0, True)[key])
    x, v = noise(STEPS, BATCH, cases.INPUT), noise(STEPS, BATCH, cases.HIDDEN, seed=2)
    with both.probe() as probes:
        y, _ = both(x)
    (g,) = torch.autograd.grad((y[..., cases.HIDDEN :] * v).sum(), probes[1]["h"])
    with one.probe() as alone:
        y, _ = one(x.flip(0))
    (theirs,) = torch.autograd.grad((y * v.flip(0)).sum(), alone[0]["h"])
    exact(g, theirs.flip(0))


def test_a_probe_lasts_as_long_as_its_block() -> None:
    layer = make("gru")
    x = noise(STEPS, BATCH, cases.INPUT)
    with layer.probe() as probes:
        layer(x)
        layer(x[:2])
    assert probes[0]["h"].shape[0] == 2
    layer(x)
    assert probes[0]["h"].shape[0] == 2
    with pytest.raises(ValueError, match="inside"), layer.probe():
        raise ValueError("inside")
    with layer.probe() as again:
        pass
    assert again == []


@rf.cell
def with_read_out(
    x=rf.Input("m"),
    h=rf.State("n"),
    s=rf.State("n"),
    *,
    W_h=rf.Weight("n n"),
    W_x=rf.Weight("n m"),
    V=rf.Weight("n n"),
):
    new = rf.tanh(W_h @ h + s)
    drive = W_x @ x  # a state that no state reaches
    return rf.Step(new, drive, output=V @ new + drive)


@both_backends
def test_probes_count_what_the_error_says_through_a_read_out(backend: str) -> None:
    """The textbook recursion by hand: delta(t) = dE(t)/dstate(t) + J(t+1)^T delta(t+1)."""
    layer = rf.Recurrent(with_read_out, cases.INPUT, cases.HIDDEN, backend=backend)
    cases.seeded(layer.double())
    x, p = noise(STEPS, BATCH, cases.INPUT), parameters(layer)
    with layer.probe() as probes:
        values, _ = layer(x, return_states="all")
    v = noise(STEPS, BATCH, cases.HIDDEN, seed=3)
    found = torch.autograd.grad((values["output"] * v).sum(), list(probes[0].values()))
    delta_h = delta_s = torch.zeros(BATCH, cases.HIDDEN, dtype=torch.float64)
    for t in reversed(range(STEPS)):
        through = delta_h if t == STEPS - 1 else delta_h * (1 - values["h"][t + 1] ** 2)
        delta_h, delta_s = v[t] @ p["V"] + through @ p["W_h"], v[t] + through
        exact(found[0][t], delta_h, msg=lambda m, t=t: f"h({t}): {m}")
        exact(found[1][t], delta_s, msg=lambda m, t=t: f"s({t}): {m}")
