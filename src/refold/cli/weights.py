"""A file of weights as a layer: sizes are read from the tensors' shapes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from refold.errors import DataError, RefoldError

if TYPE_CHECKING:
    from torch import Tensor, nn

ENDINGS = (".safetensors", ".pt", ".pth")
_FIRST = "weight_ih_l0"
_GATES = {"lstm": 4, "gru": 3, "elman": 1, "elman_relu": 1}


def read_layer(path: Path, cell: str | None) -> nn.Module:
    """The recurrent layer of a state_dict, of torch's LSTM, GRU or RNN, or of an rf.Recurrent.

    cell  its cell; of torch's own layers LSTM, GRU and the RNN of tanh are told apart by their shapes

    Errors  DataError for a file that is no state_dict, has no or several layers, or does not fit the cell
    """
    tensors = _tensors(path)
    starts = [name for name in tensors if name.endswith((_FIRST, f"{_FIRST}.weight"))]
    own = {name.partition("l0.")[0] for name in tensors if name.startswith("l0.") or ".l0." in name}
    if len(starts) + len(own) != 1:
        count = len(starts) + len(own) or "no"
        fact = f"it has {count} recurrent layer(s): {', '.join(list(tensors)[:6])}"
        remedy = "save the state_dict of one torch.nn.LSTM, GRU or RNN, or of one rf.Recurrent"
        raise DataError(fact, remedy, str(path))
    prefix = starts[0].removesuffix(_FIRST) if starts else own.pop()
    named = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    try:
        return _of_torch(named, cell) if starts else _of_refold(named, cell)
    except RefoldError as error:
        raise DataError(error.fact, error.remedy, str(path)) from error
    except RuntimeError as error:  # load_state_dict: names and shapes, one in a line
        fact = "its tensors do not fit the cell: " + str(error).splitlines()[-1].strip()
        raise DataError(
            fact, "name the cell that it was trained with: --cell", str(path)
        ) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    """Nothing in the file is run: of a .pt file tensors alone are read."""
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError("there is no such file", "name another one", str(path)) from error
    except (
        Exception
    ) as error:  # whatever zip, pickle or header say of a file that is something else
        fact = f"it cannot be read as a state_dict ({type(error).__name__})"
        raise DataError(fact, "save the state_dict alone", str(path)) from error
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        fact = f"it holds a {type(found).__name__}, and tensors by their names are wanted"
        raise DataError(fact, "save the state_dict alone", str(path))
    return found


def _of_torch(named: dict[str, Tensor], cell: str | None) -> nn.Module:
    from refold.nn.dropin import GRU, LSTM, RNN

    rows, inputs = named[_FIRST].shape
    units = named["weight_hh_l0"].shape[1]
    alike = [name for name, gates in _GATES.items() if gates * units == rows]
    if not alike or cell not in (None, *alike):
        fact = f"{_FIRST} has {rows} rows and the state {units} numbers, which no {cell or 'cell of torch'} has"
        raise DataError(fact, f"name one of {', '.join(_GATES)}: --cell")
    layers = sum(name.startswith("weight_ih_l") and "reverse" not in name for name in named)
    sizes = {"num_layers": layers, "bias": "bias_ih_l0" in named}
    sizes["bidirectional"] = "weight_ih_l0_reverse" in named
    kind = cell or alike[0]
    if kind.startswith("elman"):
        made = RNN(inputs, units, nonlinearity="relu" if kind == "elman_relu" else "tanh", **sizes)
    else:
        made = (LSTM if kind == "lstm" else GRU)(inputs, units, **sizes)
    made.load_state_dict({n: t for n, t in named.items() if n in made.state_dict()})
    return made


def _of_refold(named: dict[str, Tensor], cell: str | None) -> nn.Module:
    from refold import cells
    from refold.dynamics.given import layer_of
    from refold.nn.layer import Recurrent

    if cell is None:
        raise DataError("its names do not say which cell it is", "name it: --cell lstm, say")
    found = cells.find(cell)
    first = layer_of(found, {n[3:]: t for n, t in named.items() if n.startswith("l0.")})
    own = {n: t for n, t in named.items() if n[:1] == "l" and n[1:2].isdigit()}
    layers = len({n.partition(".")[0] for n in own})
    if layers == 1:
        return first
    made = Recurrent(found, first.input_size, first.hidden_size, num_layers=layers)
    made.load_state_dict(own)
    return made
