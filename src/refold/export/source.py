"""Where a node comes from: a NodeProto, a ModelProto or a file; and its initializers as torch tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refold.errors import DataError, KernelError

from .operators import OPERATORS


def sought(source: Any, name: str | None) -> tuple[Any, dict[str, Any]]:
    """The recurrent node of a source, and the initializers that come with it: name in the graph -> TensorProto.

    Errors  DataError: no such file, nothing that is ONNX, no recurrent node, several and no name, none of that name
    """
    if isinstance(source, str | Path):
        source = _loaded(Path(source))
    if hasattr(source, "op_type"):
        return source, {}
    if not hasattr(source, "graph"):
        raise DataError(
            f"source is a {type(source).__name__}.",
            "Give an onnx.NodeProto, an onnx.ModelProto or the path of a file .onnx.",
        )
    graph = source.graph
    constants = {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    return _chosen(graph, name), constants | {t.name: t for t in graph.initializer}


def _loaded(path: Path) -> Any:
    onnx = onnx_package()
    if not path.is_file():
        raise DataError(f"there is no file {path}.", "Give the path of a file .onnx.")
    try:
        return onnx.load(str(path))
    except (
        Exception
    ) as error:  # protobuf has no error type of its own that lasts from version to version
        raise DataError(
            f"{path} cannot be read as ONNX: {error}.", "Write it anew with onnx.save."
        ) from error


def _chosen(graph: Any, name: str | None) -> Any:
    nodes = [
        node for node in graph.node if node.op_type in OPERATORS and node.domain in ("", "ai.onnx")
    ]
    names = [node.name or next(filter(None, node.output), "") for node in nodes]
    if not nodes:
        raise DataError(
            f"the graph '{graph.name}' has no node {', '.join(OPERATORS)}.",
            "Nodes inside functions or subgraphs are not looked at: give such a NodeProto itself.",
        )
    if name is None and len(nodes) == 1:
        return nodes[0]
    found = [
        n for n, known in zip(nodes, names, strict=True) if name in (known, *n.output) and name
    ]
    if not found:
        which = f"none is called '{name}'" if name is not None else "no name says which"
        raise DataError(
            f"the graph '{graph.name}' has the recurrent nodes {', '.join(names)}, and {which}.",
            f'Name one, by its own name or by one of its outputs: name="{names[0]}".',
        )
    return found[0]


def onnx_package() -> ModuleType:
    """The package onnx, which only some installations have."""
    try:
        import onnx
    except ImportError as error:
        raise KernelError(
            "this reads data of ONNX, and the package onnx is not installed.",
            "Install it: pip install 'refold[onnx]'.",
        ) from error
    return onnx


def tensor_of(value: Any, name: str, where: str) -> Tensor:
    """An initializer as a tensor of torch: from a tensor, an array, or ONNX's TensorProto."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "data_type"):
        value = _array(value)
    if isinstance(value, np.ndarray):
        if value.dtype.name == "bfloat16":  # numpy knows it only by name; torch, by its bits
            return torch.from_numpy(value.copy().view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(value.copy())
    raise KernelError(
        f"{name} is a {type(value).__name__}.",
        "Give a torch tensor, a NumPy array or an onnx.TensorProto.",
        where,
    )


def _array(proto: Any) -> Any:
    onnx = onnx_package()
    array = onnx.numpy_helper.to_array(proto)
    if proto.data_type == onnx.TensorProto.BFLOAT16 and array.dtype == np.float32:
        # Up to onnx 1.18 these came as float32, which holds them exactly.
        return torch.from_numpy(array.copy()).to(torch.bfloat16)
    return array


def named(initializers: Mapping[str, Any], inputs: Mapping[str, str], where: str) -> dict[str, Any]:
    """Initializers under the operator's names; they are given under these or under those of the graph."""
    unknown = [k for k in initializers if k not in inputs and k not in inputs.values()]
    if unknown:
        raise KernelError(
            f"the node has no input {unknown[0]}.",
            f"Its inputs are {shown(inputs)}.",
            where,
        )
    return {
        name: initializers[name] if name in initializers else initializers[own]
        for name, own in inputs.items()
        if name in initializers or own in initializers
    }


def shown(inputs: Mapping[str, str]) -> str:
    """The inputs of a node, by the operator's names and those of the graph."""
    return ", ".join(n if n == own else f"{n} (here '{own}')" for n, own in inputs.items())
