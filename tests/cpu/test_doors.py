"""What the layer refuses at its door, and that each refusal names both sides and a remedy."""

from collections.abc import Callable
from typing import Any

import cases
import pytest
import torch
from cases import initial, make, noise
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

import refold as rf
from refold.errors import KernelError, RefoldError

STEPS, BATCH = 5, 3
Call = Callable[[], object]


def x(*shape: int) -> Tensor:
    return noise(*(shape or (STEPS, BATCH, cases.INPUT)))


def state(*shape: int) -> Tensor:
    return noise(*(shape or (1, BATCH, cases.HIDDEN)))


GRU, LSTM = make("gru"), make("lstm")
WIDE = make("gru", num_layers=2, bidirectional=True)

# A call that must be refused, and the words its text must hold: both sides of the disagreement.
REFUSED: dict[str, tuple[Call, list[str]]] = {
    "x has one axis": (lambda: GRU(x(3)), ["x", "(3,)", "1"]),
    "x has four axes": (lambda: GRU(x(2, 2, 2, 3)), ["x", "(2, 2, 2, 3)", "4"]),
    "x is too wide": (lambda: GRU(x(STEPS, BATCH, 7)), ["7", "3", "input_size"]),
    "x is too wide, unbatched": (lambda: GRU(x(STEPS, 7)), ["7", "3", "input_size"]),
    "x is a list": (lambda: GRU([[1.0, 2.0, 3.0]]), ["x", "list"]),
    "x is float32": (lambda: GRU(x().float()), ["float32", "float64"]),
    "x is whole numbers": (
        lambda: GRU(torch.ones(STEPS, BATCH, 3, dtype=torch.long)),
        ["int64", "float64"],
    ),
    "x is on another device": (lambda: GRU(x().to("meta")), ["meta", "cpu"]),
    "packed x is too wide": (
        lambda: GRU(pack_padded_sequence(x(STEPS, 2, 7), torch.tensor([5, 2]))),
        ["7", "3", "input_size"],
    ),
    "packed x is float32": (
        lambda: GRU(pack_padded_sequence(x().float(), torch.tensor([5, 2, 1]))),
        ["float32", "float64"],
    ),
    "state of another batch": (
        lambda: GRU(x(), state(1, 2, 4)),
        ["h", "(1, 2, 4)", "(1, 3, 4)"],
    ),
    "state too wide": (lambda: GRU(x(), state(1, BATCH, 5)), ["h", "(1, 3, 5)", "(1, 3, 4)"]),
    "state for one layer of four": (
        lambda: WIDE(x(), state()),
        ["h", "(1, 3, 4)", "(4, 3, 4)"],
    ),
    "state without a batch": (lambda: GRU(x(), state(1, 4)), ["h", "(1, 4)", "(1, 3, 4)"]),
    "state with a batch, x without": (
        lambda: GRU(x(STEPS, 3), state()),
        ["h", "(1, 3, 4)", "(1, 4)"],
    ),
    "state is float32": (lambda: GRU(x(), state().float()), ["h", "float32", "float64"]),
    "state on another device": (lambda: GRU(x(), state().to("meta")), ["h", "meta", "cpu"]),
    "a pair for one state": (lambda: GRU(x(), (state(), state())), ["h", "2", "1"]),
    "one tensor for two states": (lambda: LSTM(x(), state()), ["h", "c", "2"]),
    "a number for a state": (lambda: GRU(x(), 3), ["state", "int"]),
    "nothing for the second state": (lambda: LSTM(x(), (state(), None)), ["state", "None"]),
    "three tensors for two states": (
        lambda: LSTM(x(), (state(), state(), state())),
        ["h", "c", "3", "2"],
    ),
    "the second state is wrong": (
        lambda: LSTM(x(), (state(), state(1, BATCH, 6))),
        ["c", "(1, 3, 6)", "(1, 3, 4)"],
    ),
    "packed with the wrong state": (
        lambda: GRU(pack_padded_sequence(x(), torch.tensor([5, 2, 1])), state(1, 2, 4)),
        ["h", "(1, 2, 4)", "(1, 3, 4)"],
    ),
    "too few lengths": (lambda: GRU(x(), lengths=[5, 5]), ["lengths", "2", "3"]),
    "too many lengths": (lambda: GRU(x(), lengths=[5, 5, 5, 5]), ["lengths", "4", "3"]),
    "a negative length": (lambda: GRU(x(), lengths=[5, -1, 2]), ["length", "-1", "0", "5"]),
    "a length too long": (lambda: GRU(x(), lengths=[5, 6, 2]), ["length", "6", "5"]),
    "lengths of floats": (
        lambda: GRU(x(), lengths=torch.tensor([5.0, 2.0, 1.0])),
        ["lengths", "float"],
    ),
    "a list of floats": (lambda: GRU(x(), lengths=[5.0, 2.5, 1.0]), ["lengths", "float"]),
    "lengths of truths": (
        lambda: GRU(x(), lengths=torch.tensor([True, True, False])),
        ["lengths", "bool"],
    ),
    "lengths in a column": (
        lambda: GRU(x(), lengths=torch.tensor([[5], [2], [1]])),
        ["lengths", "(3, 1)", "3 rows"],
    ),
    "lengths of one unbatched sequence": (
        lambda: GRU(x(STEPS, 3), lengths=[5, 5]),
        ["lengths", "2", "1"],
    ),
    "lengths and a PackedSequence": (
        lambda: GRU(pack_padded_sequence(x(), torch.tensor([5, 2, 1])), lengths=[5, 2, 1]),
        ["lengths", "PackedSequence"],
    ),
    "return_states is unknown": (
        lambda: GRU(x(), return_states="every"),
        ["return_states", "every", "all", "last"],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_call_is_refused_with_both_sides_named(what: str) -> None:
    call, words = REFUSED[what]
    with pytest.raises(KernelError) as caught:
        call()
    text = str(caught.value)
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"
    assert caught.value.remedy, "the text must say what to do"


def test_the_batch_first_axis_is_named_in_the_users_order() -> None:
    layer = make("gru", batch_first=True)
    with pytest.raises(KernelError) as caught:
        layer(x(BATCH, STEPS, 3), lengths=[5, 5, 5, 5, 5])
    assert "5" in str(caught.value)
    assert "3" in str(caught.value)


@rf.cell
def follows_its_input(x=rf.Input("m"), h=rf.State("m")):
    return 0.5 * h + x


build: Any = rf.Recurrent  # called here with what its types forbid
BUILT: dict[str, tuple[Call, list[str]]] = {
    "no such cell": (lambda: build("lstn", 3, 4), ["lstn", "lstm"]),
    "the cell is a plain function": (lambda: build(torch.tanh, 3, 4), ["cell"]),
    "input_size is negative": (lambda: build("gru", -1, 4), ["input_size", "-1"]),
    "hidden_size is negative": (lambda: build("gru", 3, -4), ["hidden_size", "-4"]),
    "hidden_size is a fraction": (lambda: build("gru", 3, 4.5), ["hidden_size", "4.5"]),
    "hidden_size is a word": (lambda: build("gru", 3, "4"), ["hidden_size", "'4'"]),
    "hidden_size is not given": (lambda: build("gru", 3, None), ["hidden_size", "None"]),
    "hidden_size is no number": (
        lambda: build("gru", 3, float("nan")),
        ["hidden_size", "nan"],
    ),
    "a scalar is a word": (lambda: build("leaky", 3, 4, alpha="slow"), ["alpha", "slow"]),
    "no layers": (lambda: build("gru", 3, 4, num_layers=0), ["num_layers", "0"]),
    "a size is missing": (lambda: build("jordan", 3, 4), ["jordan", "k"]),
    "a size too many": (lambda: build("gru", 3, 4, k=2), ["gru", "k"]),
    "a size of zero": (lambda: build("jordan", 3, 4, k=0), ["k", "0"]),
    "a size of its own twice": (lambda: build("gru", 3, 4, n=5), ["n", "hidden_size"]),
    "a stack whose layers would differ": (
        lambda: build(follows_its_input, 3, 4, num_layers=2, bidirectional=True),
        ["follows_its_input", "m"],
    ),
    "no such backend": (
        lambda: build("gru", 3, 4, backend="cuda"),
        ["backend", "cuda", "reference"],
    ),
    "a dtype that is not floating": (
        lambda: build("gru", 3, 4, dtype=torch.int64),
        ["dtype", "int64"],
    ),
}


@pytest.mark.parametrize("what", BUILT)
def test_a_wrong_layer_is_not_built(what: str) -> None:
    call, words = BUILT[what]
    with pytest.raises(RefoldError) as caught:
        call()
    text = str(caught.value)
    missing = [word for word in words if word not in text]
    assert not missing, f"{missing} not in: {text}"
    assert caught.value.remedy, "the text must say what to do"


def test_what_is_at_the_edge_is_let_in() -> None:
    """The refusals above must not be too wide."""
    assert GRU(x(), lengths=[0, 5, 3])[0].shape == (STEPS, BATCH, 4)
    assert GRU(x(STEPS, 3), lengths=[2])[0].shape == (STEPS, 4)
    assert GRU(x(STEPS, 3), state(1, 4))[1].shape == (1, 4)
    assert GRU(x(1, 1, 3))[0].shape == (1, 1, 4)
    assert LSTM(x(), [state(), state()])[0].shape == (STEPS, BATCH, 4)
    assert WIDE(x(), initial("gru", BATCH, 4)[0])[1].shape == (4, BATCH, 4)


def test_a_refused_call_leaves_the_layer_as_it_was() -> None:
    layer = make("gru")
    before, _ = layer(x())
    with pytest.raises(KernelError):
        layer(x(STEPS, BATCH, 7))
    assert torch.equal(layer(x())[0], before)


def test_dropout_with_nothing_between_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning, match=r"dropout.*num_layers"):
        rf.Recurrent("gru", 3, 4, dropout=0.5)
