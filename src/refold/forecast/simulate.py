"""Sampled paths: what the next values could be, together, as far ahead as is asked for.

A path is drawn a trained horizon at a time. Its steps hang together: each block takes the scores
that one forecast of the past had, step by step, and the distributions that the next values have. So a
path that begins high goes on as high as paths that began so did. Beyond the trained horizon, what was
drawn is appended to the series, the networks forecast from there, and the next block is drawn: samples
are fed back, not means, so that the uncertainty of a step is in all that follow it.

Where scores come from. With a calibration: from forecasts of what the networks had not seen, taken as
they are. Without, for a forecast with distributions: from forecasts of the trained part, of which only
the ranks are taken, since the networks have seen what they forecast; how far a path strays is then
said by the distribution alone. A point forecast has none, and needs the calibration.

Source  Clark et al. 2004 for handing ranks of the past on to other distributions (Schaake shuffle).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refold.errors import DataError

from .covariates import Values
from .distribution import in_units
from .families import FAMILIES
from .forecaster import Fitted, on_panel, predict_distribution, predict_panel
from .intervals import Band, Calibration, moved, unit_of
from .panel import Panel, Series
from .predicted import Predicted, predicted
from .sequences import Measured, scaled
from .ways import way_of

Floats = NDArray[np.float64]

# Paths behind a forecast beyond the trained horizon: five outside of an interval of 95 %, each side.
_PATHS = 200
# Series that are forecast together, each path of each series being one.
_TOGETHER = 4000


def simulate_panel(
    fitted: Fitted,
    paths: int = 100,
    horizon: int | None = None,
    seed: int = 0,
    calibration: Calibration | None = None,
) -> list[Floats]:
    """Paths of every series after its end, in its own units: one (paths, horizon) each.

    horizon: None is the trained one. The same seed gives the same paths; more of them begin with
    these. Series are drawn independently of each other.

    Errors  DataError for a point forecast without a calibration.
    """
    horizon = fitted.horizon if horizon is None else horizon
    check_paths(paths, horizon)
    draw = _draw(fitted, calibration)
    apart = max(1, _TOGETHER // len(fitted.panel.series))
    parts = []
    for first in range(0, paths, apart):
        numbers = range(first, min(paths, first + apart))
        parts.append(_walked(fitted, draw, [_random(seed, p) for p in numbers], horizon))
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _random(seed: int, path: int) -> np.random.Generator:
    return np.random.default_rng([seed, path])


def check_paths(paths: object, horizon: object, seed: object = 0) -> None:
    """Errors  DataError for numbers that are none."""
    for name, value, least in (("paths", paths, 1), ("horizon", horizon, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            fact = f"{name} is {value!r}"
            raise DataError(fact, f"give a whole number of at least {least}", "simulate")


Draw = Callable[[Fitted, Sequence[np.random.Generator], int], list[Floats]]


def _walked(
    fitted: Fitted, draw: Draw, randoms: Sequence[np.random.Generator], horizon: int
) -> list[Floats]:
    """The paths of some generators: one (paths, horizon) for each series."""
    number = len(fitted.panel.series)
    found = draw(fitted, randoms, number)
    while found[0].shape[1] < horizon:
        there = on_panel(fitted, _appended(fitted.panel, found))
        more = np.concatenate(draw(there, randoms, number))
        blocks = np.split(more, number)
        found = [np.concatenate(pair, axis=1) for pair in zip(found, blocks, strict=True)]
    return [each[:, :horizon] for each in found]


def _appended(panel: Panel, paths: Sequence[Floats]) -> Panel:
    """Every path as a series of its own, under the name of the one it goes on from."""
    ahead = panel.future(paths[0].shape[1])
    series = []
    for s, stamps, own in zip(panel.series, ahead, paths, strict=True):
        stamps, beside = np.concatenate([s.stamps, stamps]), _beside(s, len(stamps))
        series += [
            Series(s.name, stamps, np.concatenate([s.values, path]), beside=beside) for path in own
        ]
    return replace(panel, series=tuple(series))


def _beside(series: Series, steps: int) -> Values | None:
    """The covariates so much further on: historical ones stay what they were last."""
    held = series.beside
    if held is None:
        return None
    later = np.repeat(held.historical[-1:], steps, axis=0)
    return held.followed_by(Values(held.known[:0], later, held.static), len(series))


# One block: a trained horizon of every path


def _draw(fitted: Fitted, calibration: Calibration | None) -> Draw:
    if calibration is not None:
        return _Residuals(calibration.scores, calibration)
    if predict_distribution(fitted) is not None:
        return _Ranks(_ranks(_scores_seen(fitted)))
    fact = "a point forecast says nothing of its certainty, and no errors have been measured"
    raise DataError(fact, "calibrate first, or fit with a head such as student", "simulate")


def _picked(
    randoms: Sequence[np.random.Generator], series: int, rows: int, steps: int
) -> tuple[NDArray[np.int64], Floats]:
    """For each path and series: which row of scores, and chances by step. (paths, series[, steps])."""
    pairs = [(r.integers(max(1, rows), size=series), r.random((series, steps))) for r in randoms]
    picks, chances = zip(*pairs, strict=True)
    return np.stack(picks), np.stack(chances)


def _as_panel(each: Floats, number: int) -> Floats:
    """(paths, N, H) as what a panel of `number` series takes: as it is, or a path for a series."""
    if number == each.shape[1]:
        return each
    return each.swapaxes(0, 1).reshape(1, number, each.shape[-1])


@dataclass(frozen=True, slots=True, eq=False)
class _Residuals:
    """Blocks of scores of forecasts whose values had not been seen."""

    scores: Floats
    calibration: Calibration

    def __call__(
        self, fitted: Fitted, randoms: Sequence[np.random.Generator], series: int
    ) -> list[Floats]:
        picks, _ = _picked(randoms, series, *self.scores.shape)
        scores = _as_panel(self.scores[picks], len(fitted.panel.series))
        found = predict_distribution(fitted)
        return self._moved(fitted, scores) if found is None else found.at(scores)

    def _moved(self, fitted: Fitted, scores: Floats) -> list[Floats]:
        panel, data, transform = fitted.panel, fitted.data, self.calibration.transform
        found = []
        for i, (series, f) in enumerate(zip(panel.series, predict_panel(fitted), strict=True)):
            values = moved(f, scores[:, i], unit_of(series.values, transform, panel.season))
            found.append(data.invert(i, data.apply(i, values)))  # within what the networks can see
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Ranks:
    """Blocks of shares, each step evenly spread: ranks of scores in the trained part."""

    ranks: Floats

    def __call__(
        self, fitted: Fitted, randoms: Sequence[np.random.Generator], series: int
    ) -> list[Floats]:
        rows = len(self.ranks)
        picks, chances = _picked(randoms, series, rows, fitted.horizon)
        shares = (self.ranks[picks] + chances) / rows if rows else chances
        found = predict_distribution(fitted)
        assert found is not None
        shares = _as_panel(shares, len(fitted.panel.series))
        return found.quantile(shares.clip(1e-9, 1 - 1e-9))


def _ranks(scores: Floats) -> Floats:
    """Which of all rows each is, step by step, the lowest 0."""
    return scores.argsort(axis=0).argsort(axis=0).astype(np.float64)


@torch.no_grad()
def _scores_seen(fitted: Fitted) -> Floats:
    """Scores of the first network's forecasts in the trained part: (n, H); none of short series."""
    data, family = fitted.data, FAMILIES[fitted.settings.head]()
    # What was made for forecasts from the end reaches no further back than these ask for.
    names = [s.name for s in fitted.panel.series]
    scales = dict(zip(names, data.scales, strict=True))
    whole = scaled(fitted.panel, fitted.horizon, data.transform, scales, data.beside)
    whole, way = replace(whole, lines=data.lines), way_of(fitted.settings)
    generator, found = torch.Generator().manual_seed(0), []
    for cast in way.hindcasts(fitted.networks[0], fitted.panel, whole, fitted.courses[0]):
        z, measure = cast.goal, Measured(data, cast.rows)
        chance = torch.rand(z.shape, generator=generator)
        z = measure.count(z.double()).round() if family.counts else z.double()
        given = in_units(family, cast.given, measure)
        found.append(family.score(given, z, chance.double())[cast.exists])
    return torch.cat(found).numpy()


# Beyond the trained horizon


def predicted_longer(
    fitted: Fitted,
    horizon: int,
    calibration: Calibration | None = None,
    levels: Sequence[float] = (),
    seed: int = 0,
    ahead: Tensor | None = None,
) -> Predicted:
    """A forecast of any horizon. Up to the trained one it is `predicted`; further steps are the median
    of paths (of counts, the mean), and their intervals hold the middle of the paths.

    The distribution that it comes with is that of the trained steps. ahead: as in `predicted`.

    Errors  DataError for a longer horizon of a point forecast without a calibration.
    """
    near = predicted(fitted, calibration, levels, ahead)
    if horizon <= fitted.horizon:
        return _shortened(near, horizon)
    paths = simulate_panel(fitted, _PATHS, horizon, seed, calibration)
    late = [own[:, fitted.horizon :] for own in paths]
    counts = near.distribution is not None and near.distribution.family.counts
    centre = np.mean if counts else np.median
    values = _joined(near.values, [centre(own, axis=0) for own in late])
    bands = tuple(_longer(band, late) for band in near.bands)
    return Predicted(values, bands, near.distribution)


def _longer(band: Band, late: Sequence[Floats]) -> Band:
    sides = []
    for known, side in ((band.low, -1), (band.high, 1)):
        share = 0.5 + side * band.level / 200
        more = [np.quantile(own, share, axis=0) for own in late]
        sides.append(tuple(_joined(known, more)))
    return Band(band.level, *sides)


def _joined(near: Sequence[Floats], late: Sequence[Floats]) -> list[Floats]:
    return [np.concatenate(pair) for pair in zip(near, late, strict=True)]


def _shortened(near: Predicted, horizon: int) -> Predicted:
    def cut(each: Sequence[Floats]) -> Iterator[Floats]:
        return (one[:horizon] for one in each)

    bands = tuple(Band(b.level, tuple(cut(b.low)), tuple(cut(b.high))) for b in near.bands)
    return Predicted(list(cut(near.values)), bands, near.distribution)
