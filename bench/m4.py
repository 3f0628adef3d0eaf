"""How far off is the forecaster on the complete M4 Hourly, Weekly and Yearly sets?

    python -m bench.m4 FOLDER [--validation] [--only Hourly] [--seeds 0,1,2] [--out FOLDER]

FOLDER holds the competition's wide files (Hourly-train.csv, Hourly-test.csv ...). Each set is written as a
table in long form and goes the way of `refold forecast`: read_table, from_table, fit_panel,
predict_panel, with the defaults. --validation holds the last horizon of every *training* series out in
place of the test files, which are then not opened. Scored as the competition did: sMAPE and MASE are
means over the series, OWA the mean of both in units of Naive2's.

The forecasts go into the folder that --out names, as the competition's scorer reads them; the figures
into bench/results/m4.json and, for a complete run on the test files, docs/forecast.md.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.record import into_docs, machine, save, table
from refold.forecast import Settings, fit_panel, from_table, predict_panel, read_table

Floats = NDArray[np.float64]
Wide = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Case:
    """One set: its horizon, the spacing of its stamps, and how the competition scored it."""

    name: str
    horizon: int
    every: str
    period: int
    best: str


# period: the lag of the MASE's scale. best: the competition's winner, and the best of 61 entries.
CASES = (
    Case("Hourly", 48, "h", 24, ".440, .410"),
    Case("Weekly", 13, "W", 1, ".851, .739"),
    Case("Yearly", 6, "Y", 1, ".778, .778"),
)


def wide(path: Path, header: bool = True) -> Wide:
    """A file of the competition: a row for each series, its id first."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[int(header) :]
    return {row[0]: np.array([float(v) for v in row[1:] if v not in ("", "NA")]) for row in rows}


def held_out(train: Wide, horizon: int) -> tuple[Wide, Wide]:
    """All but the last horizon of every series, and those points."""
    early = {name: y[:-horizon] for name, y in train.items()}
    return early, {name: y[-horizon:] for name, y in train.items()}


def write_long(series: Wide, every: str, path: Path) -> None:
    """The series as a table of unique_id, ds, y, as a user would have it; all end on one day."""
    longest = max(map(len, series.values()))
    stamps = np.datetime64("2020-01-01T00", every) - np.arange(longest)[::-1]
    texts = np.datetime_as_string(stamps, unit="m" if every == "h" else "D")
    parts = [
        pl.DataFrame({"unique_id": [name] * len(y), "ds": texts[longest - len(y) :], "y": y})
        for name, y in series.items()
    ]
    pl.concat(parts).write_csv(path)


def naive2(y: Floats, horizon: int, period: int) -> Floats:
    """The competition's yardstick: the last value, on a series without its season.

    Source  Makridakis et al. 2020. Seasonal where |r(period)| exceeds 1.645 standard errors.
    """
    index = np.ones(period)
    if period > 1 and len(y) >= 3 * period and _is_seasonal(y, period):
        index = _indices(y, period)
    n = len(y)
    ahead = index[(n + np.arange(horizon)) % period]
    return y[-1] / index[(n - 1) % period] * ahead


def _is_seasonal(y: Floats, period: int) -> bool:
    centred = y - y.mean()
    r = np.array([centred[k:] @ centred[: len(y) - k] for k in range(1, period + 1)])
    r = r / max(centred @ centred, 1e-300)
    limit = 1.645 * np.sqrt((1 + 2 * np.square(r[:-1]).sum()) / len(y))
    return bool(abs(r[-1]) > limit)


def _indices(y: Floats, period: int) -> Floats:
    """Multiplicative indices of a classical decomposition."""
    weights = np.ones(period + 1 - period % 2)
    if period % 2 == 0:
        weights[[0, -1]] = 0.5
    half = len(weights) // 2
    trend = np.convolve(y, weights / period, mode="valid")
    ratio = y[half : half + len(trend)] / trend
    phase = (np.arange(len(ratio)) + half) % period
    index = np.array([ratio[phase == i].mean() for i in range(period)])
    return index / index.mean()


def errors(train: Wide, test: Wide, forecasts: Wide, period: int) -> tuple[float, float]:
    """Mean sMAPE (percent) and mean MASE over the series; those that never changed are left out."""
    percent, scaled = [], []
    for name, y in test.items():
        x, f = train[name], forecasts[name]
        scale = np.abs(x[period:] - x[:-period]).mean()
        if scale > 0:
            percent.append(np.mean(200 * np.abs(y - f) / (np.abs(y) + np.abs(f))))
            scaled.append(np.abs(y - f).mean() / scale)
    return float(np.mean(percent)), float(np.mean(scaled))


def score(train: Wide, test: Wide, forecasts: Wide, yardstick: Wide, period: int) -> dict:
    """sMAPE, MASE, and OWA: the mean of both in units of the yardstick's."""
    percent, scaled = errors(train, test, forecasts, period)
    of = errors(train, test, yardstick, period)
    return {"sMAPE": percent, "MASE": scaled, "OWA": (percent / of[0] + scaled / of[1]) / 2}


def measure(case: Case, folder: Path, validation: bool, seed: int, out: Path | None) -> dict:
    """One set with one seed: the scores and the seconds, from the table to the forecasts."""
    train = wide(folder / f"{case.name}-train.csv")
    if validation:
        train, test = held_out(train, case.horizon)
    else:
        test = wide(folder / f"{case.name}-test.csv")
    yardstick = {name: naive2(y, case.horizon, case.period) for name, y in train.items()}
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / f"{case.name}.csv"
        write_long(train, case.every, path)
        began = time.perf_counter()
        panel = from_table(read_table(path))
        fitted = fit_panel(panel, case.horizon, Settings(seed=seed))
        values = predict_panel(fitted)
        seconds = time.perf_counter() - began
    forecasts = {s.name: f for s, f in zip(panel.series, values, strict=True)}
    if out is not None:
        write_forecasts(forecasts, out / f"{case.name}-{seed}.csv")
    found = score(train, test, forecasts, yardstick, case.period)
    courses = [{**asdict(c), "look": asdict(c.look)} for c in fitted.courses]
    rest = {"seconds": round(seconds), "weights": fitted.parameters, "courses": courses}
    return {"name": case.name, "seed": seed, "series": len(train), **found, **rest}


def write_forecasts(forecasts: Wide, path: Path) -> None:
    """As the competition's scorer reads them: id, F1 ... Fh, without a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([name, *f.tolist()] for name, f in forecasts.items())


HEAD = (
    "set",
    "series",
    "horizon",
    "sMAPE",
    "MASE",
    "OWA",
    "seeds",
    "deviation",
    "winner, best of 61",
    "minutes",
)


def row(case: Case, found: Sequence[dict]) -> list[str]:
    """The means over the seeds of one set."""
    percent, scaled, owa, seconds = (
        np.mean([one[name] for one in found]) for name in ("sMAPE", "MASE", "OWA", "seconds")
    )
    spread = f"{np.std([one['OWA'] for one in found]):.3f}" if len(found) > 1 else "-"
    figures = [f"{percent:.2f}", f"{scaled:.3f}", f"{owa:.3f}", str(len(found)), spread]
    start = [case.name, f"{found[0]['series']:,}", str(case.horizon)]
    return [*start, *figures, case.best, f"{seconds / 60:.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what is complete."""
    parser = argparse.ArgumentParser(prog="python -m bench.m4")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--only", choices=[case.name for case in CASES])
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    rows, results = [], []
    for case in CASES:
        if given.only in (None, case.name):
            how = (given.folder, given.validation)
            found = [measure(case, *how, seed, given.out) for seed in seeds]
            results += found
            rows.append(row(case, found))
            print(table(HEAD, rows[-1:]), flush=True)
    what = "m4_validation" if given.validation else "m4"
    if given.only is None:
        save(what, {**machine(), "results": results})
    if given.only is None and not given.validation:
        into_docs("docs/forecast.md", "m4", table(HEAD, rows))


if __name__ == "__main__":
    main()
