"""How far off is the forecaster on the complete M4 Hourly, Weekly and Yearly sets?

    python -m bench.m4 FOLDER [--validation] [--only Hourly] [--seeds 0,1,2] [--intervals] [--out FOLDER]

FOLDER holds the competition's wide files (Hourly-train.csv, Hourly-test.csv ...). Each set is written as a
table in long form and goes the way of `refold forecast`: read_table, from_table, fit_panel,
predict_panel, with the defaults. --validation holds the last horizon of every *training* series out in
place of the test files, which are then not opened. Scored as the competition did: sMAPE and MASE are
means over the series, OWA the mean of both in units of Naive2's.

The forecasts go into the folder that --out names, as the competition's scorer reads them; the figures
into bench/results/m4.json, beside those of other sets and seeds, and from the test files into docs/forecast.md.
--intervals also trains networks with a Student head on the first seed, and scores their intervals of 95 percent.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.record import RESULTS, into_docs, machine, save, table
from refold.forecast import (
    Panel,
    Settings,
    fit_panel,
    from_table,
    predict_panel,
    predicted,
    read_table,
)
from refold.forecast.metrics import msis
from refold.forecast.naive2 import naive2

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
    intervals: str


# period: the lag of the MASE's scale. best: the OWA of the competition's winner, and of the best of 61
# entries. intervals: the winner's MSIS.
CASES = (
    Case("Hourly", 48, "h", 24, ".440, .410", "7.9"),
    Case("Weekly", 13, "W", 1, ".851, .739", "22.0"),
    Case("Yearly", 6, "Y", 1, ".778, .778", "23.9"),
)
# Percent; the competition's.
LEVEL = 95.0


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


def interval_score(train: Wide, test: Wide, low: Wide, high: Wide, period: int) -> dict:
    """Mean MSIS over the series, and the share of values inside (percent)."""
    scores = [msis(y, low[n], high[n], LEVEL, train[n], period) for n, y in test.items()]
    inside = [np.mean((low[n] <= y) & (y <= high[n])) for n, y in test.items()]
    return {"MSIS": float(np.nanmean(scores)), "inside": 100 * float(np.mean(inside))}


def measure(
    case: Case, folder: Path, validation: bool, seed: int, intervals: bool, out: Path | None
) -> dict:
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
        began, worked = time.perf_counter(), time.process_time()
        panel = from_table(read_table(path))
        fitted = fit_panel(panel, case.horizon, Settings(seed=seed))
        forecasts = by_name(panel, predict_panel(fitted))
        taken = {
            "seconds": time.perf_counter() - began,
            "processor_seconds": time.process_time() - worked,
        }
    found = score(train, test, forecasts, yardstick, case.period)
    if intervals:
        found |= bounds(case, panel, train, test, seed)
    if out is not None:
        write_forecasts(forecasts, out / f"{case.name}-{seed}.csv")
    about = {"name": case.name, "seed": seed, "series": len(train)}
    courses = [repr(course) for course in fitted.courses]
    return {**about, **found, **taken, "weights": fitted.parameters, "courses": courses}


def by_name(panel: Panel, values: Sequence[Floats]) -> Wide:
    """Values of every series under its name."""
    return dict(zip([s.name for s in panel.series], values, strict=True))


def bounds(case: Case, panel: Panel, train: Wide, test: Wide, seed: int) -> dict:
    """What intervals score: of networks that say a Student distribution at every step."""
    worked = time.process_time()
    fitted = fit_panel(panel, case.horizon, Settings(seed=seed, head="student"))
    (band,) = predicted(fitted, levels=[LEVEL]).bands
    low, high = by_name(panel, band.low), by_name(panel, band.high)
    found = interval_score(train, test, low, high, case.period)
    return {**found, "interval_processor_seconds": time.process_time() - worked}


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
    "of the winner, of the best of 61",
    "95 % MSIS",
    "of the winner",
    "inside",
    "processor minutes",
)


def row(case: Case, found: Sequence[dict]) -> list[str]:
    """The means over the seeds of one set, with deviations where there are several."""
    return [
        case.name,
        f"{found[0]['series']:,}",
        str(case.horizon),
        told(found, "sMAPE", 2),
        told(found, "MASE", 3),
        told(found, "OWA", 3),
        case.best,
        told(found, "MSIS", 1),
        case.intervals,
        told(found, "inside", 1, "%"),
        f"{np.mean([one['processor_seconds'] for one in found]) / 60:.1f}",
    ]


def told(found: Sequence[dict], name: str, digits: int, unit: str = "") -> str:
    """The mean of those that have it, and how far seeds differ."""
    values = [one[name] for one in found if name in one]
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}" + f" {unit}" * bool(unit)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what is complete."""
    parser = argparse.ArgumentParser(prog="python -m bench.m4")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--only", choices=[case.name for case in CASES])
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--intervals", action="store_true", help="of the first seed, too")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    what = "m4_validation" if given.validation else "m4"
    results = []
    for case in CASES:
        if given.only in (None, case.name):
            for seed in seeds:
                intervals = given.intervals and seed == seeds[0]
                how = (given.folder, given.validation, seed, intervals, given.out)
                results.append(measure(case, *how))
                print(table(HEAD, [row(case, results[-1:])]), flush=True)
    merged = [*_others(what, results), *results]
    save(what, {**machine(), "results": merged})
    if not given.validation:
        rows = [row(case, own) for case in CASES if (own := _of(merged, case))]
        into_docs("docs/forecast.md", "m4", table(HEAD, rows))


def _others(what: str, results: Sequence[dict]) -> list[dict]:
    """What earlier runs found of other sets and seeds: one set at a time is a run too."""
    path = RESULTS / f"{what}.json"
    known = json.loads(path.read_text())["results"] if path.exists() else []
    now = {(one["name"], one["seed"]) for one in results}
    return [one for one in known if (one["name"], one["seed"]) not in now]


def _of(results: Sequence[dict], case: Case) -> list[dict]:
    return sorted((r for r in results if r["name"] == case.name), key=lambda r: r["seed"])


if __name__ == "__main__":
    main()
