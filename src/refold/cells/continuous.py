"""Cells written as differential equations, and stepped by a solver; and closed forms of such equations."""

from refold.ir import language as rf


@rf.flow(
    source="Funahashi & Nakamura 1993, Approximation of dynamical systems by continuous time recurrent networks; "
    "the form with the activation outside: tau dh/dt = -h + f(W_h h + W_x x + b)",
    solver="rk4",
    dt=0.1,
)
def ctrnn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
    tau=rf.Scalar(1.0),
):
    """The continuous-time network: models of the brain and of mechanics, where a step is a piece of real time."""
    return (rf.tanh(W_h @ h + W_x @ x + b) - h) / tau


@rf.flow(
    source="Grossberg 1968; the additive model in Grossberg 2013, Recurrent neural networks, Scholarpedia 8(2):1888",
    solver="heun",
    dt=0.1,
)
def additive(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    A=rf.Weight("n", init="ones"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """Grossberg's additive short-term memory: each unit decays at a rate of its own and adds up the others' signals."""
    return -A * h + W_h @ rf.tanh(h) + W_x @ x + b


@rf.flow(
    source="Grossberg 1973; the shunting model in Grossberg 2013, Recurrent neural networks, Scholarpedia 8(2):1888",
    solver="exponential_euler",
    dt=0.1,
)
def shunting(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    e=rf.Affine("n"),
    i=rf.Affine("n"),
    A=rf.Scalar(1.0),
    B=rf.Scalar(1.0),
    D=rf.Scalar(1.0),
):
    """Grossberg's shunting network: input moves a unit by what is left to its bounds -D and B, which it never passes.

    The total excitation and the total inhibition are rectified; the paper has weights that are never negative.
    """
    signal = rf.sigmoid(h)
    excite = rf.relu(e(x, signal))
    inhibit = rf.relu(i(x, signal))
    return -A * h + (B - h) * excite - (h + D) * inhibit


@rf.flow(
    source="De Brouwer, Simm, Arany & Moreau 2019, GRU-ODE-Bayes, arXiv:1905.12374: its GRU-ODE",
    solver="heun",
)
def gru_ode(
    x=rf.Input("m"),
    dt=rf.Input(""),
    h=rf.State("n"),
    *,
    r=rf.Affine("n"),
    z=rf.Affine("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """The GRU as a differential equation, with the time since the last step as an input: irregular records."""
    reset = rf.sigmoid(r(x, h))
    keep = rf.sigmoid(z(x, h))
    new = rf.tanh(W_x @ x + W_h @ (reset * h) + b)
    return (1 - keep) * (new - h)


@rf.cell(
    source="Hasani, Lechner, Amini, Rus & Grosu 2021, Liquid time-constant networks, arXiv:2006.04439, "
    "equations 1 and 3, algorithm 1 with L = 6"
)
def ltc(
    x=rf.Input("m"),
    dt=rf.Input(""),
    h=rf.State("n"),
    *,
    f=rf.Affine("n"),
    A=rf.Weight("n"),
    rate=rf.Weight("n", init="ones"),
):
    """Liquid time constants, by the paper's fused solver: dh/dt = -(1/tau + f) h + f A with f a dense sigmoid layer.

    1/tau is softplus(rate), so that it stays positive. dt is the time since the last step: irregular records.
    """
    decay = rf.softplus(rate)
    step = dt / 6
    for _ in range(6):
        gate = rf.sigmoid(f(x, h))
        h = (h + step * (gate * A)) / (1 + step * (decay + gate))
    return h


@rf.cell(
    source="Hasani et al. 2022, Closed-form continuous-time neural networks, arXiv:2106.13898, with the time gate"
)
def cfc(
    x=rf.Input("m"),
    dt=rf.Input(""),
    h=rf.State("n"),
    *,
    backbone=rf.Affine("u"),
    f=rf.Affine("n"),
    f_0=rf.Affine("n"),
    g=rf.Affine("n"),
    k=rf.Affine("n"),
):
    """The closed form of a liquid network: time dt moves a gate between two values. Irregular records, no solver.

    k is the paper's third head, called h there; f_0 is the bias of the time gate that the authors' networks learn.
    """
    s = 1.7159 * rf.tanh(0.666 * backbone(x, h))
    gate = rf.sigmoid(-(f(s) * dt + f_0(s)))
    return gate * rf.tanh(g(s)) + (1 - gate) * rf.tanh(k(s))


@rf.cell(
    source="Hasani et al. 2022, Closed-form continuous-time neural networks, arXiv:2106.13898, variant without a gate"
)
def cfc_no_gate(
    x=rf.Input("m"),
    dt=rf.Input(""),
    h=rf.State("n"),
    *,
    backbone=rf.Affine("u"),
    f=rf.Affine("n"),
    f_0=rf.Affine("n"),
    g=rf.Affine("n"),
    k=rf.Affine("n"),
):
    """A closed-form network in which the first value always counts in full, and time lets the second one in."""
    s = 1.7159 * rf.tanh(0.666 * backbone(x, h))
    gate = rf.sigmoid(f(s) * dt + f_0(s))
    return rf.tanh(g(s)) + gate * rf.tanh(k(s))


@rf.cell(
    source="Hasani et al. 2022, Closed-form continuous-time neural networks, arXiv:2106.13898, the closed-form solution"
)
def cfc_pure(
    x=rf.Input("m"),
    dt=rf.Input(""),
    h=rf.State("n"),
    *,
    backbone=rf.Affine("u"),
    f=rf.Affine("n"),
    w_tau=rf.Weight("n"),
    A=rf.Weight("n"),
):
    """The closed-form solution itself: a decay over dt, at a rate that the network sets, towards A."""
    s = 1.7159 * rf.tanh(0.666 * backbone(x, h))
    flow = f(s)
    return A - A * rf.exp(-dt * (rf.abs(w_tau) + rf.abs(flow))) * flow


@rf.cell(
    source="Baytas et al. 2017, Patient subtyping via time-aware LSTM networks (KDD), section 3.2"
)
def time_aware_lstm(
    x=rf.Input("m"),
    dt=rf.Input(""),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    d=rf.Affine("n"),
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
):
    """An LSTM whose short-term memory fades with the time dt since the last step: patient records, irregular visits."""
    short = rf.tanh(d(c))
    old = c - short + short / rf.log(2.718281828459045 + dt)
    c = rf.sigmoid(f(x, h)) * old + rf.sigmoid(i(x, h)) * rf.tanh(g(x, h))
    return rf.sigmoid(o(x, h)) * rf.tanh(c), c
