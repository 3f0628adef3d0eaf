"""How fast is the forecaster beside neuralforecast's LSTM, and how much memory does it take?

    python -m bench.forecast_speed [--threads 1 2]

200 daily series of 400 points, horizon 14. Both train one LSTM layer of the same width for the same number of gradient
steps, and see the same number of windows in each: those of neuralforecast are drawn at random, 42 steps long (three
horizons, its default), each run through from a zero state; those of refold are the origins that are counted in its
chains. Both train with Adam at one rate and are otherwise left at their defaults, but for logs and progress, which are
off. What is timed is the whole call of fit, from a frame of polars on, after a first short one.

Each figure is the median of runs in processes of their own, refold's and neuralforecast's in turns; peak memory is that
of the process, with everything that was imported. Forecasts are of one series, from a call of predict to a frame.
"""

from __future__ import annotations

import datetime as dt
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl

from bench.measure import CLOCK, LOSES, Options, at_most, marked, on_cores, options
from bench.record import into_docs, machine, save, table

SERIES, POINTS, HORIZON = 200, 400, 14
HIDDEN, STEPS, RATE = (64, 128), 20, 3e-3
RUNS, CALLS = 3, 15
HISTORIES = (400, 10_000, 400_000)
REFOLD, PEER = "refold", "neuralforecast"
LEAST, MOST_PREDICT, MOST_UPDATE, MOST_IMPORT = 8.0, 5.0, 1.0, 2.5
IMPORTS = {
    REFOLD: "import refold; refold.Forecaster",
    PEER: "from neuralforecast import NeuralForecast; from neuralforecast.models import LSTM",
}


def panel(series: int, points: int) -> pl.DataFrame:
    """Positive daily series: a week, a level that wanders, noise."""
    chance, days = np.random.default_rng(0), np.arange(points)
    first = dt.datetime(1900, 1, 1)
    stamps = pl.datetime_range(first, first + dt.timedelta(days=points - 1), "1d", eager=True)
    parts = []
    for i in range(series):
        level = chance.normal(scale=0.01, size=points).cumsum() + chance.normal()
        week = 0.2 * np.sin(2 * np.pi * days / 7 + i)
        y = np.exp(level + week + chance.normal(scale=0.05, size=points))
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * points, "ds": stamps, "y": y}))
    return pl.concat(parts)


# What is run, in a process of its own


def refold_model(hidden: int, steps: int) -> Any:
    import refold as rf
    from refold.forecast import Settings

    chosen = Settings(cell="lstm", hidden=hidden, members=1, steps=steps, rate=RATE)
    return rf.Forecaster(horizon=HORIZON, settings=chosen)


def windows(hidden: int) -> tuple[int, int]:
    """The chains and the windows in one of refold's gradient steps."""
    from refold.forecast import Settings
    from refold.forecast.course import course

    way = course((7,), HORIZON, [POINTS] * SERIES, Settings(hidden=hidden, members=1))
    return way.batch, way.batch * way.counted


def peer_model(hidden: int, steps: int, chains: int, seen: int) -> Any:
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    neuralforecast, models = import_module(PEER), import_module(f"{PEER}.models")

    quiet = ("enable_progress_bar", "enable_checkpointing", "enable_model_summary", "logger")
    lstm = models.LSTM(
        h=HORIZON,
        encoder_hidden_size=hidden,
        encoder_n_layers=1,
        decoder_hidden_size=hidden,
        max_steps=steps,
        learning_rate=RATE,
        batch_size=chains,
        windows_batch_size=seen,
        accelerator="cpu",
        **dict.fromkeys(quiet, False),
    )
    return neuralforecast.NeuralForecast(models=[lstm], freq="1d")


def training(who: str, hidden: int, dry: bool) -> dict[str, float]:
    """One call of fit, after a short one."""
    frame = panel(10 if dry else SERIES, 100 if dry else POINTS)
    chains, seen = (2, 8) if dry else windows(hidden)
    models = [
        refold_model(hidden, steps) if who == REFOLD else peer_model(hidden, steps, chains, seen)
        for steps in (2, 2 if dry else STEPS)
    ]
    models[0].fit(frame)
    began = CLOCK[0]()
    models[1].fit(frame)
    return {"seconds": CLOCK[0]() - began, "megabytes": peak(), "windows": seen}


def forecasting(who: str, hidden: int, dry: bool) -> dict[str, float]:
    """Milliseconds of a forecast of one series, and of one that takes in a newer row before."""
    calls = 2 if dry else CALLS
    whole = panel(1, POINTS + 2 * calls + 2)
    known, rows = whole[:POINTS], iter(range(POINTS, len(whole)))
    if who == PEER:
        model = peer_model(hidden, 2, *windows(hidden))
        model.fit(known)
        found = {"predict": median(model.predict, calls)}
        found["further"] = median(lambda: model.predict(whole[: next(rows) + 1]), calls)
        return {**found, "megabytes": peak()}
    # As it comes, with three networks; and with one, as the peer has.
    model, one = refold_model(hidden, 2), refold_model(hidden, 2)
    from dataclasses import replace

    model.settings = replace(model.settings, members=3)
    model.fit(known)
    found = {"predict": median(model.predict, calls), "one": median(one.fit(known).predict, calls)}

    def further() -> object:
        return model.update(whole[next(rows) :][:1]).predict()

    return {**found, "further": median(further, calls), "megabytes": peak()}


def updating(points: int, dry: bool) -> dict[str, float]:
    """Milliseconds of an update with one row, after a history of so many points."""
    calls = 2 if dry else 10 * CALLS
    whole = panel(1, points + calls + 1)
    model = refold_model(32, 2).fit(whole[:points])
    rows = iter([whole[i : i + 1] for i in range(points, len(whole))])
    return {"update": median(lambda: model.update(next(rows)), calls)}


def median(call: Callable[[], object], calls: int) -> float:
    call()
    taken = []
    for _ in range(calls):
        began = CLOCK[0]()
        call()
        taken.append(CLOCK[0]() - began)
    return 1000 * statistics.median(taken)


def peak() -> float:
    """The most megabytes this process has had in memory."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held / (1024**2 if sys.platform == "darwin" else 1024)


def part(asked: Options) -> dict[str, float]:
    """One run of what the main process asked for: what, who, a number, threads."""
    what, who, number, threads = asked.part.split()
    on_cores(int(threads))
    if what == "update":
        return updating(int(number), asked.dry)
    return (training if what == "fit" else forecasting)(who, int(number), asked.dry)


# What is told


def importing() -> dict[str, float]:
    """Seconds until the forecaster is there, in a process of its own, its start included."""
    taken: dict[str, list[float]] = {who: [] for who in IMPORTS}
    for _ in range(RUNS):
        for who, code in IMPORTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
            taken[who].append(time.perf_counter() - began)
    return {who: statistics.median(each) for who, each in taken.items()}


def beside(asked: Options, what: str, hidden: int, threads: int) -> dict[str, dict[str, float]]:
    """The medians of both, run in turns."""
    runs: dict[str, list[dict[str, float]]] = {REFOLD: [], PEER: []}
    for _ in range(1 if asked.dry else RUNS):
        for who, found in runs.items():
            found.append(asked.child("bench.forecast_speed", f"{what} {who} {hidden} {threads}"))
    return {
        who: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for who, found in runs.items()
    }


HEAD = ("", "refold", PEER, "refold is", "aim")


def compared(found: Mapping[str, Any]) -> list[list[str]]:
    """The rows that have both, for one number of threads."""
    threads, rows = found["threads"], []
    on = "1 thread" if threads == 1 else f"{threads} threads"
    for hidden, both in found["fit"].items():
        mine, theirs = both[REFOLD], both[PEER]
        ratio = theirs["seconds"] / mine["seconds"]
        name = f"{STEPS} steps of {mine['windows']:,.0f} windows, {hidden} units, {on}"
        cells = [f"{one['seconds']:.2f} s" for one in (mine, theirs)]
        rows.append([name, *cells, f"{marked(ratio, LEAST, 1)} times faster", f"{LEAST:.0f} times"])
        memory = [one["megabytes"] for one in (mine, theirs)]
        miss = "" if memory[0] <= memory[1] else f" {LOSES}"
        cells = [f"{one:,.0f} MB" for one in memory]
        rows.append([f"its peak memory, {on}", *cells, f"{memory[0] / memory[1]:.2f}{miss}", "1"])
    mine, theirs = found["predict"][REFOLD], found["predict"][PEER]
    for name, key, own in (
        (f"forecast of one series, 3 networks, {on}", "predict", "predict"),
        (f"the same, 1 network, {on}", "predict", "one"),
        (f"one more row, then the forecast, 3 networks, {on}", "further", "further"),
    ):
        aim = f"{MOST_PREDICT:.0f} ms" if own != "further" else ""
        cells = [f"{at_most(mine[own], MOST_PREDICT)} ms", f"{theirs[key]:.0f} ms"]
        rows.append([name, *cells, f"{theirs[key] / mine[own]:.0f} times faster", aim])
    return rows


def alone(found: Mapping[str, Any]) -> list[list[str]]:
    """The rows that have nothing beside them, and the start."""
    rows = [
        [
            f"update with one row after {points:,} points",
            f"{at_most(ms, MOST_UPDATE)} ms",
            "",
            "",
            "1 ms",
        ]
        for points, ms in found["update"].items()
    ]
    seconds = found["import"]
    cells = [f"{at_most(seconds[REFOLD], MOST_IMPORT)} s", f"{seconds[PEER]:.2f} s"]
    ratio = f"{seconds[PEER] / seconds[REFOLD]:.1f} times faster"
    return [*rows, ["a process that imports it", *cells, ratio, f"{MOST_IMPORT} s"]]


def main() -> None:
    """Measure, print, and write what is complete."""
    import json

    asked = options(__doc__, 0.0)
    if asked.part:
        print(json.dumps(part(asked)))
        return
    results, rows = [], []
    for threads in asked.threads:
        fits = {hidden: beside(asked, "fit", hidden, threads) for hidden in HIDDEN}
        found = {"threads": threads, "fit": fits, "predict": beside(asked, "predict", 64, threads)}
        results.append(found)
        rows += compared(found)
        print(table(HEAD, rows), flush=True)
    single = {
        "update": {
            points: asked.child("bench.forecast_speed", f"update {REFOLD} {points} 1")["update"]
            for points in (HISTORIES[:1] if asked.dry else HISTORIES)
        },
        "import": importing(),
    }
    rows += alone(single)
    print(table(HEAD, rows[-len(alone(single)) :]))
    if asked.whole:
        about = {**machine(), PEER: version(PEER)}
        save("forecast_speed", {**about, "results": results, **single})
        into_docs("docs/forecast.md", "forecast_speed", table(HEAD, rows))


if __name__ == "__main__":
    main()
