"""A checkpoint's document as JSON text, and back, exactly.

JSON has no NaN, no infinity, no tuple, and only text as a key. What it lacks is spelled as an
object {"$": kind, "of": ...}, and so is a dict that has a key "$" of its own.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from refold.errors import CheckpointError


def spelled(document: Any, where: str) -> str:
    """The text of a document; `where` is the file it is for.

    Errors  CheckpointError for a value that cannot be spelled, naming its place.

    Example
        >>> spelled({"best": math.inf, "betas": (0.9, 0.999)}, "")
        '{"best": {"$": "float", "of": "inf"}, "betas": {"$": "tuple", "of": [0.9, 0.999]}}'
    """
    if not isinstance(document, dict):
        fact = f"the document is a {type(document).__name__}"
        raise CheckpointError(fact, "give a dict", where)
    try:
        return json.dumps(_spelled(document, "document", where), allow_nan=False)
    except (ValueError, RecursionError) as error:  # digits without end; lists within themselves
        fact = f"the document cannot be written as JSON: {error}"
        raise CheckpointError(fact, "keep long or deeply nested data elsewhere", where) from error


def _spelled(value: Any, name: str, where: str) -> Any:
    """A value as JSON has it; `name` is its place in the document."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$": "float", "of": str(float(value))}
    if isinstance(value, list | tuple):
        items = [_spelled(item, f"{name}[{i}]", where) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"$": "tuple", "of": items}
    if isinstance(value, dict):
        return _spelled_dict(value, name, where)
    fact = f"{name} is a {type(value).__name__}, which JSON has no word for"
    raise CheckpointError(fact, "convert it with float(...), str(...) or list(...)", where)


def _spelled_dict(value: dict[Any, Any], name: str, where: str) -> dict[str, Any]:
    items = [
        (_spelled(key, f"a key of {name}", where), _spelled(item, f"{name}[{key!r}]", where))
        for key, item in value.items()
    ]
    if isinstance(value, Counter):  # torch's MultiStepLR keeps its milestones in one
        return {"$": "counter", "of": items}
    plain = "$" not in value and all(isinstance(key, str) for key in value)
    return dict(items) if plain else {"$": "dict", "of": items}


def meant(text: str) -> dict[str, Any]:
    """The document that was spelled; whatever another text raises is the caller's to judge."""
    document = _meant(json.loads(text))
    if not isinstance(document, dict):
        raise TypeError(f"the document is a {type(document).__name__}")
    return document


def _meant(value: Any) -> Any:
    if isinstance(value, list):
        return [_meant(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$" not in value:
        return {key: _meant(item) for key, item in value.items()}
    kind, of = value["$"], value["of"]
    if kind == "float":
        return float(of)
    made = {"tuple": tuple, "dict": dict, "counter": lambda items: Counter(dict(items))}
    return made[kind](_meant(of))
