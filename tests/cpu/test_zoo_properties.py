"""What the papers say of their cells: conservation, invariance, closed forms, bounds; compiled and not."""

from collections.abc import Mapping

import oracle
import pytest
import torch
from cases import BATCH, INPUT, as_state, both_backends, exact, noise, parameters, seeded
from torch import Tensor, sigmoid
from torch.func import functional_call
from torch.testing import assert_close

import refold as rf
from refold.cells.oscillator import tau_gru_with

HIDDEN, STEPS = 4, 7


def layer_of(cell: str | rf.Cell, backend: str, hidden: int = HIDDEN, **options) -> rf.Recurrent:
    settings = {"dtype": torch.float64, **options}
    return seeded(rf.Recurrent(cell, INPUT, hidden, backend=backend, **settings))


def affine(p: Mapping[str, Tensor], gate: str, x: Tensor) -> Tensor:
    """A gate that reads x alone, for all steps."""
    return x @ p[f"{gate}.W_x"].T + p[f"{gate}.b"]


@torch.no_grad()
def put(layer: rf.Recurrent, **values: float | Tensor) -> None:
    """Parameters whose names begin with a keyword, "W" for every "W...", set to a value."""
    for begin, value in values.items():
        named = [w for name, w in layer.parameters_of().items() if name.startswith(begin)]
        assert named, begin
        for w in named:
            w.copy_(torch.as_tensor(value, dtype=w.dtype).expand_as(w))


# ---------------------------------------------------------------- xLSTM


def without_stabiliser(p: Mapping[str, Tensor], x: Tensor, exponential: bool) -> Tensor:
    """Beck et al. 2024, equations 8 to 14: the gates as they are meant, which may overflow."""
    h, c, n = (x.new_zeros(x.shape[1], HIDDEN) for _ in range(3))
    outputs = []
    for step in x:
        i, f, z, o = (affine(p, g, step) + h @ p[f"{g}.W_h"].T for g in "ifzo")
        forget = torch.exp(f) if exponential else sigmoid(f)
        c = forget * c + torch.exp(i) * torch.tanh(z)
        n = forget * n + torch.exp(i)
        h = sigmoid(o) * c / n
        outputs.append(h)
    return torch.stack(outputs)


@both_backends
@pytest.mark.parametrize("name", ["slstm", "slstm_exp"])
def test_the_stabiliser_of_the_slstm_changes_nothing(name: str, backend: str) -> None:
    layer = layer_of(name, backend)
    x = noise(STEPS, BATCH, INPUT).requires_grad_()
    y, _ = layer(x)
    plain = without_stabiliser(parameters(layer), x, name == "slstm_exp")
    exact(y, plain)
    leaves = [x, *parameters(layer).values()]
    weights = noise(*y.shape, seed=3)
    mine = torch.autograd.grad((y * weights).sum(), leaves)
    theirs = torch.autograd.grad((plain * weights).sum(), leaves)
    for one, other in zip(mine, theirs, strict=True):
        exact(one, other)


@both_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("forget", [-100.0, 100.0])
@pytest.mark.parametrize("write", [-100.0, 100.0])
@pytest.mark.parametrize("name", ["slstm", "slstm_exp"])
def test_the_slstm_does_not_overflow(
    name: str, write: float, forget: float, dtype: torch.dtype, backend: str
) -> None:
    """|c / n| is a weighted mean of tanh: at most 1, whatever the gates say."""
    layer = layer_of(name, backend, dtype=dtype)
    put(layer, **{"i.b": write, "f.b": forget})
    x = noise(20, BATCH, INPUT, dtype=dtype).requires_grad_()
    y, _ = layer(x)
    assert y.abs().max() <= 1
    assert y.abs().max() > 0.1
    for g in torch.autograd.grad(y.sum(), [x, *parameters(layer).values()]):
        assert torch.isfinite(g).all()


# ---------------------------------------------------------------- LSTM


@both_backends
def test_mc_lstm_loses_no_mass(backend: str) -> None:
    """What came in is what went out and what is stored, row by row, also with other first stores."""
    layer = layer_of("mc_lstm", backend)
    x = noise(STEPS, BATCH, layer.input_features).abs()
    first = noise(1, BATCH, HIDDEN, seed=5).abs()
    y, store = layer(x, first)
    assert isinstance(store, Tensor)
    assert (y > 0).all() and (store > 0).all()
    exact(y.sum((0, 2)) + store.sum((0, 2)), x[..., 0].sum(0) + first.sum((0, 2)))


@both_backends
def test_mc_lstm_takes_what_is_not_mass_for_information_alone(backend: str) -> None:
    layer = layer_of("mc_lstm", backend)
    x = noise(STEPS, BATCH, layer.input_features)
    x[..., 0] = 0.0
    y, store = layer(x)
    assert torch.count_nonzero(y) == 0
    assert torch.count_nonzero(store) == 0


@both_backends
def test_lstm_projection_is_torchs(backend: str) -> None:
    """torch.nn.LSTM(proj_size=2): values and gradients of x, states and all weights."""
    module = torch.nn.LSTM(INPUT, HIDDEN, proj_size=2, dtype=torch.float64)
    layer = layer_of("lstm_projection", backend, r=2)
    x = noise(STEPS, BATCH, INPUT).requires_grad_()
    first = tuple(noise(1, BATCH, k, seed=k).requires_grad_() for k in (2, HIDDEN))
    p = parameters(layer)
    theirs = oracle.to_torch(p) | {"weight_hr_l0": p["W_r"]}
    y, final = layer(x, first)
    other_y, other_final = functional_call(module, theirs, (x, first))
    assert y.shape == (STEPS, BATCH, 2)
    leaves = [x, *first, *p.values()]
    sums = []
    for values in ((y, *final), (other_y, *other_final)):
        sums.append(torch.stack([(v * noise(*v.shape, seed=8)).sum() for v in values]).sum())
    exact(y, other_y)
    for one, other in zip(final, other_final, strict=True):
        exact(one, other)
    mine, peers = (torch.autograd.grad(s, leaves) for s in sums)
    for one, other in zip(mine, peers, strict=True):
        exact(one, other)


@both_backends
def test_the_first_lstms_carousel_keeps_an_error_as_it_is(backend: str) -> None:
    """Without what h feeds back, dc(T)/dc(0) is 1 for whatever weights; with a forget gate it is less."""
    for name, share in (("lstm_1997", 1.0), ("lstm", sigmoid(torch.tensor(0.5)).item() ** STEPS)):
        layer = layer_of(name, backend)
        put(layer, **{f"{gate}.W_h": 0.0 for gate in "igo"})
        if name == "lstm":
            put(layer, **{"f.W": 0.0, "f.b": 0.5})
        first = tuple(noise(1, BATCH, HIDDEN, seed=k).requires_grad_() for k in (1, 2))
        _, (_, c) = layer(noise(STEPS, BATCH, INPUT), first)
        (delta,) = torch.autograd.grad(c.sum(), first[1])
        assert_close(delta, torch.full_like(delta, share))


@both_backends
def test_blocks_of_one_cell_are_the_first_lstm(backend: str) -> None:
    blocks, plain = layer_of("lstm_1997_blocks", backend, q=HIDDEN), layer_of("lstm_1997", backend)
    x = noise(STEPS, BATCH, INPUT)
    exact(blocks(x)[0], plain(x)[0])


@both_backends
def test_cells_of_a_block_share_their_gates(backend: str) -> None:
    """Cells that read the same and stand in one block hold the same; those of another block do not."""
    layer = layer_of("lstm_1997_blocks", backend, hidden=6, q=2)
    for name in ("g.W_x", "g.W_h", "g.b"):
        put(layer, **{name: layer.parameters_of()[name][:1]})
    _, (_, c) = layer(noise(STEPS, BATCH, INPUT))
    exact(c[..., :3], c[..., :1].expand(1, BATCH, 3))
    assert (c[..., 3] - c[..., 0]).abs().min() > 1e-3


@both_backends
def test_layer_norm_takes_no_notice_of_a_scale(backend: str) -> None:
    """Ba et al. 2016, table 1: the weights as a whole may be scaled; eps tells at small values alone."""
    layer = layer_of("lstm_layer_norm", backend)
    x = noise(STEPS, BATCH, INPUT)
    put(layer, W_x=1e3 * layer.parameters_of()["W_x"], W_h=1e3 * layer.parameters_of()["W_h"])
    before, _ = layer(x)
    put(layer, W_x=7e3 * 1e-3 * layer.parameters_of()["W_x"])
    after, _ = layer(x)
    assert_close(after, before, rtol=0.0, atol=1e-9)


# ---------------------------------------------------------------- linear recurrences


def summed(keep: Tensor, new: Tensor) -> Tensor:
    """h(t) = keep(t) h(t-1) + new(t) from 0, without a recurrence: A(t) times the sum of new(s) / A(s)."""
    whole = keep.cumprod(0)
    return whole * (new / whole).cumsum(0)


@both_backends
@pytest.mark.parametrize("name", ["min_gru", "min_gru_positive", "min_lstm", "min_lstm_positive"])
def test_the_minimal_units_are_cumulative_sums(name: str, backend: str) -> None:
    layer = layer_of(name, backend)
    p = parameters(layer)
    x = noise(STEPS, BATCH, INPUT)
    new = affine(p, "g", x)
    if name.endswith("positive"):
        new = torch.where(new >= 0, new + 0.5, sigmoid(new))
    if name.startswith("min_gru"):
        write = sigmoid(affine(p, "z", x))
        keep = 1 - write
    else:
        f, i = sigmoid(affine(p, "f", x)), sigmoid(affine(p, "i", x))
        keep, write = f / (f + i), i / (f + i)
    y, _ = layer(x)
    assert_close(y, summed(keep, write * new), rtol=0.0, atol=1e-11)
    if name.endswith("positive"):
        assert (y > 0).all()


@both_backends
@pytest.mark.parametrize("name", ["qrnn_f", "qrnn_fo", "qrnn_ifo"])
def test_the_qrnn_is_a_convolution_and_a_pool(name: str, backend: str) -> None:
    layer = layer_of(name, backend)
    p = parameters(layer)
    x = noise(STEPS, BATCH, INPUT)
    padded = torch.cat([torch.zeros(1, BATCH, INPUT, dtype=x.dtype), x]).permute(1, 2, 0)

    def convolved(gate: str) -> Tensor:
        kernel = torch.stack([p[f"{gate}.W_p"], p[f"{gate}.W_x"]], -1)
        return torch.nn.functional.conv1d(padded, kernel, p[f"{gate}.b"]).permute(2, 0, 1)

    forget = sigmoid(convolved("f"))
    write = sigmoid(convolved("i")) if name == "qrnn_ifo" else 1 - forget
    pooled = summed(forget, write * torch.tanh(convolved("z")))
    expected = pooled if name == "qrnn_f" else sigmoid(convolved("o")) * pooled
    assert_close(layer(x)[0], expected, rtol=0.0, atol=1e-11)


@both_backends
def test_the_highway_of_the_sru_hands_the_input_on(backend: str) -> None:
    """With a closed reset gate and W_h the identity, the output is the input."""
    layer = layer_of("sru", backend, hidden=INPUT)
    put(layer, W_h=torch.eye(INPUT), **{"r.W": 0.0, "r.b": -100.0, "v_r": 0.0})
    x = noise(STEPS, BATCH, INPUT)
    exact(layer(x)[0], x)


@both_backends
def test_the_lru_is_a_complex_linear_system(backend: str) -> None:
    """y(t) = Re(C sum over s of lambda^(t-s) gamma B x(s)) + D x(t), as its initialisers leave it."""
    torch.manual_seed(0)
    layer = rf.Recurrent("lru", INPUT, HIDDEN, backend=backend, dtype=torch.float64)
    p = {name: w.detach() for name, w in layer.parameters_of().items()}
    x = noise(STEPS, BATCH, INPUT)
    log_eigenvalue = torch.complex(-p["nu_log"].exp(), p["theta_log"].exp())
    modulus = log_eigenvalue.exp().abs()
    assert (modulus < 1).all()
    lag = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
    powers = torch.exp(lag.clamp(min=0)[..., None] * log_eigenvalue) * (lag >= 0)[..., None]
    driven = torch.complex(p["B_re"], p["B_im"]) * torch.sqrt(1 - modulus**2)[:, None]
    states = torch.einsum("tsn,nm,sbm->tbn", powers, driven, x.to(driven.dtype))
    y = (states @ torch.complex(p["C_re"], p["C_im"]).T).real + x @ p["D"].T
    exact(layer(x)[0].detach(), y)


@both_backends
def test_the_rg_lru_keeps_the_size_of_what_it_reads(backend: str) -> None:
    """a^2 + (sqrt(1 - a^2))^2 = 1: noise of variance 1 gives a state of variance 1."""
    layer = layer_of("rg_lru", backend, hidden=INPUT)
    put(layer, L=2.0, **{"u.W": torch.eye(INPUT), "u.b": 0.0, "i.W": 0.0, "i.b": 100.0})
    y, _ = layer(noise(400, 64, INPUT))
    assert y[100:].var().item() == pytest.approx(1.0, rel=0.05)


# ---------------------------------------------------------------- oscillators and flows


def jacobian(layer: rf.Recurrent, x: Tensor, states: tuple[Tensor, ...]) -> Tensor:
    """Of one row's states after all steps with respect to those before, as one square matrix."""

    def run(flat: Tensor) -> Tensor:
        first = tuple(s.reshape(1, 1, -1) for s in flat.split([s.numel() for s in states]))
        final = layer(x, as_state(first))[1]
        return torch.cat([s.flatten() for s in final])

    joined = torch.cat([s.flatten() for s in states]).requires_grad_()
    y = run(joined)
    rows = [torch.autograd.grad(e, joined, retain_graph=True)[0] for e in y]
    return torch.stack(rows)


@both_backends
def test_unicornn_keeps_volume(backend: str) -> None:
    """A symplectic step: the determinant of its Jacobian is 1, over one step as over many."""
    layer = layer_of("unicornn", backend)
    states = tuple(noise(1, 1, HIDDEN, seed=k) for k in (1, 2))
    for steps in (1, STEPS):
        determinant = torch.linalg.det(jacobian(layer, noise(steps, 1, INPUT), states))
        assert_close(determinant, torch.ones_like(determinant), rtol=0.0, atol=1e-10)


@both_backends
def test_a_force_free_cornn_is_a_damped_oscillator(backend: str) -> None:
    """z' = -gamma y - epsilon z in steps of dt: a power of one matrix, which shrinks."""
    layer = layer_of("cornn", backend)
    put(layer, W=0.0, U=0.0, V=0.0, b=0.0)
    y, z = (noise(1, BATCH, HIDDEN, seed=k) for k in (1, 2))
    dt, gamma, epsilon = 0.042, 2.7, 4.7
    down = torch.tensor([-dt * gamma, 1 - dt * epsilon], dtype=torch.float64)
    step = torch.stack([torch.tensor([1.0, 0.0], dtype=torch.float64) + dt * down, down])
    pair = torch.stack([y, z], -1) @ torch.linalg.matrix_power(step, 200).T
    _, final = layer(torch.zeros(200, BATCH, INPUT, dtype=torch.float64), (y, z))
    for mine, theirs in zip(final, pair.unbind(-1), strict=True):
        exact(mine, theirs)
    assert torch.linalg.eigvals(step).abs().max() < 1


@both_backends
def test_lem_stays_within_one(backend: str) -> None:
    """Rusch et al. 2022: from 0, with dt at most 1, the states are means of what tanh gives."""
    layer = layer_of("lem", backend)
    put(layer, **{gate: 9 * noise(1).item() for gate in ("a.b", "b.b", "c.b", "d.b")})
    y, final = layer(100 * noise(60, BATCH, INPUT))
    assert 0.5 < y.abs().max() <= 1
    assert all(s.abs().max() <= 1 for s in final)


@both_backends
@pytest.mark.parametrize("delay", [1, 3])
def test_the_tau_gru_reads_what_was_so_many_steps_ago(delay: int, backend: str) -> None:
    """A loop that keeps every state there ever was."""
    layer = layer_of(tau_gru_with(delay, f"tau_gru_{delay}"), backend)
    p = {name: w.detach() for name, w in layer.parameters_of().items()}
    x = noise(9, BATCH, INPUT)
    path = [torch.zeros(BATCH, HIDDEN, dtype=x.dtype)]
    for t, step in enumerate(x):
        h = path[-1]
        late = path[t - delay] if t >= delay else torch.zeros_like(h)
        u, g, a = (affine(p, gate, step) + h @ p[f"{gate}.W_h"].T for gate in "uga")
        z = step @ p["U_z"].T + late @ p["W_z"].T + p["b_z"]
        new = torch.tanh(u) + sigmoid(a) * torch.tanh(z)
        path.append((1 - sigmoid(g)) * h + sigmoid(g) * new)
    exact(layer(x)[0].detach(), torch.stack(path[1:]))
