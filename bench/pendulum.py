"""A damped pendulum, forecast 11 and 13 steps on: does the forecaster find that it is linear?

    python -m bench.pendulum

The published set-up: 4,000 samples, 400 a period; the first 2,800 are trained on, and from every window
of 100 samples of the rest, 1,090 of them at horizon 1, the step behind a gap of 10 is forecast. Horizon
3 means the third step behind the gap, which is what its published naive error is of. The forecaster is
the ordinary one with its defaults, for a horizon of gap + 1 and gap + 3 steps; each window is a series
of its own, 100 points long, and nothing before it is seen.

The figures go into bench/results/pendulum.json and docs/forecast.md.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.record import into_docs, machine, save, table
from refold.data.scale import Scale
from refold.data.tasks import pendulum
from refold.forecast import Panel, Series, Settings, fit_panel, from_frame, on_panel, predict_panel
from refold.forecast.baselines import autoregression

Floats = NDArray[np.float64]

TRAINED, HISTORY, GAP, HORIZONS = 2800, 100, 10, (1, 3)
# Mean absolute errors of the network of the source, whose naive rows are reproduced here.
PUBLISHED = {1: 0.007229, 3: 0.006714}


def windows(held: Floats, steps: int) -> tuple[Floats, Floats]:
    """Every window of the held-out part, and the value so many steps behind it."""
    number = len(held) - HISTORY - steps + 1
    starts = np.arange(number)[:, None] + np.arange(HISTORY)
    return held[starts], held[HISTORY + steps - 1 :]


def panel_of(histories: Floats, like: Panel) -> Panel:
    """Each window as a series of its own."""
    stamps = like.series[0].stamps[:HISTORY]
    series = tuple(Series(f"window {i}", stamps, own) for i, own in enumerate(histories))
    return replace(like, series=series)


def measure(horizon: int) -> dict:
    """The mean absolute errors at one horizon, and the seconds of training."""
    y, steps = pendulum().numpy(), GAP + horizon
    histories, came = windows(y[TRAINED:], steps)
    known = from_frame(pl.DataFrame({"ds": np.arange(TRAINED), "y": y[:TRAINED]}))
    began = time.perf_counter()
    fitted = fit_panel(known, steps, Settings())
    seconds = time.perf_counter() - began
    found = np.stack(predict_panel(on_panel(fitted, panel_of(histories, known))))
    linear = np.stack([_linear(own, steps) for own in histories])
    forecasts = {"naive": histories[:, -1], "linear": linear[:, -1], "refold": found[:, -1]}
    errors = {name: float(np.abs(f - came).mean()) for name, f in forecasts.items()}
    return {"horizon": horizon, "windows": len(came), "seconds": round(seconds, 1), **errors}


def _linear(own: Floats, steps: int) -> Floats:
    """The autoregression of one window; of plain values, where a window happens to be positive too."""
    return autoregression(own, (), Scale.fit(own, "none")).predict(own, steps)


NAMES = {"naive": "Naive", "linear": "Linear autoregression", "refold": "refold gru"}


def rows(found: list[dict]) -> list[list[str]]:
    """The table, method by method; the published network among them, as its source has it."""
    published = ["a published RNN", *(f"{PUBLISHED[one['horizon']]:.4f}" for one in found)]
    made = [[name, *(_cell(one[key]) for one in found)] for key, name in NAMES.items()]
    return [made[0], published, *made[1:]]


def _cell(value: float) -> str:
    return f"{value:.7f}" if value > 1e-6 else f"{value:.1e}"


def main() -> None:
    """Measure, print, and write."""
    found = [measure(horizon) for horizon in HORIZONS]
    head = ["mean absolute error", *(f"horizon {one['horizon']}" for one in found)]
    text = table(head, rows(found))
    print(text)
    save("pendulum", {"settings": asdict(Settings()), **machine(), "results": found})
    into_docs("docs/forecast.md", "pendulum", text)


if __name__ == "__main__":
    main()
