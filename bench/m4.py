"""How far off is the forecaster on the complete M4 Hourly, Weekly and Yearly sets?

    python -m bench.m4 FOLDER [--validation] [--only Hourly] [--seeds 0,1,2] [--out FOLDER]

FOLDER holds the competition's wide files (Hourly-train.csv, Hourly-test.csv ...). Each set is written as a
table in long form and goes the way of `refold forecast`: read_table, from_table, fit_panel,
predict_panel, with the defaults. --validation holds the last horizon of every *training* series out in
place of the test files, which are then not opened. Scored as the competition did: sMAPE and MASE are
means over the series, OWA the mean of both in units of Naive2's; MSIS scores the intervals of 95 percent.

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
from refold.forecast import Settings, calibrate, fit_panel, from_table, predict_panel, read_table
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


def measure(case: Case, folder: Path, validation: bool, seed: int, out: Path | None) -> dict:
    """One set with one seed: the scores and the seconds, from the table to the intervals."""
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
        settings = Settings(seed=seed)
        panel = from_table(read_table(path))
        fitted = fit_panel(panel, case.horizon, settings)
        values = predict_panel(fitted)
        seconds, processor = time.perf_counter() - began, time.process_time() - worked
        calibration = calibrate(panel, case.horizon, settings, levels=[LEVEL])
        (band,) = calibration.bands(panel, values, [LEVEL])
        whole, all_ = time.perf_counter() - began, time.process_time() - worked
    names = [s.name for s in panel.series]
    forecasts, low, high = (dict(zip(names, f, strict=True)) for f in (values, band.low, band.high))
    if out is not None:
        write_forecasts(forecasts, out / f"{case.name}-{seed}.csv")
    return {
        "name": case.name,
        "seed": seed,
        "series": len(train),
        **score(train, test, forecasts, yardstick, case.period),
        **interval_score(train, test, low, high, case.period),
        "seconds": {"forecasts": seconds, "and intervals": whole},
        "processor_seconds": {"forecasts": processor, "and intervals": all_},
        "weights": fitted.parameters,
        "courses": [{**asdict(c), "look": asdict(c.look)} for c in fitted.courses],
    }


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
    "processor minutes, with intervals",
)


def row(case: Case, found: Sequence[dict]) -> list[str]:
    """The means over the seeds of one set, with deviations where there are several."""

    def told(name: str, digits: int) -> str:
        values = [one[name] for one in found]
        spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{spread}"

    minutes = [
        f"{np.mean([one['processor_seconds'][what] for one in found]) / 60:.1f}"
        for what in ("forecasts", "and intervals")
    ]
    return [
        case.name,
        f"{found[0]['series']:,}",
        str(case.horizon),
        told("sMAPE", 2),
        told("MASE", 3),
        told("OWA", 3),
        case.best,
        told("MSIS", 1),
        case.intervals,
        f"{np.mean([one['inside'] for one in found]):.1f} %",
        ", ".join(minutes),
    ]


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
