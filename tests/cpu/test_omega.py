"""Pascanu's Omega: exact on a number, by hand on cells, and the same however sequences are cut, joined and kept."""

import copy
import pickle

import omega_by_hand
import pytest
import torch
from cases import (
    BATCH,
    CASES,
    INPUT,
    STEPS,
    as_state,
    both_backends,
    exact,
    initial,
    make,
    noise,
    parameters,
    relative,
)
from compiled import identical, threads
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import refold as rf
from refold.errors import KernelError, RefoldError
from refold.ir.wrap import Form, wrapped
from refold.nn.omega import FORMS, Omega, Terms
from refold.train.omega import regularised

LENGTHS = [6, 2, 5]
both_forms = pytest.mark.parametrize("form", FORMS)
some_cells = pytest.mark.parametrize("name", ["elman", "gru", "lstm"])


@rf.cell(source="h(t) = w h(t-1)")
def scalar(h=rf.State("n"), *, w=rf.Weight("n n")):
    return w @ h


@rf.cell(source="what is handed on is the input")
def forgetful(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m")):
    return rf.Step(W @ x, output=rf.tanh(h))


def gradients(layer: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def trained(
    layer: rf.Recurrent, x: Tensor, omega: Omega, scale: float = 1.0, **call
) -> dict[str, Tensor]:
    """Omega and all gradients of <v, y>, by name."""
    layer.zero_grad()
    x = x.detach().requires_grad_()
    with layer.keeping_norms(omega, scale) as terms:
        y, _ = layer(x, **call)
    (y * noise(*y.shape, seed=5, dtype=y.dtype)).sum().backward()
    assert x.grad is not None
    return {"omega": terms.value(), "x": x.grad, **gradients(layer)}


def plain(layer: rf.Recurrent, x: Tensor, **call) -> dict[str, Tensor]:
    layer.zero_grad()
    x = x.detach().requires_grad_()
    y, _ = layer(x, **call)
    (y * noise(*y.shape, seed=5, dtype=y.dtype)).sum().backward()
    assert x.grad is not None
    return {"x": x.grad, **gradients(layer)}


def alike(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-12) -> None:
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        relative(mine[name], value, tolerance, name)


# ---------------------------------------------------------------- values


@both_backends
@both_forms
@pytest.mark.parametrize("w", [0.5, -0.8, 1.3, -1.0])
def test_a_number_times_itself(w: float, form: str, backend: str) -> None:
    """(|w| - 1)^2 and (w^2 - 1)^2 at each step, and their derivatives."""
    layer = rf.Recurrent(scalar, 0, 1, backend=backend, dtype=torch.float64)
    number = parameters(layer)["w"]
    number.data.fill_(w)
    v = torch.zeros(10, 1, 1, dtype=torch.float64)
    v[-1] = 1e-3
    found = {}
    for weight in (0.0, 3.0):
        layer.zero_grad()
        with layer.keeping_norms(Omega(weight, form)) as terms:
            y, _ = layer(torch.zeros(10, 1, 0).double(), torch.ones(1, 1, 1).double())
        (y * v).sum().backward()
        found[weight] = gradient_of(number).clone()
        value = (abs(w) - 1) ** 2 if form == "ratio" else (w * w - 1) ** 2
        exact(terms.value(), torch.tensor(value, dtype=torch.float64))
        exact(terms.counted[0][0].grad, torch.full((10, 1, 1), value, dtype=torch.float64))
    slope = 2 * (abs(w) - 1) * (1 if w > 0 else -1) if form == "ratio" else 4 * w * (w * w - 1)
    exact(found[3.0] - found[0.0], torch.tensor([[3.0 * slope]], dtype=torch.float64))


@both_backends
@both_forms
@pytest.mark.parametrize("name", omega_by_hand.CELLS)
@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=["whole", "ragged"])
def test_cells_by_hand(name: str, form: str, backend: str, lengths: list[int] | None) -> None:
    layer = make(name, backend)
    x, states, p = noise(STEPS, BATCH, INPUT), initial(name, BATCH), parameters(layer)
    v = noise(STEPS, BATCH, CASES[name].output, seed=5)
    first = tuple(s[0].detach() for s in states)
    step = omega_by_hand.CELLS[name]
    expected = omega_by_hand.counted(step, p, x, first, v, form, 0.7, lengths)
    with layer.keeping_norms(Omega(0.7, form)) as terms:
        y, _ = layer(x, as_state(states), lengths)
    (y * v).sum().backward()
    exact(terms.value(), expected.value)
    for key, gradient in expected.gradients.items():
        relative(gradient_of(p[key]), gradient, what=key)


@both_backends
@some_cells
def test_a_weight_of_zero_changes_nothing(name: str, backend: str) -> None:
    """Nor does any weight change what arrives at x."""
    layer, x = make(name, backend), noise(STEPS, BATCH, INPUT)
    without = plain(layer, x, lengths=LENGTHS)
    found = trained(layer, x, Omega(0.0), lengths=LENGTHS)
    assert found.pop("omega") > 0.01
    alike(found, without, 1e-14)
    relative(trained(layer, x, Omega(4.0), lengths=LENGTHS)["x"], without["x"], 1e-14)


@both_forms
@pytest.mark.parametrize("factor", [1e-22, 1e-12, 1.0, 1e20])
def test_the_size_of_the_error_does_not_count(factor: float, form: str) -> None:
    """In single precision, where the square of a small adjoint, and of a large one, is no number."""
    layer = make("gru", "llvm", dtype=torch.float32)
    x = noise(STEPS, BATCH, INPUT, dtype=torch.float32)
    found = {}
    for scale in (1.0, factor):
        layer.zero_grad()
        with layer.keeping_norms(Omega(1.0, form)) as terms:
            y, _ = layer(x)
        with torch.no_grad():
            v = noise(*y.shape, dtype=torch.float32) * scale
        y.backward(v)
        found[scale] = terms.counted[0][0].grad
        assert found[scale].isfinite().all() and found[scale].min() > 1e-4
        assert all(g.isfinite().all() for g in gradients(layer).values())
    assert_close(found[factor], found[1.0], rtol=2e-5, atol=0.0)
    assert 0 < terms.value() < 5


@both_backends
def test_a_step_that_no_error_reaches_counts_nothing(backend: str) -> None:
    layer, x = make("lstm", backend), noise(STEPS, BATCH, INPUT)
    with layer.keeping_norms() as terms:
        y, _ = layer(x)
    y[2].sum().backward()
    (omega,) = (w.grad for w, _ in terms.counted)
    assert omega is not None
    assert torch.count_nonzero(omega[3:]) == 0
    assert torch.count_nonzero(omega[:3]) == 3 * BATCH
    assert all(g.isfinite().all() for g in gradients(layer).values())
    with layer.keeping_norms() as terms:
        y, _ = layer(x)
    (y * 0).sum().backward()
    assert terms.value() == 0


@both_backends
@both_forms
def test_a_step_that_hands_nothing_on_counts_one(form: str, backend: str) -> None:
    """J = 0: what the output reads of the old state is no part of J."""
    layer = rf.Recurrent(forgetful, INPUT, 4, backend=backend, dtype=torch.float64)
    x = noise(STEPS, BATCH, INPUT)
    found = trained(layer, x, Omega(2.0, form))
    # Nothing follows the last step, and the output of a step reads the state before it.
    exact(found.pop("omega"), torch.tensor((STEPS - 1) / STEPS, dtype=torch.float64))
    alike(found, plain(layer, x))


@both_backends
def test_what_is_no_number_goes_through(backend: str) -> None:
    layer, x = make("elman", backend), noise(STEPS, BATCH, INPUT)
    x[3, 1] = torch.nan
    with layer.keeping_norms() as terms:
        y, _ = layer(x)
    y.square().sum().backward()
    (omega,) = (w.grad for w, _ in terms.counted)
    assert omega is not None
    assert omega[:, 1].isnan().all() and omega[:, [0, 2]].isfinite().all()


# ---------------------------------------------------------------- however it is run


@both_backends
@some_cells
def test_a_ragged_batch_is_each_row_alone(name: str, backend: str) -> None:
    layer, x = make(name, backend), noise(STEPS, BATCH, INPUT)
    v = noise(STEPS, BATCH, CASES[name].output, seed=5)
    together = trained(layer, x, Omega(0.9), lengths=LENGTHS)
    layer.zero_grad()
    values = []
    for b, length in enumerate(LENGTHS):
        with layer.keeping_norms(Omega(0.9), scale=1 / BATCH) as terms:
            y, _ = layer(x[:length, b : b + 1])
        (y * v[:length, b : b + 1]).sum().backward()
        values.append(terms.value())
    exact(together.pop("omega"), torch.stack(values).mean())
    del together["x"]
    alike(gradients(layer), together)


@both_backends
@some_cells
def test_steps_that_a_mask_leaves_out_do_not_count(name: str, backend: str) -> None:
    layer, x = make(name, backend), noise(STEPS, BATCH, INPUT)
    everything = torch.ones(STEPS, BATCH, dtype=torch.bool)
    alike(trained(layer, x, Omega(), mask=everything), trained(layer, x, Omega()))
    kept = everything.clone()
    kept[[1, 4]] = False
    shorter = trained(layer, x[[0, 2, 3, 5]], Omega())  # with other factors v, which do not count
    found = trained(layer, x, Omega(), mask=kept)
    layer.zero_grad()
    v = noise(STEPS, BATCH, CASES[name].output, seed=5)[[0, 2, 3, 5]]
    with layer.keeping_norms() as terms:
        y, _ = layer(x[[0, 2, 3, 5]])
    (y * v).sum().backward()
    assert shorter["omega"] != terms.value()
    exact(found["omega"], terms.value())
    alike({k: g for k, g in found.items() if k not in ("omega", "x")}, gradients(layer))


@both_backends
def test_a_step_that_starts_anew_does_not_count(backend: str) -> None:
    layer, x = make("gru", backend), noise(STEPS, BATCH, INPUT)
    resets = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    resets[2] = True
    v = noise(STEPS, BATCH, 4, seed=5)
    found = trained(layer, x, Omega(), resets=resets)
    layer.zero_grad()
    means = []
    for part in (slice(0, 2), slice(2, 6)):
        with layer.keeping_norms(Omega(0.0)) as terms:
            y, _ = layer(x[part])
        (y * v[part]).sum().backward()
        (omega,) = (w.grad for w, _ in terms.counted)
        means.append(omega)
    counting = torch.cat([means[0], means[1][1:]])
    exact(found["omega"], counting.mean())


@both_backends
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_both_directions_are_two_runs(name: str, backend: str) -> None:
    both, one = make(name, backend, bidirectional=True), make(name, backend)
    x = noise(STEPS, BATCH, INPUT)
    v = noise(STEPS, BATCH, 8, seed=5)
    found = trained(both, x, Omega(0.9))
    values = torch.zeros(()).double()
    for reverse in (False, True):
        theirs = parameters(both, 0, reverse)
        with torch.no_grad():
            for key, p in parameters(one).items():
                p.copy_(theirs[key])
        one.zero_grad()
        order = [*range(STEPS)][:: -1 if reverse else 1]
        with one.keeping_norms(Omega(0.9)) as terms:
            y, _ = one(x[order])
        (y * v[order][..., 4 * reverse : 4 * reverse + 4]).sum().backward()
        values = values + terms.value()
        for key, p in parameters(one).items():
            relative(gradient_of(theirs[key]), gradient_of(p), what=key)
    exact(found["omega"], values)


@both_backends
def test_each_layer_of_a_stack_counts_to_itself(backend: str) -> None:
    layer, x = make("gru", backend, num_layers=2), noise(STEPS, BATCH, INPUT)
    found, without = trained(layer, x, Omega(0.9)), plain(layer, x)
    below, above = make("gru", backend), rf.Recurrent("gru", 4, 4, backend=backend).double()
    with torch.no_grad():
        for index, part in enumerate((below, above)):
            for key, p in parameters(part).items():
                p.copy_(parameters(layer, index)[key])
    with below.keeping_norms(Omega(0.9)) as first, above.keeping_norms(Omega(0.9)) as second:
        y, _ = above(below(x)[0])
    (y * noise(*y.shape, seed=5)).sum().backward()
    exact(found["omega"], first.value() + second.value())
    for index, part in enumerate((below, above)):
        for key, p in parameters(part).items():
            relative(found[f"l{index}.{key}"], gradient_of(p), what=key)
    relative(found["x"], without["x"])


@both_backends
def test_a_dilated_layer_counts_what_comes_from_its_own_past(backend: str) -> None:
    """Every second step is a sequence of its own."""
    stack = rf.Stack(dilations=(2,))
    layer, one = make("gru", backend, stack=stack), make("gru", backend)
    x, v = noise(5, BATCH, INPUT), noise(5, BATCH, 4, seed=5)
    found = trained(layer, x, Omega(0.9))
    value = torch.zeros(()).double()
    for start in (0, 1):
        steps = slice(start, None, 2)
        share = (3 - start) / 5
        with one.keeping_norms(Omega(0.9), scale=share) as terms:
            y, _ = one(x[steps])
        (y * v[steps]).sum().backward()
        value = value + share * terms.value()
    exact(found.pop("omega"), value)
    del found["x"]
    alike(found, gradients(one))


@pytest.mark.parametrize("memory", ["fast", "small"])
@both_backends
def test_little_memory_and_probes_are_the_same(memory: str, backend: str) -> None:
    layer, x = make("lstm", backend, memory=memory), noise(17, BATCH, INPUT)
    expected = trained(make("lstm", "derived"), x, Omega(0.9), lengths=[17, 0, 9])
    alike(trained(layer, x, Omega(0.9), lengths=[17, 0, 9]), expected)
    with layer.probe() as probes:
        alike(trained(layer, x, Omega(0.9), lengths=[17, 0, 9]), expected)
    assert probes[0]["h"].grad is not None
    assert torch.count_nonzero(probes[0]["h"].grad) > 0


@some_cells
def test_regularised_layers_agree_on_all_backends(name: str) -> None:
    options = {"regularise": rf.Regularise(recurrent=0.3, zoneout=0.2, weight_drop=0.2)}
    found = []
    for backend in ("reference", "derived", "llvm"):
        torch.manual_seed(3)
        layer = make(name, backend, num_layers=2, dropout=0.2, **options)
        found.append(trained(layer, noise(STEPS, BATCH, INPUT), Omega(0.9)))
    alike(found[1], found[0])
    alike(found[2], found[0], 1e-11)


def test_a_call_that_nobody_differentiates_counts_nothing() -> None:
    layer, x = make("elman", "llvm"), noise(STEPS, BATCH, INPUT)
    with layer.keeping_norms() as terms, torch.no_grad():
        y, _ = layer(x)
    assert_close(y, layer(x)[0].detach())
    assert terms.counted == []
    assert terms.value() == 0


def test_a_block_ends_and_an_outer_one_goes_on() -> None:
    layer, x = make("elman"), noise(STEPS, BATCH, INPUT)
    with layer.keeping_norms() as outer:
        with layer.keeping_norms() as inner:
            layer(x)
        layer(x)
        layer(x)
    layer(x)
    assert len(inner.counted) == 1
    assert len(outer.counted) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_the_layers_of_rf_nn_count_too(packed: bool) -> None:
    """rf.nn.LSTM beside the equation, with torch's two biases."""
    torch.manual_seed(1)
    theirs, mine = rf.nn.LSTM(INPUT, 4, 2).double(), make("lstm", "llvm", num_layers=2)
    with torch.no_grad():
        for index in range(2):
            parts = {k: getattr(theirs, f"weight_{k}_l{index}").chunk(4) for k in ("ih", "hh")}
            bias = getattr(theirs, f"bias_ih_l{index}") + getattr(theirs, f"bias_hh_l{index}")
            for gate, w, u, b in zip("ifgo", parts["ih"], parts["hh"], bias.chunk(4), strict=True):
                p = parameters(mine, index)
                p[f"{gate}.W_x"].copy_(w)
                p[f"{gate}.W_h"].copy_(u)
                p[f"{gate}.b"].copy_(b)
    x = noise(STEPS, BATCH, INPUT)
    found = trained(mine, x, Omega(0.9), lengths=LENGTHS)
    with theirs.keeping_norms(Omega(0.9)) as terms:
        if packed:
            pack = nn.utils.rnn.pack_padded_sequence
            output, _ = theirs(pack(x, torch.tensor(LENGTHS), enforce_sorted=False))
            y, _ = nn.utils.rnn.pad_packed_sequence(output)
        else:
            y, _ = theirs(x, lengths=LENGTHS)
    (y * noise(*y.shape, seed=5)).sum().backward()
    exact(terms.value(), found["omega"])
    for index in range(2):
        expected = torch.cat([found[f"l{index}.{gate}.W_h"] for gate in "ifgo"])
        relative(getattr(theirs, f"weight_hh_l{index}").grad, expected)


def test_torch_compile_runs_such_a_call_as_it_is() -> None:
    layer, x = make("gru", "llvm"), noise(STEPS, BATCH, INPUT)
    expected = trained(layer, x, Omega())
    traced = torch.compile(layer, backend="eager")
    layer.zero_grad()
    with layer.keeping_norms() as terms:
        y, _ = traced(x)
    (y * noise(*y.shape, seed=5)).sum().backward()
    exact(terms.value(), expected["omega"])


def test_any_number_of_threads_gives_the_same_bits() -> None:
    layer = make("lstm", "llvm", dtype=torch.float32)
    x = noise(STEPS, 33, INPUT, dtype=torch.float32)
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(trained(layer, x, Omega(0.9)))
            found[-1] = {name: value.clone() for name, value in found[-1].items()}
    identical(found[1], found[0])


@both_backends
@pytest.mark.parametrize("shape", [(0, BATCH), (STEPS, 0)], ids=["no steps", "no rows"])
def test_nothing_to_count_counts_nothing(shape: tuple[int, int], backend: str) -> None:
    layer = make("gru", backend)
    found = trained(layer, noise(*shape, INPUT), Omega())
    assert found["omega"] == 0
    assert all(g.isfinite().all() for g in found.values())
    x = noise(STEPS, BATCH, INPUT)
    assert trained(layer, x, Omega(), lengths=[0] * BATCH)["omega"] == 0


@both_backends
def test_an_operator_that_looks_on_changes_nothing(backend: str) -> None:
    class Looking(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    layer, x = make("gru", backend), noise(STEPS, BATCH, INPUT)
    expected = {k: v.clone() for k, v in trained(layer, x, Omega()).items()}
    with Looking():
        found = trained(layer, x, Omega())
    alike(found, expected)


def test_a_cell_with_omega_travels() -> None:
    cell = wrapped(rf.cells.get("gru"), Form(omega="squared")).cell
    assert pickle.loads(pickle.dumps(cell)) == cell
    layer = make("gru")
    with layer.keeping_norms():
        copied = copy.deepcopy(layer)
    copied(noise(STEPS, BATCH, INPUT))
    with layer.keeping_norms() as terms:
        copied(noise(STEPS, BATCH, INPUT))
    assert terms.counted == []


# ---------------------------------------------------------------- networks


def test_all_layers_of_a_network_count_together() -> None:
    torch.manual_seed(1)
    a, b, c = rf.Recurrent("gru", 3, 4), rf.nn.GRU(4, 4), nn.Linear(4, 1)
    network = nn.ModuleDict({"a": a, "b": b, "c": c})
    x = noise(STEPS, BATCH, INPUT, dtype=torch.float32)

    def run() -> Tensor:
        return c(b(a(x)[0])[0]).square().mean()

    with regularised(network, Omega(2.0), scale=0.5) as terms:
        loss = run()
    loss.backward()
    with_omega = gradients(network)
    with a.keeping_norms() as first, b.keeping_norms() as second:
        network.zero_grad()
        run().backward()
    assert len(terms.counted) == 2
    assert_close(terms.value(), first.value() + second.value())
    network.zero_grad()
    run().backward()
    assert_close(with_omega["c.weight"], gradients(network)["c.weight"])
    assert not torch.allclose(with_omega["a.l0.W_n"], gradients(network)["a.l0.W_n"])


def test_it_holds_the_norm() -> None:
    """What it is for: a long lag's gradient, which vanishes, does so no more after some steps down Omega alone."""
    torch.manual_seed(0)
    layer = rf.Recurrent("elman", 2, 16)
    x, v = torch.randn(30, 8, 2), torch.randn(8, 16)
    optimiser = torch.optim.SGD(layer.parameters(), 0.05)

    def reach() -> float:
        with layer.probe() as probes:
            y, _ = layer(x)
        (delta,) = torch.autograd.grad((y[-1] * v).sum(), probes[0]["h"])
        return float(delta[0].norm() / delta[-1].norm())

    before = reach()
    terms = Terms(Omega(1.0))
    for _ in range(60):
        optimiser.zero_grad()
        terms.counted.clear()
        with layer.counting(terms):
            y, _ = layer(x)
        (1e-6 * y[-1] * v).sum().backward()
        optimiser.step()
    after = reach()
    assert before < 1e-4
    assert after > 100 * before
    assert terms.value() < 0.1


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make_it", "text"),
    [
        (lambda: Omega(weight=-1.0), r"Omega\nweight is -1.0, and must be a finite number"),
        (lambda: Omega(weight=float("nan")), "weight is nan"),
        (lambda: Omega(form="cubic"), 'there is no form "cubic", there are ratio and squared'),
        (lambda: Terms(4.0), "omega is 4.0, and must be an rf.Omega"),  # type: ignore[arg-type]
        (lambda: Terms(Omega(), scale=-1.0), "scale is -1.0, and must be a finite number"),
    ],
)
def test_settings_that_are_none(make_it, text: str) -> None:
    with pytest.raises(RefoldError, match=text):
        make_it()


def test_a_network_without_layers_is_refused() -> None:
    with (
        pytest.raises(RefoldError, match=r"Linear has no rf\.Recurrent and none of rf.nn's layers"),
        regularised(nn.Linear(2, 2), Omega()),
    ):
        raise AssertionError("not reached")


def test_a_value_is_known_after_the_way_back() -> None:
    layer = make("elman")
    with layer.keeping_norms() as terms:
        layer(noise(STEPS, BATCH, INPUT))
    with pytest.raises(RefoldError, match=r"no backward\(\) has come through\ncall backward\(\)"):
        terms.value()


@both_backends
def test_there_is_no_second_derivative(backend: str) -> None:
    layer = make("elman", backend)
    with layer.keeping_norms():
        y, _ = layer(noise(STEPS, BATCH, INPUT))
    with pytest.raises(KernelError, match="immediate derivative") as refused:
        torch.autograd.grad(y.square().sum(), parameters(layer)["W_h"], create_graph=True)
    assert "outside the block" in str(refused.value)


@both_backends
def test_torch_func_does_not_map_over_it(backend: str) -> None:
    layer, x = make("elman", backend), noise(STEPS, BATCH, INPUT)
    with layer.keeping_norms(), pytest.raises(KernelError, match=r"map by torch\.func"):
        torch.func.vmap(lambda v: layer(v)[0])(torch.stack([x, x]))
