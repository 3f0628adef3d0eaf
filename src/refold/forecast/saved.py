"""A fitted forecaster as a folder, and back: weights, series, scales, errors for intervals.

    model.safetensors   all of it: tensors, and a JSON document in its metadata (train/checkpoints:
                        written whole or not at all, a checksum over every byte, no pickle)
    about.json          the same document without its long parts, for people; it is not read

A cell of the user's own is kept as its graph: its file need not be there, and no code is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import narwhals as nw
import numpy as np
import torch
from torch import Tensor

from refold.data.scale import Scale, Transform
from refold.data.window import Look
from refold.errors import CheckpointError, RefoldError
from refold.ir import stored
from refold.ir.trace import Cell
from refold.train.checkpoints.file import read, write
from refold.train.checkpoints.states import joined, part, restore_weights, weights

from .baselines import Autoregression
from .beside import Standard
from .calendar import Frequency
from .clock import Clock
from .course import Course
from .covariates import Column, Values
from .forecaster import Fitted, pasts_at_end
from .intervals import Calibration
from .lookback import Lookback
from .panel import Panel, Series
from .resample import Resample
from .sequences import scaled
from .settings import Settings
from .table import PLAIN, Columns
from .tables import Kind
from .ways import way_of

FORMAT = 1
FILE, ABOUT = "model.safetensors", "about.json"

_WHAT = "refold forecaster"
# Records that a document may hold; their fields are theirs to name. Everything else is refused.
_RECORDS: dict[str, Callable[..., Any]] = {
    record.__name__: record
    for record in (
        Settings,
        Course,
        Look,
        Lookback,
        Frequency,
        Clock,
        Columns,
        Column,
        Standard,
        Resample,
    )
}

Document = dict[str, Any]
Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What a folder holds. columns: what the columns of the file were called that it was fitted to."""

    fitted: Fitted
    horizon: int
    calibration: Calibration | None = None
    kind: Kind = field(default_factory=Kind)
    columns: Columns | None = None


def write_folder(folder: str | Path, saved: Saved) -> None:
    """Write a model; the folder is made where there is none.

    Errors  CheckpointError where it cannot be written.
    """
    folder = Path(folder)
    tensors, document = _apart(saved)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / FILE, tensors, document)
        text = json.dumps(_about(saved, document), indent=2)
        (folder / ABOUT).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        fact = f"the model cannot be written: {error.strerror or error}"
        raise CheckpointError(fact, "name another folder", str(folder)) from error


def _about(saved: Saved, document: Document) -> Document:
    """What people want to know of it."""
    series = {**document["panel"], "names": f"{len(saved.fitted.panel.series):,} series"}
    settings = {**document["settings"], "cell": saved.fitted.settings.cell_name}
    kept = {name: document[name] for name in ("what", "format", "refold", "horizon", "columns")}
    return {**kept, "settings": settings, "series": series, "weights": saved.fitted.parameters}


def read_folder(folder: str | Path) -> Saved:
    """The model of a folder. Nothing in it is run.

    Errors  CheckpointError for a folder without a model, and for one that is damaged, of a later
    version, or of something else.
    """
    folder = Path(folder)
    path = folder / FILE
    if not path.exists():
        fact = f"there is no {FILE} here" if folder.is_dir() else "there is no such folder"
        remedy = "name a folder that `refold fit` or Forecaster.save wrote"
        raise CheckpointError(fact, remedy, str(folder))
    tensors, document = read(path)
    _refuse_others(document, path)
    try:
        return _together(tensors, document, path)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a document can hold that someone gave a right checksum
        told = error.fact if isinstance(error, RefoldError) else repr(error)
        fact = f"the checksum is right, but the content is not a model's: {told}"
        raise CheckpointError(fact, "save the model again", str(path)) from error


def _refuse_others(document: Document, path: Path) -> None:
    if document.get("what") != _WHAT:
        fact = "it is a checkpoint, but not of a forecaster"
        raise CheckpointError(fact, "name a folder that Forecaster.save wrote", str(path))
    if document["format"] > FORMAT:
        fact = (
            f"the model has format {document['format']}, of refold {document['refold']}; this is "
        )
        fact += f"refold {version('refold')}, which reads formats up to {FORMAT}"
        raise CheckpointError(fact, f"install refold {document['refold']} or later", str(path))


def _apart(saved: Saved) -> tuple[Tensors, Document]:
    panel, calibration = saved.fitted.panel, saved.calibration
    model_tensors, model = _model_apart(saved.fitted)
    tensors = joined(panel=_series_apart(panel), model=model_tensors)
    document: Document = {
        "what": _WHAT,
        "format": FORMAT,
        "refold": version("refold"),
        "horizon": saved.horizon,
        "settings": _spelled(saved.fitted.settings),
        "panel": {
            "names": [s.name for s in panel.series],
            "frequency": _spelled(panel.frequency),
            "seasons": list(panel.seasons),
            "clock": _spelled(panel.clock),
            "notes": list(panel.notes),
            "columns": [_spelled(column) for column in panel.columns],
            "resample": _spelled(panel.resample),
            "counted": panel.series[0].stamps.dtype.kind == "i",
        },
        "model": model,
        "calibration": None,
        "columns": _spelled(saved.columns),
        "frame": _kind_apart(saved.kind),
    }
    if calibration:
        tensors["calibration"] = torch.from_numpy(calibration.scores)
        names = ("transform", "sides", "origins", "series")
        document["calibration"] = {name: getattr(calibration, name) for name in names}
    return tensors, document


def _together(tensors: Tensors, document: Document, path: Path) -> Saved:
    about = document["panel"]
    panel = Panel(
        series=_series_together(part(tensors, "panel"), about["names"], document),
        frequency=_meant(about["frequency"], path),
        seasons=tuple(about["seasons"]),
        clock=_meant(about["clock"], path),
        notes=tuple(about["notes"]),
        columns=tuple(_meant(each, path) for each in about.get("columns", ())),
        resample=_meant(about.get("resample"), path),
    )
    settings = _meant(document["settings"], path)
    horizon, model = document["horizon"], document["model"]
    fitted = _model_together(panel, settings, horizon, part(tensors, "model"), model, path)
    calibration = None
    if document["calibration"]:
        calibration = Calibration(tensors["calibration"].numpy(), **document["calibration"])
    kind, columns = _kind_together(document["frame"], path), _meant(document["columns"], path)
    return Saved(fitted, horizon, calibration, kind, columns)


# Series: stamps are on a grid, so the first of each is enough


def _series_apart(panel: Panel) -> Tensors:
    held = {}
    if any(s.missing is not None for s in panel.series):
        held["missing"] = torch.from_numpy(
            np.concatenate([np.isnan(s.observed) for s in panel.series])
        )
    if panel.columns:
        beside = [s.beside for s in panel.series if s.beside]
        held["known"] = torch.from_numpy(np.concatenate([b.known for b in beside]))
        held["known_lengths"] = torch.tensor([len(b.known) for b in beside])
        held["historical"] = torch.from_numpy(np.concatenate([b.historical for b in beside]))
        held["static"] = torch.from_numpy(np.stack([b.static for b in beside]))
    if panel.frequency.kind == "irregular":
        held["stamps"] = torch.from_numpy(
            np.concatenate([s.stamps for s in panel.series]).astype(np.int64)
        )
    return held | {
        "values": torch.from_numpy(np.concatenate([s.values for s in panel.series])),
        "lengths": torch.tensor([len(s) for s in panel.series]),
        "first": torch.from_numpy(np.stack([s.stamps[0] for s in panel.series]).astype(np.int64)),
    }


def _series_together(tensors: Tensors, names: list[str], document: Document) -> tuple[Series, ...]:
    ends = np.cumsum(tensors["lengths"].numpy())[:-1]
    values, missing = np.split(tensors["values"].numpy(), ends), [None] * len(names)
    if "missing" in tensors:
        parts = np.split(tensors["missing"].numpy(), ends)
        missing = [part if part.any() else None for part in parts]
    stamps = _stamps_together(tensors, ends, document)
    beside = _beside_together(tensors, ends) if "known" in tensors else [None] * len(names)
    return tuple(
        Series(name, own_stamps, y, absent, own)
        for name, own_stamps, y, absent, own in zip(
            names, stamps, values, missing, beside, strict=True
        )
    )


def _stamps_together(tensors: Tensors, ends: np.ndarray, document: Document) -> list[np.ndarray]:
    frequency = _meant(document["panel"]["frequency"], Path())
    counted = frequency.kind == "number" or document["panel"].get("counted", False)
    kind = np.dtype(np.int64) if counted else np.dtype("datetime64[us]")
    if "stamps" in tensors:
        return np.split(tensors["stamps"].numpy().astype(kind), ends)
    first, lengths = tensors["first"].numpy().astype(kind), tensors["lengths"].tolist()
    pairs = zip(first, lengths, strict=True)
    return [np.concatenate([[at], frequency.after(at, n - 1)]) for at, n in pairs]


def _beside_together(tensors: Tensors, ends: np.ndarray) -> list[Values]:
    known_ends = np.cumsum(tensors["known_lengths"].numpy())[:-1]
    parts = (
        np.split(tensors["known"].numpy(), known_ends),
        np.split(tensors["historical"].numpy(), ends),
        tensors["static"].numpy(),
    )
    return [Values(*own) for own in zip(*parts, strict=True)]


# The model: what training made, and how networks are built before they get their weights


def _model_apart(fitted: Fitted) -> tuple[Tensors, Document]:
    scales = [[s.centre, s.unit, s.low, s.high] for s in fitted.data.scales]
    tensors = {"scales": torch.tensor(scales, dtype=torch.float64)}
    if fitted.data.lines:
        tensors |= joined(lines=_lines_apart(fitted.data.lines))
    for i, network in enumerate(fitted.networks):
        tensors |= joined(**{f"network{i}": weights(network)})
    return tensors, {
        "transform": fitted.data.transform,
        "courses": [_spelled(course) for course in fitted.courses],
        "usual": [past.usual for past in fitted.pasts],
        "beside": _spelled(fitted.data.beside),
    }


def _model_together(
    panel: Panel, settings: Settings, horizon: int, tensors: Tensors, document: Document, path: Path
) -> Fitted:
    transform = document["transform"]
    if transform not in get_args(Transform):
        raise ValueError(f"there is no transform {transform!r}")
    rows = zip(panel.series, tensors["scales"].tolist(), strict=True)
    scales = {s.name: Scale(transform, *row) for s, row in rows}
    beside = _meant(document.get("beside"), path)
    courses = tuple(_meant(each, path) for each in document["courses"])
    data = scaled(panel, horizon, transform, scales, beside)
    if lines := part(tensors, "lines"):
        data = replace(data, lines=_lines_together(lines, data.scales))
    pasts = pasts_at_end(panel, data, settings, courses, document["usual"])
    networks = []
    for i, (past, course) in enumerate(zip(pasts, courses, strict=True)):
        with torch.random.fork_rng(devices=[]):  # the weights it starts with are not kept
            network = way_of(settings).network(past, course, settings)
        restore_weights(network, part(tensors, f"network{i}"), path)
        networks.append(network.eval())
    return Fitted(panel, horizon, settings, data, courses, pasts, tuple(networks), (), 0.0)


def _lines_apart(lines: Sequence[Autoregression]) -> Tensors:
    return {
        "orders": torch.tensor([line.order for line in lines]),
        "intercepts": torch.tensor([line.intercept for line in lines], dtype=torch.float64),
        "weights": torch.from_numpy(np.concatenate([line.weights for line in lines])),
    }


def _lines_together(tensors: Tensors, scales: Sequence[Scale]) -> tuple[Autoregression, ...]:
    orders, intercepts = tensors["orders"].tolist(), tensors["intercepts"].tolist()
    weights = tensors["weights"].split(orders)
    parts = zip(scales, intercepts, weights, strict=True)
    return tuple(Autoregression(scale, b, w.numpy()) for scale, b, w in parts)


# Records, cells and types as JSON has them


def _spelled(value: Any) -> Any:
    if isinstance(value, Cell):
        return {"cell": stored.document(value)}
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: _spelled(getattr(value, field.name)) for field in fields(value)}
        return {"record": type(value).__name__, **held}
    return value


def _meant(value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return tuple(value)  # no record has a list; JSON has no tuples
    if not isinstance(value, dict):
        return value
    if "cell" in value and len(value) == 1:
        return stored.cell_of(value["cell"])
    made = _RECORDS[value["record"]]
    held = {name: _meant(each, path) for name, each in value.items() if name != "record"}
    unknown = held.keys() - {field.name for field in fields(made)}  # type: ignore[arg-type]
    if unknown:
        fact = f"the model has a {value['record']} with {min(unknown)}, which this refold does not know"
        raise CheckpointError(fact, "load it with the version that wrote it", str(path))
    return made(**held)


def _kind_apart(kind: Kind) -> Document:
    types = {}
    for name, held in kind.types.items():
        zone = [held.time_unit, held.time_zone] if isinstance(held, nw.Datetime) else []
        types[name] = [str(held).partition("(")[0], *zone]
    return {"library": kind.library.name, "types": types, "columns": _spelled(kind.columns)}


def _kind_together(document: Document, path: Path) -> Kind:
    types = {}
    for name, (held, *zone) in document["types"].items():
        if held not in _TYPES:
            raise ValueError(f"{held} is no type of ids or stamps")
        types[name] = _TYPES[held](*zone) if zone else _TYPES[held]()
    columns = _meant(document.get("columns"), path) or PLAIN
    return Kind(nw.Implementation[document["library"]], types, columns)


_WHOLE = (nw.Int8, nw.Int16, nw.Int32, nw.Int64, nw.UInt8, nw.UInt16, nw.UInt32, nw.UInt64)
_TYPES: dict[str, Callable[..., Any]] = {t.__name__: t for t in (*_WHOLE, nw.Date, nw.Datetime)}
