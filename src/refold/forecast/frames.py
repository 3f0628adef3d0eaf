"""The forecaster as data frames meet it: a long table in, the next values of every series out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refold.errors import DataError
from refold.ir.trace import Cell

from .anomalies import find_anomalies
from .answers import Backtested, TunedFrames
from .asked import check_asked
from .backtest import backtest_panel
from .covariates import NO_COVARIATES, Covariates, of_columns
from .distribution import refuse_uncounted
from .forecaster import Fitted, fit_panel, further, on_panel, refuse_outside
from .framed import named
from .importance import find_importance
from .intervals import Calibration, Sides, calibrate, check_levels
from .panel import Panel, from_frame, with_future_frame
from .predicted import needs_calibration
from .resample import Resample
from .rows import plain_rows
from .saved import Saved, read_folder, write_folder
from .settings import Settings
from .simulate import check_paths, predicted_longer, simulate_panel
from .table import PLAIN, Columns
from .tables import (
    Kind,
    anomalies_frame,
    backtest_frame,
    forecast_frame,
    horizon_frame,
    importance_frame,
    metrics_frame,
    paths_frame,
    trials_frame,
)
from .tuning import tune_panel
from .update import appended


class Forecaster:
    """A recurrent network that learns from all series of a table and forecasts each.

    cell: any cell, or the name of one in the zoo ("gru", "lstm", ...). horizon: how many steps ahead. freq: a
    pandas offset alias; None reads it off the stamps. seasons: in steps; None takes those of the
    calendar. covariates: names of columns beside the target. resample: a step to bring irregular
    stamps to, as "D" or Resample("D", "sum"). Everything else is in `Settings`.

    Every verb that takes a frame takes the names of its columns: id=, time=, target=. What is not named
    is called as in the frame that was fitted to, and there unique_id, ds and y. Answers have the columns
    that were given under their own names; those that are added keep theirs: y_hat, cutoff, score ...

    Errors  DataError for a table that cannot be forecast, naming series, stamp and row.

    Example
        >>> model = Forecaster("gru", horizon=12).fit(frame)  # columns unique_id, ds, y
        >>> model.fit(frame, id="shop", time="day", target="sales")
        >>> model.predict()                                   # columns shop, day, y_hat
        >>> model.predict(level=[80, 95])                     # and y_hat-lo-80, y_hat-hi-80, ...
        >>> model.backtest(windows=3).metrics                 # beside the naive forecasts
        >>> model.save("model")
        >>> Forecaster.load("model").update(newer).predict()
    """

    def __init__(
        self,
        cell: str | Cell | None = None,
        *,
        horizon: int,
        freq: str | None = None,
        seasons: Sequence[int] | None = None,
        seed: int | None = None,
        settings: Settings | None = None,
        covariates: Covariates = NO_COVARIATES,
        resample: str | Resample | None = None,
    ) -> None:
        check_asked(horizon, freq, seasons)
        chosen = settings or Settings()
        chosen = replace(chosen, cell=cell) if cell is not None else chosen
        self.settings = replace(chosen, seed=seed) if seed is not None else chosen
        self.horizon = horizon
        self.freq = freq
        self.seasons = seasons
        self.covariates = covariates
        self.resample = Resample(resample) if isinstance(resample, str) else resample
        self._fitted: Fitted | None = None
        self._panel: Panel | None = None
        self.calibration: Calibration | None = None
        self._kind = Kind()

    @property
    def fitted(self) -> Fitted | None:
        """The networks before the newest rows; None before `fit`.

        What they look back on is made when it is asked for: rows come one by one.
        """
        if self._fitted is not None and self._panel is not self._fitted.panel:
            self._fitted = further(self._fitted, self._known)
        return self._fitted

    @fitted.setter
    def fitted(self, fitted: Fitted) -> None:
        self._fitted, self._panel = fitted, fitted.panel

    @property
    def _known(self) -> Panel:
        assert self._panel is not None
        return self._panel

    def fit(
        self,
        frame: Any,
        *,
        id: str | None = None,
        time: str | None = None,
        target: str | None = None,
    ) -> Forecaster:
        """Learn from a long frame (pandas, polars or Arrow) with unique_id, ds and y, or columns of these names."""
        columns = named(PLAIN, id, time, target)
        panel = self._read(frame, columns)
        self.fitted = fit_panel(panel, self.horizon, self.settings)
        self.calibration = None
        self._kind = Kind.of(frame, panel, columns)
        return self

    def calibrate(
        self,
        *,
        origins: int | None = None,
        sides: Sides = "both",
        levels: Sequence[float] = (),
    ) -> Forecaster:
        """Measure how far forecasts are off, for intervals: one more training, without the last part.

        See `refold.forecast.intervals` for what intervals guarantee, for origins and sides. levels:
        those that will be asked for.

        Errors  DataError for series that are too short; for those levels, before the training.
        """
        panel = self._used("calibrate").panel
        self.calibration = calibrate(
            panel, self.horizon, self.settings, origins=origins, sides=sides, levels=levels
        )
        return self

    def predict(
        self,
        level: float | Iterable[float] | None = None,
        *,
        horizon: int | None = None,
        future: Any = None,
    ) -> Any:
        """The next `horizon` values of every series, in the kind of frame that was given.

        level: percents, such as [80, 95], each of which adds the bounds of an interval. Without a
        head, the first time calibrates, which takes about as long as `fit`. horizon: None is the
        trained one; steps beyond it are medians of sampled paths.

        future: unique_id, ds (called as in the table that was fitted to) and the covariates that are
        known ahead, where that table had no rows behind its end; this forecast alone takes them.

        Errors  DataError for a level that the series are too short for, and for a covariate that is not
        known as far ahead.
        """
        fitted = self._ahead("predict", future)
        levels = () if level is None else check_levels(level)
        steps = self.horizon if horizon is None else horizon
        check_paths(1, steps)
        if (levels or steps > self.horizon) and self._unmeasured:
            self.calibrate(levels=levels)
        seed = self.settings.seed
        found = predicted_longer(fitted, steps, self.calibration, levels, seed)
        return self._kind.of_frame(forecast_frame(fitted.panel, found.values, found.bands))

    def simulate(
        self, paths: int = 100, *, horizon: int | None = None, seed: int = 0, future: Any = None
    ) -> Any:
        """Sampled paths of what may come: unique_id, ds, path, y_hat, paths numbered from 1.

        horizon: None is the trained one; beyond it, what was sampled is fed back. Without a head, the
        first time calibrates. future: as in `predict`. See `refold.forecast.simulate`.

        Errors  DataError for numbers that cannot be, for series too short to calibrate, and for a
        covariate that is not known as far ahead.
        """
        fitted = self._ahead("simulate", future)
        check_paths(paths, self.horizon if horizon is None else horizon, seed)
        if self._unmeasured:
            self.calibrate()
        found = simulate_panel(fitted, paths, horizon, seed, self.calibration)
        return self._kind.of_frame(paths_frame(fitted.panel, found))

    @property
    def _unmeasured(self) -> bool:
        """Would intervals have nothing to be made of?"""
        return self.calibration is None and needs_calibration(self.settings)

    def backtest(
        self,
        frame: Any = None,
        *,
        windows: int = 5,
        step: int | None = None,
        refit: bool = False,
        level: float | Iterable[float] | None = None,
        id: str | None = None,
        time: str | None = None,
        target: str | None = None,
    ) -> Backtested:
        """Forecast the end of every series from rolling origins, beside the naive forecasts.

        frame: None takes what the forecaster was fitted to. What was fitted stays as it is: networks
        that have seen the end would be no test, so others are trained without it, once, or with
        `refit` for every origin.

        Errors  DataError for a series that is too short for so many windows.
        """
        kind, panel = self._of(frame, "backtest", id, time, target)
        levels = () if level is None else check_levels(level)
        found = backtest_panel(
            panel,
            self.horizon,
            self.settings,
            windows=windows,
            step=step,
            refit=refit,
            levels=levels,
        )
        frame, metrics = backtest_frame(found), metrics_frame(found, found.names)
        return Backtested(
            kind.of_frame(frame),
            kind.of_frame(metrics),
            kind.of_frame(horizon_frame(found)),
            found,
        )

    def anomalies(
        self,
        frame: Any = None,
        *,
        level: float | None = None,
        last: int | None = None,
        ahead: int = 1,
        id: str | None = None,
        time: str | None = None,
        target: str | None = None,
    ) -> Any:
        """The last values of every series, and which of them its past had not led to expect.

        Columns unique_id, ds, y, y_hat, y_hat-lo-99, y_hat-hi-99, score (in halves of the interval),
        p_value, is_anomaly. `last` values are judged, a third of the shortest series if None, each as
        forecast `ahead` steps before, by networks that have not seen them: others than those that
        were fitted. See `refold.forecast.anomalies` for what the level guarantees.

        Errors  DataError for series that are too short, or for this level.
        """
        kind, panel = self._of(frame, "anomalies", id, time, target)
        found = find_anomalies(
            panel, self.horizon, self.settings, level=level, last=last, ahead=ahead
        )
        return kind.of_frame(anomalies_frame(found))

    def explain(
        self,
        frame: Any = None,
        *,
        origins: int | None = None,
        repeats: int = 10,
        id: str | None = None,
        time: str | None = None,
        target: str | None = None,
    ) -> Any:
        """What forecasts hang on: the rise of their error when a group of inputs is another origin's.

        Columns inputs (recent values, each season, ...), rise and deviation over `repeats` permutations
        (in naive errors, as MASE), share (of the error). Measured from `origins` origins at the end,
        by networks that have not seen it: others than those that were fitted. See
        `refold.forecast.importance`.

        Errors  DataError for series that are too short.
        """
        kind, panel = self._of(frame, "explain", id, time, target)
        found = find_importance(
            panel, self.horizon, self.settings, origins=origins, repeats=repeats
        )
        return kind.of_frame(importance_frame(found))

    def tune(
        self,
        frame: Any = None,
        *,
        trials: int = 20,
        seconds: float | None = None,
        windows: int = 3,
        held_out: int | None = None,
        study: str | Path | None = None,
        id: str | None = None,
        time: str | None = None,
        target: str | None = None,
    ) -> TunedFrames:
        """Look for settings, and take the best ones: call `fit` again to use them. Needs Optuna.

        Each of `trials` trains at `windows` origins before the last `held_out` values (a horizon, if
        None), which none of them sees: a backtest with one window is measured there. After `seconds`
        no new trial begins. study: a file from which the search goes on another time, where `trials`
        counts those before. See `refold.forecast.tuning`.

        Errors  RefoldError where Optuna is not installed; DataError for series that are too short,
        and for a study of other series or settings.
        """
        kind, panel = self._of(frame, "tune", id, time, target)
        found = tune_panel(
            panel,
            self.horizon,
            self.settings,
            trials=trials,
            seconds=seconds,
            windows=windows,
            held_out=held_out,
            study=None if study is None else Path(study),
        )
        self.settings, self._fitted, self._panel = found.settings, None, None
        self.calibration = None
        return TunedFrames(kind.of_frame(trials_frame(found)), found.settings, found)

    def update(
        self,
        frame: Any,
        *,
        id: str | None = None,
        time: str | None = None,
        target: str | None = None,
    ) -> Forecaster:
        """Go on from newer rows: the next forecast starts after them. Nothing is trained.

        The rows of a series follow its last one; rows that are known already are passed over where
        they say the same. A new series is taken where it is as long as one to be trained on.

        Errors  DataError for a gap, for a known row with another value, for a new series that is
        too short; nothing has changed then.
        """
        fitted, known = self._trained("update"), self._known
        columns = named(self._kind.columns, id, time, target)
        newer = plain_rows(frame, known, columns) or from_frame(frame, like=known, columns=columns)
        panel = appended(known, newer, self.horizon)
        refuse_outside(newer, fitted.data.transform)
        refuse_uncounted(newer, fitted.settings.head)
        self._panel = panel
        return self

    def save(self, folder: str | Path) -> None:
        """Write all that `predict` and `update` need into a folder: safetensors and JSON, no pickle.

        What was there of an earlier model is replaced, all of it or nothing.

        Errors  CheckpointError where nothing can be written.
        """
        fitted = self._used("save")
        write_folder(folder, Saved(fitted, self.horizon, self.calibration, self._kind))

    @staticmethod
    def load(folder: str | Path) -> Forecaster:
        """The forecaster that was saved there. Runs no code from the folder.

        Errors  CheckpointError for a folder without a model, a damaged file, one of a later version.
        """
        saved = read_folder(folder)
        panel = saved.fitted.panel
        model = Forecaster(
            horizon=saved.horizon,
            freq=panel.frequency.alias,
            seasons=panel.seasons,
            settings=saved.fitted.settings,
            covariates=of_columns(panel.columns),
            resample=panel.resample,
        )
        model.fitted, model.calibration, model._kind = saved.fitted, saved.calibration, saved.kind
        return model

    def _read(self, frame: Any, columns: Columns) -> Panel:
        how = {"covariates": self.covariates, "resample": self.resample, "columns": columns}
        apart = self.settings.over == "times"
        return from_frame(frame, self.freq, self.seasons, irregular=apart, **how)

    def _of(self, frame: Any, verb: str, *names: str | None) -> tuple[Kind, Panel]:
        """A frame as a panel, and its kind; None is what the forecaster was fitted to."""
        if frame is None:
            return self._kind, self._used(verb, "or pass a frame").panel
        columns = named(self._kind.columns, *names)
        panel = self._read(frame, columns)
        return Kind.of(frame, panel, columns), panel

    def _ahead(self, verb: str, future: Any) -> Fitted:
        """The networks, with what a frame says of the future where one is given."""
        fitted = self._used(verb)
        if future is None:
            return fitted
        return on_panel(fitted, with_future_frame(fitted.panel, future, self._kind.columns))

    def _used(self, verb: str, other: str = "") -> Fitted:
        return self.fitted or self._trained(verb, other)

    def _trained(self, verb: str, other: str = "") -> Fitted:
        if self._fitted is None:
            fact = "this forecaster has not been fitted"
            remedy = "call fit(frame) first" + f", {other}" * bool(other)
            raise DataError(fact, remedy, f"Forecaster.{verb}")
        return self._fitted
