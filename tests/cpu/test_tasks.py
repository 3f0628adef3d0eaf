"""Memory tasks: each beside its paper's rule in plain Python, its guess without memory, and its refusals."""

import math

import pytest
import torch

from refold.data import tasks
from refold.data.batch import Batch, Sequences
from refold.errors import DataError
from refold.train.errors import network_errors

SYMBOLS = (
    "temporal-order",
    "temporal-order-3-bit",
    "permutation",
    "copy",
    "memorisation-5-bit",
    "memorisation-20-bit",
)


def whole(data: Sequences) -> Batch:
    return data.batch(range(len(data)))


def told(x: torch.Tensor) -> list[int]:
    """The symbols of a sequence, which has exactly one at each step."""
    assert bool(((x == 0) | (x == 1)).all()) and bool((x.sum(1) == 1).all())
    return x.argmax(1).tolist()


def drawn(name: str, length: int, count: int = 300, **settings):
    """Pairs (x, d) of a task."""
    data = tasks.task(name, **settings).sequences(count, length, seed=3)
    assert data.d is not None
    return list(zip(data.x, data.d, strict=True))


def scores(classes: torch.Tensor, number: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, number).to(torch.float32)


def error(task: tasks.Task, y: torch.Tensor, batch: Batch) -> float:
    """The loss as training has it: means over steps and sequences."""
    assert batch.d is not None
    given = {"steps": "mean", "sequences": "mean", "mask": batch.mask}
    return float(network_errors(y, batch.d, task.loss, **given).total)  # type: ignore[arg-type]


# What every task has.


@pytest.mark.parametrize("name", tasks.names())
def test_the_same_seed_gives_the_same_bits(name):
    task = tasks.task(name)
    length = task.lengths[0]
    first, again = (task.sequences(5, length, seed=7) for _ in range(2))
    other = task.sequences(5, length, seed=8)
    kept = task.held_out(5, length, seed=7)
    assert first.d is not None and again.d is not None
    for a, b in zip((*first.x, *first.d), (*again.x, *again.d), strict=True):
        assert torch.equal(a, b)
    for different in (other, kept):
        assert any(not torch.equal(a, b) for a, b in zip(first.x, different.x, strict=True))


@pytest.mark.parametrize("name", tasks.names())
def test_sequences_are_of_the_sizes_that_are_said(name):
    task = tasks.task(name)
    low, high = task.lengths
    for ragged in (False, True):
        batch = whole(task.sequences(4, (low, max(high, low + 5)), seed=1, ragged=ragged))
        assert batch.d is not None
        assert batch.x.dtype == torch.float32 and batch.x.shape[1:] == (4, task.inputs)
        steps = (batch.x.shape[0],) if task.shape == "many-to-many" else ()
        features = () if task.loss == "cross_entropy" else (task.outputs,)
        assert tuple(batch.d.shape) == (*steps, 4, *features)
        if task.loss == "cross_entropy":
            assert int(batch.d.min()) >= 0 and int(batch.d.max()) < task.outputs
    for text in (task.about, task.source, task.criterion, task.published):
        assert text


@pytest.mark.parametrize("name", tasks.names())
def test_the_right_answer_succeeds_and_a_wrong_one_does_not(name):
    task = tasks.task(name)
    low = task.lengths[0]
    batch = whole(task.sequences(6, (low, low + 9), seed=2, ragged=True))
    assert batch.d is not None
    right = scores(batch.d, task.outputs) if task.loss == "cross_entropy" else batch.d.clone()
    assert task.success(right, batch).tolist() == [True] * 6
    wrong = right.clone()
    wrong[..., 4, :] = 1 - wrong[..., 4, :] if task.loss == "cross_entropy" else 1e3
    assert task.success(wrong, batch).tolist() == [True, True, True, True, False, True]


def test_one_length_for_a_call_or_one_for_each_sequence():
    task = tasks.task("temporal-order")
    single = [task.sequences(3, (50, 200), seed=s).lengths for s in range(40)]
    assert all(len(set(lengths)) == 1 for lengths in single)
    found = {lengths[0] for lengths in single}
    assert len(found) > 20 and min(found) >= 50 and max(found) <= 200
    each = task.sequences(2000, (50, 60), seed=0, ragged=True).lengths
    assert set(each) == set(range(50, 61))  # both ends too
    assert len(set(each[:50])) > 5  # not in order of length


def test_seeds_beyond_32_bits_and_several_numbers_differ():
    task = tasks.task("adding-uniform")
    seeds = (1, 1 + 2**32, (1, 0), (0, 1), (1, 2**40))
    found = [task.sequences(1, 20, seed).x[0] for seed in seeds]
    for a in range(len(found)):
        assert not any(torch.equal(found[a], found[b]) for b in range(a))


def test_drawing_leaves_the_callers_random_state():
    before = torch.get_rng_state()
    for name in tasks.names():
        task = tasks.task(name)
        task.sequences(2, task.shortest, seed=0, ragged=True)
    assert torch.equal(before, torch.get_rng_state())


# Each by its paper's rule.


@pytest.mark.parametrize(
    ("settings", "second"), [({}, 4), ({"positions": "code"}, 5)], ids=["paper", "code"]
)
@pytest.mark.parametrize("length", [10, 57, 200])
def test_temporal_order(settings, second, length):
    seen = set()
    for x, d in drawn("temporal-order", length, **settings):
        symbols = told(x)
        assert len(symbols) == length
        at = [t for t, symbol in enumerate(symbols) if symbol < 2]
        assert len(at) == 2
        for place, tenth in zip(at, (1, second), strict=True):
            assert length * tenth // 10 <= place < length * tenth // 10 + length // 10
        assert int(d) == symbols[at[0]] + 2 * symbols[at[1]]
        seen.add((int(d), *at))
    assert {d for d, *_ in seen} == {0, 1, 2, 3}
    assert len({first for _, first, _ in seen}) == length // 10  # every place is met


def test_three_bit_temporal_order():
    for x, d in drawn("temporal-order-3-bit", 73):
        symbols = told(x)
        at = [t for t, symbol in enumerate(symbols) if symbol < 2]
        assert [7 <= at[0] < 14, 21 <= at[1] < 28, 43 <= at[2] < 50] == [True] * 3
        assert len(at) == 3 and set(symbols) - {0, 1} <= {2, 3, 4, 5}
        assert int(d) == sum(symbols[t] * 2**k for k, t in enumerate(at))


@pytest.mark.parametrize("every_step", [False, True])
def test_permutation(every_step):
    seen = set()
    for x, d in drawn("permutation", 30, every_step=every_step):
        symbols = told(x)
        assert len(symbols) == 30 and symbols[0] in (0, 1) and min(symbols[1:]) >= 2
        assert d.tolist() == ([*symbols[1:], symbols[0]] if every_step else symbols[0])
        seen |= set(symbols)
    assert seen == set(range(100))


def test_copy():
    for x, d in drawn("copy", 7):
        symbols = told(x)
        first = symbols[:10]
        assert max(first) < 8
        assert symbols == [*first, *[8] * 6, 9, *[8] * 10]  # T - 1 blanks, the delimiter, ten
        assert d.tolist() == [8] * 17 + first
        assert len(symbols) == 7 + 20


@pytest.mark.parametrize(
    ("name", "symbols", "items"), [("memorisation-5-bit", 2, 5), ("memorisation-20-bit", 5, 10)]
)
def test_memorisation(name, symbols, items):
    seen = set()
    for x, d in drawn(name, 6):
        shown = told(x)
        first = shown[:items]
        assert shown == [*first, *[symbols] * 6, symbols + 1, *[symbols] * (items - 1)]
        assert d.tolist() == [symbols] * (6 + items) + first
        seen.add(tuple(first))
    if symbols == 2:
        assert len(seen) == 32  # every pattern is met


@pytest.mark.parametrize("length", [11, 40, 101])
def test_adding_1997(length):
    steps, firsts = set(), 0
    for x, d in drawn("adding-1997", length, count=2000):
        values, marks = x[:, 0].tolist(), x[:, 1].tolist()
        assert min(values) >= -1 and max(values) <= 1
        assert marks[0] == marks[-1] == -1 and set(marks[1:-1]) <= {0, 1}
        at = [t for t, mark in enumerate(marks) if mark == 1]
        assert len(at) in (1, 2)  # one, where the first pair was chosen: it counts as 0
        firsts += len(at) == 1
        assert at[0] < max(10, length // 2) and at[-1] < max(10, length // 2)
        assert float(d) == pytest.approx(0.5 + sum(values[t] for t in at) / 4, abs=1e-6)
        steps.add(len(values))
    assert steps == set(range(length, length + length // 10 + 1))
    share = 1 / 10 + 9 / 10 / (length // 2 - 1)  # X1 is the first pair, or X2 is
    assert firsts / 2000 == pytest.approx(share, abs=4 * math.sqrt(share / 2000))


@pytest.mark.parametrize("length", [2, 7, 100])
def test_adding_uniform(length):
    for x, d in drawn("adding-uniform", length):
        values, marks = x[:, 0].tolist(), x[:, 1].tolist()
        assert min(values) >= 0 and max(values) < 1 and len(values) == length
        first, second = (t for t, mark in enumerate(marks) if mark == 1)
        assert sum(marks) == 2 and first < length // 2 <= second
        assert float(d) == pytest.approx(values[first] + values[second], abs=1e-6)


def test_multi_lag_sine():
    data = tasks.task("multi-lag-sine", lags=(0, 2, 5), nu=1.5).sequences(20, 9, seed=0)
    assert data.d is not None and data.mask is not None
    for x, d, mask in zip(data.x, data.d, data.mask, strict=True):
        values = x[:, 0].tolist()
        assert min(values) >= -1 and max(values) <= 1
        assert mask.tolist() == [t >= 5 for t in range(9)]
        for t in range(5, 9):
            sines = [math.sin(1.5 * values[t - lag]) for lag in (0, 2, 5)]
            assert float(d[t]) == pytest.approx(sum(sines) / 3, abs=1e-6)


# What a guess without memory reaches.


def frequencies(classes: torch.Tensor, number: int) -> torch.Tensor:
    """Scores that say how often each class occurs, at every step the same."""
    share = torch.bincount(classes.flatten(), minlength=number).double() / classes.numel()
    return share.log().expand(*classes.shape, number)


@pytest.mark.parametrize(
    ("name", "length", "settings"),
    [
        ("temporal-order", 50, {}),
        ("temporal-order-3-bit", 50, {}),
        ("permutation", 40, {}),
        ("permutation", 25, {"every_step": True, "symbols": 10}),
    ],
)
def test_guessing_by_frequency_reaches_the_baseline(name, length, settings):
    task = tasks.task(name, **settings)
    batch = whole(task.sequences(4000, length, seed=0))
    assert batch.d is not None
    reached = error(task, frequencies(batch.d, task.outputs), batch)
    assert reached == pytest.approx(task.baseline(length), rel=5e-3)


@pytest.mark.parametrize("name", ["copy", "memorisation-5-bit", "memorisation-20-bit"])
def test_blanks_and_a_uniform_guess_reach_the_baseline(name):
    task, length = tasks.task(name), 30
    batch = whole(task.sequences(50, length, seed=0))
    symbols, items = task.outputs - 1, len(batch.x) - length
    y = torch.full((len(batch.x), 50, task.outputs), -1e3)
    y[: length + items // 2, :, symbols] = 0  # until the answer is due, blanks are certain
    y[length + items // 2 :, :, :symbols] = 0
    assert error(task, y, batch) == pytest.approx(task.baseline(length), rel=1e-5)


def test_the_copy_baseline_is_that_of_the_paper():
    assert tasks.task("copy").baseline(200) == pytest.approx(10 * math.log(8) / 220)


@pytest.mark.parametrize(
    ("name", "guess", "length"),
    [
        ("adding-1997", 0.5, 40),
        ("adding-1997", 0.5, 101),
        ("adding-uniform", 1.0, 50),
        ("multi-lag-sine", 0.0, 60),
    ],
)
def test_the_mean_reaches_the_baseline(name, guess, length):
    task = tasks.task(name)
    batch = whole(task.sequences(20_000 if task.shape == "many-to-one" else 1000, length, seed=0))
    assert batch.d is not None
    y = torch.full_like(batch.d, guess)
    points = (y - batch.d) ** 2 if batch.mask is None else ((y - batch.d) ** 2)[batch.mask]
    sampling = 4 * float(points.std()) / math.sqrt(points.numel())
    assert error(task, y, batch) == pytest.approx(task.baseline(length), abs=sampling)


# Criteria.


def test_adding_is_right_within_the_tolerance():
    for name in ("adding-1997", "adding-uniform"):
        task = tasks.task(name)
        batch = whole(task.sequences(4, 40, seed=0))
        assert batch.d is not None
        off = torch.tensor([[0.0], [0.0399], [0.0401], [-0.0401]])
        assert task.success(batch.d + off, batch).tolist() == [True, True, False, False]
    loose = tasks.task("adding-uniform", tolerance=0.2)
    assert loose.success(batch.d + 0.19, batch).all()


def test_one_wrong_symbol_is_a_wrong_sequence_and_padding_does_not_count():
    task = tasks.task("copy")
    batch = whole(task.sequences(3, (5, 9), seed=1, ragged=True))
    assert batch.d is not None and len(set(batch.lengths.tolist())) > 1
    y = scores(batch.d, 9)
    short = int(batch.lengths.argmin())
    y[int(batch.lengths[short]) :, short] = 0  # says class 0 behind its end
    assert task.success(y, batch).all()
    y[3, 1] = scores(torch.tensor(0), 9)  # a symbol where a blank is due
    assert task.success(y, batch).tolist() == [True, False, True]


def test_permutation_at_every_step_is_judged_by_its_last():
    task = tasks.task("permutation", every_step=True)
    batch = whole(task.sequences(3, (5, 9), seed=1, ragged=True))
    assert batch.d is not None
    y = torch.zeros(*batch.d.shape, 100)
    for row, length in enumerate(batch.lengths.tolist()):
        y[length - 1, row, batch.d[length - 1, row]] = 1
    assert task.success(y, batch).tolist() == [True] * 3
    y[int(batch.lengths[2]) - 1, 2] = scores(1 - batch.d[int(batch.lengths[2]) - 1, 2], 100)
    assert task.success(y, batch).tolist() == [True, True, False]


# What is refused.


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: tasks.task("temporal"), "take one of: temporal-order, temporal-order-3-bit"),
        (lambda: tasks.task("zzz"), "take one of: adding-1997, adding-uniform, copy"),
        (lambda: tasks.task("copy", bits=3), "its settings are symbols=8, items=10"),
        (lambda: tasks.task("memorisation-5-bit", bits=3), "its settings are none"),
        (lambda: tasks.task("temporal-order", positions="end"), "one of: paper, code"),
        (lambda: tasks.task("permutation", symbols=2), "at least 3"),
        (lambda: tasks.task("copy", symbols=0), "symbols is 0"),
        (lambda: tasks.task("copy", items=1.5), "items is 1.5"),
        (lambda: tasks.task("adding-1997", tolerance=0), "tolerance is 0"),
        (lambda: tasks.task("adding-uniform", tolerance=True), "give a positive number"),
        (lambda: tasks.task("multi-lag-sine", lags=()), "lags is ()"),
        (lambda: tasks.task("multi-lag-sine", lags=5), "lags is 5"),
        (lambda: tasks.task("multi-lag-sine", nu=0), "nu is 0"),
        (lambda: tasks.task("mackey-glass", gap=-1), "gap is -1"),
        (lambda: tasks.task("lorenz", horizon=0), "horizon is 0"),
        (lambda: tasks.task("lorenz", dt=0), "dt is 0"),
        (lambda: tasks.task("pendulum", gap=True), "gap is True"),
        (lambda: tasks.task("pendulum", horizon=0), "horizon is 0"),
        (lambda: tasks.task("mackey-glass", tau=17.1), "a multiple of 1/4"),
        (lambda: tasks.mackey_glass(5, tau=0.33), "a multiple of 1/10"),
        (lambda: tasks.mackey_glass(0), "steps is 0"),
        (lambda: tasks.lorenz(0), "steps is 0"),
        (lambda: tasks.pendulum(-1), "steps is -1"),
    ],
)
def test_settings_that_cannot_be(call, told):
    with pytest.raises(DataError) as refusal:
        call()
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((0, 50, 0), "count is 0"),
        ((True, 50, 0), "count is True"),
        ((1, 9, 0), "length is 9, and temporal-order can be drawn from 10 on"),
        ((1, (60, 50), 0), "give a whole number, or (low, high)"),
        ((1, (50, 60, 70), 0), "length is (50, 60, 70)"),
        ((1, "50", 0), "length is '50'"),
        ((1, 50, -1), "seed is -1"),
        ((1, 50, ()), "seed is empty"),
        ((1, 50, (1, 0.5)), "seed is 0.5"),
    ],
)
def test_draws_that_cannot_be(words, told):
    task = tasks.task("temporal-order")
    for draw in (task.sequences, task.held_out):
        with pytest.raises(DataError) as refusal:
            draw(*words)
        assert told in str(refusal.value)


def test_a_baseline_of_a_length_that_cannot_be():
    with pytest.raises(DataError, match="from 11 on"):
        tasks.task("adding-1997").baseline(5)


def test_outputs_of_another_shape():
    task = tasks.task("temporal-order")
    batch = whole(task.sequences(3, 50, seed=0))
    with pytest.raises(DataError) as refusal:
        task.success(torch.zeros(50, 3, 4), batch)
    assert "y has shape (50, 3, 4), the targets ask for (3, 4)" in str(refusal.value)
    assert "give a many-to-one network with 4 outputs" in str(refusal.value)
