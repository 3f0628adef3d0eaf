"""The forecaster: a long table in, the next values of every series out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from refold.data.scale import Scale, choose_transform
from refold.data.window import Look
from refold.errors import DataError
from refold.ir.trace import Cell
from refold.train.fit import Fit, Run, fit

from .model import OriginNetwork
from .panel import Panel, from_frame
from .sequences import Known, known, last_row, layout_for, look_for, sequences
from .settings import Settings

Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]

# Fewer known points than this leave nothing to learn from beside the horizon.
MARGIN = 6


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """Networks trained on one panel, and what they need to be used."""

    panel: Panel
    series: tuple[Known, ...]
    look: Look
    settings: Settings
    networks: tuple[OriginNetwork, ...]
    runs: tuple[Run, ...]
    seconds: float

    @property
    def parameters(self) -> int:
        """Trained numbers in one network."""
        return sum(p.numel() for p in self.networks[0].parameters())


def fit_panel(
    panel: Panel, horizon: int, settings: Settings, progress: Progress | None = None
) -> Fitted:
    """Train on every series of a panel at once.

    `progress` is told after each stage: stages done, stages in all.

    Errors  DataError for a series that is too short.
    """
    began = time.perf_counter()
    check_length(panel, horizon)
    with _one_thread():
        parts = _train(panel, horizon, settings, progress)
    return Fitted(panel, *parts, time.perf_counter() - began)


def _train(
    panel: Panel, horizon: int, settings: Settings, progress: Progress | None
) -> tuple[tuple[Known, ...], Look, Settings, tuple[OriginNetwork, ...], tuple[Run, ...]]:
    values = [s.values for s in panel.series]
    transform = choose_transform(values)
    scales = tuple(Scale.fit(y, transform) for y in values)
    look = look_for(panel.seasons, horizon, settings)
    own = tuple(known(s, scale, look) for s, scale in zip(panel.series, scales, strict=True))
    data = sequences(own, look, settings)
    per_epoch = -(-len(data) // settings.batch)
    stages = settings.stage_steps(sum(map(len, panel.series)))
    networks, runs = [], []
    for member in range(settings.members):
        seed = settings.seed * settings.members + member
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = OriginNetwork(layout_for(look), transform, settings)
        for stage, (steps, rate) in enumerate(zip(stages, settings.rates, strict=True)):
            plan = Fit(
                epochs=-(-steps // per_epoch),
                rate=rate,
                batch_size=settings.batch,
                validation=0.0,
                patience=None,
                seed=seed * len(stages) + stage,
            )
            runs.append(fit(network, data, plan))
            if progress:
                progress(member * len(stages) + stage + 1, settings.members * len(stages))
        networks.append(network)
    return own, look, settings, tuple(networks), tuple(runs)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The products of one origin are too small to be shared: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def predict_panel(fitted: Fitted) -> list[Floats]:
    """The next values of every series, in its own units: one (H,) each.

    The mean of the networks is taken in the transformed units: for a logarithm, it is the
    geometric mean.
    """
    found = []
    for own in fitted.series:
        x = last_row(own, fitted.look, fitted.settings).unsqueeze(1)
        z = torch.stack([network(x)[-1, 0] for network in fitted.networks]).mean(dim=0)
        found.append(own.scale.invert(z.numpy().astype(np.float64)))
    return found


def check_length(panel: Panel, horizon: int, held_out: int = 0) -> None:
    """Is every series long enough to learn this horizon from?

    Errors  DataError with the shortest series.
    """
    if horizon < 1:
        raise DataError(f"the horizon is {horizon}", "give at least 1", "horizon")
    shortest = min(panel.series, key=len)
    need = horizon + MARGIN + held_out
    if len(shortest) < need:
        fact = f"series {shortest.name} has {len(shortest)} points; horizon {horizon} needs {need}"
        if held_out:
            fact += f" ({held_out} held out, {horizon} to learn from, {MARGIN} before them)"
        longest = max(0, (len(shortest) - MARGIN) // (2 if held_out else 1))
        remedy = f"ask for a horizon of at most {longest}" if longest else "give more points"
        raise DataError(fact, remedy + ", or leave the short series out" * (len(panel.series) > 1))


def forecast_frame(panel: Panel, values: Sequence[Floats]) -> pl.DataFrame:
    """The forecasts as unique_id, ds, y_hat."""
    horizon = len(values[0])
    stamps = panel.aware(np.concatenate(panel.future(horizon)))
    names = [s.name for s in panel.series for _ in range(horizon)]
    return pl.DataFrame({"unique_id": names, "ds": stamps, "y_hat": np.concatenate(values)})


def forecast_csv(panel: Panel, values: Sequence[Floats]) -> str:
    """The same as CSV: dates as ISO text, without a time of day where all are midnight.

    Stamps that came with an offset from UTC have one again.
    """
    frame = forecast_frame(panel, values)
    if frame["ds"].dtype.is_temporal():
        stamps = np.concatenate(panel.future(len(values[0])))
        frame = frame.with_columns(ds=pl.Series(panel.texts(stamps, offsets=True)))
    return frame.write_csv()


class Forecaster:
    """A recurrent network that learns from all series of a table and forecasts each.

    cell: any cell, or the name of one in the zoo ("gru", "lstm", ...). horizon: how many steps ahead. freq: a
    pandas offset alias; None reads it off the stamps. seasons: in steps; None takes those of the
    calendar. Everything else is in `Settings`.

    Errors  DataError for a table that cannot be forecast, naming series, stamp and row.

    Example
        >>> model = Forecaster("gru", horizon=12).fit(frame)  # columns unique_id, ds, y
        >>> model.predict()                                   # columns unique_id, ds, y_hat
    """

    def __init__(
        self,
        cell: str | Cell | None = None,
        *,
        horizon: int,
        freq: str | None = None,
        seasons: Sequence[int] | None = None,
        seed: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        _check(horizon, freq, seasons)
        chosen = settings or Settings()
        chosen = replace(chosen, cell=cell) if cell is not None else chosen
        self.settings = replace(chosen, seed=seed) if seed is not None else chosen
        self.horizon = horizon
        self.freq = freq
        self.seasons = seasons
        self.fitted: Fitted | None = None
        self._native: nw.Implementation | None = None
        self._types: dict[str, Any] = {}

    def fit(self, frame: Any) -> Forecaster:
        """Learn from a long frame (pandas, polars or Arrow) with unique_id, ds and y."""
        panel = from_frame(frame, self.freq, self.seasons)
        self.fitted = fit_panel(panel, self.horizon, self.settings)
        given = nw.from_native(frame)
        self._native = given.implementation
        # Ids that were numbers and stamps that were dates come back as such.
        schema = dict(given.collect_schema())
        ids, ds = schema.get("unique_id"), schema["ds"]
        self._types = {"unique_id": ids} if ids is not None and ids.is_integer() else {}
        clock = panel.clock
        offset = isinstance(ds, nw.Datetime) and clock is not None and bool(clock.offset)
        self._types |= {"ds": ds} if ds == nw.Date or offset else {}
        return self

    def predict(self) -> Any:
        """The next `horizon` values of every series, in the kind of frame that was given."""
        if self.fitted is None:
            fact = "this forecaster has not been fitted"
            raise DataError(fact, "call fit(frame) first", "Forecaster.predict")
        values = predict_panel(self.fitted)
        frame = forecast_frame(self.fitted.panel, values)
        found = nw.from_native(frame)
        if self._native is not nw.Implementation.POLARS:
            found = _moved(frame, self._native)
        for name, kind in self._types.items():
            if isinstance(kind, nw.Datetime):
                back = nw.col(name).dt.replace_time_zone(kind.time_zone)
            else:
                back = nw.col(name).cast(kind)
            found = found.with_columns(back)
        return found.to_native()


def _moved(frame: pl.DataFrame, library: Any) -> nw.DataFrame[Any]:
    """A frame of forecasts in another library, by way of NumPy."""
    ds = frame["ds"]
    zone = ds.dtype.time_zone if isinstance(ds.dtype, pl.Datetime) else None
    columns = {
        "unique_id": frame["unique_id"].to_list(),
        "ds": ds.to_numpy(),  # in UTC where there is a zone
        "y_hat": frame["y_hat"].to_numpy(),
    }
    found = nw.from_dict(columns, backend=library)
    if zone is None:
        return found
    aware = nw.col("ds").dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return found.with_columns(aware)


def _check(horizon: object, freq: object, seasons: object) -> None:
    if not _is_whole(horizon):
        fact = f"the horizon is {horizon!r}"
        raise DataError(fact, "give a whole number of at least 1", "Forecaster")
    if freq is not None and not isinstance(freq, str):
        raise DataError(f"freq is {freq!r}", 'give text, such as "MS" or "30min"', "Forecaster")
    if seasons is None:
        return
    if not isinstance(seasons, Sequence) or not all(_is_whole(s) for s in seasons):
        fact = f"the seasons are {seasons!r}"
        raise DataError(
            fact, "give whole numbers of steps, such as (12,); () for none", "Forecaster"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
