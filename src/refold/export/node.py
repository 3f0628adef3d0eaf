"""A recurrent node of ONNX, read: every attribute checked, every default filled in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from refold.errors import EquationError

from .activations import KINDS, Activation
from .operators import OPERATORS, Operator, Settings

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

# name -> (the number of the type in ONNX's AttributeProto, its field, what it is called)
_TYPES = {
    "FLOAT": (1, "f", "a number"),
    "INT": (2, "i", "a whole number"),
    "STRING": (3, "s", "a text"),
    "FLOATS": (6, "floats", "a list of numbers"),
    "STRINGS": (8, "strings", "a list of texts"),
}
_ATTRIBUTES = {
    "activation_alpha": "FLOATS",
    "activation_beta": "FLOATS",
    "activations": "STRINGS",
    "clip": "FLOAT",
    "direction": "STRING",
    "hidden_size": "INT",
    "input_forget": "INT",
    "layout": "INT",
    "linear_before_reset": "INT",
    "output_sequence": "INT",  # up to opset 6: whether Y is wanted, which the node's outputs say as well
}


@dataclass(frozen=True, slots=True)
class Node:
    """A recurrent node.

    inputs    the operator's name of each input that the node has -> its name in the graph, in ONNX's order
    outputs   the operator's names of the outputs that the node gives
    backwards for each direction, whether it runs from the end
    settings  for each direction, what decides its equation
    """

    op: str
    name: str
    inputs: dict[str, str]
    outputs: tuple[str, ...]
    direction: str
    layout: int
    hidden_size: int | None
    settings: tuple[Settings, ...]

    @property
    def operator(self) -> Operator:
        return OPERATORS[self.op]

    @property
    def backwards(self) -> tuple[bool, ...]:
        return DIRECTIONS[self.direction]

    @property
    def where(self) -> str:
        return _where(self.op, self.name)


def read(proto: Any) -> Node:
    """A NodeProto as what it means.

    Errors  EquationError: another operator, an attribute that it does not have or cannot have with this value
    """
    where = _where(proto.op_type, proto.name)
    operator = OPERATORS.get(proto.op_type) if proto.domain in ("", "ai.onnx") else None
    if operator is None:
        domain = f" of domain {proto.domain}" if proto.domain else ""
        raise EquationError(
            f"the node's operator is {proto.op_type}{domain}.",
            f"Give a node of ONNX's own operators {', '.join(OPERATORS)}.",
            where,
        )
    given = _attributes(proto, operator, where)
    direction = given.get("direction", "forward")
    if direction not in DIRECTIONS:
        raise EquationError(
            f'direction is "{direction}".', f"ONNX has {', '.join(DIRECTIONS)}.", where
        )
    layout, size = given.get("layout", 0), given.get("hidden_size")
    if layout not in (0, 1):
        raise EquationError(f"layout is {layout}.", "ONNX has layout 0 and 1.", where)
    if size is not None and size < 1:
        raise EquationError(f"hidden_size is {size}.", "It is at least 1.", where)
    inputs = _inputs(proto, operator, where)
    settings = tuple(
        Settings(
            proto.op_type,
            activations,
            "B" in inputs,
            "P" in inputs,
            bool(given.get("input_forget", 0)),
            bool(given.get("linear_before_reset", 0)),
        )
        for activations in _activations(given, operator, len(DIRECTIONS[direction]), where)
    )
    named = zip(operator.outputs, proto.output, strict=False)
    outputs = tuple(name for name, own in named if own)
    return Node(proto.op_type, proto.name, inputs, outputs, direction, layout, size, settings)


def _where(op: str, name: str) -> str:
    return f"in node '{name}' ({op})" if name else f"in a node {op}"


def _inputs(proto: Any, operator: Operator, where: str) -> dict[str, str]:
    if len(proto.input) > len(operator.inputs):
        raise EquationError(
            f"the node has {len(proto.input)} inputs, and {proto.op_type} reads {len(operator.inputs)}.",
            f"They are, in order, {', '.join(operator.inputs)}.",
            where,
        )
    inputs = {name: own for name, own in zip(operator.inputs, proto.input, strict=False) if own}
    missing = [name for name in ("X", "W", "R") if name not in inputs]
    if missing:
        raise EquationError(
            f"the node has no input {missing[0]}.",
            f"{proto.op_type} cannot do without X, W and R, its first three inputs.",
            where,
        )
    return inputs


def _attributes(proto: Any, operator: Operator, where: str) -> dict[str, Any]:
    """The attributes that the node has, as Python's values."""
    own = ("input_forget", "linear_before_reset")
    known = [a for a in _ATTRIBUTES if a not in own or a in operator.attributes]
    found: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.name not in known:
            raise EquationError(
                f"{proto.op_type} has no attribute {attribute.name}.",
                f"Its attributes are {', '.join(known)}.",
                where,
            )
        number, field, kind = _TYPES[_ATTRIBUTES[attribute.name]]
        if attribute.type != number:
            raise EquationError(
                f"attribute {attribute.name} is of ONNX's type {attribute.type}, and must be {kind}.",
                f"Make it anew with type {number}, as onnx.helper.make_node does.",
                where,
            )
        found[attribute.name] = _value(getattr(attribute, field))
    return found


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, int | float):
        return value
    return [_value(v) for v in value]


# Activations ----------------------------------------------------------------------------------------------------------


def _activations(
    given: dict[str, Any], operator: Operator, directions: int, where: str
) -> Iterator[tuple[Activation, ...]]:
    """The activation functions of each direction; alphas and betas are handed out in their order."""
    count = len(operator.activations)
    names = given.get("activations") or list(operator.activations * directions)
    if len(names) != count * directions:
        raise EquationError(
            f"activations has {len(names)} names, {', '.join(names)}; "
            f"{count} for each of {directions} directions are {count * directions}.",
            f"ONNX's default is {', '.join(operator.activations * directions)}.",
            where,
        )
    clip = _clip(given, where)
    values = {s: list(given.get(f"activation_{s}", ())) for s in ("alpha", "beta")}
    made = [_activation(name, values, clip, where) for name in names]
    for setting, left in values.items():
        if left:
            raise EquationError(
                f"activation_{setting} has {len(left)} numbers more than {', '.join(names)} take.",
                f"Give one for each function that has {setting}, and none for the others.",
                where,
            )
    return (tuple(made[i : i + count]) for i in range(0, len(made), count))


def _activation(
    name: str, values: dict[str, list[float]], clip: float | None, where: str
) -> Activation:
    found = [known for known in KINDS if known.lower() == name.lower()]
    if not found:
        raise EquationError(
            f'there is no activation function "{name}".', f"ONNX has {', '.join(KINDS)}.", where
        )
    settings = []
    for setting, default in KINDS[found[0]].defaults.items():
        value = values[setting].pop(0) if values[setting] else default
        if value is None:
            raise EquationError(
                f"{found[0]} has no {setting}: activation_{setting} is used up, and ONNX names no default.",
                f"Give the node an activation_{setting} for it.",
                where,
            )
        settings.append((setting, float(value)))
    return Activation(found[0], tuple(settings), clip)


def _clip(given: dict[str, Any], where: str) -> float | None:
    clip = given.get("clip")
    if clip is None:
        return None
    if not (clip > 0 and math.isfinite(clip)):
        raise EquationError(
            f"clip is {clip}.", "It is a bound above 0; leave it out for none.", where
        )
    return float(clip)
