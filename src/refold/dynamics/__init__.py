"""What the network's dynamics do: memory, chaos, fixed points, and the differential equation it resembles."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .entry import dynamics as dynamics
from .record import Dynamics as Dynamics


class _Room(ModuleType):
    """rf.dynamics is a function, and this room has its name: whichever Python puts there, it can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Dynamics:
        return dynamics(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
