"""Ragged sequences: batching, splitting by time, and every refusal."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from refold.data.batch import Sequences
from refold.errors import DataError


def ragged(lengths=(5, 3, 4), m=2, k=1):
    g = torch.Generator().manual_seed(0)
    x = [torch.randn(n, m, generator=g) for n in lengths]
    return x, [torch.randn(n, k, generator=g) for n in lengths]


def test_a_batch_is_padded_with_zeros_in_the_order_asked_for():
    x, d = ragged()
    batch = Sequences(x, d).batch([1, 0])
    assert batch.x.shape == (5, 2, 2)
    assert batch.lengths.tolist() == [3, 5]
    assert_close(batch.x[:3, 0], x[1], rtol=0, atol=0)
    assert_close(batch.x[3:, 0], torch.zeros(2, 2), rtol=0, atol=0)
    assert batch.d is not None and batch.d_lengths is not None
    assert_close(batch.d[:, 1], d[0], rtol=0, atol=0)
    assert batch.d_lengths.tolist() == [3, 5]
    assert batch.mask is None


def test_one_target_per_sequence_has_no_steps():
    x, _ = ragged()
    data = Sequences(x, [torch.tensor([float(s)]) for s in range(3)])
    batch = data.batch(torch.tensor([2, 0]))
    assert data.targets == "sequence" and data.counted() == [True] * 3
    assert batch.d is not None and batch.d_lengths is None
    assert_close(batch.d, torch.tensor([[2.0], [0.0]]))


def test_targets_of_other_lengths_have_lengths_of_their_own():
    x, _ = ragged()
    data = Sequences(x, [torch.ones(n, 2) for n in (1, 4, 0)])
    batch = data.batch([0, 1, 2])
    assert data.targets == "other"
    assert data.counted() == [True, True, False]
    assert batch.d is not None and batch.d.shape == (4, 3, 2)
    assert batch.d_lengths is not None and batch.d_lengths.tolist() == [1, 4, 0]


def test_classes_have_no_feature_axis():
    x, _ = ragged()
    steps = Sequences(x, [torch.arange(len(part)) for part in x])
    whole = Sequences(x, [torch.tensor(s) for s in range(3)])
    assert steps.targets == "steps" and whole.targets == "sequence"
    batch = steps.batch([0, 1])
    assert batch.d is not None and batch.d[:, 1].tolist() == [0, 1, 2, 0, 0]
    assert whole.batch([2, 1]).d.tolist() == [2, 1]  # type: ignore[union-attr]


def test_masks_are_padded_with_false():
    x, d = ragged()
    data = Sequences(x, d, [torch.ones(len(part), dtype=torch.bool) for part in x])
    mask = data.batch([0, 1]).mask
    assert mask is not None and mask[:, 1].tolist() == [True, True, True, False, False]


def test_no_targets_and_empty_sequences_are_legal():
    data = Sequences([torch.zeros(0, 2), torch.ones(2, 2)])
    batch = data.batch([0, 1])
    assert data.targets == "none" and data.counted() == [False, True]
    assert batch.d is None and batch.lengths.tolist() == [0, 2]


def test_indexing_gives_sequences_again():
    x, d = ragged()
    data = Sequences(x, d)
    assert [part.lengths for part in data] == [[5], [3], [4]]
    assert data[1:].lengths == [3, 4] and data[[2, 0]].lengths == [4, 5]
    assert data[-1].lengths == [4]
    assert_close(data[1].x[0], x[1], rtol=0, atol=0)
    assert data[torch.tensor([2, 0])].lengths == data[np.array([2, 0])].lengths == [4, 5]
    assert data[torch.tensor(1)].lengths == data[np.int64(1)].lengths == [3]


def test_moving_keeps_lengths_on_the_cpu():
    x, d = ragged()
    data = Sequences(x, d, [torch.ones(len(part), dtype=torch.bool) for part in x])
    batch = data.to("cpu").batch([0, 1]).to("meta")
    assert batch.x.device.type == "meta" and batch.lengths.device.type == "cpu"
    assert batch.mask is not None and batch.mask.device.type == "meta"


# Splitting


def test_a_split_by_time_trains_on_the_first_part_of_every_sequence():
    x, d = ragged((10, 5, 1))
    train, held_out = Sequences(x, d).split(0.2)
    assert train.lengths == [8, 4, 1]  # one step cannot be divided: it trains
    assert held_out.lengths == [10, 5]
    assert held_out.mask is not None and train.d is not None
    assert held_out.mask[0].tolist() == [False] * 8 + [True] * 2
    assert_close(train.d[0], d[0][:8], rtol=0, atol=0)
    assert_close(held_out.x[1], x[1], rtol=0, atol=0)


def test_what_is_trained_on_does_not_depend_on_the_last_part():
    x, d = ragged((10, 5))
    other = [torch.cat([part[: -len(part) // 5], part[-len(part) // 5 :] + 9]) for part in d]
    a, b = Sequences(x, d).split(0.2)[0], Sequences(x, other).split(0.2)[0]
    assert a.d is not None and b.d is not None
    for ours, theirs in zip(a.d, b.d, strict=True):
        assert_close(ours, theirs, rtol=0, atol=0)


def test_a_gap_keeps_targets_that_look_ahead_out_of_training():
    x, d = ragged((10, 4))
    train, held_out = Sequences(x, d).split(0.2, gap=3)
    assert train.lengths == [5] and held_out.lengths == [10, 4]


def test_a_split_keeps_the_masks_there_are():
    x, d = ragged((10, 5))
    mask = [torch.ones(10, 1, dtype=torch.bool), torch.zeros(5, 1, dtype=torch.bool)]
    mask[0][8] = False
    train, held_out = Sequences(x, d, mask).split(0.2)
    assert train.mask is not None and train.mask[0].shape == (8, 1)
    assert held_out.mask is not None and len(held_out) == 1  # the second counts nowhere
    assert held_out.mask[0][:, 0].tolist() == [False] * 9 + [True]


def test_a_split_by_sequence_validates_on_the_last_ones():
    x, _ = ragged()
    train, held_out = Sequences(x, [torch.zeros(1)] * 3).split(0.3)
    assert train.lengths == [5, 3] and held_out.lengths == [4]
    x, d = ragged()
    assert Sequences(x, d).split(0.5, by="sequence")[0].lengths == [5]


# Refusals


def refused(text, *parts):
    with pytest.raises(DataError, match=text):
        Sequences(*parts)


X = [torch.zeros(3, 2), torch.zeros(2, 2)]
D = [torch.zeros(3, 1), torch.zeros(2, 1)]


def test_refusals_of_lists():
    refused(r"x is a Tensor, not a list with one tensor per sequence\nwrite \[x\]", X[0])
    refused(r"x\[1\] is a list, not a torch tensor", [X[0], [1.0]])
    refused("there is no sequence in x", [])
    refused("x has 2 sequences and d has 1", X, D[:1])
    refused("x has 2 sequences and mask has 1", X, D, [torch.ones(3, dtype=torch.bool)])


def test_refusals_of_shapes():
    refused(
        r"x\[0\] is float32 of shape \(3,\), not float of shape \(steps, features", [X[0][:, 0]]
    )
    refused(r"x\[1\] is float32 of shape \(2, 1\), but x\[0\]", [X[0], X[1][:, :1]])
    refused(r"x\[0\] is int64", [X[0].long()])
    refused(r"d\[0\] is float32 of shape \(3, 1, 1\)", X, [part.unsqueeze(-1) for part in D])
    refused(r"d\[1\] is float32 of shape \(2, 2\), but d\[0\]", X, [D[0], X[1]])
    refused(r"d\[1\] is int64 of shape \(2,\), but d\[0\]", X, [D[0], D[1][:, 0].long()])
    mask = [torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)]
    refused(r"mask\[1\] is bool of shape \(3,\).*\n.*\(2,\) or \(2, 1\)", X, D, mask)
    refused(r"mask\[0\] is float32", X, D, [torch.ones(3), torch.ones(2)])


def test_numbers_that_are_not_finite_are_named_by_their_place():
    bad = D[1].clone()
    bad[1, 0] = torch.nan
    refused(r"d\[1\]\[1, 0\] is nan\n.*mask False", X, [D[0], bad])
    refused(r"x\[0\]\[2, 1\] is inf", [torch.tensor([[0.0, 0], [0, 0], [0, torch.inf]])])
    mask = [torch.ones(3, dtype=torch.bool), torch.tensor([True, False])]
    assert len(Sequences(X, [D[0], bad], mask)) == 2


def test_refusals_of_splits_and_batches():
    with pytest.raises(DataError, match=r"fraction is 1\.0"):
        Sequences(X, D).split(1.0)
    with pytest.raises(DataError, match="targets are of kind 'sequence': they have no steps"):
        Sequences(X, [torch.zeros(1)] * 2).split(0.5, by="time")
    with pytest.raises(DataError, match=r"1 sequence\(s\) cannot be divided"):
        Sequences(X[:1], [torch.zeros(1)]).split(0.5)
    with pytest.raises(DataError, match="sequences of 1 to 1 steps leave nothing to validate on"):
        Sequences([torch.zeros(1, 1)]).split(0.5)
    with pytest.raises(DataError, match="leave nothing to train on after a gap of 5"):
        Sequences(X, D).split(0.5, gap=5)
    with pytest.raises(DataError, match="a batch of no sequences"):
        Sequences(X, D).batch([])
    for text, settings in [
        ("gap is -3\ngive a number of steps", {"gap": -3}),
        ("gap is 1.5", {"gap": 1.5}),
        ("by is 'foo'\none of: time, sequence, or None", {"by": "foo"}),
    ]:
        with pytest.raises(DataError, match=text):
            Sequences(X, D).split(0.5, **settings)
    with pytest.raises(DataError, match=r"fraction is '0\.5'"):
        Sequences(X, D).split("0.5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "index", [99, [99], -3, [0, 2], 0.5, ["a"], [True], torch.tensor([True, False])]
)
def test_refusals_of_indices(index):
    data = Sequences(X, D)
    text = "Sequences of 2\nthere is no sequence .*\ngive whole numbers from 0 to 1"
    with pytest.raises(DataError, match=text):
        data[index]
    one = not isinstance(index, list | torch.Tensor)
    with pytest.raises(DataError, match="the indices are " if one else text):
        data.batch(index)
