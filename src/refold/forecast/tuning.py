"""Settings looked for: trials on rolling origins before a part that no trial sees.

A trial is a choice of settings. It trains networks at each of several origins, on what was known
there, and its error is the mean over them. Which settings are tried next follows from the errors so
far (tree-structured Parzen estimators); a trial that is worse than the median after an origin is
not taken further. The first trial has the settings that were given, so that nothing worse is found
by this measure. It is a measure all the same: the best of many trials owes something to chance, so
what it is worth is to be measured on the held-out part, once.

Source  Bergstra et al. 2011 for the estimators, in Optuna (Akiba et al. 2019), which is loaded here
        only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refold.data.scale import Transform, choose_transform
from refold.errors import DataError

from .backtest import check_windows
from .forecaster import Progress, fit_panel, predict_panel
from .lookback import Lookback
from .metrics import mase, mean_defined, smape
from .origins import rolling
from .panel import Panel
from .settings import Settings
from .study import Study, open_study
from .ways import way_of

if TYPE_CHECKING:
    import optuna

# Both came out level where they were measured; which suits better depends on the series.
_CELLS = ("gru", "lstm")
# Lowest and highest; each is tried by its logarithm. What is given may lie outside: it widens them.
_NUMBERS = {"hidden": (16, 192), "steps": (40, 480)}
# Single values before an origin that a network reads: over origins, and over windows.
_READ = {"recent": (6, 96), "look_back": (16, 512)}
_RATE = (3e-4, 3e-2)
_DROPOUT = (0.0, 0.5)
_MEMBERS = (1, 2, 3, 5)


def names_of(settings: Settings) -> tuple[str, ...]:
    """What a search beginning with these settings tries, in the order of a table."""
    read = "recent" if settings.over == "origins" else "look_back"
    return ("cell", "hidden", read, "steps", "rate", "dropout", "members")


@dataclass(frozen=True, slots=True)
class Trial:
    """What one choice of settings came to.

    error: the mean over its origins, NaN where it failed. state: "complete", "pruned" or "fail".
    origins: how many it was measured from.
    """

    number: int
    settings: Settings
    error: float
    state: str
    origins: int
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """The settings that were found, and all that were tried.

    held_out: values at the end of each series that no trial has seen. by: the error's name.
    """

    trials: tuple[Trial, ...]
    horizon: int
    windows: int
    held_out: int
    by: str
    unit: str
    seconds: float

    @property
    def first(self) -> Trial:
        """That of the settings that were given."""
        return self.trials[0]

    @property
    def best(self) -> Trial:
        """The one with the lowest error, of those that were measured from every origin."""
        return min((t for t in self.trials if t.state == "complete"), key=lambda t: t.error)

    @property
    def settings(self) -> Settings:
        """Those of the best trial."""
        return self.best.settings

    def told(self) -> list[str]:
        """What was found, in sentences; the first is the answer."""
        best, given = self.best, self.first
        if best is given:
            first = (
                f"None of {len(self.trials)} trials was better than the settings that were given: "
            )
            first += f"their {self.by} is {given.error:.4g}."
        else:
            first = f"The best of {len(self.trials)} trials has {self.by} {best.error:.4g}, "
            first += f"{1 - best.error / given.error:.1%} lower than the settings that were given "
            first += f"({given.error:.4g})."
        second = (
            f"Means over {self.windows} origins, {self.horizon} {self.unit} from each; no trial "
        )
        second += f"has seen the last {self.held_out} {self.unit} of a series."
        pruned = sum(t.state == "pruned" for t in self.trials)
        failed = sum(t.state == "fail" for t in self.trials)
        lost = [f"{pruned} were given up before the last origin"] * bool(pruned)
        lost += [f"{failed} failed"] * bool(failed)
        third = f"Of the trials, {' and '.join(lost)}." if lost else ""
        return [sentence for sentence in (first, second, third) if sentence]


def tune_panel(
    panel: Panel,
    horizon: int,
    settings: Settings,
    *,
    trials: int = 20,
    seconds: float | None = None,
    windows: int = 3,
    held_out: int | None = None,
    study: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Try settings at `windows` origins, a horizon apart, before the last `held_out` values.

    trials: how many in all, those of a study that is taken up again among them. seconds: after
    these no new one begins. held_out: None takes a horizon; no trial sees it. study: a file in which
    all trials are kept, and from which the search goes on. progress is told after each trial.

    Errors  RefoldError where Optuna is not installed; DataError for series that are too short, and
    for a study of something else.

    Example
        >>> found = tune_panel(panel, 12, Settings(), trials=10)
        >>> found.settings, found.best.error
    """
    began = time.perf_counter()
    held_out = horizon if held_out is None else held_out
    known = _checked(panel, horizon, trials, seconds, windows, held_out)
    search = _Search(known, horizon, settings, windows)
    about = {"horizon": horizon, "windows": windows, "given": search.told}
    kept = open_study(study, known, about, settings.seed)
    kept.begin_with(search.given)

    def objective(trial: optuna.Trial) -> float:
        if progress:
            progress(min(trial.number, trials), trials)
        return search.error(trial)

    kept.run(objective, trials, seconds)
    found = tuple(_trial(search, each) for each in kept.finished)
    if not any(t.state == "complete" for t in found):
        raise DataError(*_none_complete(kept), "tune")
    took = time.perf_counter() - began
    return Tuned(found, horizon, windows, held_out, search.by, panel.frequency.unit, took)


def _none_complete(kept: Study) -> tuple[str, str]:
    if kept.last_error is not None:
        return f"no trial came to its end; the last one said: {kept.last_error.fact}", (
            kept.last_error.remedy
        )
    return "no trial came to its end", "give more seconds"


def _checked(
    panel: Panel, horizon: int, trials: object, seconds: object, windows: int, held_out: object
) -> Panel:
    """What trials may see. Errors  DataError, see `tune_panel`."""
    for name, value, least in (("trials", trials, 1), ("held_out", held_out, 0)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least:  # type: ignore[operator]
            remedy = f"give a whole number of at least {least}"
            raise DataError(f"{name} is {value!r}", remedy, "tune")
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise DataError(f"seconds is {seconds!r}", "give a number above 0", "tune")
    assert isinstance(held_out, int | np.integer)
    if held_out:
        shortest = min(panel.series, key=len)
        if len(shortest) <= held_out:
            fact = f"series {shortest.name} has {len(shortest)} points, and {held_out} are held out"
            raise DataError(fact, "leave it out, or hold out fewer", "tune")
        panel = panel.split(int(held_out))[0]
    check_windows(panel, horizon, windows, horizon)
    return panel


class _Search:
    """What a trial is: from Optuna's numbers to settings, and to an error."""

    def __init__(self, panel: Panel, horizon: int, settings: Settings, windows: int) -> None:
        self.horizon, self.settings = horizon, settings
        self.origins = list(rolling(panel, horizon, windows, horizon))
        self.transform: Transform = choose_transform([s.values for s in panel.series])
        # The rules' own numbers, so that the first trial is a point of the space like others.
        rules: Any = way_of(settings).course(self.origins[0][0], horizon, settings, 0)
        read = rules.back if isinstance(rules, Lookback) else settings.recent
        self.cells = {settings.cell_name: settings.cell, **{name: name for name in _CELLS}}
        self.cells[settings.cell_name] = settings.cell
        self.names = names_of(settings)
        numbers = (rules.hidden, read, rules.steps, settings.rate, rules.dropout, settings.members)
        values = (settings.cell_name, *numbers)
        self.given: dict[str, Any] = dict(zip(self.names, values, strict=True))
        each = [_errors(k, c, [s.values[-1:] for s in k.series]) for k, c in self.origins[:1]]
        self.by = "MASE" if np.isfinite(each[0][0]) else "sMAPE"

    @property
    def told(self) -> dict[str, Any]:
        """What has to be the same where a study is taken up again."""
        settings = self.settings
        names = (f.name for f in fields(settings) if f.name not in self.given)
        fixed = {name: getattr(settings, name) for name in names}
        dilations = settings.dilations and list(settings.dilations)  # as a file gives them back
        return self.given | fixed | {"dilations": dilations}

    def settings_of(self, params: dict[str, Any]) -> Settings:
        """Those of a trial; the first one's are what was given, with the rules still in place."""
        if params == self.given:
            return self.settings
        return replace(self.settings, **{**params, "cell": self.cells[params["cell"]]})

    def suggested(self, trial: optuna.Trial) -> Settings:
        """What this trial is to try."""
        given = self.given
        params: dict[str, Any] = {"cell": trial.suggest_categorical("cell", sorted(self.cells))}
        for name, limits in (_NUMBERS | _READ).items():
            if name not in given:
                continue
            low, high = min(limits[0], given[name]), max(limits[1], given[name])
            params[name] = trial.suggest_int(name, low, high, log=True)
        low, high = min(_RATE[0], given["rate"]), max(_RATE[1], given["rate"])
        params["rate"] = trial.suggest_float("rate", low, high, log=True)
        high = max(_DROPOUT[1], given["dropout"])
        params["dropout"] = trial.suggest_float("dropout", _DROPOUT[0], high)
        members = sorted({*_MEMBERS, given["members"]})
        params["members"] = trial.suggest_categorical("members", members)
        return self.settings_of(params)

    def error(self, trial: optuna.Trial) -> float:
        """The mean over origins, the earliest first; given up where it is worse than most were."""
        from optuna import TrialPruned

        settings, found = self.suggested(trial), []
        for k, (known, came) in enumerate(self.origins):
            fitted = fit_panel(known, self.horizon, settings, None, self.transform)
            found.append(_errors(known, came, predict_panel(fitted))[self.by == "sMAPE"])
            trial.report(float(np.mean(found)), k)
            if k + 1 < len(self.origins) and trial.should_prune():
                raise TrialPruned
        return float(np.mean(found))


def _errors(known: Panel, came: Panel, forecasts: list[Any]) -> tuple[float, float]:
    """The mean MASE and sMAPE over series."""
    parts = list(zip(known.series, came.series, forecasts, strict=True))
    scaled = [mase(late.observed, f, early.observed, known.season) for early, late, f in parts]
    return mean_defined(scaled), mean_defined([smape(late.observed, f) for _, late, f in parts])


def _trial(search: _Search, each: optuna.trial.FrozenTrial) -> Trial:
    steps = each.intermediate_values
    error = steps[max(steps)] if steps and each.state.name != "FAIL" else float("nan")
    complete = set(search.names) <= each.params.keys()
    settings = search.settings_of(each.params) if complete else search.settings
    took = each.duration.total_seconds() if each.duration else 0.0
    return Trial(each.number, settings, error, each.state.name.lower(), len(steps), took)
