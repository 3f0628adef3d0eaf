"""What windows are relative to: their last value, their mean, their mean and deviation, or those of the series."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import refold as rf
from refold.errors import DataError
from refold.forecast import Settings, from_frame
from refold.forecast.heads import WindowHead
from refold.forecast.lookback import over_steps
from refold.forecast.sequences import scaled
from refold.forecast.ways import way_of
from refold.forecast.windows import answered, targets, tell, windows_of

KINDS = ("window", "mean", "instance", "standard")
QUICK = Settings(over="steps", members=1, steps=20, hidden=16, batch=8)


def waves(lengths=(60, 45), factor=1.0, offset=-40.0) -> pl.DataFrame:
    """Some values are negative: no logarithm is taken."""
    parts = []
    for name, n in zip("ab", lengths, strict=True):
        y = offset + factor * (0.3 * np.arange(n) + 10 * np.sin(2 * np.pi * np.arange(n) / 12))
        days = pl.date_range(pl.date(2020, 1, 1), pl.date(2026, 1, 1), "1mo", eager=True)[:n]
        parts.append(pl.DataFrame({"unique_id": [name] * n, "ds": days, "y": y}))
    return pl.concat(parts)


def seen(scaling: str):
    panel = from_frame(waves())
    names, points = [s.name for s in panel.series], sum(map(len, panel.series))
    course = over_steps((12,), 4, names, points, replace(QUICK, scaling=scaling, look_back=24))
    past = windows_of(panel, scaled(panel, 4), course)
    rows = torch.arange(2)
    return past, rows, torch.full((1, 2), past.columns - 5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_window_is_relative_to(kind):
    past, rows, columns = seen(kind)
    found = tell(past, rows, columns).windows
    whole = past.z[:, past.columns - 28 : past.columns - 4]
    if kind == "window":
        torch.testing.assert_close(found[0], whole - whole[:, -1:])
    elif kind == "standard":
        torch.testing.assert_close(found[0], whole)
    else:
        assert found.mean(dim=-1).abs().max() < 1e-5
        spread = torch.ones(1, 2) if kind == "instance" else whole.std(dim=-1, correction=0)[None]
        torch.testing.assert_close(found.std(dim=-1, correction=0), spread)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_reversed(kind):
    past, rows, columns = seen(kind)
    told = tell(past, rows, columns)
    goal, _ = targets(past, rows, columns)

    class Knows:
        """A network that says what came, in the units of its windows."""

        spreads: WindowHead | None = None

        def __call__(self, windows, own, along):
            return (goal - told.level) / told.width

    torch.testing.assert_close(answered(Knows(), past, told), goal)


def test_a_window_that_is_still_has_a_width():
    panel = from_frame(waves().with_columns(y=pl.lit(3.0)))
    course = over_steps((), 4, ["a", "b"], 105, replace(QUICK, scaling="instance", look_back=24))
    past = windows_of(panel, scaled(panel, 4), course)
    found = tell(past, torch.arange(2), torch.full((1, 2), past.columns - 1))
    assert found.windows.abs().max() == 0 and (found.width > 0).all()


@pytest.mark.parametrize("over", ["segments", "steps"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_unit_and_level_of_the_series_are_those_of_the_forecast(kind, over):
    settings = replace(QUICK, scaling=kind, over=over)
    plain, moved = (
        rf.Forecaster(horizon=4, settings=settings)
        .fit(waves(factor=f, offset=o))
        .predict()["y_hat"]
        for f, o in ((1.0, -40.0), (5.0, -300.0))
    )
    np.testing.assert_allclose(5 * (plain + 40) - 300, moved, rtol=1e-3)


@pytest.mark.parametrize("head", ["point", "student"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_is_kept(kind, head, tmp_path):
    settings = replace(QUICK, scaling=kind, head=head, steps=250, rate=1e-2, dropout=0.0)
    frame = waves()
    model = rf.Forecaster(horizon=4, settings=settings)
    known = frame.filter(pl.int_range(pl.len()).over("unique_id") < pl.len().over("unique_id") - 4)
    found = model.fit(known).predict(level=80 if head == "student" else None)
    later = frame.join(found, on=["unique_id", "ds"])
    away = np.abs(later["y"].to_numpy() - later["y_hat"].to_numpy())
    assert len(later) == 8 and away.mean() < 2.5
    model.save(tmp_path / "model")
    again = rf.Forecaster.load(tmp_path / "model")
    assert again.settings.scaling == kind
    assert again.predict(level=80 if head == "student" else None).equals(found)


def test_it_is_told_and_refused():
    fitted = rf.Forecaster(horizon=4, settings=replace(QUICK, scaling="instance", steps=2))
    fitted.fit(waves())
    assert fitted.fitted is not None
    told = way_of(fitted.settings).told(fitted.fitted.courses[0])
    assert told.endswith("relative to the mean of the window, in its deviations")
    for over, kind in (("origins", "instance"), ("segments", "smoothing")):
        with pytest.raises(DataError, match=f"scaling is {kind}, and a network over {over}"):
            Settings(over=over, scaling=kind)  # type: ignore[arg-type]
