"""Windows: what is known at an origin, and nothing that comes after it."""

import numpy as np
import pytest
import torch

from refold.data import window
from refold.data.scale import Scale, choose_transform
from refold.data.window import Look
from refold.forecast.panel import Series
from refold.forecast.sequences import (
    known,
    layout_for,
    look_for,
    measured,
    sequences,
    stride_for,
    training_rows,
)
from refold.forecast.settings import Settings

LOOK = Look(seasons=(4,), horizon=6, recent=5, blocks=2)


def test_continuations_by_hand():
    z = np.arange(40.0) + np.tile([0.0, 10.0, -3.0, 5.0], 10)
    origin = 30
    bases = window.continuations(window.pad(z, LOOK), np.array([origin]), LOOK)[0]
    found = dict(zip(LOOK.names, bases, strict=True))
    ahead = np.arange(1, 7)
    np.testing.assert_allclose(found["last value"], np.full(6, z[origin]))
    lag = np.array([z[27], z[28], z[29], z[30], z[27], z[28]])
    np.testing.assert_allclose(found["season 4"], lag)
    # A straight line plus a season: moved to today's level, the last season is what comes.
    np.testing.assert_allclose(found["season 4 + level"], z[origin + ahead])
    np.testing.assert_allclose(found["two seasons 4"], z[origin + ahead])
    np.testing.assert_allclose(found["drift"], z[30] + ahead * (z[30] - z[24]) / 6)
    np.testing.assert_allclose(found["mean"], np.full(6, z[25:31].mean()))


def test_recent_values_block_means_and_spread_by_hand():
    z = np.arange(20.0) ** 1.5
    padded, at = window.pad(z, LOOK), np.array([15])
    np.testing.assert_allclose(window.recent_values(padded, at, 3, LOOK)[0], z[[15, 14, 13]])
    means = [z[10:16].mean(), z[4:10].mean()]
    np.testing.assert_allclose(window.block_means(padded, at, LOOK)[0], means)
    np.testing.assert_allclose(window.spread(padded, at, LOOK), z[4:16].std())


def test_padding_repeats_the_first_season():
    padded = window.pad(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), LOOK)
    np.testing.assert_array_equal(padded[-9:], [1, 2, 3, 4, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(window.pad(np.array([7.0, 8.0]), LOOK)[-4:], [7, 7, 7, 8])


def test_targets_end_with_the_series():
    goal, exists = window.targets(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 2]), 2)
    np.testing.assert_array_equal(goal, [[2, 3], [3, 0], [0, 0]])
    np.testing.assert_array_equal(exists, [[True, True], [True, False], [False, False]])


@pytest.mark.parametrize(("length", "stride", "steps"), [(50, 1, 100), (500, 3, 20), (70, 12, 9)])
def test_chains_visit_every_origin_and_the_first_ends_at_the_last_point(length, stride, steps):
    chains = window.origin_grid(length, stride, steps, first=5)
    assert chains[0][-1] == length - 1
    assert {len(chain) for chain in chains} == {steps}
    assert all((np.diff(chain) == stride).all() for chain in chains)
    visited = {int(t) for chain in chains for t in chain if t >= 5}
    assert visited == set(range(5, length))


def test_strides_divide_the_season():
    look = Look((12,), 12, 12, 6)
    assert [stride_for(n, look) for n in (100, 144, 400, 2820, 10**6)] == [
        1,
        2,
        4,
        12,
        12,
    ]


@pytest.mark.parametrize(
    ("values", "transform"),
    [([1.0, 4.0, 9.0], "log"), ([0.0, 4.0, 9.0], "sqrt"), ([-1.0, 4.0, 9.0], "none")],
)
def test_scales_go_there_and_back(values, transform):
    y = np.array(values)
    assert choose_transform([y]) == transform
    scale = Scale.fit(y, transform)
    z = scale.apply(y)
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(scale.invert(z), y, atol=1e-12)


def test_one_series_with_a_zero_takes_the_logarithm_from_all():
    assert choose_transform([np.array([1.0, 2.0]), np.array([0.0, 2.0])]) == "sqrt"


def test_a_constant_series_has_a_scale():
    scale = Scale.fit(np.full(5, 0.1 + 0.2), "log")
    assert scale.unit == 1.0
    np.testing.assert_allclose(scale.invert(np.zeros(2)), [0.3, 0.3])


def test_a_diverging_forecast_is_cut_off():
    scale = Scale.fit(np.array([1.0, 2.0, 3.0, 4.0]), "log")
    assert np.isfinite(scale.invert(np.array([1e9]))).all()


def walk(length: int, seed: int = 0) -> np.ndarray:
    return np.exp(0.1 * np.random.default_rng(seed).normal(size=length).cumsum())


def rows_of(values: np.ndarray, look: Look, scale: Scale):
    own = known(Series("a", np.arange(len(values)), values), scale, look)
    return training_rows(own, look, Settings(origins=100))


def test_a_row_knows_nothing_of_what_comes_after_its_origin():
    settings, y = Settings(origins=100), walk(80)  # enough for a stride of 1
    look, scale = look_for((4,), 5, settings), Scale.fit(y, "log")
    layout = layout_for(look)
    own = known(Series("a", np.arange(80), y), scale, look)
    # The autoregression's weights and the units come from the whole training part; with these
    # held fixed, the values after an origin must not reach its row.
    later = y.copy()
    later[60:] *= 3.0
    other = known(Series("a", np.arange(80), later), scale, look)
    other = type(own)(other.z, other.padded, own.scale, own.line, own.singles)
    first, second = (training_rows(k, look, settings)[0][0] for k in (own, other))
    origins = torch.arange(80 - len(first), 80)
    assert first.shape == (75, layout.size)
    torch.testing.assert_close(first[origins < 60], second[origins < 60], rtol=0, atol=0)
    assert (first[origins >= 60] != second[origins >= 60]).any(dim=1).all()


def test_targets_are_in_units_of_the_naive_error():
    y = walk(60)
    look = look_for((4,), 3, Settings())
    x, d, mask = (part[0] for part in rows_of(y, look, Scale.fit(y, "log")))
    unit = np.abs(y[4:] - y[:-4]).mean()
    assert mask[-4].all() and not mask[-1].any()
    torch.testing.assert_close(d[-4], torch.tensor(y[57:60] / unit, dtype=torch.float32))
    bases = layout_for(look).split(x)[1]
    level = layout_for(look).split(x)[2][..., 0]
    z = Scale.fit(y, "log").apply(y)
    torch.testing.assert_close(level[-1], torch.tensor(z[-1], dtype=torch.float32))
    torch.testing.assert_close(bases[:, 0], torch.zeros_like(bases[:, 0]))


@pytest.mark.parametrize("transform", ["log", "sqrt", "none"])
def test_measured_is_the_series_over_its_naive_error(transform):
    y = walk(50)
    look = look_for((), 2, Settings())
    scale = Scale.fit(y, transform)
    own = known(Series("a", np.arange(50), y), scale, look)
    slope, offset = torch.tensor(own.singles[1:3])
    unit = np.abs(np.diff(y)).mean()
    centre = scale.centre / unit if transform == "none" else 0.0
    z = torch.tensor(scale.apply(y))
    torch.testing.assert_close(
        measured(z, transform, slope, offset) + centre, torch.tensor(y) / unit
    )


def test_all_series_are_in_the_sequences_whatever_their_lengths():
    look, settings = look_for((4,), 5, Settings()), Settings(origins=20)
    series = [Series(str(n), np.arange(n), walk(n)) for n in (11, 40, 200)]
    own = [known(s, Scale.fit(s.values, "log"), look) for s in series]
    data = sequences(own, look, settings)
    assert all(torch.isfinite(x).all() for x in data.x)
    assert min(data.lengths) < 20 and max(data.lengths) == 20
