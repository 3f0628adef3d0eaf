"""refold: write the recurrence once, folded; run it unfolded, at the machine's speed.

    import refold as rf

The names of the equation language come with the import; whatever needs torch is loaded when it is first used, so that
`refold explain` and the like start at once.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

from refold import cells as cells
from refold.errors import CheckpointError as CheckpointError
from refold.errors import DataError as DataError
from refold.errors import EquationError as EquationError
from refold.errors import KernelError as KernelError
from refold.errors import PlanError as PlanError
from refold.errors import RefoldError as RefoldError
from refold.ir.language import *  # noqa: F403
from refold.plan.explain import explain as explain

if _TYPE_CHECKING:
    import refold.data.tasks as tasks  # noqa: F401  (rooms under their own names)
    import refold.forecast as forecast  # noqa: F401
    import refold.nn as nn  # noqa: F401
    from refold.data.batch import Batch as Batch
    from refold.data.batch import Sequences as Sequences
    from refold.dynamics.entry import dynamics as dynamics
    from refold.export.from_onnx import from_onnx as from_onnx
    from refold.forecast import Covariates as Covariates
    from refold.forecast import Forecaster as Forecaster
    from refold.nn.convert import convert as convert
    from refold.nn.initialise import Initialised as Initialised
    from refold.nn.initialise import initialise as initialise
    from refold.nn.layer import Recurrent as Recurrent
    from refold.nn.omega import Omega as Omega
    from refold.nn.regularise import Regularise as Regularise
    from refold.nn.reservoir import EchoState as EchoState
    from refold.nn.stacks import Stack as Stack
    from refold.nn.wiring import Network as Network
    from refold.report.diagram import draw as draw
    from refold.train.clip import Clip as Clip
    from refold.train.errors import Errors as Errors
    from refold.train.errors import network_errors as network_errors
    from refold.train.fit import Run as Run
    from refold.train.fit import fit as fit
    from refold.train.gradients.bptt import Gradients as Gradients
    from refold.train.gradients.bptt import gradients as gradients
    from refold.train.gradients.contributions import Contributions as Contributions
    from refold.train.gradients.contributions import contributions as contributions
    from refold.train.gradients.lags import LagCurve as LagCurve
    from refold.train.gradients.lags import lag_curve as lag_curve
    from refold.train.omega import regularised as regularised
    from refold.train.realtime import Online as Online
    from refold.train.realtime import RealTime as RealTime
    from refold.train.saving import Checkpoint as Checkpoint
    from refold.train.settings import Fit as Fit
    from refold.train.walk import Full as Full
    from refold.train.walk import Truncated as Truncated

# name -> the module that has it, loaded at first use. The imports above tell type checkers the same; a test compares.
_LATER = {
    "Batch": "refold.data.batch",
    "Checkpoint": "refold.train.saving",
    "Clip": "refold.train.clip",
    "Contributions": "refold.train.gradients.contributions",
    "Covariates": "refold.forecast",
    "EchoState": "refold.nn.reservoir",
    "Errors": "refold.train.errors",
    "Fit": "refold.train.settings",
    "Full": "refold.train.walk",
    "Forecaster": "refold.forecast",
    "Gradients": "refold.train.gradients.bptt",
    "Initialised": "refold.nn.initialise",
    "LagCurve": "refold.train.gradients.lags",
    "Network": "refold.nn.wiring",
    "Online": "refold.train.realtime",
    "Omega": "refold.nn.omega",
    "RealTime": "refold.train.realtime",
    "Recurrent": "refold.nn.layer",
    "Regularise": "refold.nn.regularise",
    "Run": "refold.train.fit",
    "Sequences": "refold.data.batch",
    "Stack": "refold.nn.stacks",
    "Truncated": "refold.train.walk",
    "contributions": "refold.train.gradients.contributions",
    "convert": "refold.nn.convert",
    "draw": "refold.report.diagram",
    "dynamics": "refold.dynamics.entry",
    "fit": "refold.train.fit",
    "from_onnx": "refold.export.from_onnx",
    "gradients": "refold.train.gradients.bptt",
    "initialise": "refold.nn.initialise",
    "lag_curve": "refold.train.gradients.lags",
    "network_errors": "refold.train.errors",
    "regularised": "refold.train.omega",
}

# Under their own names: rf.nn.LSTM, rf.tasks.task("copy"), rf.forecast.Settings.
_ROOMS = {"forecast": "refold.forecast", "nn": "refold.nn", "tasks": "refold.data.tasks"}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version("refold")
    if name in _ROOMS:
        return _import_module(_ROOMS[name])
    if name not in _LATER:
        raise AttributeError(f"module 'refold' has no attribute '{name}'")
    value = getattr(_import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_ROOMS})
