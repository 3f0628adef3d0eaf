"""What torch.compile may take for a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_result(function: Function) -> Function:
    """Have torch.compile call a function once, and write its result into the graph.

    The mark that torch.compiler.assume_constant_result sets, and no more: that one loads the whole
    of torch's compiler, which takes longer than torch itself, for whoever only imports a layer.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
