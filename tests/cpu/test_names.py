"""Equations may use the names of their papers, whatever torch.nn.Module calls its own; what is refused says so."""

import copy
import pickle

import pytest
import torch
from torch.func import functional_call, vmap
from torch.testing import assert_close

import refold as rf


@rf.cell
def natural(
    x=rf.Input("m"),
    keys=rf.State("n"),
    *,
    reset=rf.Affine("n"),
    start=rf.Affine("n"),
    first=rf.Bias("n"),
    type=rf.Weight("n n"),
    start_keys=rf.Bias("n"),
    training=rf.Scalar(0.5),
    like=rf.Scalar(1.0, learn=True),
):
    gate = rf.sigmoid(reset(x, keys))
    return rf.tanh(gate * (type @ keys) + start(x) + first + training * start_keys) * like


def test_natural_names_work_everywhere():
    layer = rf.Recurrent(natural, 3, 4, num_layers=2, learn_state=True, dtype=torch.float64)
    assert list(layer.parameters_of())[:4] == ["reset.W_x", "reset.W_keys", "reset.b", "start.W_x"]
    assert {"first", "type", "like", "start_keys"} <= set(layer.parameters_of())
    assert "training" not in layer.parameters_of()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    y, _ = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close(other(x)[0], y)
    assert_close(functional_call(layer, dict(layer.named_parameters()), (x,))[0], y)
    fresh = rf.Recurrent(natural, 3, 4, num_layers=2, learn_state=True, dtype=torch.float64)
    fresh.load_state_dict(layer.state_dict())
    assert_close(fresh(x)[0], y)


def test_a_parametrized_weight_is_used_as_computed():
    layer = rf.Recurrent("elman", 3, 4)
    torch.nn.utils.parametrizations.orthogonal(layer.get_submodule("l0"), "W_h")
    W = layer.parameters_of()["W_h"]
    assert_close(W @ W.T, torch.eye(4))
    layer(torch.randn(5, 2, 3))[0].sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, while it traces
@pytest.mark.parametrize("backend", ["reference", "derived"])
def test_models_around_a_layer_compile(backend):
    net = torch.nn.ModuleList([rf.Recurrent("lstm", 3, 4, backend=backend), torch.nn.Linear(4, 1)])

    def run(x):
        return net[1](torch.relu(net[0](x, lengths=[5, 2])[0]))

    x = torch.randn(5, 2, 3)
    assert_close(torch.compile(run, backend="eager")(x), run(x))
    assert_close(torch.compile(net[0], backend="eager")(x)[0], net[0](x)[0])


def test_probes_within_probes():
    layer = rf.Recurrent("elman", 3, 4)
    x = torch.randn(5, 2, 3)
    with layer.probe() as outer:
        with layer.probe() as inner:
            layer(x)
        assert len(inner) == 1 and len(outer) == 0
        layer(x)
    assert len(outer) == 1


@rf.cell
def scalar_input(x=rf.Input(""), h=rf.State("n"), *, w=rf.Weight("n"), U=rf.Weight("n n")):
    return rf.tanh(w * x + U @ h)


@rf.cell
def dropping(x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m"), dropout=rf.Scalar(0.1)):
    return rf.tanh(W @ x) + dropout * h


@rf.cell
def two_ks(x=rf.Input("m"), h=rf.State("k"), *, W=rf.Weight("k m"), k=rf.Scalar(0.1)):
    return rf.tanh(W @ x) + k * h


REFUSED = {
    "a stack on a scalar": (
        lambda: rf.Recurrent(scalar_input, 1, 4, 2),
        ["input x", "1 numbers", "gives 4", "num_layers=1"],
    ),
    "a scalar called as a setting": (lambda: rf.Recurrent(dropping, 3, 4), ["scalar dropout"]),
    "a scalar called as a size": (lambda: rf.Recurrent(two_ks, 3, 4, k=2), ["scalar k"]),
    "a dtype by name": (lambda: rf.Recurrent("gru", 3, 4, dtype="float32"), ["float32", "dtype"]),  # type: ignore[arg-type]
    "a word for yes": (
        lambda: rf.Recurrent("gru", 3, 4, bidirectional="no"),  # type: ignore[arg-type]
        ["bidirectional is 'no'", "bidirectional=True"],
    ),
    "no layers": (
        lambda: rf.Recurrent("gru", 3, 4, num_layers=0),
        ["num_layers is 0", "num_layers=2"],
    ),
    "a name to explain": (lambda: rf.explain("lstm"), ["a str", "rf.cells.get('lstm')"]),  # type: ignore[arg-type]
    "a function to explain": (lambda: rf.explain(len), ["@rf.cell"]),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what):
    call, words = REFUSED[what]
    with pytest.raises(rf.EquationError) as caught:
        call()
    assert [word for word in words if word not in str(caught.value)] == []
    assert caught.value.remedy


def test_one_layer_reads_one_number_a_step():
    y, _ = rf.Recurrent(scalar_input, 1, 4)(torch.randn(5, 3, 1))
    assert y.shape == (5, 3, 4)


def test_the_derived_adjoint_is_not_mapped_over():
    layer = rf.Recurrent("elman", 3, 4, backend="derived")
    with pytest.raises(rf.KernelError, match=r"(?s)torch.func.*backend=\"reference\""):
        vmap(lambda x: layer(x)[0])(torch.randn(2, 5, 3, 3))
