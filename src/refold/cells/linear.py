"""Recurrences that are linear in the state, with gates that see the input alone: cheap steps, parallel in principle."""

from typing import Any

from refold.ir import language as rf


def _positive(x: Any) -> Any:
    """x + 1/2 above 0 and sigmoid(x) below: never negative, so that its logarithm exists."""
    return rf.where(x >= 0, x + 0.5, rf.sigmoid(x))


@rf.cell(source="Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024, arXiv:2410.01201, section 3.1")
def min_gru(x=rf.Input("m"), h=rf.State("n"), *, z=rf.Affine("n"), g=rf.Affine("n")):
    """A GRU whose gate and candidate see the input alone: long sequences, few weights."""
    write = rf.sigmoid(z(x))
    return (1 - write) * h + write * g(x)


@rf.cell(
    source="Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024, arXiv:2410.01201, appendix B, log-space"
)
def min_gru_positive(x=rf.Input("m"), h=rf.State("n"), *, z=rf.Affine("n"), g=rf.Affine("n")):
    """The minimal GRU as it is trained in log-space: its candidate is positive."""
    write = rf.sigmoid(z(x))
    return (1 - write) * h + write * _positive(g(x))


@rf.cell(source="Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024, arXiv:2410.01201, section 3.2")
def min_lstm(
    x=rf.Input("m"), h=rf.State("n"), *, f=rf.Affine("n"), i=rf.Affine("n"), g=rf.Affine("n")
):
    """An LSTM whose gates see the input alone and share one whole between them: long sequences."""
    forget, write = rf.sigmoid(f(x)), rf.sigmoid(i(x))
    return (forget * h + write * g(x)) / (forget + write)


@rf.cell(
    source="Feng, Tung, Ahmed, Bengio & Hajimirsadeghi 2024, arXiv:2410.01201, appendix B, log-space"
)
def min_lstm_positive(
    x=rf.Input("m"), h=rf.State("n"), *, f=rf.Affine("n"), i=rf.Affine("n"), g=rf.Affine("n")
):
    """The minimal LSTM as it is trained in log-space: its candidate is positive."""
    forget, write = rf.sigmoid(f(x)), rf.sigmoid(i(x))
    return (forget * h + write * _positive(g(x))) / (forget + write)


@rf.cell(
    source="Lei, Zhang, Wang, Dai & Artzi 2018, arXiv:1709.02755v5, with W_h x where the sizes differ"
)
def sru(
    x=rf.Input("m"),
    c=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    f=rf.Affine("n", bias_init="zeros"),
    r=rf.Affine("n", bias_init="zeros"),
    v_f=rf.Weight("n"),
    v_r=rf.Weight("n"),
    W_h=rf.Weight("n m"),
):
    """No product with the state, and a highway for the input: fast encoders. Each gate sees its own cell."""
    forget = rf.sigmoid(f(x) + v_f * c)
    reset = rf.sigmoid(r(x) + v_r * c)
    c = forget * c + (1 - forget) * (W @ x)
    return rf.Step(c, output=reset * c + (1 - reset) * (W_h @ x))


@rf.cell(source="Lei, Zhang & Artzi 2017, arXiv:1709.02755v1, with W_h x where the sizes differ")
def sru_v1(
    x=rf.Input("m"),
    c=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    f=rf.Affine("n", bias_init="zeros"),
    r=rf.Affine("n", bias_init="zeros"),
    W_h=rf.Weight("n m"),
):
    """The first form of the simple recurrent unit: the gates see the input alone, the cell is squashed."""
    forget = rf.sigmoid(f(x))
    reset = rf.sigmoid(r(x))
    c = forget * c + (1 - forget) * (W @ x)
    return rf.Step(c, output=reset * rf.tanh(c) + (1 - reset) * (W_h @ x))


@rf.cell(
    source="Bradbury, Merity, Xiong & Socher 2016, arXiv:1611.01576, equation 3, convolution over 2 steps"
)
def qrnn_f(
    x=rf.Input("m"), h=rf.State("n"), p=rf.State("m"), *, z=rf.Affine("n"), f=rf.Affine("n")
):
    """A convolution over this input and the one before, p, and a pool that forgets: fast language models."""
    forget = rf.sigmoid(f(x, p))
    return forget * h + (1 - forget) * rf.tanh(z(x, p)), x


@rf.cell(
    source="Bradbury, Merity, Xiong & Socher 2016, arXiv:1611.01576, equation 4, convolution over 2 steps"
)
def qrnn_fo(
    x=rf.Input("m"),
    c=rf.State("n"),
    p=rf.State("m"),
    *,
    z=rf.Affine("n"),
    f=rf.Affine("n"),
    o=rf.Affine("n"),
):
    """The pooled convolution with an output gate: its usual form."""
    forget = rf.sigmoid(f(x, p))
    c = forget * c + (1 - forget) * rf.tanh(z(x, p))
    return rf.Step(c, x, output=rf.sigmoid(o(x, p)) * c)


@rf.cell(
    source="Bradbury, Merity, Xiong & Socher 2016, arXiv:1611.01576, equation 5, convolution over 2 steps"
)
def qrnn_ifo(
    x=rf.Input("m"),
    c=rf.State("n"),
    p=rf.State("m"),
    *,
    z=rf.Affine("n"),
    f=rf.Affine("n"),
    o=rf.Affine("n"),
    i=rf.Affine("n"),
):
    """The pooled convolution with an input gate of its own: it can count."""
    c = rf.sigmoid(f(x, p)) * c + rf.sigmoid(i(x, p)) * rf.tanh(z(x, p))
    return rf.Step(c, x, output=rf.sigmoid(o(x, p)) * c)


@rf.cell(
    source="Orvieto et al. 2023, arXiv:2303.06349, the linear recurrent unit with n outputs; "
    "s is exp(gamma_log) as a share of where it starts, sqrt(1 - |lambda|^2)"
)
def lru(
    x=rf.Input("m"),
    h_re=rf.State("n"),
    h_im=rf.State("n"),
    *,
    nu_log=rf.Weight("n", init="ring"),
    theta_log=rf.Weight("n", init="phase"),
    s=rf.Weight("n", init="ones"),
    B_re=rf.Weight("n m", init=rf.Init("lecun_normal", gain=0.5**0.5)),
    B_im=rf.Weight("n m", init=rf.Init("lecun_normal", gain=0.5**0.5)),
    C_re=rf.Weight("n n", init="lecun_normal"),
    C_im=rf.Weight("n n", init="lecun_normal"),
    D=rf.Weight("n m", init="lecun_normal"),
):
    """A complex diagonal of modulus below 1, as two real states: very long memories, a nonlinear layer behind."""
    nu, theta = rf.exp(nu_log), rf.exp(theta_log)
    gamma = s * rf.sqrt(-rf.expm1(-2 * nu))
    a, b = rf.exp(-nu) * rf.cos(theta), rf.exp(-nu) * rf.sin(theta)
    new_re = a * h_re - b * h_im + gamma * (B_re @ x)
    new_im = b * h_re + a * h_im + gamma * (B_im @ x)
    return rf.Step(new_re, new_im, output=C_re @ new_re - C_im @ new_im + D @ x)


@rf.cell(
    source="De et al. 2024, Griffin, arXiv:2402.19427, equations 1 to 4, with the block's linear layer before it"
)
def rg_lru(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    u=rf.Affine("n"),
    r=rf.Affine("n"),
    i=rf.Affine("n"),
    L=rf.Weight("n", init="decay"),
    c=rf.Scalar(8.0),
):
    """Decays that the input sets, on a real diagonal: language models with a small state."""
    v = u(x)
    log_a = -c * rf.softplus(-L) * rf.sigmoid(r(v))
    return rf.exp(log_a) * h + rf.sqrt(-rf.expm1(2 * log_a)) * (rf.sigmoid(i(v)) * v)


@rf.cell(
    source="Holt 1957; Winters 1960; Taylor 2003 for the second season; without a trend and with learned rates as in "
    "Smyl 2020 (ES-RNN), whose factors are these summands where y is a logarithm"
)
def holt_winters(
    y=rf.Input(""),
    seen=rf.Input(""),
    own=rf.Input("3"),
    level=rf.State("1"),
    s=rf.State("n"),
    u=rf.State("k"),
    *,
    alpha=rf.Scalar(0.0, learn=True),
    gamma=rf.Scalar(-3.0, learn=True),
    delta=rf.Scalar(-3.0, learn=True),
):
    """Exponential smoothing: a level and two seasons, of n and k steps, that follow one series at learned rates.

    Where seen is 0 they stay as they are; own is what a series' rates differ by. Out come the level and both summands.
    """
    # A season is a ring of summands, the one of this step first; rates are sigmoids.
    a, g, d = rf.split(own, "1", "1", "1")
    now, _ = rf.split(rf.concat(s, level), "1", "n")
    long, _ = rf.split(rf.concat(u, level), "1", "k")
    error = seen * (y - level - now - long)
    moved = rf.sigmoid(alpha + a) * error
    left = error - moved
    _, s = rf.split(rf.concat(s, now + rf.sigmoid(gamma + g) * left), "1", "n")
    _, u = rf.split(rf.concat(u, long + rf.sigmoid(delta + d) * left), "1", "k")
    level = level + moved
    return rf.Step(level, s, u, output=rf.concat(level, now, long))
