"""The shortest path through the whole house, to be read first: an equation, a layer, a gradient, a fit."""

import torch

import refold as rf


@rf.cell
def unit(h=rf.State("1"), *, w=rf.Weight("1")):
    """h(t) = w h(t-1): the smallest recurrent network."""
    return w * h


def test_gradient_of_the_smallest_network():
    # E = h(T)^2 / 2 with h(0) = 1: dE/dw = T w^(2T-1)
    for backend in ("reference", "derived"):
        layer = rf.Recurrent(
            unit, input_size=0, hidden_size=1, dtype=torch.float64, backend=backend
        )
        w = layer.parameters_of()["w"]
        with torch.no_grad():
            w.fill_(0.5)
        _, h = layer(
            torch.zeros(10, 1, 0, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
        )
        (0.5 * h.square().sum()).backward()
        assert w.grad is not None
        torch.testing.assert_close(w.grad.item(), 1.9073486328125e-5, rtol=1e-12, atol=0)


def test_an_equation_learns():
    # The sum of all inputs so far: one linear unit can hold it.
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(12, 1, generator=generator) for _ in range(32)]
    data = rf.Sequences(x, d=[s.cumsum(0) for s in x])
    torch.manual_seed(0)
    network = rf.Network(rf.Recurrent("elman", 1, 16), head=1, shape="many-to-many")
    run = rf.fit(network, data, rf.Fit(epochs=60, rate=1e-2, validation=0.25))
    assert run.validation[run.best_epoch - 1] < 0.25 * run.validation[0]
