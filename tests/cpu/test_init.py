"""Initialisers do what their papers say, for each weight as its declaration asks."""

import math

import pytest
import torch
from torch.testing import assert_close

import refold as rf
from refold.nn.init import INITIALISERS

ROWS, COLUMNS = 60, 40


def drawn(init, shape="n m", hidden=ROWS, seed=0):
    """A weight of a cell whose declaration asks for `init`."""

    @rf.cell
    def plain(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight(shape, init=init)):
        product = {"n": lambda: W, "n m": lambda: W @ x, "n n": lambda: W @ h}[shape]()
        return rf.tanh(product) + rf.sum(x) * h

    torch.manual_seed(seed)
    layer = rf.Recurrent(plain, COLUMNS, hidden, dtype=torch.float64)
    return layer.parameters_of()["W"].detach()


def spread(w, expected):
    """The standard deviation of many draws, to five times its own error."""
    assert w.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * w.numel()))


def test_torchs_is_uniform_within_one_over_the_root_of_hidden_size():
    w = drawn("torch")
    bound = 1 / math.sqrt(ROWS)
    assert w.abs().max() <= bound
    spread(w, bound / math.sqrt(3))


@pytest.mark.parametrize(("name", "value"), [("zeros", 0.0), ("ones", 1.0)])
def test_constants(name, value):
    assert_close(drawn(name), torch.full((ROWS, COLUMNS), value, dtype=torch.float64))
    assert_close(drawn(name, "n"), torch.full((ROWS,), value, dtype=torch.float64))


def test_settings_are_used():
    assert_close(
        drawn(rf.Init("constant", value=2.5), "n"), torch.full((ROWS,), 2.5, dtype=torch.float64)
    )
    assert drawn(rf.Init("uniform", bound=0.25)).abs().max() <= 0.25
    spread(drawn(rf.Init("uniform", bound=0.25)), 0.25 / math.sqrt(3))
    spread(drawn(rf.Init("normal", std=0.3)), 0.3)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("lecun_normal", math.sqrt(1 / COLUMNS)),
        ("glorot_uniform", math.sqrt(2 / (ROWS + COLUMNS))),
        ("glorot_normal", math.sqrt(2 / (ROWS + COLUMNS))),
        ("he_uniform", math.sqrt(2 / COLUMNS)),
        ("he_normal", math.sqrt(2 / COLUMNS)),
    ],
)
def test_deviations_of_the_papers(name, deviation):
    spread(drawn(name), deviation)
    assert drawn(name, "n").shape == (ROWS,)


def test_orthogonal():
    w = drawn(rf.Init("orthogonal", gain=1.5))
    assert_close(w.T @ w, 2.25 * torch.eye(COLUMNS, dtype=torch.float64))


def test_identity_and_spectral_radius():
    assert_close(
        drawn(rf.Init("identity", scale=0.9), "n n"), 0.9 * torch.eye(ROWS, dtype=torch.float64)
    )
    radius = torch.linalg.eigvals(drawn(rf.Init("spectral_radius", radius=0.8), "n n")).abs().max()
    assert radius.item() == pytest.approx(0.8)


def test_every_initialiser_is_reproducible_and_takes_a_vector_or_says_why_not():
    for name in INITIALISERS:
        assert_close(drawn(name, "n n", seed=3), drawn(name, "n n", seed=3), rtol=0, atol=0)
        if name in ("orthogonal", "identity", "spectral_radius", "blocks"):
            with pytest.raises(rf.EquationError, match="needs a"):
                drawn(name, "n")
        else:
            assert drawn(name, "n").shape == (ROWS,)


def test_what_is_refused_points_at_the_declaration():
    for init, words in (
        ("orthogonl", ["W starts", '"orthogonl"', "no initialiser"]),
        (rf.Init("orthogonal", gian=2.0), ['"orthogonal" has no setting gian', "gain"]),
        ("spectral_radius", ["square matrix"]),
    ):
        with pytest.raises(rf.EquationError) as caught:
            drawn(init)
        text = str(caught.value)
        assert all(word in text for word in (*words, "test_init.py", "^^^"))


def test_resetting_draws_again():
    layer = rf.Recurrent("lstm", 3, 4)
    before = {name: p.clone() for name, p in layer.named_parameters()}
    layer.reset_parameters()
    assert all((p != before[name]).any() for name, p in layer.named_parameters())


def test_between_is_uniform_between_two_numbers():
    w = drawn(rf.Init("between", low=1.0, high=3.0))
    assert w.min() >= 1 and w.max() <= 3
    spread(w, 2 / math.sqrt(12))


def test_gains_and_slopes_scale():
    spread(drawn(rf.Init("lecun_normal", gain=0.5)), 0.5 / math.sqrt(COLUMNS))
    spread(drawn(rf.Init("he_uniform", a=8.0)), math.sqrt(2 / (65 * COLUMNS)))


def test_blocks_put_equal_numbers_of_rows_in_each_column():
    w = drawn("blocks")
    assert_close(w.sum(1), torch.ones(ROWS, dtype=torch.float64))
    whole = drawn("blocks", "n n")
    assert_close(whole, torch.eye(ROWS, dtype=torch.float64))
    counts = w.sum(0)
    assert counts.max() - counts.min() <= 1
    assert_close(w.argmax(1), w.argmax(1).sort().values)


def test_chrono_is_the_logarithm_of_a_uniform_number_of_steps():
    times = drawn(rf.Init("chrono", steps=50.0)).exp()
    assert times.min() >= 1 and times.max() <= 49
    spread(times, 48 / math.sqrt(12))


def test_ring_is_uniform_by_area():
    modulus = (-drawn(rf.Init("ring", r_min=0.5, r_max=0.9)).exp()).exp()
    assert modulus.min() >= 0.5 and modulus.max() <= 0.9
    spread(modulus**2, (0.81 - 0.25) / math.sqrt(12))


def test_the_whole_disc_has_no_infinite_logarithm():
    for init in ("ring", "phase"):
        assert torch.isfinite(drawn(init)).all()


def test_phase_is_the_logarithm_of_a_uniform_angle():
    angles = drawn(rf.Init("phase", most=1.5)).exp()
    assert angles.max() <= 1.5
    spread(angles, 1.5 / math.sqrt(12))


def test_decay_is_uniform_after_its_power():
    kept = drawn(rf.Init("decay", low=0.5, high=0.9, power=4.0)).sigmoid() ** 4
    assert kept.min() >= 0.5 - 1e-12 and kept.max() <= 0.9 + 1e-12
    spread(kept, 0.4 / math.sqrt(12))
