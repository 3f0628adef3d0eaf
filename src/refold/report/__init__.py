"""Reports: figures and a page that needs nothing but itself. The only room that draws."""

from .figures import (
    backtest_figure,
    errors_figure,
    forecast_figure,
    is_own_png,
    require_plots,
    to_png,
    to_svg,
)
from .page import backtest_page, cell_text, forecast_page
from .verbs import (
    Shown,
    anomalies_figure,
    anomalies_table,
    importance_figure,
    importance_table,
    plain_page,
    reliability_figure,
    trials_table,
    tuning_figure,
)

__all__ = [
    "Shown",
    "anomalies_figure",
    "anomalies_table",
    "backtest_figure",
    "backtest_page",
    "cell_text",
    "errors_figure",
    "forecast_figure",
    "forecast_page",
    "importance_figure",
    "importance_table",
    "is_own_png",
    "plain_page",
    "reliability_figure",
    "require_plots",
    "to_png",
    "to_svg",
    "trials_table",
    "tuning_figure",
]
