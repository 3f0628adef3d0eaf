"""Whether tensors fit a node: letters for sizes, each bound by the first tensor that has it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refold.errors import KernelError

from .node import Node

SHAPES = {
    "R": ("directions", "gates x hidden", "hidden"),
    "W": ("directions", "gates x hidden", "input"),
    "B": ("directions", "2 x gates x hidden"),
    "P": ("directions", "3 x hidden"),
    "X": ("steps", "batch", "input"),
    "sequence_lens": ("batch",),
    "initial_h": ("directions", "batch", "hidden"),
    "initial_c": ("directions", "batch", "hidden"),
}
BY_ROW = {  # layout 1
    "X": ("batch", "steps", "input"),
    "initial_h": ("batch", "directions", "hidden"),
    "initial_c": ("batch", "directions", "hidden"),
}


def fitted(node: Node, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes that the tensors have, by letter.

    Errors  KernelError: ranks or sizes that do not fit the node or each other, other dtypes or devices
    """
    sizes = {"directions": len(node.backwards)}
    if node.hidden_size is not None:
        _hidden(node, sizes, node.hidden_size)
    shapes = {**SHAPES, **BY_ROW} if node.layout == 1 else SHAPES
    for name, letters in shapes.items():
        if name not in tensors:
            continue
        shape = tuple(tensors[name].shape)
        if name == "R" and "hidden" not in sizes and len(shape) == 3:
            _hidden(node, sizes, shape[2])
        found = dict(zip(letters, shape, strict=False))
        if len(shape) != len(letters) or any(sizes.get(k, n) != n for k, n in found.items()):
            raise KernelError(
                f"{name} is {shape}, and {_expected(letters, sizes)} is expected.",
                f"ONNX wants {name} as ({', '.join(letters)}) in layout {node.layout}.",
                node.where,
            )
        sizes |= found
    _alike(node, {n: t for n, t in tensors.items() if n != "sequence_lens"})
    return sizes


def _hidden(node: Node, sizes: dict[str, int], hidden: int) -> None:
    gates = node.operator.gates
    sizes["hidden"], sizes["gates x hidden"] = hidden, gates * hidden
    sizes["2 x gates x hidden"], sizes["3 x hidden"] = 2 * gates * hidden, 3 * hidden


def _expected(letters: tuple[str, ...], sizes: Mapping[str, int]) -> str:
    text = ", ".join(str(sizes.get(letter, letter)) for letter in letters)
    return f"({text},)" if len(letters) == 1 else f"({text})"


def _alike(node: Node, tensors: Mapping[str, Tensor]) -> None:
    """All of one real dtype, on one device."""
    for name, tensor in tensors.items():
        first, like = next(iter(tensors.items()))
        if not tensor.is_floating_point():
            raise KernelError(
                f"{name} is {tensor.dtype}.",
                "ONNX has floats of 16, 32 or 64 bits here.",
                node.where,
            )
        if tensor.dtype != like.dtype:
            raise KernelError(
                f"{name} is {tensor.dtype}, and {first} is {like.dtype}.",
                f"Convert the one or the other, as in {name}.to({like.dtype}).",
                node.where,
            )
        if tensor.device != like.device:
            raise KernelError(
                f"{name} is on {tensor.device}, and {first} is on {like.device}.",
                f'Move the one or the other, as in {name}.to("{like.device}").',
                node.where,
            )
