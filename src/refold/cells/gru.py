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
