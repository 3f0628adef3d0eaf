"""Cells as much code in the field writes them: gates joined to one product with joined vectors, then cut apart."""

import refold as rf


@rf.cell
def joined_lstm(
    x=rf.Input("m"), h=rf.State("n"), c=rf.State("n"), *, W=rf.Weight("4n m+n"), b=rf.Bias("4n")
):
    f, i, g, o = rf.split(W @ rf.concat(x, h) + b, 4)
    c = rf.sigmoid(f) * c + rf.sigmoid(i) * rf.tanh(g)
    return rf.sigmoid(o) * rf.tanh(c), c


@rf.cell
def squashed_lstm(x=rf.Input("m"), h=rf.State("n"), c=rf.State("n"), *, gates=rf.Affine("4n")):
    """The three sigmoids as one, of a vector that is cut after them."""
    rest, g = rf.split(gates(x, h), "3n", "n")
    f, i, o = rf.split(rf.sigmoid(rest), 3)
    c = f * c + i * rf.tanh(g)
    return o * rf.tanh(c), c


@rf.cell
def joined_gru(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    W=rf.Weight("2n m+n"),
    b=rf.Bias("2n"),
    U=rf.Weight("n m+n"),
    d=rf.Bias("n"),
):
    r, z = rf.split(rf.sigmoid(W @ rf.concat(x, h) + b), 2)
    new = rf.tanh(U @ rf.concat(x, r * h) + d)
    return z * h + (1 - z) * new


@rf.cell
def joined_mgu(
    x=rf.Input("m"), h=rf.State("n"), *, W=rf.Weight("n m+n"), U=rf.Weight("n m+n"), b=rf.Bias("2n")
):
    b_f, b_h = rf.split(b, 2)
    f = rf.sigmoid(W @ rf.concat(x, h) + b_f)
    new = rf.tanh(U @ rf.concat(x, f * h) + b_h)
    return (1 - f) * h + f * new


@rf.cell
def joined_layer_norm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    W=rf.Weight("4n m+n"),
    s=rf.Weight("4n"),
    b=rf.Bias("4n"),
):
    """One norm over all gates: they stay one vector up to the division."""
    f, i, g, o = rf.split(rf.layer_norm(W @ rf.concat(x, h), s, b), 4)
    c = rf.sigmoid(f) * c + rf.sigmoid(i) * rf.tanh(g)
    return rf.sigmoid(o) * rf.tanh(c), c


JOINED = {
    cell.name: cell
    for cell in (joined_lstm, squashed_lstm, joined_gru, joined_mgu, joined_layer_norm)
}
