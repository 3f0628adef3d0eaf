"""The papers' formulas of the other gated units, on vectors; nothing here is refold's."""

from cases import HIDDEN, INPUT, Case
from oracle import Parameters, States, affine
from torch import Tensor, relu, sigmoid, tanh
from torch.nn.functional import softplus

Result = tuple[Tensor, States]


def ugrnn(p: Parameters, x: Tensor, states: States) -> Result:
    """Collins et al. 2017: h = g h + (1 - g) c."""
    (h,) = states
    c = tanh(affine(p, "c", x, h))
    g = sigmoid(affine(p, "g", x, h))
    h = g * h + (1 - g) * c
    return h, (h,)


def intersection(p: Parameters, x: Tensor, states: States) -> Result:
    """Collins et al. 2017, +RNN: y = g_y x + (1 - g_y) y_in, h = g_h h + (1 - g_h) h_in."""
    (h,) = states
    y_in = relu(affine(p, "a", x, h))
    h_in = tanh(affine(p, "c", x, h))
    g_y = sigmoid(affine(p, "g_y", x, h))
    g_h = sigmoid(affine(p, "g_h", x, h))
    return g_y * x + (1 - g_y) * y_in, (g_h * h + (1 - g_h) * h_in,)


def cfn(p: Parameters, x: Tensor, states: States) -> Result:
    """Laurent & von Brecht 2017."""
    (h,) = states
    theta = sigmoid(affine(p, "theta", x, h))
    eta = sigmoid(affine(p, "eta", x, h))
    h = theta * tanh(h) + eta * tanh(p["W"] @ x)
    return h, (h,)


def ran(p: Parameters, x: Tensor, states: States) -> Result:
    """Lee et al. 2017."""
    h, c = states
    content = p["W_c"] @ x
    i = sigmoid(affine(p, "i", x, h))
    f = sigmoid(affine(p, "f", x, h))
    c = i * content + f * c
    h = tanh(c)
    return h, (h, c)


def star(p: Parameters, x: Tensor, states: States) -> Result:
    """Turkoglu et al. 2019."""
    (h,) = states
    k = sigmoid(affine(p, "k", x, h))
    z = tanh(p["z.W_x"] @ x + p["z.b"])
    h = tanh((1 - k) * h + k * z)
    return h, (h,)


def atr(p: Parameters, x: Tensor, states: States) -> Result:
    """Zhang et al. 2018."""
    (h,) = states
    before, now = p["U"] @ h, p["W"] @ x
    i = sigmoid(now + before)
    f = sigmoid(now - before)
    h = i * now + f * h
    return h, (h,)


def br(p: Parameters, x: Tensor, states: States) -> Result:
    """Vecoven et al. 2021."""
    (h,) = states
    a = 1 + tanh(p["U_a"] @ x + p["w_a"] * h)
    c = sigmoid(p["U_c"] @ x + p["w_c"] * h)
    h = c * h + (1 - c) * tanh(p["U"] @ x + a * h)
    return h, (h,)


def nbr(p: Parameters, x: Tensor, states: States) -> Result:
    """Vecoven et al. 2021, neuromodulated."""
    (h,) = states
    a = 1 + tanh(p["U_a"] @ x + p["W_a"] @ h)
    c = sigmoid(p["U_c"] @ x + p["W_c"] @ h)
    h = c * h + (1 - c) * tanh(p["U"] @ x + a * h)
    return h, (h,)


def minimal_rnn(p: Parameters, x: Tensor, states: States) -> Result:
    """Chen 2017."""
    (h,) = states
    z = tanh(p["W"] @ x + p["b"])
    u = sigmoid(p["U_h"] @ h + p["U_z"] @ z + p["b_u"])
    h = u * h + (1 - u) * z
    return h, (h,)


def gate_of(p: Parameters, x: Tensor, h: Tensor) -> Tensor:
    """Gao & Glowacka 2016: z_g."""
    return tanh(p["U_g"] @ ((p["W_g"] @ x + p["b_g"]) * h))


def hard_sigmoid(a: Tensor) -> Tensor:
    """By hand: torch's own takes its slope of 1/6 in single precision."""
    return (a / 6 + 0.5).clamp(0, 1)


def sgu(p: Parameters, x: Tensor, states: States) -> Result:
    """Gao & Glowacka 2016, SGU."""
    (h,) = states
    out = softplus(gate_of(p, x, h) * h)
    z = hard_sigmoid(affine(p, "z", x, h))
    h = (1 - z) * h + z * out
    return h, (h,)


def dsgu(p: Parameters, x: Tensor, states: States) -> Result:
    """Gao & Glowacka 2016, DSGU."""
    (h,) = states
    out = sigmoid(p["U_o"] @ (gate_of(p, x, h) * h))
    z = hard_sigmoid(affine(p, "z", x, h))
    h = (1 - z) * h + z * out
    return h, (h,)


def sgrn(p: Parameters, x: Tensor, states: States) -> Result:
    """doi:10.1049/gtd2.12056: i = 1 - f, h = tanh(i (W x) + f h)."""
    (h,) = states
    f = sigmoid(p["W"] @ x + p["U"] @ h + p["b"])
    h = tanh((1 - f) * (p["W"] @ x) + f * h)
    return h, (h,)


CASES = {
    "ugrnn": Case("ugrnn", ugrnn),
    "intersection": Case("intersection", intersection, output=INPUT),
    "cfn": Case("cfn", cfn),
    "ran": Case("ran", ran, {}, {"h": HIDDEN, "c": HIDDEN}),
    "star": Case("star", star),
    "atr": Case("atr", atr),
    "br": Case("br", br),
    "nbr": Case("nbr", nbr),
    "minimal_rnn": Case("minimal_rnn", minimal_rnn),
    "sgu": Case("sgu", sgu),
    "dsgu": Case("dsgu", dsgu),
    "sgrn": Case("sgrn", sgrn),
}
