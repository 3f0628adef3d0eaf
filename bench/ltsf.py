"""How far off is the forecaster over long horizons, on ETTh1 by the LTSF protocol?

    python -m bench.ltsf FOLDER [--validation] [--only 96] [--seeds 0,1,2]

FOLDER holds ETTh1.csv. Hours 0 to 8640 train, the 2,880 after them validate, the next 2,880 test; windows of the last
two begin one look-back of 96 earlier. Columns are standardised with their mean and deviation over the training hours;
MSE and MAE are means over all windows one hour apart, all 7 columns and all steps. Networks see each column alone, with
a vector of its own.

Every setting was chosen on the validation hours: --validation shows these, and reads no test hour. A run trains on the
training hours only, in a number of steps fixed beforehand, without looking at any other hour. The figures go into
bench/results/ltsf.json, beside those of earlier runs with the same settings: horizons can be measured one by one. Those
of the test hours go into docs/forecast.md, once all horizons are there.

Source  Zeng et al. 2023 for the protocol; peers' figures from Lin et al. 2023 (SegRNN), whose table has the peers' too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch

from bench.record import RESULTS, into_docs, machine, save, table
from refold.forecast import Fitted, Panel, Settings, fit_panel, from_frame
from refold.forecast.sequences import scaled
from refold.forecast.windows import ahead, windows_of

LOOK_BACK = 96
TRAIN, VALIDATION, TEST = 8640, 11520, 14400
SETTINGS = Settings(over="segments", look_back=LOOK_BACK, members=1)

# MSE of SegRNN, iTransformer and DLinear with this look-back.
PEERS = {
    96: (".368", ".386", ".386"),
    192: (".408", ".441", ".437"),
    336: (".444", ".487", ".481"),
    720: (".446", ".503", ".519"),
}
MEANS = (".4165", ".454", ".456")


def read(path: Path, hours: int) -> Panel:
    """The first hours of the file as a panel of its columns."""
    wide = pl.read_csv(path, n_rows=hours, try_parse_dates=True)
    long = wide.unpivot(index="date", variable_name="unique_id", value_name="y")
    return from_frame(long.rename({"date": "ds"}), "h")


def first(panel: Panel, hours: int) -> Panel:
    """The panel up to an hour."""
    return panel.split(len(panel.series[0]) - hours)[0]


def errors(fitted: Fitted, panel: Panel, begin: int, end: int) -> tuple[float, float]:
    """MSE and MAE over all windows whose futures lie between two hours."""
    values = np.stack([s.values for s in panel.series])
    scales = fitted.data.scales
    z = np.stack([s.apply(y) for s, y in zip(scales, values, strict=True)])
    known = torch.from_numpy(z).float()
    squared, absolute, count = 0.0, 0.0, 0
    for origins in torch.arange(begin - 1, end - fitted.horizon).split(256):
        found = torch.stack(
            [ahead(network, past, origins) for network, past in _parts(fitted, panel)]
        ).mean(dim=0)
        steps = origins[:, None] + torch.arange(1, fitted.horizon + 1)
        away = (found - known[:, steps].transpose(0, 1)).double()
        squared += float(away.square().sum())
        absolute += float(away.abs().sum())
        count += away.numel()
    return squared / count, absolute / count


def _parts(fitted: Fitted, panel: Panel) -> list:
    """The networks, each with what it sees of the panel, in the scales that it was trained with."""
    scales = dict(zip([s.name for s in panel.series], fitted.data.scales, strict=True))
    data = scaled(panel, fitted.horizon, fitted.data.transform, scales)
    pairs = zip(fitted.networks, fitted.courses, strict=True)
    return [(network, windows_of(panel, data, course)) for network, course in pairs]  # type: ignore[arg-type]


def measure(folder: Path, horizon: int, validation: bool, seed: int, settings: Settings) -> dict:
    """One horizon with one seed: the errors, and the seconds of training on one core.

    They are the processor's, not the clock's: what else the machine does is not in them.
    """
    begin, end = (TRAIN, VALIDATION) if validation else (VALIDATION, TEST)
    panel = read(folder / "ETTh1.csv", end)
    began = time.process_time()
    fitted = fit_panel(first(panel, TRAIN), horizon, replace(settings, seed=seed))
    seconds = time.process_time() - began
    squared, absolute = errors(fitted, panel, begin, end)
    course = asdict(fitted.courses[0])  # type: ignore[call-overload]
    rest = {"seconds": round(seconds), "weights": fitted.parameters, "course": course}
    return {"horizon": horizon, "seed": seed, "MSE": squared, "MAE": absolute, **rest}


HEAD = (
    "horizon",
    "MSE",
    "MAE",
    "seeds",
    "deviation",
    "SegRNN",
    "iTransformer",
    "DLinear",
    "minutes of a core",
)


def row(name: str, found: Sequence[dict], peers: Sequence[str]) -> list[str]:
    """The means over what was found; the deviation is that of the MSE over the seeds."""
    squared, absolute, seconds = (
        float(np.mean([one[what] for one in found])) for what in ("MSE", "MAE", "seconds")
    )
    seeds = sorted({one["seed"] for one in found})
    each = [np.mean([one["MSE"] for one in found if one["seed"] == seed]) for seed in seeds]
    spread = f"{np.std(each):.4f}" if len(seeds) > 1 else "-"
    figures = [f"{squared:.4f}", f"{absolute:.4f}", str(len(seeds)), spread]
    return [name, *figures, *peers, f"{seconds / 60:.1f}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write what is complete."""
    parser = argparse.ArgumentParser(prog="python -m bench.ltsf")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--only", type=int, choices=list(PEERS))
    parser.add_argument("--seeds", default="0")
    given = parser.parse_args(arguments)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    name, results = "ltsf_validation" if given.validation else "ltsf", []
    for horizon, peers in PEERS.items():
        if given.only in (None, horizon):
            how = (given.folder, horizon, given.validation)
            found = [measure(*how, seed, SETTINGS) for seed in seeds]
            print(table(HEAD, [row(str(horizon), found, peers)]), flush=True)
            results = kept(name, found)
    if {one["horizon"] for one in results} == set(PEERS):
        rows = [row(str(h), [r for r in results if r["horizon"] == h], PEERS[h]) for h in PEERS]
        rows.append(row("mean", results, MEANS))
        print(table(HEAD, rows))
        if not given.validation:
            into_docs("docs/forecast.md", "ltsf", table(HEAD, rows))


def kept(name: str, found: Sequence[dict]) -> list[dict]:
    """These results, and those of earlier runs with the same settings on the same machine; all are written."""
    about = {**machine(), "settings": asdict(SETTINGS)}
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    same = {k: v for k, v in before.items() if k != "results"} == json.loads(json.dumps(about))
    earlier = before["results"] if same else []
    every = {(one["horizon"], one["seed"]): one for one in (*earlier, *found)}
    results = [every[key] for key in sorted(every)]
    save(name, {**about, "results": results})
    return results


if __name__ == "__main__":
    main()
