"""How does the forecaster do, with the same defaults, on series that nobody tuned it for?

    python -m bench.forecast_examples [FOLDER]

Holds the last `horizon` points of each series out and compares, as `refold forecast` does. FOLDER
holds the further files (wineind.csv, us_gasoline.csv, taxi_new_york_passengers.csv, taylor.csv); the
result goes into bench/results/forecast_examples.json, docs/forecast.md and the README. Without it,
the two bundled series are measured, and the table is only printed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.record import into_docs, machine, save, table
from refold.data.examples import example
from refold.forecast import Panel, Settings, evaluate, from_table, read_table, verdict


@dataclass(frozen=True, slots=True)
class Case:
    """A series, its horizon, and how many of its last points are used (None: all)."""

    name: str
    file: str
    horizon: int
    what: str
    last: int | None = None


CASES = (
    Case("AirPassengers", "airpassengers", 12, "months"),
    Case("sunspots", "sunspots", 12, "months"),
    Case("wineind", "wineind.csv", 12, "months"),
    Case("US gasoline", "us_gasoline.csv", 13, "weeks"),
    Case("New York taxi, last 12 weeks", "taxi_new_york_passengers.csv", 48, "half hours", 4032),
    Case("Taylor's load", "taylor.csv", 48, "half hours, numbered"),
)


def measure(case: Case, folder: Path | None) -> dict:
    """One case with the defaults: every row's metrics, the verdict and the seconds."""
    path = folder / case.file if folder and case.file.endswith(".csv") else example(case.file).path
    panel = from_table(read_table(path), holdout=case.horizon)
    if case.last:
        panel = _tail(panel, case.last)
    began = time.perf_counter()
    found = evaluate(panel, case.horizon, Settings())
    return {
        "name": case.name,
        "what": case.what,
        "points": len(panel.series[0]),
        "horizon": case.horizon,
        "seasons": panel.seasons,
        "rows": {row.name: {**row.metrics, "how": row.note} for row in found.rows},
        "verdict": verdict(found),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _tail(panel: Panel, last: int) -> Panel:
    series = (s[-last:] for s in panel.series)
    return replace(panel, series=tuple(series))


def row(one: dict) -> list[str]:
    """MAE of every method in one case; bold the lowest."""
    mae = {name: metrics["MAE"] for name, metrics in one["rows"].items()}
    naive = mae["Naive"]
    seasonal = min(v for k, v in mae.items() if k.startswith("Seasonal"))
    linear, model = mae["Linear autoregression"], mae["refold gru"]
    best = min(naive, seasonal, linear, model)
    cells = [_cell(v, v == best) for v in (naive, seasonal, linear, model)]
    shares = [f"{model / other - 1:+.0%}" for other in (min(naive, seasonal), linear)]
    return [one["name"], f"{one['points']:,}", f"{one['horizon']} {one['what']}", *cells, *shares]


def _cell(value: float, best: bool) -> str:
    text = f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
    return f"**{text}**" if best else text


HEAD = (
    "series",
    "points",
    "horizon",
    "Naive",
    "seasonal naive, best",
    "linear autoregression",
    "refold gru",
    "against the best naive",
    "against the autoregression",
)


def main(folder: Path | None = None) -> None:
    """Measure, print, and write what is complete."""
    cases = [case for case in CASES if folder or not case.file.endswith(".csv")]
    results = []
    for case in cases:
        results.append(measure(case, folder))
        print(f"{case.name}: {results[-1]['verdict'][0]} ({results[-1]['seconds']} s)", flush=True)
    rows = [row(one) for one in results]
    print("\n" + table(HEAD, rows))
    if folder is None:
        return
    save("forecast_examples", {"settings": asdict(Settings()), **machine(), "results": results})
    into_docs("docs/forecast.md", "forecast_examples", table(HEAD, rows))
    # The front page has the figures without their shares and points.
    short = [0, 2, 3, 4, 5, 6]
    front = [[cells[i] for i in short] for cells in rows]
    into_docs("README.md", "forecast_examples", table([HEAD[i] for i in short], front))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
