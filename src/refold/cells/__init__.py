"""The zoo: equations only, one file per family. A new cell is a function under @rf.cell in one of them."""

from __future__ import annotations

import importlib.util
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from refold.errors import EquationError, RefoldError
from refold.ir.trace import Cell

from . import continuous, gallery, gated, gru, linear, lstm, oscillator, reservoir, vanilla

_FAMILIES = (vanilla, gru, lstm, gated, linear, oscillator, continuous, reservoir, gallery)


def families() -> dict[str, dict[str, Cell]]:
    """Every cell of the zoo by its name, in its family."""
    return {family.__name__.rpartition(".")[2]: _members(family) for family in _FAMILIES}


def _members(family: ModuleType) -> dict[str, Cell]:
    return {cell.name: cell for cell in vars(family).values() if isinstance(cell, Cell)}


def all() -> dict[str, Cell]:
    """Every cell of the zoo by its name, family by family."""
    return {name: cell for members in families().values() for name, cell in members.items()}


def get(name: str) -> Cell:
    """The cell of that name.

    Errors  EquationError names those that are spelled nearly so
    """
    cells = all()
    if name not in cells:
        near = get_close_matches(name, cells, n=4) or ["elman", "gru", "lstm"]
        raise EquationError(
            f'there is no cell "{name}".',
            f"Choose one of {', '.join(near)}, or of the {len(cells)} that `refold cells` lists.",
        )
    return cells[name]


def of(cell: object) -> Cell:
    """A cell, or the one of that name.

    Errors  EquationError for anything else: most often a function without @rf.cell
    """
    if isinstance(cell, str):
        return get(cell)
    if not isinstance(cell, Cell):
        name = getattr(cell, "__name__", type(cell).__name__)
        raise EquationError(
            f"{name} is a {type(cell).__name__}, and a cell is wanted.",
            'Put @rf.cell above the function, or give the name of a zoo cell, such as "lstm".',
        )
    return cell


def find(text: str) -> Cell:
    """A cell as the command line names it: one of the zoo, or file.py:function.

    Errors  EquationError when the file cannot be read or run, or has no such cell
    """
    file, colon, name = text.rpartition(":")
    if not (colon and name):
        return get(text)
    found = getattr(_run(Path(file)), name, None)
    if not isinstance(found, Cell):
        fact = f"{file} has no {name}" if found is None else f"{name} in {file} is no cell"
        raise EquationError(f"{fact}.", f"Put @rf.cell above the function: def {name}(...).")
    return found


def _run(path: Path) -> object:
    """The module that a file makes."""
    if path.suffix != ".py" or not path.is_file():
        raise EquationError(f"there is no Python file {path}.", "Name a cell as file.py:function.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except RefoldError:
        raise
    except (Exception, SystemExit) as error:  # whatever it is, the user's file has to change
        raise EquationError(
            f"{path} cannot be run: {type(error).__name__}: {error}.",
            "Run it with python to see where it fails.",
        ) from error
    return module
