"""The house stands: imports point downwards, heavy packages load when they are used, and the lazy names are true."""

import ast
import subprocess
import sys
from pathlib import Path

import refold

SOURCE = Path(refold.__file__).parent
FLOOR = {
    "collector": 0,
    "errors": 0,
    "shapes": 0.5,  # uses errors
    "ir": 1,
    "data": 1,
    "cells": 2,
    "plan": 2,
    "kernels": 3,
    "nn": 4,
    "train": 5,
    "export": 5,
    "dynamics": 6,
    "forecast": 6,
    "report": 7,
    "cli": 8,
    "__init__": 9,
    "__main__": 9,
}
PURE = ("collector", "errors", "shapes", "ir", "cells", "plan")
HEAVY = ("llvmlite", "triton", "onnx", "matplotlib", "torch")


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, int]]:
    """Every module that a file imports, wherever in the file, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name, node.lineno) for name in names]
    return found


FILES = sorted(SOURCE.rglob("*.py"))


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR)


def test_imports_point_downwards():
    bad = []
    for path in FILES:
        room = room_of(path)
        for module, line in imports(path):
            if module.split(".")[0] != "refold":
                continue
            used = module.split(".")[1]
            if used != room and not FLOOR.get(used, 99) < FLOOR[room]:
                bad.append(f"{path.relative_to(SOURCE)}:{line} {room} imports {used}")
    assert not bad, "\n" + "\n".join(bad)


def test_pure_rooms_import_neither_torch_nor_numpy():
    bad = [
        f"{path.relative_to(SOURCE)}:{line} imports {module}"
        for path in FILES
        for module, line in imports(path)
        if room_of(path) in PURE
        and module.split(".")[0] not in {"refold", *sys.stdlib_module_names}
    ]
    assert not bad, "\n" + "\n".join(bad)


def test_only_the_report_draws():
    bad = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in FILES
        for module, line in imports(path)
        if module.split(".")[0] == "matplotlib" and room_of(path) != "report"
    ]
    assert not bad, "\n" + "\n".join(bad)


def test_import_is_light():
    code = f"import refold, sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


def test_layers_load_no_compiler_and_no_plotting():
    heavy = (*HEAVY[:4], "torch._dynamo")
    code = (
        f"import refold, sys; refold.Recurrent; print(*[m for m in {heavy!r} if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


def test_lazy_names_are_the_ones_that_type_checkers_see():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == refold._LATER
    for name in declared:
        # A room may have its function's name, as dynamics does: Python puts the room there once it is imported.
        assert getattr(refold, name).__name__.rpartition(".")[2] == name
