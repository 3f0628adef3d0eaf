"""Forecasting: from a table of series to the next values of each.

read_table -> Panel -> evaluate (beside naive forecasts) / fit_panel -> predict_panel -> frame.
"""

from .anomalies import Anomalies, find_anomalies
from .answers import Backtested
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
from .frames import Forecaster
from .importance import Importance, find_importance
from .intervals import Band, Calibration, calibrate, check_levels
from .panel import Panel, Series, from_frame, from_table, with_future_frame, with_future_table
from .predicted import Predicted, interval_note, needs_calibration, predicted
from .reliability import Reliability, reliability
from .resample import Resample
from .saved import Saved, read_folder, write_folder
from .settings import Settings
from .simulate import predicted_longer, simulate_panel
from .table import Columns, Table, read_future, read_table
from .tables import (
    anomalies_csv,
    anomalies_frame,
    backtest_csv,
    backtest_frame,
    forecast_csv,
    forecast_frame,
    importance_frame,
    paths_csv,
    paths_frame,
    trials_frame,
)
from .tuning import Trial, Tuned, tune_panel
from .update import appended
from .verdict import verdict

__all__ = [
    "Anomalies",
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
    "Importance",
    "Panel",
    "Predicted",
    "Ranking",
    "Reliability",
    "Resample",
    "Row",
    "Saved",
    "Series",
    "Settings",
    "Table",
    "Trial",
    "Tuned",
    "anomalies_csv",
    "anomalies_frame",
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
    "find_anomalies",
    "find_importance",
    "fit_panel",
    "forecast_csv",
    "forecast_frame",
    "from_frame",
    "from_table",
    "importance_frame",
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
    "reliability",
    "simulate_panel",
    "trials_frame",
    "tune_panel",
    "verdict",
    "with_future_frame",
    "with_future_table",
    "write_folder",
]
