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
