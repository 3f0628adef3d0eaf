"""Echo state networks: the read-out is the closed form, and the reservoir has the properties it is known for."""

import math

import numpy as np
import pytest
import torch
from cases import exact, noise
from torch.testing import assert_close

import refold as rf
from refold.nn.reservoir import EchoState


def made(inputs: int = 1, units: int = 50, **settings) -> EchoState:
    torch.manual_seed(5)
    return EchoState(inputs, units, dtype=torch.float64, **settings)


def features(net: EchoState, x: torch.Tensor) -> np.ndarray:
    h, _ = net.layer(x)
    return torch.cat([torch.ones_like(h[..., :1]), x, h], -1).numpy()


def test_the_read_out_is_ridge_regression() -> None:
    """Against W = (Z'Z + ridge)^-1 Z'y and numpy's least squares, over the steps after the washout."""
    x, y = noise(80, 2, 3), noise(80, 2, 2, seed=9)
    net = made(3, 20, ridge=0.1, washout=15).fit(x, y)
    Z = features(net, x)[15:].reshape(-1, 24)
    d = y[15:].reshape(-1, 2).numpy()
    weight = net.weight
    assert weight is not None
    normal = np.linalg.solve(Z.T @ Z + 0.1 * np.eye(24), Z.T @ d).T
    assert_close(weight, torch.from_numpy(normal), rtol=1e-9, atol=1e-10)
    plain = made(3, 20, ridge=0.0, washout=15).fit(x, y).weight
    assert_close(plain, torch.from_numpy(np.linalg.lstsq(Z, d)[0].T), rtol=1e-8, atol=1e-9)
    exact(net.predict(x), torch.from_numpy(features(net, x)) @ weight.T)


def test_a_ragged_batch_is_its_sequences() -> None:
    """Padding, and each row's own washout, do not enter the regression."""
    x, y = noise(60, 3, 2), noise(60, 3, 1, seed=9)
    lengths = [60, 31, 12]
    Z = [features(made(2, 10), x[:n, b])[10:] for b, n in enumerate(lengths)]
    d = [y[10:n, b].numpy() for b, n in enumerate(lengths)]
    rows, wanted = np.concatenate(Z), np.concatenate(d)
    weight = np.linalg.solve(rows.T @ rows + 0.01 * np.eye(13), rows.T @ wanted).T
    spoiled = y.clone()
    spoiled[31:, 1], spoiled[12:, 2] = math.nan, math.nan
    for given in (lengths, torch.tensor(lengths)):
        net = made(2, 10, ridge=0.01, washout=10).fit(x, spoiled, given)
        assert_close(net.weight, torch.from_numpy(weight), rtol=1e-8, atol=1e-10)


def test_one_sequence_without_a_batch() -> None:
    x, y = noise(60, 2), noise(60, 1, seed=9)
    one = made(2, 10, washout=10).fit(x, y)
    batch = made(2, 10, washout=10).fit(x[:, None], y[:, None])
    exact(one.weight, batch.weight)
    exact(one.predict(x), batch.predict(x[:, None])[:, 0])


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_the_echo_state_property(rho: float) -> None:
    """Two initial states are forgotten: under the same input their paths meet."""
    net = made(1, 60, rho=rho)
    h, _ = net.layer(noise(400, 1, 1).expand(400, 2, 1), noise(1, 2, 60, seed=3))
    apart = (h[:, 0] - h[:, 1]).norm(dim=-1)
    assert apart[0] > 1 and apart[-1] < 1e-9


def test_rho_is_the_spectral_radius() -> None:
    layer = made(1, 60).layer
    W = dict(layer.named_buffers())["l0.W"]
    assert float(torch.linalg.eigvals(W).abs().max()) == pytest.approx(1.0, rel=1e-9)
    assert list(layer.parameters()) == []


def test_memory_capacity_comes_close_to_its_bound() -> None:
    """Jaeger 2001: the squared correlations of delayed inputs with what a linear read-out recalls sum to n at most."""
    units, delays = 40, 80
    torch.manual_seed(1)
    x = 2 * torch.rand(6000, 1, 1, dtype=torch.float64) - 1
    net = made(1, units, rho=0.95, sigma=1e-3, beta=0.0, ridge=0.0, washout=200)
    d = torch.cat([x.roll(k, 0) for k in range(1, delays + 1)], -1)
    y = net.fit(x[:4000], d[:4000]).predict(x)[4200:, 0].numpy()
    past = d[4200:, 0].numpy()
    recalled = [np.corrcoef(y[:, k], past[:, k])[0, 1] ** 2 for k in range(delays)]
    assert 0.6 * units < sum(recalled) < units + 1
    assert min(recalled[:10]) > 0.99


def mackey_glass(steps: int, delay: int = 17, fine: int = 10) -> torch.Tensor:
    """dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x, one sample a unit of time."""
    path = [1.2] * (delay * fine + 1)
    for _ in range((steps + 200) * fine):
        late = path[-delay * fine - 1]
        path.append(path[-1] + (0.2 * late / (1 + late**10) - 0.1 * path[-1]) / fine)
    return torch.tensor(path[-steps * fine :: fine], dtype=torch.float64)[:, None, None] - 1


def test_mackey_glass_is_predicted_and_continued() -> None:
    series = mackey_glass(2600)
    net = made(1, 200, rho=0.9, alpha=0.5, ridge=1e-8)
    net.fit(series[:2000], series[1:2001])
    one = net.predict(series[:2500])[2000:] - series[2001:2501]
    scale = series.std()
    assert float(one.square().mean().sqrt() / scale) < 1e-3
    ahead = net.free_run(series[:2001], 50) - series[2001:2051]
    assert float(ahead.square().mean().sqrt() / scale) < 0.05


def test_any_cell_can_be_a_reservoir() -> None:
    t = torch.arange(600, dtype=torch.float64)[:, None, None] / 5
    net = made(1, 30, cell="gru").fit(t.sin()[:-1], t.sin()[1:])
    assert float((net.predict(t.sin()[:-1])[200:] - t.sin()[201:]).abs().max()) < 1e-3
    assert not any(p.requires_grad for p in net.parameters())


def test_a_fitted_network_travels_by_its_state_dict() -> None:
    x = noise(150, 1, 1)
    net = made().fit(x[:-1], x[1:])
    assert set(net.state_dict()) >= {"weight", "layer.l0.W", "layer.l0.W_in"}


def test_what_is_refused() -> None:
    x = noise(50, 1, 2)
    for call, words in (
        (lambda: made(2, 5, ridge=-1.0), "ridge is -1.0"),
        (lambda: made(2, 5, washout=-3), "washout is -3"),
        (lambda: made(2, 5).predict(x), "was not fitted"),
        (lambda: made(2, 5).fit(x, x), "no step is left after a washout of 100"),
        (lambda: made(2, 5, washout=1).fit(x, x[1:]), "the target is (49, 1, 2)"),
        (lambda: made(2, 5, washout=1).fit(x, x[..., :1]).free_run(x, 3), "1 numbers and an input 2"),
    ):  # fmt: skip
        with pytest.raises(rf.DataError) as caught:
            call()
        assert words in str(caught.value)
