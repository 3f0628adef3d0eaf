"""torch.nn's recurrent layers with the weights as torch joins them: all gates' rows in one matrix.

No family of the zoo: its cells of the same papers give each gate its own weights. These read the parameters of
torch.nn.RNN, LSTM and GRU as they are, in torch's order of gates; the planner cuts them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import Parameter, Signature

from refold.ir import language as rf


@cache
def rnn(nonlinearity: str, bias: bool) -> rf.Cell:
    """h' = tanh or relu of one sum."""
    act = {"tanh": rf.tanh, "relu": rf.relu}[nonlinearity]

    def equation(x, h, W_ih, W_hh, b_ih=None, b_hh=None):
        return act(_plus(W_ih @ x, b_ih) + _plus(W_hh @ h, b_hh))

    return _read("rnn", equation, _joined(1, "n", bias), h=rf.State("n"))


@cache
def gru(bias: bool, layer_norm: bool) -> rf.Cell:
    """Gates r, z, n. With layer_norm as in Ba, Kiros & Hinton 2016: r and z share a norm, n has its own."""

    def equation(x, h, W_ih, W_hh, b_ih=None, b_hh=None, g_ih=None, g_hh=None):
        r_x, z_x, n_x = _gru_gates(W_ih @ x, b_ih, g_ih)
        r_h, z_h, n_h = _gru_gates(W_hh @ h, b_hh, g_hh)
        r = rf.sigmoid(r_x + r_h)
        z = rf.sigmoid(z_x + z_h)
        n = rf.tanh(n_x + r * n_h)
        return (1 - z) * n + z * h

    declared = _joined(3, "n", bias)
    if layer_norm:
        declared |= {"g_ih": _gain("3n"), "g_hh": _gain("3n")}
    return _read("gru", equation, declared, h=rf.State("n"))


@cache
def lstm(bias: bool, projected: bool, layer_norm: bool, peephole: bool) -> rf.Cell:
    """Gates i, f, g, o. Projection: Sak, Senior & Beaufays 2014; peepholes: Gers et al. 2002; norms: Ba et al. 2016."""

    def equation(x, h, c, W_ih, W_hh, b_ih=None, b_hh=None, W_hr=None, **extras):
        norms = [extras.get(name) for name in ("g_ih", "g_hh", "g_c", "b_c")]
        g_ih, g_hh, g_c, b_c = norms
        i, f, g, o = rf.split(_normed(W_ih @ x, b_ih, g_ih) + _normed(W_hh @ h, b_hh, g_hh), 4)
        if peephole:
            i = i + extras["p_i"] * c
            f = f + extras["p_f"] * c
        c = rf.sigmoid(f) * c + rf.sigmoid(i) * rf.tanh(g)
        if peephole:
            o = o + extras["p_o"] * c
        h = rf.sigmoid(o) * rf.tanh(_normed(c, b_c, g_c))
        return (h if W_hr is None else W_hr @ h), c

    width = "r" if projected else "n"
    declared = _joined(4, width, bias)
    if projected:
        declared |= {"W_hr": rf.Weight("r n")}
    if layer_norm:
        declared |= {"g_ih": _gain("4n"), "g_hh": _gain("4n"), "g_c": _gain("n")}
        declared |= {"b_c": rf.Bias("n", init="zeros")} if bias else {}
    if peephole:
        declared |= {name: rf.Weight("n") for name in ("p_i", "p_f", "p_o")}
    return _read("lstm", equation, declared, h=rf.State(width), c=rf.State("n"))


def _joined(gates: int, width: str, bias: bool) -> dict[str, object]:
    rows = f"{gates}n" if gates > 1 else "n"
    declared: dict[str, object] = {
        "W_ih": rf.Weight(f"{rows} m"),
        "W_hh": rf.Weight(f"{rows} {width}"),
    }
    return declared | ({"b_ih": rf.Bias(rows), "b_hh": rf.Bias(rows)} if bias else {})


def _gain(size: str) -> object:
    return rf.Weight(size, init="ones")


def _plus(vector, bias):
    return vector if bias is None else vector + bias


def _normed(vector, bias, gain):
    return _plus(vector, bias) if gain is None else rf.layer_norm(vector, gain, bias)


def _gru_gates(vector, bias, gain):
    if gain is None:
        return rf.split(_plus(vector, bias), 3)
    gates, new = rf.split(vector, "2n", "n")
    vector = rf.concat(rf.layer_norm(gates), rf.layer_norm(new))
    return rf.split(_plus(vector * gain, bias), 3)


def _read(
    name: str, equation: Callable[..., object], weights: dict[str, object], **states: object
) -> rf.Cell:
    """The cell of an equation with only those parameters: a declaration that goes unused is refused."""

    def chosen(**given: object) -> object:
        return equation(**given)

    declared = {"x": rf.Input("m"), **states, **weights}
    keyword = Parameter.KEYWORD_ONLY
    signature = Signature([Parameter(n, keyword, default=d) for n, d in declared.items()])
    chosen.__signature__ = signature  # type: ignore[attr-defined]
    return rf.cell(source="torch.nn", name=name)(chosen)
