"""Networks built from the equations of oscillators and stable flows: gradients neither vanish nor blow up."""

from refold.ir import language as rf


@rf.cell(
    source="Rusch, Mishra, Erichson & Mahoney 2022, Long expressive memory, arXiv:2110.04744, equation 3"
)
def lem(
    x=rf.Input("m"),
    y=rf.State("n"),
    z=rf.State("n"),
    *,
    a=rf.Affine("n"),
    b=rf.Affine("n"),
    c=rf.Affine("n"),
    d=rf.Affine("n"),
    dt=rf.Scalar(1.0),
):
    """Two states, each with a time scale of its own that is learned: signals with fast and slow parts."""
    fast, slow = dt * rf.sigmoid(a(x, y)), dt * rf.sigmoid(b(x, y))
    z = (1 - fast) * z + fast * rf.tanh(c(x, y))
    y = (1 - slow) * y + slow * rf.tanh(d(x, z))
    return y, z


@rf.cell(
    source="Rusch & Mishra 2021, Coupled oscillatory RNN, arXiv:2010.00951, equation 3, damped by the old z "
    "as the released code has it, with the settings of its sequential MNIST"
)
def cornn(
    x=rf.Input("m"),
    y=rf.State("n"),
    z=rf.State("n"),
    *,
    W=rf.Weight("n n"),
    U=rf.Weight("n n"),
    V=rf.Weight("n m"),
    b=rf.Bias("n"),
    dt=rf.Scalar(0.042),
    gamma=rf.Scalar(2.7),
    epsilon=rf.Scalar(4.7),
):
    """Driven and damped oscillators, each coupled to all: long sequences with bounded gradients."""
    force = rf.tanh(W @ y + U @ z + V @ x + b)
    z = z + dt * (force - gamma * y - epsilon * z)
    return y + dt * z, z


@rf.cell(
    source="Rusch & Mishra 2021, UnICORNN, arXiv:2103.05487, with the settings of its permuted MNIST"
)
def unicornn(
    x=rf.Input("m"),
    y=rf.State("n"),
    z=rf.State("n"),
    *,
    w=rf.Weight("n", init=rf.Init("between", low=0.0, high=1.0)),
    c=rf.Weight("n", init=rf.Init("uniform", bound=0.1)),
    V=rf.Weight("n m", init=rf.Init("he_uniform", a=8.0)),
    b=rf.Bias("n", init="zeros"),
    dt=rf.Scalar(0.19),
    alpha=rf.Scalar(30.65),
):
    """Oscillators without damping or coupling: very long sequences, in a stack. Steps keep volume."""
    step = dt * rf.sigmoid(c)
    z = z - step * (rf.tanh(w * y + V @ x + b) + alpha * y)
    return y + step * z, z


def tau_gru_with(delay: int, name: str) -> rf.Cell:
    """The GRU with a feedback that comes `delay` steps late.

    Example  late = tau_gru_with(50, "tau_gru_50")
    """

    @rf.cell(
        source="Erichson, Lim & Mahoney 2022, Gated recurrent neural networks with weighted time-delay feedback, "
        f"arXiv:2212.00228, with a delay of {delay} steps",
        name=name,
    )
    def cell(
        x=rf.Input("m"),
        h=rf.State("n"),
        d=rf.State(f"{delay}n"),
        *,
        u=rf.Affine("n"),
        g=rf.Affine("n"),
        a=rf.Affine("n"),
        W_z=rf.Weight("n n"),
        U_z=rf.Weight("n m"),
        b_z=rf.Bias("n"),
    ):
        """One gate weighs what was so many steps ago, another how much is new: sequences with a known lag."""
        # d holds what h was, the latest first.
        recent, late = rf.split(d, f"{delay - 1}n", "n") if delay > 1 else (None, d)
        new = rf.tanh(u(x, h)) + rf.sigmoid(a(x, h)) * rf.tanh(W_z @ late + U_z @ x + b_z)
        gate = rf.sigmoid(g(x, h))
        return (1 - gate) * h + gate * new, (h if recent is None else rf.concat(h, recent))

    return cell


tau_gru = tau_gru_with(10, "tau_gru")
