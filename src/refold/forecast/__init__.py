"""Forecasting: from a table of series to the next values of each.

read_table -> Panel -> evaluate (beside naive forecasts) / fit_panel -> predict_panel -> frame.
"""

from .anomalies import Anomalies, find_anomalies
from .backtest import Backtest, backtest_panel, check_windows
from .evaluate import Evaluation, Ranking, Row, compare, evaluate, interval_names, recalibrated
from .forecaster import (
    Fitted,
    check_length,
    fit_panel,
    on_panel,
    predict_panel,
)
from .frames import Backtested, Forecaster
from .importance import Importance, find_importance
from .intervals import Band, Calibration, calibrate, check_levels
from .panel import Panel, Series, from_frame, from_table
from .reliability import Reliability, reliability
from .saved import Saved, read_folder, write_folder
from .settings import Settings
from .table import Columns, Table, read_table
from .tables import (
    anomalies_csv,
    anomalies_frame,
    backtest_csv,
    backtest_frame,
    forecast_csv,
    forecast_frame,
    importance_frame,
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
    "Evaluation",
    "Fitted",
    "Forecaster",
    "Importance",
    "Panel",
    "Ranking",
    "Reliability",
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
    "on_panel",
    "predict_panel",
    "read_folder",
    "read_table",
    "recalibrated",
    "reliability",
    "trials_frame",
    "tune_panel",
    "verdict",
    "write_folder",
]
