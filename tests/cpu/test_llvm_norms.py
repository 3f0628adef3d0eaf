"""Layer norms in the compiler: how few passes their reverse step takes, where what is kept lies, and values."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import refold as rf
from refold.kernels.llvm.lowering import lower
from refold.kernels.llvm.lowering.program import Folds
from refold.plan.plan import plan


@rf.cell
def normed_lstm(
    x=rf.Input("m"),
    h=rf.State("n"),
    c=rf.State("n"),
    *,
    i=rf.Affine("n"),
    f=rf.Affine("n"),
    g=rf.Affine("n"),
    o=rf.Affine("n"),
    w=rf.Weight("n"),
):
    forget, write = (rf.sigmoid(rf.layer_norm(gate(x, h), w)) for gate in (f, i))
    c = forget * c + write * rf.tanh(rf.layer_norm(g(x, h), w))
    return rf.sigmoid(rf.layer_norm(o(x, h), w)) * rf.tanh(rf.layer_norm(c, w)), c


@rf.cell
def shifted(
    x=rf.Input("m"),
    h=rf.State("n"),
    *,
    a=rf.Affine("n"),
    s=rf.Scalar(0.5, learn=True),
):
    """A norm of a norm; s shifts all features alike, so it changes nothing, and its gradient is zero."""
    return rf.tanh(rf.layer_norm(rf.layer_norm(a(x, h)) + s))


def test_the_reverse_step_of_a_normed_lstm_folds_twice():
    program = lower.backward(plan(normed_lstm), {"m": 16, "n": 64}, (False,), (True, False), False)
    folds = [one for one in program.passes if isinstance(one, Folds)]
    assert [sum(len(f.results) for f in one.folds) for one in folds] == [2 * 2, 3 * 2]
    assert len(program.passes) == 5


@pytest.mark.parametrize(("size", "width"), [(64, 10 * 64 + 16), (20, 10 * 20 + 8)])
def test_single_numbers_lie_behind_the_vectors(size, width):
    """Ten vectors: five centred ones, the gates, tanh of the normed c; five numbers, the norms' scales."""
    made = plan(normed_lstm)
    memory = lower.Memory(made, {"m": 3, "n": size})
    columns = {kept.name: memory.kept(kept.name).column for kept in made.kept}
    vectors = [columns[kept.name] for kept in made.kept if kept.shape]
    numbers = [columns[kept.name] for kept in made.kept if not kept.shape]
    assert sorted(vectors) == [k * size for k in range(len(vectors))]
    assert sorted(numbers) == [len(vectors) * size + k for k in range(len(numbers))]
    (buffer,) = (b for b in memory.buffers() if b.role == "kept")
    assert buffer.width == width


@pytest.mark.parametrize("backend", ["derived", "llvm"])
@pytest.mark.parametrize("cell", [normed_lstm, shifted], ids=lambda cell: cell.name)
def test_gradients_are_those_of_the_reference(cell, backend):
    for found, want in zip(_gradients(cell, backend), _gradients(cell, "reference"), strict=True):
        assert_close(found, want, rtol=1e-10, atol=1e-10)


def _gradients(cell: rf.Cell, backend: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    layer = rf.Recurrent(cell, 3, 20, backend=backend, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(noise(*parameter.shape))
    x, given = noise(6, 4, 3).requires_grad_(), noise(6, 4, 20)
    y, _ = layer(x)
    return list(torch.autograd.grad((y * given).sum(), [x, *layer.parameters()]))
