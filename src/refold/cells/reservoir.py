"""Reservoirs: a fixed random network, and a read-out that is learned."""

from refold.ir import language as rf


@rf.cell(
    source="Jaeger 2001, The echo state approach; leaky units: Jaeger, Lukosevicius, Popovici & Siewert 2007"
)
def esn(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_in=rf.Weight("n m", init=rf.Init("uniform", bound=1.0), learn=False),
    W=rf.Weight("n n", init=rf.Init("spectral_radius", radius=1.0), learn=False),
    b=rf.Weight("n", init=rf.Init("uniform", bound=1.0), learn=False),
    alpha=rf.Scalar(1.0),
    rho=rf.Scalar(0.9),
    sigma=rf.Scalar(1.0),
    beta=rf.Scalar(0.1),
):
    """An echo state network's reservoir: fixed random weights, of which only a read-out is learned, in closed form.

    alpha is the leak, rho the spectral radius, sigma and beta scale the weights of the input and the bias.
    """
    return (1 - alpha) * h + alpha * rf.tanh((rho * W) @ h + (sigma * W_in) @ x + beta * b)
