"""States as checkpoints hold them: of weights, an optimiser, a schedule of rates.

Each is taken apart into tensors by name and a document of JSON, and put back to the last bit. What
does not fit is refused before anything is changed. Tensors that are taken are those in use, not
copies: write them, or copy them, before the next step.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from refold.errors import CheckpointError

Tensors = dict[str, Tensor]


def joined(**parts: Mapping[str, Tensor]) -> Tensors:
    """The tensors of several parts as one set: those of `weights` are named weights/...

    Example
        >>> joined(weights={"w": torch.ones(1)}, carried={})
        {'weights/w': tensor([1.])}
    """
    return {f"{part}/{name}": t for part, tensors in parts.items() for name, t in tensors.items()}


def part(tensors: Mapping[str, Tensor], name: str) -> Tensors:
    """One part of a joined set, under its own names; empty where there is none."""
    start = name + "/"
    return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}


# Weights


def weights(module: nn.Module) -> Tensors:
    """The parameters and buffers of a module by name: whatever training can change."""
    return {name: held.detach() for name, held in _held(module).items()}


@torch.no_grad()
def restore_weights(
    module: nn.Module, tensors: Mapping[str, Tensor], path: str | Path = ""
) -> None:
    """Give a module the weights of a checkpoint; `path` is its file, for the text of an error.

    Errors  CheckpointError naming the parameter that is missing, unknown, or of another shape or
    dtype, with both.
    """
    held = _held(module)
    where = str(path)
    for names, there, here in (
        (held.keys() - tensors.keys(), "does not have", "has"),
        (tensors.keys() - held.keys(), "has", "does not have"),
    ):
        if names:
            first = min(names)
            fact = f"the checkpoint {there} {first}, {type(module).__name__} {here} it"
            fact += f"; so it is with {len(names)} names" * (len(names) > 1)
            raise CheckpointError(fact, "build the network as it was built then", where)
    for name, own in held.items():
        if (tensors[name].shape, tensors[name].dtype) != (own.shape, own.dtype):
            fact = f"{name} is {_told(tensors[name])} in the checkpoint, {_told(own)} here"
            raise CheckpointError(fact, "build the network as it was built then", where)
    for name, own in held.items():
        own.copy_(tensors[name])


def _held(module: nn.Module) -> Tensors:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _told(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


# Optimisers


def optimiser_state(optimiser: Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """The state of any torch optimiser: its tensors, and its numbers as a document.

    Parameters have names in the texts of errors where the optimiser was given named ones
    (`torch.optim.Adam(network.named_parameters())`), else numbers.
    """
    tensors: Tensors = {}
    state = _apart(optimiser.state_dict(), "", tensors)
    return tensors, {
        "class": type(optimiser).__name__,
        "parameters": _parameters(optimiser),
        "tensors": sorted(tensors),
        "state": state,
    }


def restore_optimiser(
    optimiser: Optimizer,
    tensors: Mapping[str, Tensor],
    document: Mapping[str, Any],
    path: str | Path = "",
) -> None:
    """Give an optimiser, built over the same parameters, the state of a checkpoint.

    Its rates and other settings become those of the checkpoint. The tensors given are not used
    further. Where there is a schedule of rates, build it first, and restore it after.

    Errors  CheckpointError for another optimiser, other parameters, or tensors that are missing.
    """
    where = str(path)
    _check_class(optimiser, document, where)
    _check_parameters(document["parameters"], _parameters(optimiser), where)
    absent = set(document["tensors"]) - tensors.keys()
    if absent:
        fact = f"the state of the optimiser needs {min(absent)}, and there is no such tensor"
        raise CheckpointError(fact, "give all tensors that optimiser_state gave", where)
    state = _together(document["state"], "", tensors)
    kept = {number: dict(own) for number, own in state["state"].items()}
    optimiser.load_state_dict(state)
    _as_they_were(optimiser, kept)


def _as_they_were(optimiser: Optimizer, kept: dict[int, dict[str, Any]]) -> None:
    """Undo what torch does on loading: it converts the state to the dtype of its parameter.

    NAdam's float32 product beside a bfloat16 weight would lose half its bits.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for number, own in kept.items():
        loaded = optimiser.state[parameters[number]]
        for key, value in own.items():
            if isinstance(value, Tensor):
                loaded[key] = value.to(loaded[key].device)


def _parameters(optimiser: Optimizer) -> list[list[list[Any]]]:
    """Name (or none), dtype and shape of each parameter of each group."""
    found = []
    for group in optimiser.param_groups:
        names = group.get("param_names") or [None] * len(group["params"])
        pairs = zip(names, group["params"], strict=True)
        found.append([[name, str(p.dtype), list(p.shape)] for name, p in pairs])
    return found


def _check_parameters(there: list[Any], here: list[Any], where: str) -> None:
    remedy = "build the network and its optimiser as they were built then"
    counts = [[len(group) for group in side] for side in (there, here)]
    if counts[0] != counts[1]:
        fact = f"the optimiser had groups of {counts[0]} parameters, now it has {counts[1]}"
        raise CheckpointError(fact, remedy, where)
    pairs = [pair for groups in zip(there, here, strict=True) for pair in zip(*groups, strict=True)]
    for number, (old, new) in enumerate(pairs):
        named = None not in (old[0], new[0])
        if old[1:] != new[1:] or (named and old[0] != new[0]):
            told = [
                f"{name or number} ({kind[6:]}, {tuple(shape)})" for name, kind, shape in (old, new)
            ]
            fact = f"parameter {number} of the optimiser was {told[0]}, now it is {told[1]}"
            raise CheckpointError(fact, remedy, where)


def _check_class(own: Any, document: Mapping[str, Any], where: str) -> None:
    there, here = document.get("class"), type(own).__name__
    if there is None:
        fact = f"the checkpoint holds no state for {here}"
        raise CheckpointError(fact, "give the document that was made of its state", where)
    if there != here:
        fact = f"the checkpoint holds the state of {there}, this is {here}"
        raise CheckpointError(fact, f"use {there} as before, or start a new run", where)


def _apart(value: Any, name: str, tensors: Tensors) -> Any:
    """The same value with None for every tensor, which goes to `tensors` under its place."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach()
        return None
    if isinstance(value, dict):
        return {key: _apart(item, _below(name, key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_apart(item, _below(name, i), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return value


def _together(value: Any, name: str, tensors: Mapping[str, Tensor]) -> Any:
    """The value that was taken apart, with copies of its tensors."""
    if name in tensors:
        return tensors[name].clone()
    if isinstance(value, dict):
        return {key: _together(item, _below(name, key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_together(item, _below(name, i), tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return value


def _below(name: str, key: Any) -> str:
    return f"{name}/{key}" if name else str(key)


# Schedules of rates


def scheduler_state(scheduler: Any) -> dict[str, Any]:
    """The state of any torch learning-rate scheduler, as a document."""
    state = copy.deepcopy(scheduler.state_dict())
    return {"class": type(scheduler).__name__, "state": state}


def restore_scheduler(scheduler: Any, document: Mapping[str, Any], path: str | Path = "") -> None:
    """Give a scheduler, built as before, the state of a checkpoint.

    Errors  CheckpointError for another scheduler, or another number of groups of parameters.
    """
    where = str(path)
    _check_class(scheduler, document, where)
    state = copy.deepcopy(document["state"])
    there, here = (len(s.get("base_lrs", ())) for s in (state, scheduler.state_dict()))
    if there != here:
        fact = f"the schedule was one of {there} groups of parameters, now there are {here}"
        raise CheckpointError(fact, "build the optimiser as it was built then", where)
    scheduler.load_state_dict(state)
