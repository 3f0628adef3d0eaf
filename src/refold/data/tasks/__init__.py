"""The memory tasks of the literature, drawn afresh from a seed.

    order = tasks.task("temporal-order")
    data = order.sequences(20, (50, 200), seed=0)

Each task says what it asks, who set it, when a sequence is solved and what a guess without memory
reaches. `systems` has the series of the forecasting tasks by themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from refold.errors import DataError

from . import series, symbols, values
from .record import Task as Task
from .series import last_value as last_value
from .systems import lorenz as lorenz
from .systems import mackey_glass as mackey_glass
from .systems import pendulum as pendulum

_MAKERS: dict[str, Callable[..., Task]] = {
    "adding-1997": values.adding_1997,
    "adding-uniform": values.adding_uniform,
    "copy": symbols.copy,
    "temporal-order": symbols.temporal_order,
    "temporal-order-3-bit": symbols.temporal_order_3_bit,
    "permutation": symbols.permutation,
    "memorisation-5-bit": symbols.memorisation_5_bit,
    "memorisation-20-bit": symbols.memorisation_20_bit,
    "multi-lag-sine": values.multi_lag_sine,
    "mackey-glass": series.mackey_glass_series,
    "lorenz": series.lorenz_series,
    "pendulum": series.pendulum_series,
}


def names() -> list[str]:
    """The names of all tasks."""
    return list(_MAKERS)


def task(name: str, **settings: Any) -> Task:
    """The task of this name; `defaults(name)` lists what can be set.

    Errors  DataError for an unknown name or setting, or a setting that cannot be.

    Example
        >>> task("mackey-glass", tau=30, gap=5).about
        'T steps of Mackey-Glass with delay 30; what is it 6 on?'
    """
    known = defaults(name)
    strange = [setting for setting in settings if setting not in known]
    if strange:
        fact = f"{name} has no setting {strange[0]!r}"
        told = ", ".join(f"{setting}={value!r}" for setting, value in known.items())
        raise DataError(fact, f"its settings are {told or 'none'}", f"task({name!r})")
    return _MAKERS[name](**settings)


def defaults(name: str) -> dict[str, Any]:
    """What can be set in a task, with its defaults.

    Errors  DataError for an unknown name.

    Example
        >>> defaults("temporal-order")
        {'positions': 'paper'}
    """
    if name not in _MAKERS:
        near = get_close_matches(name, _MAKERS, n=3, cutoff=0.4) or list(_MAKERS)
        raise DataError(f"there is no task {name!r}", f"take one of: {', '.join(near)}", "task")
    signature = inspect.signature(_MAKERS[name])
    return {key: parameter.default for key, parameter in signature.parameters.items()}
