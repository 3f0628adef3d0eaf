"""Errors of step, sequence and data against loops written out by hand."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from refold.errors import DataError, KernelError
from refold.train.errors import network_errors

CLASSES = "cross_entropy"
F64 = torch.float64
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def by_hand(y, d, loss, steps, sequences, features, counts):
    """The definition in loops over Python lists; counts(t, b, k) says what is counted."""
    time, batch, k = y.shape
    step = torch.zeros(time, batch, dtype=F64)
    kept = []
    sequence = torch.zeros(batch, dtype=F64)
    for b in range(batch):
        number = 0
        for t in range(time):
            found = [loss(y[t, b, i], d[t, b, i]) for i in range(k) if counts(t, b, i)]
            if found:
                number += 1
                step[t, b] = sum(found) / (len(found) if features == "mean" else 1)
        sequence[b] = step[:, b].sum() / (number if steps == "mean" and number else 1)
        if number:
            kept.append(sequence[b])
    total = torch.stack(kept).mean() if sequences == "mean" else torch.stack(kept).sum()
    return step, sequence, total


WAYS = list(itertools.product(["sum", "mean"], repeat=3))


@pytest.mark.parametrize(("steps", "sequences", "features"), WAYS)
@pytest.mark.parametrize("counted", ["all", "lengths", "mask", "features", "both"])
def test_three_levels_in_every_reduction(steps, sequences, features, counted):
    y = torch.randn(5, 4, 3, dtype=F64, requires_grad=True)
    d = torch.randn(5, 4, 3, dtype=F64)
    lengths = torch.tensor([5, 0, 3, 1]) if counted in ("lengths", "both") else None
    mask = None
    if counted in ("mask", "both"):
        mask = torch.rand(5, 4) < 0.6
    elif counted == "features":
        mask = torch.rand(5, 4, 3) < 0.4
        mask[:, 2] = False

    def counts(t, b, i):
        here = lengths is None or t < lengths[b]
        return here and (mask is None or bool(mask[t, b] if mask.ndim == 2 else mask[t, b, i]))

    ways: dict[str, Any] = {"steps": steps, "sequences": sequences, "features": features}
    ours = network_errors(y, d, **ways, lengths=lengths, mask=mask)
    theirs = by_hand(y, d, lambda a, b: (a - b) ** 2, **ways, counts=counts)
    for got, want in zip((ours.step, ours.sequence, ours.total), theirs, strict=True):
        assert_close(got, want, **EXACT)
    got, want = (torch.autograd.grad(e, y)[0] for e in (ours.total, theirs[2]))
    assert_close(got, want, **EXACT)


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber", "binary_cross_entropy"])
def test_what_is_not_counted_is_exactly_zero_even_where_it_is_nan(loss):
    y = torch.rand(4, 2, 1, dtype=F64)
    d = torch.rand(4, 2, 1, dtype=F64)
    mask = torch.ones(4, 2, dtype=torch.bool)
    mask[0, 0] = False
    clean_y = y.clone().requires_grad_()
    clean = network_errors(
        clean_y, d, loss, steps="mean", sequences="sum", lengths=[4, 2], mask=mask
    )
    clean.total.backward()
    y[0, 0], d[0, 0], y[2, 1], d[3, 1] = torch.nan, torch.nan, torch.inf, torch.nan
    y.requires_grad_()
    found = network_errors(y, d, loss, steps="mean", sequences="sum", lengths=[4, 2], mask=mask)
    found.total.backward()
    for a, b in ((found.step, clean.step), (found.total, clean.total), (y.grad, clean_y.grad)):
        assert_close(a, b, rtol=0, atol=0)
    assert y.grad is not None
    assert_close(y.grad[2:, 1], torch.zeros(2, 1, dtype=F64), rtol=0, atol=0)


def test_targets_that_are_not_counted_are_not_read():
    y, d = torch.randn(3, 1, 4), torch.tensor([[1], [2], [-1]])  # no class -1
    found = network_errors(y, d, "cross_entropy", steps="sum", sequences="sum", lengths=[2])
    want = F.cross_entropy(y[:2, 0], d[:2, 0], reduction="sum")
    assert_close(found.total, want)


def test_a_loss_that_is_not_zero_at_zero_still_counts_as_zero():
    y, d = torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)
    found = network_errors(y, d, "binary_cross_entropy", steps="sum", sequences="sum", lengths=[1])
    assert_close(found.step[1], torch.zeros(1), rtol=0, atol=0)
    assert_close(found.total, torch.tensor(0.5).log().neg())


def test_one_output_per_sequence_is_one_step():
    y, d = torch.randn(4, 3, dtype=F64), torch.randn(4, 3, dtype=F64)
    mask = torch.tensor([True, False, True, True])
    found = network_errors(y, d, steps="mean", sequences="mean", mask=mask)
    assert found.step.shape == (1, 4)
    assert_close(found.total, ((y - d) ** 2).sum(-1)[mask].mean(), **EXACT)
    lifted = network_errors(
        y, d.unsqueeze(0), steps="mean", sequences="mean", mask=mask.unsqueeze(0)
    )
    assert_close(lifted.total, found.total, rtol=0, atol=0)


def test_classes_by_name_and_by_function():
    y, d = torch.randn(5, 3, 7, dtype=F64), torch.randint(7, (5, 3))
    lengths = [5, 2, 0]
    theirs = 0.0
    for b, n in enumerate(lengths[:2]):
        theirs += F.cross_entropy(y[:n, b], d[:n, b]) / 2
    for loss in ("cross_entropy", F.cross_entropy, nn.CrossEntropyLoss(reduction="none")):
        found = network_errors(y, d, loss, steps="mean", sequences="mean", lengths=lengths)
        assert_close(found.total, theirs, **EXACT)
    last = network_errors(y[-1], d[-1], "cross_entropy", steps="sum", sequences="sum")
    assert_close(last.total, F.cross_entropy(y[-1], d[-1], reduction="sum"), **EXACT)


@pytest.mark.parametrize(
    "loss", [F.mse_loss, nn.MSELoss(reduction="none"), lambda y, d: (y - d) ** 2]
)
def test_any_pointwise_loss(loss):
    y, d = torch.randn(5, 3, 2, dtype=F64), torch.randn(5, 3, 2, dtype=F64)
    found = network_errors(y, d, loss, steps="sum", sequences="sum")
    assert_close(found.total, ((y - d) ** 2).sum(), **EXACT)


def test_nothing_counted_is_zero_and_not_nan():
    y, d = torch.randn(3, 2, 1, requires_grad=True), torch.randn(3, 2, 1)
    found = network_errors(y, d, steps="mean", sequences="mean", lengths=[0, 0])
    found.total.backward()
    assert y.grad is not None
    assert_close(found.total, torch.tensor(0.0), rtol=0, atol=0)
    assert_close(y.grad, torch.zeros(3, 2, 1), rtol=0, atol=0)


def test_both_reductions_are_required():
    with pytest.raises(TypeError, match="steps"):
        network_errors(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), sequences="sum")  # type: ignore[call-arg]


def test_refusals():
    y, d = torch.zeros(4, 2, 3), torch.zeros(4, 2, 3)
    both: dict[str, Any] = {"steps": "sum", "sequences": "sum"}
    packed = nn.utils.rnn.pack_sequence([y[:, 0]])
    far = torch.tensor([[0, 0], [3, 1], [2, 2], [2, 2]])
    for text, args, call in [
        ("steps is 'average'\nsay steps='sum' or steps='mean'", (y, d), {"steps": "average"}),
        (r"y has shape \(4, 2, 3\) and d has shape \(4, 2, 1\)", (y, d[..., :1]), {}),
        (r"d has shape \(1, 4, 2\)\n.*nothing is broadcast", (y, d[..., 0]), {}),
        (r"d has shape \(4, 3\), of classes", (y, torch.zeros(4, 3).long()), {}),
        ("no loss 'mse'\none of: squared, ", (y, d, "mse"), {}),
        ("the loss reduces by 'mean'\nbuild it with MSELoss", (y, d, nn.MSELoss()), {}),
        (r"gives shape \(\) for y of shape", (y, d, lambda a, b: (a - b).sum()), {}),
        ("'squared' reads numbers, d is torch.int64", (y, d[..., 0].long()), {}),
        ("'cross_entropy' reads classes, d is torch.float32", (y, d, "cross_entropy"), {}),
        (r"mask is torch.float32 of shape \(4, 2\)", (y, d), {"mask": torch.ones(4, 2)}),
        (r"y is a list, not a tensor", ([1.0], d), {}),
        (r"d is a NoneType, not a tensor", (y, None), {}),
        (r"y is a PackedSequence.*\n.*pad_packed_sequence", (packed, d), {}),
        (r"mask is a list, not a tensor", (y, d), {"mask": [True]}),
        (r"loss is 3\na function, or one of: squared", (y, d, 3), {}),
        ("d holds class 3, and y has 3 scores\ngive classes from 0 to 2", (y, far, CLASSES), {}),
        ("d holds class -1, and", (y, far - 1, CLASSES), {"lengths": [4, 2]}),
    ]:
        with pytest.raises(DataError, match=text):
            network_errors(*args, **(both | call))
    for text, lengths in [
        ("lengths hold 5, and there are 4 steps", [4, 5]),
        ("lengths hold -9, and there are 4 steps", [4, -9]),
        (r"lengths have shape \(1,\), and the batch has 2 rows", [4]),
        ("lengths are torch.float32, and must be whole", [1.5, 2]),
    ]:
        with pytest.raises(KernelError, match=text):
            network_errors(y, d, **both, lengths=lengths)
