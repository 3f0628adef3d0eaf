"""Forecasts and backtests as tables: polars frames, CSV, and the kind of frame that was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from numpy.typing import NDArray

from refold.errors import DataError

from .anomalies import Anomalies
from .backtest import Backtest
from .calendar import Stamps
from .evaluate import Ranking
from .importance import Importance
from .intervals import Band
from .panel import Panel
from .table import PLAIN, Columns
from .tuning import Tuned, names_of

Floats = NDArray[np.float64]

_FIRST = ("unique_id", "ds", "cutoff")
_PATHS = ("unique_id", "ds", "path", "y_hat")


def forecast_frame(
    panel: Panel, values: Sequence[Floats], bands: Sequence[Band] = ()
) -> pl.DataFrame:
    """The forecasts as unique_id, ds, y_hat, and y_hat-lo-95, y_hat-hi-95 for every level."""
    horizon = len(values[0])
    return pl.DataFrame(
        {
            "unique_id": [s.name for s in panel.series for _ in range(horizon)],
            "ds": panel.aware(np.concatenate(panel.future(horizon))),
            "y_hat": np.concatenate(values),
            **_of_bands(bands),
        }
    )


def forecast_csv(panel: Panel, values: Sequence[Floats], bands: Sequence[Band] = ()) -> str:
    """The same as CSV: dates as ISO text, without a time of day where all are midnight.

    Stamps that came with an offset from UTC have one again.
    """
    frame = forecast_frame(panel, values, bands)
    if frame["ds"].dtype.is_temporal():
        stamps = np.concatenate(panel.future(len(values[0])))
        frame = frame.with_columns(ds=pl.Series(panel.texts(stamps, offsets=True)))
    return frame.write_csv()


def paths_frame(panel: Panel, paths: Sequence[Floats]) -> pl.DataFrame:
    """Sampled paths, one (paths, H) for each series, as unique_id, ds, path (from 1), y_hat."""
    stamps, columns = _of_paths(panel, paths)
    return pl.DataFrame({"ds": panel.aware(stamps), **columns}).select(*_PATHS)


def paths_csv(panel: Panel, paths: Sequence[Floats]) -> str:
    """The same as CSV; dates as in `forecast_csv`."""
    stamps, columns = _of_paths(panel, paths)
    texts = panel.texts(stamps, offsets=True)
    return pl.DataFrame({"ds": texts, **columns}).select(*_PATHS).write_csv()


def _of_paths(panel: Panel, paths: Sequence[Floats]) -> tuple[Stamps, dict[str, Any]]:
    number, horizon = paths[0].shape
    stamps = np.concatenate([np.tile(ahead, number) for ahead in panel.future(horizon)])
    names = [s.name for s in panel.series for _ in range(number * horizon)]
    turn = np.tile(np.arange(1, number + 1).repeat(horizon), len(paths))
    values = np.concatenate([own.ravel() for own in paths])
    return stamps, {"unique_id": names, "path": turn, "y_hat": values}


def backtest_frame(found: Backtest) -> pl.DataFrame:
    """unique_id, ds, cutoff, y, y_hat and the bounds of every level: by series, cutoff and ds.

    cutoff is the last stamp that was known.
    """
    stamps, columns = _backtested(found)
    aware = {name: found.panel.aware(each) for name, each in stamps.items()}
    return pl.DataFrame(aware | columns).select("unique_id", "ds", "cutoff", pl.exclude(_FIRST))


def backtest_csv(found: Backtest) -> str:
    """The same as CSV; dates as in `forecast_csv`."""
    stamps, columns = _backtested(found)
    texts = {name: found.panel.texts(each, offsets=True) for name, each in stamps.items()}
    frame = pl.DataFrame(texts | columns)
    return frame.select("unique_id", "ds", "cutoff", pl.exclude(_FIRST)).write_csv()


def _backtested(found: Backtest) -> tuple[dict[str, Stamps], dict[str, Any]]:
    """The columns of stamps, and the others: one part for each series and window."""
    parts = [(w, i) for i in range(len(found.panel.series)) for w in found.windows]
    late = [w.held_out.series[i] for w, i in parts]
    horizon = len(late[0])
    last = [w.known.series[i].stamps[-1:] for w, i in parts]
    stamps = {
        "ds": np.concatenate([s.stamps for s in late]),
        "cutoff": np.repeat(np.concatenate(last), horizon),
    }
    bands = [
        Band(
            level,
            tuple(w.bands[k].low[i] for w, i in parts),
            tuple(w.bands[k].high[i] for w, i in parts),
        )
        for k, level in enumerate(found.levels)
    ]
    columns = {
        "unique_id": [s.name for s in late for _ in range(horizon)],
        "y": pl.Series(np.concatenate([s.observed for s in late]), nan_to_null=True),
        "y_hat": np.concatenate([w.model.forecasts[i] for w, i in parts]),
    }
    return stamps, columns | _of_bands(bands)


def anomalies_frame(found: Anomalies) -> pl.DataFrame:
    """unique_id, ds, y, y_hat, the bounds of the level, score, p_value and is_anomaly."""
    stamps = found.panel.aware(np.concatenate([s.stamps for s in found.judged.series]))
    return _of_anomalies(found, stamps)


def anomalies_csv(found: Anomalies) -> str:
    """The same as CSV; dates as in `forecast_csv`."""
    stamps = np.concatenate([s.stamps for s in found.judged.series])
    texts = pl.Series("ds", found.panel.texts(stamps, offsets=True))
    return _of_anomalies(found, texts).write_csv()


def _of_anomalies(found: Anomalies, ds: pl.Series) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "unique_id": [s.name for s in found.judged.series for _ in range(len(s))],
            "ds": ds,
            "y": _given(np.concatenate([s.observed for s in found.judged.series])),
            "y_hat": np.concatenate(found.forecasts),
            **_of_bands([found.band]),
            "score": _given(np.concatenate(found.scores)),
            "p_value": _given(np.concatenate(found.p_values)),
            "is_anomaly": np.concatenate(found.flags),
        }
    )


def _of_bands(bands: Sequence[Band]) -> dict[str, Floats]:
    return {
        f"y_hat-{side}-{band.level:g}": np.concatenate(values)
        for band in bands
        for side, values in (("lo", band.low), ("hi", band.high))
    }


def _given(values: Floats) -> pl.Series:
    """Null where no value was observed."""
    return pl.Series(values, nan_to_null=True)


def importance_frame(found: Importance) -> pl.DataFrame:
    """One row for each group of inputs: the rise of the error without it, its deviation, its share."""
    return pl.DataFrame(
        {
            "inputs": list(found.names),
            "rise": found.means,
            "deviation": found.deviations,
            "share": found.means / found.error,
        }
    )


def trials_frame(found: Tuned) -> pl.DataFrame:
    """One row for each trial: number, state, error, origins, seconds, and the settings it tried."""
    rows = [
        {
            "number": trial.number,
            "state": trial.state,
            "error": trial.error if np.isfinite(trial.error) else None,
            "origins": trial.origins,
            "seconds": trial.seconds,
            **{name: getattr(trial.settings, name) for name in names_of(trial.settings)},
            "cell": trial.settings.cell_name,
        }
        for trial in found.trials
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def metrics_frame(found: Ranking, names: Sequence[str]) -> pl.DataFrame:
    """One row for each method: its name and its metrics; null where it has none."""
    rows = [
        {"method": row.name, **{name: row.metrics.get(name) for name in names}}
        for row in found.rows
    ]
    return pl.DataFrame(rows, schema={"method": pl.String, **dict.fromkeys(names, pl.Float64)})


def horizon_frame(found: Ranking) -> pl.DataFrame:
    """One row for each step ahead: its number, and the error of each method there."""
    steps = np.arange(1, len(found.model.by_horizon) + 1)
    return pl.DataFrame({"step": steps, **{row.name: row.by_horizon for row in found.rows}})


# The kind of frame that was given


@dataclass(frozen=True, slots=True)
class Kind:
    """Which library a frame came from, the types that ids and stamps had in it, and what its columns were called."""

    library: nw.Implementation = nw.Implementation.POLARS
    types: dict[str, Any] = field(default_factory=dict)
    columns: Columns = PLAIN

    @staticmethod
    def of(frame: Any, panel: Panel, columns: Columns = PLAIN) -> Kind:
        """Ids that were numbers and stamps that were dates come back as such, all under their own names."""
        given = nw.from_native(frame)
        schema = dict(given.collect_schema())
        ids, ds = schema.get(str(columns.id)), schema[str(columns.time)]
        types = {"unique_id": ids} if ids is not None and ids.is_integer() else {}
        offset = (
            isinstance(ds, nw.Datetime) and panel.clock is not None and bool(panel.clock.offset)
        )
        types |= {"ds": ds} if ds == nw.Date or offset else {}
        return Kind(given.implementation, types, columns)

    def of_frame(self, frame: pl.DataFrame) -> Any:
        """A frame of refold's in that library, with those types and names."""
        found = nw.from_native(frame, eager_only=True)
        if self.library is not nw.Implementation.POLARS:
            found = self._there(frame)
        # The last stamp that is known is one like the others.
        types = self.types | ({"cutoff": self.types["ds"]} if "ds" in self.types else {})
        for name, kind in types.items():
            if name not in found.columns:
                continue
            back = nw.col(name).cast(kind)
            if isinstance(kind, nw.Datetime):
                back = nw.col(name).dt.replace_time_zone(kind.time_zone)
            found = found.with_columns(back)
        own = {"unique_id": self.columns.id, "ds": self.columns.time, "y": self.columns.target}
        return found.rename(
            {ours: str(own[ours]) for ours in own if ours in found.columns}
        ).to_native()

    def _there(self, frame: pl.DataFrame) -> nw.DataFrame[Any]:
        try:
            return _moved(frame, self.library)
        except ModuleNotFoundError as error:  # a model that was saved where there was one
            name = self.library.name.lower()
            fact = f"the forecaster was fitted to a frame of {name}, which is not installed here"
            raise DataError(
                fact, f"install {name}, or fit it to a polars frame", "frame"
            ) from error


def _moved(frame: pl.DataFrame, library: Any) -> nw.DataFrame[Any]:
    """A frame of forecasts in another library, by way of NumPy."""
    zones, columns = {}, {}
    for name, column in frame.to_dict().items():
        if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
            zones[name] = column.dtype.time_zone  # NumPy has them in UTC
        columns[name] = column.to_list() if column.dtype == pl.String else column.to_numpy()
    found = nw.from_dict(columns, backend=library)
    return found.with_columns(
        nw.col(name).dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
        for name, zone in zones.items()
    )
