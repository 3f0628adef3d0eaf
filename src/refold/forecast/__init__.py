"""Forecasting: from a table of series to the next values of each.

read_table -> Panel -> evaluate (beside naive forecasts) / fit_panel -> predict_panel -> frame.
"""

from .evaluate import Evaluation, Row, evaluate, verdict
from .forecaster import (
    Fitted,
    Forecaster,
    check_length,
    fit_panel,
    forecast_csv,
    forecast_frame,
    predict_panel,
)
from .panel import Panel, Series, from_frame, from_table
from .settings import Settings
from .table import Columns, Table, read_table

__all__ = [
    "Columns",
    "Evaluation",
    "Fitted",
    "Forecaster",
    "Panel",
    "Row",
    "Series",
    "Settings",
    "Table",
    "check_length",
    "evaluate",
    "fit_panel",
    "forecast_csv",
    "forecast_frame",
    "from_frame",
    "from_table",
    "predict_panel",
    "read_table",
    "verdict",
]
