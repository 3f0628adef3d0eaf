"""The gallery: each network of the textbooks has the property it is known for."""

import itertools

import pytest
import torch
from cases import exact, noise, seeded
from torch import Tensor

import refold as rf


def made(name: str, m: int, n: int, weights: dict[str, Tensor] | None = None, **settings):
    layer = seeded(rf.Recurrent(name, m, n, dtype=torch.float64, **settings))
    with torch.no_grad():
        for key, value in (weights or {}).items():
            layer.parameters_of()[key].copy_(value)
    return layer.requires_grad_(False)


def closed(steps: int, rows: int) -> Tensor:
    return torch.zeros(steps, rows, 0, dtype=torch.float64)


def signs(*shape: int, seed: int) -> Tensor:
    return torch.where(noise(*shape, seed=seed) > 0, 1.0, -1.0).double()


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# ---------------------------------------------------------------- McCulloch & Pitts


def test_threshold_units_are_logic_gates() -> None:
    """AND, OR and NOT (of the first input), one step later."""
    layer = made(
        "mcculloch_pitts", 2, 3,
        {"W_x": matrix([1, 1], [1, 1], [-1, 0]), "W_h": torch.zeros(3, 3), "theta": torch.tensor([2.0, 1.0, 0.0])},
    )  # fmt: skip
    for a, b in itertools.product((0, 1), repeat=2):
        y, _ = layer(torch.tensor([[[a, b]]], dtype=torch.float64))
        assert y.flatten().tolist() == [a and b, a or b, 1 - a]


def test_a_threshold_unit_that_feeds_itself_is_a_latch() -> None:
    """Set keeps it on, reset turns it off, and in between it remembers."""
    weights = {"W_x": matrix([1, -2]), "W_h": matrix([1]), "theta": torch.tensor([1.0])}
    layer = made("mcculloch_pitts", 2, 1, weights)
    set_, reset = [0, 1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0, 0, 0]
    x = torch.tensor([set_, reset], dtype=torch.float64).T[:, None]
    assert layer(x)[0].flatten().tolist() == [0, 1, 1, 1, 0, 0, 1, 1]


# ---------------------------------------------------------------- Grossberg


@pytest.mark.parametrize("dt", [0.1, 3.0, 100.0])
def test_shunting_states_stay_between_their_bounds(dt: float) -> None:
    """Within [-D, B], whatever the input, and for any step: each step goes a part of the way to a point inside."""
    layer = made("shunting", 3, 8, B=1.5, D=0.5, dt=dt)
    y, _ = layer(100 * noise(300, 4, 3))
    assert y.max() <= 1.5 + 1e-12 and y.min() >= -0.5 - 1e-12
    assert y.max() > 1.4 and y.min() < -0.4


def test_the_additive_network_is_not_bounded_by_its_input() -> None:
    layer = made("additive", 3, 8, {"A": torch.ones(8)})
    assert layer(100 * noise(300, 4, 3))[0].abs().max() > 10


def test_the_additive_network_rests_where_decay_and_signals_agree() -> None:
    W = noise(8, 8, seed=4) / 8
    layer = made("additive", 3, 8, {"A": torch.full((8,), 1.5), "W_h": W})
    x = noise(1, 2, 3)
    y, _ = layer(x.expand(1500, -1, -1))
    p = layer.parameters_of()
    exact(p["A"] * y[-1], torch.tanh(y[-1]) @ W.T + x[0] @ p["W_x"].T + p["b"])


def test_the_energy_of_cohen_and_grossberg_falls() -> None:
    """V = -sum_i integral_0^h_i b_i(s) d'(s) ds + 1/2 sum_jk c_jk d(h_j) d(h_k), and at rest a (b - C d) = 0."""
    layer = made("cohen_grossberg", 3, 12, {"C": noise(12, 12, seed=6) / 2})
    x = noise(1, 5, 3)
    h, _ = layer(x.expand(6000, -1, -1), 2 * noise(1, 5, 12, seed=7))
    p = layer.parameters_of()
    C, u, d = (p["C"] + p["C"].T) / 2, x[0] @ p["W_x"].T, torch.tanh(h)
    # The integral of (u - s) / cosh(s)^2 from 0 to h.
    integral = u * d - (h * d - torch.log(torch.cosh(h)))
    V = -integral.sum(-1) + 0.5 * ((d @ C) * d).sum(-1)
    assert bool((V[1:] - V[:-1] <= 1e-12).all())
    assert bool((V[0] - V[-1] > 0.1).all())
    assert float((u - h[-1] - d[-1] @ C).abs().max()) < 1e-6


# ---------------------------------------------------------------- associative memories


def hebb(patterns: Tensor) -> Tensor:
    W = patterns.T @ patterns / patterns.shape[1]
    return W - torch.diag(W.diag())


def test_hopfield_keeps_and_completes_what_it_stores() -> None:
    stored = signs(5, 100, seed=2)
    layer = made("hopfield", 0, 100, {"W": hebb(stored)})
    assert torch.equal(layer(closed(1, 5), stored[None])[0][0], stored)
    spoiled = stored.clone()
    spoiled[:, ::6] *= -1  # 17 of 100 units are wrong
    assert torch.equal(layer(closed(10, 5), spoiled[None])[0][-1], stored)


def test_hopfield_holds_up_to_0138_n_patterns() -> None:
    """Started at what is stored, the network stays close below the capacity and leaves above it (Amit et al. 1985)."""
    n, overlap = 500, {}
    for loading in (0.05, 0.10, 0.18, 0.25):
        stored = signs(round(loading * n), n, seed=8)
        layer = made("hopfield", 0, n, {"W": hebb(stored)})
        end = layer(closed(40, len(stored)), stored[None])[0][-1]
        overlap[loading] = float((end * stored).mean(-1).mean())
    assert overlap[0.05] > 0.99 and overlap[0.10] > 0.95
    assert overlap[0.18] < 0.75 and overlap[0.25] < 0.5
    assert list(overlap.values()) == sorted(overlap.values(), reverse=True)


def test_the_brain_state_ends_in_a_corner_of_its_box() -> None:
    """Positive feedback through symmetric weights; stored corners attract."""
    stored = signs(2, 20, seed=3)
    W = stored.T @ stored / 20
    layer = made("brain_state_in_a_box", 0, 20, {"W": W}, alpha=0.3)
    start = 0.1 * stored + 0.05 * noise(2, 20, seed=4)
    y, _ = layer(closed(60, 2), start[None])
    assert y.abs().max() <= 1
    assert torch.equal(y[-1], stored)
    energy = -0.5 * ((y @ W) * y).sum(-1)
    assert bool((energy[1:] <= energy[:-1] + 1e-12).all())


def test_bam_recalls_pairs_and_its_energy_falls() -> None:
    a, b = signs(3, 64, seed=5), signs(3, 32, seed=6)
    M = a.T @ b
    layer = made("bam", 0, 64, {"M": M}, k=32)
    spoiled = a.clone()
    spoiled[:, ::8] *= -1
    y, _ = layer(closed(10, 3), (spoiled[None], signs(1, 3, 32, seed=7)), return_states="all")
    assert torch.equal(y["a"][-1], a) and torch.equal(y["b"][-1], b)
    far, _ = layer(
        closed(20, 40), (signs(1, 40, 64, seed=9), signs(1, 40, 32, seed=10)), return_states="all"
    )
    energy = -((far["a"] @ M) * far["b"]).sum(-1)
    assert bool((energy[1:] <= energy[:-1]).all())
    assert torch.equal(far["a"][-1], far["a"][-2])
