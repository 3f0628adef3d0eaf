"""Gated recurrent units: a gate decides how much of the old state stays."""

from refold.ir import language as rf


@rf.cell(source="Cho et al. 2014, arXiv:1406.1078, as cuDNN and torch.nn.GRU have it")
def gru(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    r=rf.Affine("n"),
    z=rf.Affine("n"),
    i=rf.Affine("n"),
    W_n=rf.Weight("n n"),
    b_n=rf.Bias("n"),
):
    """The reset gate acts after the product with the state; z keeps the old state. The usual choice for series."""
    reset = rf.sigmoid(r(x, h))
    keep = rf.sigmoid(z(x, h))
    new = rf.tanh(i(x) + reset * (W_n @ h + b_n))
    return (1 - keep) * new + keep * h


@rf.cell(source="Cho et al. 2014, arXiv:1406.1078, equations 5 to 8")
def gru_cho(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    r=rf.Affine("n"),
    z=rf.Affine("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """The reset gate acts before the product with the state, as the paper has it; z keeps the old state."""
    reset = rf.sigmoid(r(x, h))
    keep = rf.sigmoid(z(x, h))
    new = rf.tanh(W_x @ x + W_h @ (reset * h) + b)
    return keep * h + (1 - keep) * new


@rf.cell(source="Zhou, Wu, Zhang & Zhou 2016, arXiv:1603.09420")
def mgu(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    f=rf.Affine("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """The minimal gated unit: one gate forgets and writes. Two thirds of a GRU's weights."""
    forget = rf.sigmoid(f(x, h))
    new = rf.tanh(W_x @ x + W_h @ (forget * h) + b)
    return (1 - forget) * h + forget * new


@rf.cell(source="Heck & Salem 2017, arXiv:1701.03452, MGU1")
def mgu1(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    f=rf.Affine("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """A minimal gated unit whose gate sees the state and a bias, not the input."""
    forget = rf.sigmoid(f(h))
    new = rf.tanh(W_x @ x + W_h @ (forget * h) + b)
    return (1 - forget) * h + forget * new


@rf.cell(source="Heck & Salem 2017, arXiv:1701.03452, MGU2")
def mgu2(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    U_f=rf.Weight("n n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """A minimal gated unit whose gate sees the state alone: half of a GRU's weights."""
    forget = rf.sigmoid(U_f @ h)
    new = rf.tanh(W_x @ x + W_h @ (forget * h) + b)
    return (1 - forget) * h + forget * new


@rf.cell(source="Heck & Salem 2017, arXiv:1701.03452, MGU3")
def mgu3(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    b_f=rf.Bias("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """A minimal gated unit whose gate is a bias: each unit learns one time constant."""
    forget = rf.sigmoid(b_f)
    new = rf.tanh(W_x @ x + W_h @ (forget * h) + b)
    return (1 - forget) * h + forget * new


@rf.cell(source="Ba, Kiros & Hinton 2016, arXiv:1607.06450, the GRU of its supplement")
def gru_layer_norm(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_h=rf.Weight("2n n"),
    W_x=rf.Weight("2n m"),
    W=rf.Weight("n m"),
    U=rf.Weight("n n"),
    alpha_1=rf.Weight("2n", init="ones"),
    alpha_2=rf.Weight("2n", init="ones"),
    alpha_3=rf.Weight("n", init="ones"),
    alpha_4=rf.Weight("n", init="ones"),
    beta_1=rf.Bias("2n", init="zeros"),
    beta_2=rf.Bias("2n", init="zeros"),
    beta_3=rf.Bias("n", init="zeros"),
    beta_4=rf.Bias("n", init="zeros"),
):
    """Every product is normed over the units, both gates as one vector; z writes. Small batches and long texts."""
    gates = rf.layer_norm(W_h @ h, alpha_1, beta_1) + rf.layer_norm(W_x @ x, alpha_2, beta_2)
    z, r = rf.split(rf.sigmoid(gates), "n", "n")
    new = rf.layer_norm(W @ x, alpha_3, beta_3) + r * rf.layer_norm(U @ h, alpha_4, beta_4)
    return (1 - z) * h + z * rf.tanh(new)


@rf.cell(
    source="Ravanelli, Brakel, Omologo & Bengio 2018, arXiv:1803.10225, with biases for its batch norm"
)
def li_gru(x=rf.Input("m"), h=rf.State("n"), *, z=rf.Affine("n"), a=rf.Affine("n")):
    """No reset gate and a rectifier: speech. The paper norms W x over the batch; biases stand in its place."""
    keep = rf.sigmoid(z(x, h))
    return keep * h + (1 - keep) * rf.relu(a(x, h))


@rf.cell(source="Ye et al. 2024, Light recurrent unit, Electronics 13(16) 3204")
def light_ru(x=rf.Input("m"), h=rf.State("n"), *, f=rf.Affine("n"), c=rf.Affine("n")):
    """One gate, and a new value that sees the input alone: long ranges with a third of a GRU's recurrent weights."""
    write = rf.sigmoid(f(x, h))
    return (1 - write) * h + write * rf.tanh(c(x))


@rf.cell(
    source="Jozefowicz, Zaremba & Sutskever 2015, MUT1; W_x x for its x, which need not be of size n"
)
def mut1(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    z=rf.Affine("n"),
    r=rf.Affine("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """The best cell that a search over ten thousand mutations found, the first of three: its gate sees x alone."""
    write = rf.sigmoid(z(x))
    reset = rf.sigmoid(r(x, h))
    new = rf.tanh(W_h @ (reset * h) + rf.tanh(W_x @ x) + b)
    return write * new + (1 - write) * h


@rf.cell(
    source="Jozefowicz, Zaremba & Sutskever 2015, MUT2; r.W_x x for its x, which need not be of size n"
)
def mut2(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    z=rf.Affine("n"),
    r=rf.Affine("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """The second cell of the search: a GRU of Cho whose z writes. In the paper the reset gate adds a bare x."""
    write = rf.sigmoid(z(x, h))
    reset = rf.sigmoid(r(x, h))
    new = rf.tanh(W_h @ (reset * h) + W_x @ x + b)
    return write * new + (1 - write) * h


@rf.cell(source="Jozefowicz, Zaremba & Sutskever 2015, MUT3")
def mut3(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_z=rf.Weight("n m"),
    U_z=rf.Weight("n n"),
    b_z=rf.Bias("n"),
    r=rf.Affine("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
):
    """The third cell of the search: its update gate sees the state through a tanh."""
    write = rf.sigmoid(W_z @ x + U_z @ rf.tanh(h) + b_z)
    reset = rf.sigmoid(r(x, h))
    new = rf.tanh(W_h @ (reset * h) + W_x @ x + b)
    return write * new + (1 - write) * h


@rf.cell(source="Balduzzi & Ghifary 2016, arXiv:1602.02218, the strongly typed GRU")
def t_gru(
    x=rf.Input("m"),
    h=rf.State("n"),
    p=rf.State("m"),
    *,
    z=rf.Affine("n"),
    f=rf.Affine("n"),
    o=rf.Affine("n"),
):
    """Gates see this input and the last one, never the state: like is added to like, and products wait for nothing."""
    forget = rf.sigmoid(f(p, x))
    return forget * h + z(p, x) * rf.tanh(o(p, x)), x


@rf.cell(source="Zyarah & Kudithipudi 2025, arXiv:2503.06175, MiRU with a reset gate")
def mi_ru1(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    r=rf.Affine("n"),
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
    lam=rf.Scalar(0.5),
):
    """A GRU whose update gate is a number: continual learning on small devices."""
    reset = rf.sigmoid(r(x, h))
    return lam * h + (1 - lam) * rf.tanh(W_x @ x + W_h @ (reset * h) + b)


@rf.cell(source="Zyarah & Kudithipudi 2025, arXiv:2503.06175, MiRU with two coefficients")
def mi_ru2(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
    lam=rf.Scalar(0.5),
    beta=rf.Scalar(0.5),
):
    """A GRU whose gates are both numbers: a third of its weights, for the smallest devices."""
    return lam * h + (1 - lam) * rf.tanh(W_x @ x + W_h @ (beta * h) + b)
