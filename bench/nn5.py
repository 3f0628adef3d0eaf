"""How far off is the forecaster on NN5, 111 daily series with real holes in them?

    python -m bench.nn5 FOLDER [--validation] [--seeds 0,1,2]

FOLDER holds nn5-train.csv and nn5-test.csv: a row for each series, its name first, an empty cell where
nothing was observed. The training part is written as a table in long form and goes the way of
`refold forecast`: read_table, from_table, fit_panel, predict_panel, with the defaults. --validation
holds the last 56 days of the *training* part out, and the test file is not opened.

Errors are over observed values only, and means over the series. MASE as in the Monash archive, by the
naive error over 7 days. Figures go into bench/results/nn5.json and, for a run on the test file,
docs/forecast.md.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.record import into_docs, machine, save, table
from refold.forecast import Settings, fit_panel, from_table, predict_panel, read_table
from refold.forecast.baselines import seasonal_naive
from refold.forecast.metrics import mase, mean_defined, smape
from refold.forecast.series import filled

Floats = NDArray[np.float64]
Wide = dict[str, Floats]

HORIZON, SEASON = 56, 7
# Godahewa et al. 2021, the archive's own table: mean sMAPE, mean MASE.
PUBLISHED = (
    ("TBATS", "21.19", "0.858"),
    ("ETS", "21.57", "0.865"),
    ("Theta", "22.01", "0.885"),
    ("WaveNet", "22.73", "0.916"),
    ("DeepAR", "23.85", "0.919"),
)


def wide(path: Path) -> Wide:
    """A row for each series; NaN where a cell is empty."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return {row[0]: np.array([float(v) if v.strip() else np.nan for v in row[1:]]) for row in rows}


def write_long(series: Wide, path: Path) -> None:
    """A table of unique_id, ds, y with empty cells, as a user would have it."""
    days = np.datetime64("1996-03-18") + np.arange(max(map(len, series.values())))
    parts = [
        pl.DataFrame(
            {"unique_id": [name] * len(y), "ds": days[: len(y)].astype(str), "y": y},
            nan_to_null=True,
        )
        for name, y in series.items()
    ]
    pl.concat(parts).write_csv(path)


def whole(y: Floats) -> Floats:
    """From the first observed value on, and filled in."""
    return filled(y[int(np.isnan(y).argmin()) :], (SEASON,))


def in_step(forecast: Floats, y: Floats) -> Floats:
    """A forecast goes on from the last observed value: the part of it that is after the last day."""
    late = int(np.isnan(y)[::-1].argmin())
    return np.concatenate([forecast[late:], np.full(late, np.nan)])


def score(train: Wide, test: Wide, forecasts: Wide) -> dict[str, float]:
    """Mean sMAPE and MASE over the series."""
    percent = [smape(y, forecasts[name]) for name, y in test.items()]
    scaled = [mase(y, forecasts[name], train[name], SEASON) for name, y in test.items()]
    return {"sMAPE": mean_defined(percent), "MASE": mean_defined(scaled)}


def measure(train: Wide, test: Wide, seed: int) -> dict:
    """One seed, from the table to the scores."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "nn5.csv"
        write_long(train, path)
        began = time.perf_counter()
        panel = from_table(read_table(path))
        fitted = fit_panel(panel, HORIZON, Settings(seed=seed))
        values = predict_panel(fitted)
        seconds = time.perf_counter() - began
    forecasts = {
        s.name: in_step(f, train[s.name]) for s, f in zip(panel.series, values, strict=True)
    }
    rest = {"seed": seed, "seconds": round(seconds), "weights": fitted.parameters}
    return {**score(train, test, forecasts), **rest, "notes": list(panel.notes)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write a run on the test file."""
    parser = argparse.ArgumentParser(prog="python -m bench.nn5")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args(arguments)
    train = wide(given.folder / "nn5-train.csv")
    if given.validation:
        test = {name: y[-HORIZON:] for name, y in train.items()}
        train = {name: y[:-HORIZON] for name, y in train.items()}
    else:
        test = wide(given.folder / "nn5-test.csv")
    simple = {
        n: seasonal_naive(filled(y[int(np.isnan(y).argmin()) :], (SEASON,)), HORIZON, SEASON)
        for n, y in train.items()
    }
    found = [measure(train, test, int(seed)) for seed in given.seeds.split(",")]
    naive = score(train, test, simple)
    mean = {name: float(np.mean([one[name] for one in found])) for name in ("sMAPE", "MASE")}
    minutes = np.mean([one["seconds"] for one in found]) / 60
    rows = [
        ["refold gru", f"{mean['sMAPE']:.2f}", f"{mean['MASE']:.3f}", f"{minutes:.1f}"],
        ["Seasonal naive", f"{naive['sMAPE']:.2f}", f"{naive['MASE']:.3f}", "-"],
        *[[f"{name}, published", *figures, "-"] for name, *figures in PUBLISHED],
    ]
    text = table(("method", "sMAPE", "MASE", "minutes"), rows)
    print(text, [f"{one['sMAPE']:.2f}" for one in found], sep="\n")
    if not given.validation:
        save("nn5", {**machine(), "results": found, "seasonal naive": naive})
        into_docs("docs/forecast.md", "nn5", text)


if __name__ == "__main__":
    main()
