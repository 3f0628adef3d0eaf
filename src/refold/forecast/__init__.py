"""Forecasting: from a table of series to the next values of each.

read_table -> Panel -> evaluate (beside naive forecasts) / fit_panel -> predict_panel -> frame.
"""

from .backtest import Backtest, backtest_panel, check_windows
from .beside import check_future
from .covariates import Covariates, of_columns
from .distribution import Distribution
from .evaluate import Evaluation, Ranking, Row, compare, evaluate, interval_names, recalibrated
from .forecaster import (
    Fitted,
    check_length,
    fit_panel,
    on_panel,
    predict_distribution,
    predict_panel,
)
from .frames import Backtested, Forecaster
from .intervals import Band, Calibration, calibrate, check_levels
from .panel import Panel, Series, from_frame, from_table, with_future_frame, with_future_table
from .predicted import Predicted, interval_note, needs_calibration, predicted
from .resample import Resample
from .saved import Saved, read_folder, write_folder
from .settings import Settings
from .simulate import predicted_longer, simulate_panel
from .table import Columns, Table, read_future, read_table
from .tables import (
    backtest_csv,
    backtest_frame,
    forecast_csv,
    forecast_frame,
    paths_csv,
    paths_frame,
)
from .update import appended
from .verdict import verdict

__all__ = [
    "Backtest",
    "Backtested",
    "Band",
    "Calibration",
    "Columns",
    "Covariates",
    "Distribution",
    "Evaluation",
    "Fitted",
    "Forecaster",
    "Panel",
    "Predicted",
    "Ranking",
    "Resample",
    "Row",
    "Saved",
    "Series",
    "Settings",
    "Table",
    "appended",
    "backtest_csv",
    "backtest_frame",
    "backtest_panel",
    "calibrate",
    "check_future",
    "check_length",
    "check_levels",
    "check_windows",
    "compare",
    "evaluate",
    "fit_panel",
    "forecast_csv",
    "forecast_frame",
    "from_frame",
    "from_table",
    "interval_names",
    "interval_note",
    "needs_calibration",
    "of_columns",
    "on_panel",
    "paths_csv",
    "paths_frame",
    "predict_distribution",
    "predict_panel",
    "predicted",
    "predicted_longer",
    "read_folder",
    "read_future",
    "read_table",
    "recalibrated",
    "simulate_panel",
    "verdict",
    "with_future_frame",
    "with_future_table",
    "write_folder",
]
