"""Do a level and seasons that are learned forecast better than a window's own level? On M4 Hourly and Weekly.

    python -m bench.smoothing FOLDER [--only Hourly] [--members 1] [--steps 250]

FOLDER holds the competition's training files; the last horizon of every training series is held out, and no test file
is opened. Both scalings are trained with the same settings but for that one: so many networks, so many steps of the
optimiser. Scores as in bench/m4.py. The figures go into bench/results/smoothing.json, beside those of the other set,
and into docs/forecast.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.m4 import CASES, Case, by_name, held_out, score, wide, write_long
from bench.record import RESULTS, into_docs, machine, save, table
from refold.forecast import Settings, fit_panel, from_table, predict_panel, read_table
from refold.forecast.naive2 import naive2
from refold.forecast.settings import Scaling

SCALINGS: tuple[Scaling, ...] = ("window", "smoothing")
HEAD = ("set", "`scaling`", "networks", "steps", "sMAPE", "MASE", "OWA", "processor seconds")
SETS = [case for case in CASES if case.name in ("Hourly", "Weekly")]


def measure(case: Case, folder: Path, settings: Settings) -> dict:
    """One set with one scaling: the scores on the last horizon of the training series."""
    train, test = held_out(wide(folder / f"{case.name}-train.csv"), case.horizon)
    yardstick = {name: naive2(y, case.horizon, case.period) for name, y in train.items()}
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / f"{case.name}.csv"
        write_long(train, case.every, path)
        panel = from_table(read_table(path))
    worked = time.process_time()
    fitted = fit_panel(panel, case.horizon, settings)
    forecasts = by_name(panel, predict_panel(fitted))
    seconds = time.process_time() - worked
    found = score(train, test, forecasts, yardstick, case.period)
    return {"name": case.name, **asdict(settings), **found, "processor_seconds": seconds}


def row(found: dict) -> list[str]:
    """One line of the table."""
    scores = [f"{found['sMAPE']:.2f}", f"{found['MASE']:.3f}", f"{found['OWA']:.3f}"]
    asked = [found["name"], found["scaling"], str(found["members"]), str(found["steps"])]
    return [*asked, *scores, f"{found['processor_seconds']:.0f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what is complete."""
    parser = argparse.ArgumentParser(prog="python -m bench.smoothing")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=[case.name for case in SETS])
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--steps", type=int, default=250)
    given = parser.parse_args(arguments)
    results = []
    for case in SETS:
        for scaling in SCALINGS if given.only in (None, case.name) else ():
            settings = Settings(scaling=scaling, members=given.members, steps=given.steps)
            results.append(measure(case, given.folder, settings))
            print(table(HEAD, [row(results[-1])]), flush=True)
    path = RESULTS / "smoothing.json"
    known = json.loads(path.read_text())["results"] if path.exists() else []
    done = {one["name"] for one in results}
    merged = [*(one for one in known if one["name"] not in done), *results]
    merged.sort(key=lambda one: [case.name for case in SETS].index(one["name"]))
    save("smoothing", {**machine(), "results": merged})
    into_docs("docs/forecast.md", "smoothing", table(HEAD, [row(one) for one in merged]))


if __name__ == "__main__":
    main()
