"""Settings as a file: what `refold tune` writes, and --settings reads."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refold import cells
from refold.errors import DataError

if TYPE_CHECKING:
    from refold.forecast import Settings

_TEXTS = ("cell", "over", "error", "head", "scaling")
_REALS = ("rate", "dropout", "noise")
_REMEDY = "correct it, or run refold tune again"


def spelled(settings: Settings, cell: str | None) -> dict[str, Any]:
    """Settings as JSON has them, without the seed. cell: how one that is no name was written."""
    named = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "seed"}
    if not isinstance(named["cell"], str):
        named["cell"] = cell
    return named


def read(path: Path, settings: Settings) -> Settings:
    """These settings, with what a file says of them. Errors  DataError where it says something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fact = f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        remedy = "name the settings.json that `refold tune` wrote"
        raise DataError(fact, remedy, "--settings") from error
    known = {f.name: f.default for f in fields(settings) if f.name != "seed"}
    if not isinstance(found, dict) or not found.keys() <= known.keys():
        strange = min(found.keys() - known.keys()) if isinstance(found, dict) else "no settings"
        fact = f"{path} has {strange!r}; settings are {', '.join(known)}"
        raise DataError(fact, _REMEDY, "--settings")
    for name, value in found.items():
        if not _fits(name, value, known[name]):
            raise DataError(f"{path} has {name} {value!r}", _REMEDY, "--settings")
    if "cell" in found:
        found["cell"] = cells.find(found["cell"])
    return replace(settings, **found)


def _fits(name: str, value: object, default: object) -> bool:
    """May a file say this? null leaves a setting to its rule, where there is one."""
    if value is None:
        return default is None
    if name == "dilations":
        return isinstance(value, list)
    kinds = (str,) if name in _TEXTS else (int, float) if name in _REALS else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool)
