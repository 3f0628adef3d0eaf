"""The vanilla network and its closest kin: one product with the state, one activation."""

from collections.abc import Callable

from refold.ir import language as rf


@rf.cell(source="Elman 1990, Finding structure in time")
def elman(
    x=rf.Input("m"), h=rf.State("n"), *, W_x=rf.Weight("n m"), W_h=rf.Weight("n n"), b=rf.Bias("n")
):
    """The vanilla recurrent network: short memories, small models, the textbook's example."""
    return rf.tanh(W_h @ h + W_x @ x + b)


def elman_with(f: Callable[..., object], name: str) -> rf.Cell:
    """The vanilla network with any activation f, a function of the equation language.

    Example  sine = elman_with(rf.sin, "elman_sin")
    """

    @rf.cell(source="Elman 1990, Finding structure in time", name=name)
    def cell(
        x=rf.Input("m"),
        h=rf.State("n"),
        *,
        W_x=rf.Weight("n m"),
        W_h=rf.Weight("n n"),
        b=rf.Bias("n"),
    ):
        """The vanilla recurrent network with another activation."""
        return f(W_h @ h + W_x @ x + b)

    return cell


elman_relu = elman_with(rf.relu, "elman_relu")


@rf.cell(source="Jordan 1986, Serial order: a parallel distributed processing approach")
def jordan(
    x=rf.Input("m"),
    y=rf.State("k"),
    *,
    W_x=rf.Weight("n m"),
    W_y=rf.Weight("n k"),
    b=rf.Bias("n"),
    V=rf.Weight("k n"),
    c=rf.Bias("k"),
):
    """The output is fed back, not the hidden layer: control and series whose last value says most."""
    s = rf.tanh(W_y @ y + W_x @ x + b)
    return V @ s + c


@rf.cell(
    source="Jaeger, Lukosevicius, Popovici & Siewert 2007; Grossberg's additive model, Euler step dt/tau = alpha"
)
def leaky(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    b=rf.Bias("n"),
    alpha=rf.Scalar(0.1),
):
    """A vanilla network that moves only a part of the way each step: slow signals, continuous time."""
    return (1 - alpha) * h + alpha * rf.tanh(W_h @ h + W_x @ x + b)


def multi_lag_with(k: int) -> rf.Cell:
    """The vanilla network that reads its last k states: h(t-1) to h(t-k) lie in one state that shifts.

    Example  month = multi_lag_with(12)
    """

    @rf.cell(
        source="Soltani & Jiang 2016, arXiv:1605.00064",
        name="multi_lag" if k == 3 else f"multi_lag_{k}",
    )
    def cell(
        x=rf.Input("m"),
        past=rf.State(f"{k}n"),
        *,
        W_x=rf.Weight("n m"),
        W_h=rf.Weight(f"n {k}n"),
        b=rf.Bias("n"),
    ):
        """Several delays at once: shorter paths for gradients, and series with a period."""
        h = rf.tanh(W_h @ past + W_x @ x + b)
        newest = rf.split(past, *["n"] * k)[:-1]
        return rf.Step(rf.concat(h, *newest), output=h)

    return cell


multi_lag = multi_lag_with(3)


@rf.cell(source="Le, Jaitly & Hinton 2015, arXiv:1504.00941")
def irnn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_x=rf.Weight("n m", init=rf.Init("normal", std=0.001)),
    W_h=rf.Weight("n n", init="identity"),
    b=rf.Bias("n", init="zeros"),
):
    """A rectifier whose recurrent weights start at the identity: at first nothing is forgotten. Sums, pixels."""
    return rf.relu(W_h @ h + W_x @ x + b)


@rf.cell(source="Saxe, McClelland & Ganguli 2014, arXiv:1312.6120, for Elman 1990")
def elman_orthogonal(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n", init="orthogonal"),
    b=rf.Bias("n", init="zeros"),
):
    """The vanilla network with recurrent weights that start orthogonal: gradients keep their size at first."""
    return rf.tanh(W_h @ h + W_x @ x + b)


@rf.cell(source="Li, Li, Cook, Zhu & Gao 2018, arXiv:1803.04831, equation 2")
def indrnn(
    x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m"), u=rf.Weight("n"), b=rf.Bias("n")
):
    """Each unit reads its own past only, so that its memory is one number: very long sequences, deep stacks."""
    return rf.relu(W @ x + u * h + b)


@rf.cell(source="Chang, Chen, Haber & Chi 2019, arXiv:1902.09689, equation 11")
def antisymmetric(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n n"),
    V=rf.Weight("n m"),
    b=rf.Bias("n"),
    epsilon=rf.Scalar(0.01),
    gamma=rf.Scalar(0.01),
):
    """An Euler step of a system that neither explodes nor vanishes: long dependencies without gates."""
    A = W - W.T
    return h + epsilon * rf.tanh(A @ h - gamma * h + V @ x + b)


@rf.cell(source="Chang, Chen, Haber & Chi 2019, arXiv:1902.09689, with its input gate")
def antisymmetric_gated(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n n"),
    V_h=rf.Weight("n m"),
    b_h=rf.Bias("n"),
    V_z=rf.Weight("n m"),
    b_z=rf.Bias("n"),
    epsilon=rf.Scalar(0.01),
    gamma=rf.Scalar(0.01),
):
    """The antisymmetric network with a gate that shares the recurrent weights, and so keeps the system stable."""
    A = W - W.T
    a = A @ h - gamma * h
    z = rf.sigmoid(a + V_z @ x + b_z)
    return h + epsilon * z * rf.tanh(a + V_h @ x + b_h)


@rf.cell(
    source="Erichson, Azencot, Queiruga, Hodgkinson & Mahoney 2021, arXiv:2006.12070, explicit Euler"
)
def lipschitz(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    M_A=rf.Weight("n n"),
    M_W=rf.Weight("n n"),
    U=rf.Weight("n m"),
    b=rf.Bias("n"),
    beta_A=rf.Scalar(0.8),
    gamma_A=rf.Scalar(0.01),
    beta_W=rf.Scalar(0.8),
    gamma_W=rf.Scalar(0.01),
    epsilon=rf.Scalar(0.03),
):
    """A linear part and a tanh, both held between symmetric and skew, so that stability is set by beta and gamma."""
    A = (1 - beta_A) * (M_A + M_A.T) + beta_A * (M_A - M_A.T)
    W = (1 - beta_W) * (M_W + M_W.T) + beta_W * (M_W - M_W.T)
    linear = A @ h - gamma_A * h
    return h + epsilon * (linear + rf.tanh(W @ h - gamma_W * h + U @ x + b))


@rf.cell(
    source="Mikolov, Joulin, Chopra, Mathieu & Ranzato 2015, arXiv:1412.7753, equations 3 to 5"
)
def scrn(
    x=rf.Input("m"),
    h=rf.State("n"),
    s=rf.State("k"),
    *,
    A=rf.Weight("n m"),
    B=rf.Weight("k m"),
    P=rf.Weight("n k"),
    R=rf.Weight("n n"),
    alpha=rf.Scalar(0.95),
):
    """k slow context units beside the fast ones: topics of a text. A linear head on both is the paper's U h + V s."""
    s = (1 - alpha) * (B @ x) + alpha * s
    h = rf.sigmoid(P @ s + A @ x + R @ h)
    return rf.Step(h, s, output=rf.concat(h, s))


@rf.cell(source="Kusupati et al. 2018, arXiv:1901.02358, FastRNN")
def fast_rnn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    U=rf.Weight("n n"),
    b=rf.Bias("n"),
    alpha=rf.Scalar(-3.0, learn=True),
    beta=rf.Scalar(3.0, learn=True),
):
    """A vanilla network with a weighted shortcut along time, two numbers more: sensors on microcontrollers."""
    new = rf.tanh(W @ x + U @ h + b)
    return rf.sigmoid(alpha) * new + rf.sigmoid(beta) * h


@rf.cell(source="Kusupati et al. 2018, arXiv:1901.02358, FastGRNN with full-rank weights")
def fast_grnn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    U=rf.Weight("n n"),
    b_z=rf.Bias("n"),
    b_h=rf.Bias("n"),
    zeta=rf.Scalar(1.0, learn=True),
    nu=rf.Scalar(-4.0, learn=True),
):
    """Gate and new value share their weights: nearly a GRU, in the size of a vanilla network. Microcontrollers."""
    a = W @ x + U @ h
    z = rf.sigmoid(a + b_z)
    return (rf.sigmoid(zeta) * (1 - z) + rf.sigmoid(nu)) * rf.tanh(a + b_h) + z * h


@rf.cell(source="Kusupati et al. 2018, arXiv:1901.02358, FastGRNN with weights of rank r and q")
def fast_grnn_low_rank(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_1=rf.Weight("n q"),
    W_2=rf.Weight("q m"),
    U_1=rf.Weight("n r"),
    U_2=rf.Weight("r n"),
    b_z=rf.Bias("n"),
    b_h=rf.Bias("n"),
    zeta=rf.Scalar(1.0, learn=True),
    nu=rf.Scalar(-4.0, learn=True),
):
    """FastGRNN with W of rank q and U of rank r: a few kilobytes in all."""
    a = W_1 @ (W_2 @ x) + U_1 @ (U_2 @ h)
    z = rf.sigmoid(a + b_z)
    return (rf.sigmoid(zeta) * (1 - z) + rf.sigmoid(nu)) * rf.tanh(a + b_h) + z * h


@rf.cell(source="Balduzzi & Ghifary 2016, arXiv:1602.02218, the strongly typed RNN")
def t_rnn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("n m"),
    V=rf.Weight("n m"),
    b=rf.Bias("n"),
):
    """A moving average of a linear map of x, its rate set by x: every unit of h is in the units of W x."""
    f = rf.sigmoid(V @ x + b)
    return f * h + (1 - f) * (W @ x)
