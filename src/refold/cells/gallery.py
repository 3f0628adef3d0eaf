"""Networks of the textbooks, each with the property it is known for, which a test checks.

The additive and the shunting network are in `continuous`.
"""

from refold.ir import language as rf


@rf.cell(
    source="McCulloch & Pitts 1943, A logical calculus of the ideas immanent in nervous activity"
)
def mcculloch_pitts(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W_x=rf.Weight("n m"),
    W_h=rf.Weight("n n"),
    theta=rf.Bias("n"),
):
    """Threshold units, 0 or 1: any logical circuit, with a step of delay per unit. Nothing is learned by gradients."""
    return rf.where(W_h @ h + W_x @ x >= theta, 1.0, 0.0)


@rf.flow(
    source="Cohen & Grossberg 1983, IEEE Trans. SMC 13:815, with a(h) = 1 / (1 + h^2), b(h) = u - A h, d = tanh",
    solver="rk4",
    dt=0.05,
)
def cohen_grossberg(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    C=rf.Weight("n n"),
    W_x=rf.Weight("n m"),
    A=rf.Scalar(1.0),
):
    """Competition with symmetric weights: for a constant input an energy falls until the network rests. Choices."""
    compete = (0.5 * (C + C.T)) @ rf.tanh(h)
    return (W_x @ x - A * h - compete) / (1 + h * h)


@rf.cell(source="Hopfield 1982, PNAS 79:2554, with units of -1 and 1, all updated at once")
def hopfield(h=rf.State("n"), *, W=rf.Weight("n n")):
    """Associative memory: stored patterns are fixed points, up to about 0.138 n of them. A unit at 0 stays."""
    a = W @ h
    return rf.stop_gradient(rf.where(a == 0, h, rf.sign(a)))


@rf.cell(
    source="Anderson, Silverstein, Ritz & Jones 1977, Psychological Review 84:413, Brain-State-in-a-Box"
)
def brain_state_in_a_box(
    h=rf.State("n"), *, W=rf.Weight("n n"), alpha=rf.Scalar(0.1), gamma=rf.Scalar(1.0)
):
    """Positive feedback within a box: the state grows along the strongest features until it rests in a corner."""
    return rf.clip(gamma * h + alpha * (W @ h), -1.0, 1.0)


@rf.cell(source="Kosko 1988, Bidirectional associative memories, IEEE Trans. SMC 18:49")
def bam(a=rf.State("n"), b=rf.State("k"), *, M=rf.Weight("n k")):
    """Pairs of patterns on two layers that answer each other through one matrix until both rest: hetero-association."""
    to_b = M.T @ a
    b = rf.stop_gradient(rf.where(to_b == 0, b, rf.sign(to_b)))
    to_a = M @ b
    a = rf.stop_gradient(rf.where(to_a == 0, a, rf.sign(to_a)))
    return a, b
