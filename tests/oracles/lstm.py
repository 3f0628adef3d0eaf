"""The papers' formulas of the LSTM family, on vectors; nothing here is refold's."""

import torch
from cases import HIDDEN, INPUT, Case
from oracle import Parameters, States, affine
from torch import Tensor, exp, maximum, relu, sigmoid, tanh
from torch.nn.functional import layer_norm, logsigmoid

RANK, BLOCKS = 3, 2
Result = tuple[Tensor, States]


def reads(p: Parameters, gate: str, /, **vectors: Tensor) -> Tensor:
    """The gate's sum of products and its bias."""
    parts = [p[f"{gate}.W_{name}"] @ vector for name, vector in vectors.items()]
    return torch.stack(parts).sum(0) + p[f"{gate}.b"]


def squash(x: Tensor, bound: float) -> Tensor:
    """The logistic function stretched to (-bound, bound), with its slope at 0 stretched alike."""
    return 2 * bound * sigmoid(x) - bound


def lstm_1997(p: Parameters, x: Tensor, states: States) -> Result:
    """Hochreiter & Schmidhuber 1997, section 4: s(t) = s(t-1) + y_in g(net), y = y_out h(s)."""
    h, s = states
    s = s + sigmoid(affine(p, "i", x, h)) * squash(affine(p, "g", x, h), 2)
    h = sigmoid(affine(p, "o", x, h)) * squash(s, 1)
    return h, (h, s)


def lstm_1997_blocks(p: Parameters, x: Tensor, states: States) -> Result:
    """The same; one input and one output gate for all the cells of a block, which stand side by side."""
    h, s = states
    each = len(s) // len(p["i.b"])
    y_in = sigmoid(affine(p, "i", x, h)).repeat_interleave(each)
    y_out = sigmoid(affine(p, "o", x, h)).repeat_interleave(each)
    s = s + y_in * squash(affine(p, "g", x, h), 2)
    h = y_out * squash(s, 1)
    return h, (h, s)


def lstm_coupled(p: Parameters, x: Tensor, states: States) -> Result:
    """Greff et al. 2015, section 3, CIFG: the vanilla LSTM with peepholes, and f = 1 - i."""
    y, c = states
    i = sigmoid(affine(p, "i", x, y) + p["p_i"] * c)
    f = 1 - i
    c = tanh(affine(p, "g", x, y)) * i + c * f
    y = tanh(c) * sigmoid(affine(p, "o", x, y) + p["p_o"] * c)
    return y, (y, c)


def janet(p: Parameters, x: Tensor, states: States) -> Result:
    """van der Westhuizen & Lasenby 2018, with beta = 1."""
    (h,) = states
    s = affine(p, "s", x, h)
    c = sigmoid(s) * h + (1 - sigmoid(s - 1.0)) * tanh(affine(p, "g", x, h))
    return c, (c,)


def lstm_projection(p: Parameters, x: Tensor, states: States) -> Result:
    """Sak et al. 2014 without peepholes."""
    r, c = states
    i = sigmoid(affine(p, "i", x, r))
    f = sigmoid(affine(p, "f", x, r))
    c = f * c + i * tanh(affine(p, "g", x, r))
    m = sigmoid(affine(p, "o", x, r)) * tanh(c)
    r = p["W_r"] @ m
    return r, (r, c)


def lstm_projection_peephole(p: Parameters, x: Tensor, states: States) -> Result:
    """Sak et al. 2014, without the projection that is not fed back."""
    r, c = states
    i = sigmoid(affine(p, "i", x, r) + p["p_i"] * c)
    f = sigmoid(affine(p, "f", x, r) + p["p_f"] * c)
    c = f * c + i * tanh(affine(p, "g", x, r))
    m = sigmoid(affine(p, "o", x, r) + p["p_o"] * c) * tanh(c)
    r = p["W_r"] @ m
    return r, (r, c)


def lstm_layer_norm(p: Parameters, x: Tensor, states: States) -> Result:
    """Ba et al. 2016, supplement; the gates in the order f, i, o, g."""
    h, c = states
    n = h.shape
    whole = layer_norm(p["W_h"] @ h, (4 * n[0],), p["s_h"], p["b_h"])
    whole = whole + layer_norm(p["W_x"] @ x, (4 * n[0],), p["s_x"], p["b_x"]) + p["b"]
    f, i, o, g = whole.chunk(4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(layer_norm(c, n, p["s_c"], p["b_c"]))
    return h, (h, c)


def lstm_residual(p: Parameters, x: Tensor, states: States) -> Result:
    """Kim et al. 2017: h = o (W_p tanh(c) + W_h x)."""
    h, c = states
    i = sigmoid(affine(p, "i", x, h) + p["p_i"] * c)
    f = sigmoid(affine(p, "f", x, h) + p["p_f"] * c)
    c = f * c + i * tanh(affine(p, "g", x, h))
    o = sigmoid(affine(p, "o", x, h) + p["p_o"] * c)
    m = p["W_p"] @ tanh(c)
    h = o * (m + p["W_r"] @ x)
    return h, (h, c)


def multiplicative_lstm(p: Parameters, x: Tensor, states: States) -> Result:
    """Krause et al. 2016: every gate reads m in the place of h."""
    h, c = states
    m = (p["W_mx"] @ x) * (p["W_mh"] @ h)
    i, f, g, o = (reads(p, gate, x=x, m=m) for gate in "ifgo")
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = tanh(c) * sigmoid(o)
    return h, (h, c)


def nas(p: Parameters, x: Tensor, states: States) -> Result:
    """Zoph & Le 2016; the fourth leaf joins input and state by a product."""
    h, c = states
    leaf = {k: affine(p, f"a_{k}", x, h) for k in (1, 2, 3, 5, 6, 7, 8)}
    leaf[4] = (p["W_4"] @ x) * (p["U_4"] @ h + p["b_4"])
    first = tanh(sigmoid(leaf[1]) * relu(leaf[2]))
    second = tanh(sigmoid(leaf[3]) + relu(leaf[4]))
    third = tanh(tanh(leaf[5]) * sigmoid(leaf[6]))
    fourth = sigmoid(tanh(leaf[7]) + sigmoid(leaf[8]))
    c = tanh(first + c) * second
    h = tanh(c * tanh(third + fourth))
    return h, (h, c)


def mc_lstm(p: Parameters, x: Tensor, states: States) -> Result:
    """Hoedt et al. 2021: the first feature is mass, the others are not."""
    (c,) = states
    mass, a = x[0], x[1:]
    share = c / (c.norm(1) + 1e-5)
    i = torch.softmax(reads(p, "i", a=a, share=share), 0)
    o = sigmoid(reads(p, "o", a=a, share=share))
    total = torch.softmax(p["B_r"], 0) @ c + i * mass
    return o * total, ((1 - o) * total,)


def slstm(p: Parameters, x: Tensor, states: States, exponential: bool = False) -> Result:
    """Beck et al. 2024, equations 8 to 17."""
    h, c, n, m = states
    log_i, log_f = affine(p, "i", x, h), affine(p, "f", x, h)
    log_f = log_f if exponential else logsigmoid(log_f)
    new = maximum(log_f + m, log_i)
    i, f = exp(log_i - new), exp(log_f + m - new)
    c = f * c + i * tanh(affine(p, "z", x, h))
    n = f * n + i
    h = sigmoid(affine(p, "o", x, h)) * c / n
    return h, (h, c, n, new)


def slstm_exp(p: Parameters, x: Tensor, states: States) -> Result:
    return slstm(p, x, states, exponential=True)


def t_lstm(p: Parameters, x: Tensor, states: States) -> Result:
    """Balduzzi & Ghifary 2016: what is read is x(t) and x(t-1)."""
    c, before = states
    z, f, o = (reads(p, gate, x=x, p=before) for gate in "zfo")
    c = sigmoid(f) * c + (1 - sigmoid(f)) * z
    return c * tanh(o), (c, x)


def wmc_lstm(p: Parameters, x: Tensor, states: States) -> Result:
    """Landi et al. 2021: tanh(W c) within every gate, the output gate's with the new c."""
    h, c = states
    i = sigmoid(affine(p, "i", x, h) + tanh(p["V_i"] @ c))
    f = sigmoid(affine(p, "f", x, h) + tanh(p["V_f"] @ c))
    c = f * c + i * tanh(affine(p, "g", x, h))
    h = sigmoid(affine(p, "o", x, h) + tanh(p["V_o"] @ c)) * tanh(c)
    return h, (h, c)


def controller_lstm(p: Parameters, x: Tensor, states: States) -> Result:
    """The output gate serves the output alone; a further gate serves the state v that is fed back."""
    v, c = states
    f, i, g, o, r = (reads(p, gate, x=x, v=v) for gate in "figor")
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), (sigmoid(r) * tanh(c), c)


TWO = {"h": HIDDEN, "c": HIDDEN}
FOUR = {"h": HIDDEN, "c": HIDDEN, "n": HIDDEN, "m": HIDDEN}
PROJECTED = {"h": RANK, "c": HIDDEN}
# What is divided by is a sum of exponentials: a state at or below 0 is none that the cell could be in.
NORMALISERS = {"slstm": "n", "slstm_exp": "n"}

CASES = {
    "lstm_1997": Case("lstm_1997", lstm_1997, {}, TWO),
    "lstm_1997_blocks": Case("lstm_1997_blocks", lstm_1997_blocks, {"q": BLOCKS}, TWO),
    "lstm_coupled": Case("lstm_coupled", lstm_coupled, {}, TWO),
    "janet": Case("janet", janet),
    "lstm_projection": Case("lstm_projection", lstm_projection, {"r": RANK}, PROJECTED, RANK),
    "lstm_projection_peephole": Case(
        "lstm_projection_peephole", lstm_projection_peephole, {"r": RANK}, PROJECTED, RANK
    ),
    "lstm_layer_norm": Case("lstm_layer_norm", lstm_layer_norm, {}, TWO),
    "lstm_residual": Case("lstm_residual", lstm_residual, {}, TWO),
    "multiplicative_lstm": Case("multiplicative_lstm", multiplicative_lstm, {}, TWO),
    "nas": Case("nas", nas, {}, TWO),
    "mc_lstm": Case("mc_lstm", mc_lstm, {}, {"c": HIDDEN}),
    "slstm": Case("slstm", slstm, {}, FOUR),
    "slstm_exp": Case("slstm_exp", slstm_exp, {}, FOUR),
    "t_lstm": Case("t_lstm", t_lstm, {}, {"c": HIDDEN, "p": INPUT}),
    "wmc_lstm": Case("wmc_lstm", wmc_lstm, {}, TWO),
    "controller_lstm": Case("controller_lstm", controller_lstm, {}, {"v": HIDDEN, "c": HIDDEN}),
}
