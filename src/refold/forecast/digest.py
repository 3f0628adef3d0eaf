"""A panel in few letters, to be told from every other one."""

from __future__ import annotations

import hashlib
from typing import Any

from .panel import Panel


def digest(panel: Panel, *others: Any) -> str:
    """Series, their covariates, and whatever else makes a result."""
    found = hashlib.sha256(repr((others, panel.columns)).encode())
    for series in panel.series:
        found.update(series.name.encode() + b"\0" + series.stamps[:1].tobytes())
        found.update(series.observed.tobytes())
        if series.beside is not None:
            for held in (series.beside.static, series.beside.known, series.beside.historical):
                found.update(held.tobytes())
    return found.hexdigest()[:16]
