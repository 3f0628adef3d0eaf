"""A torch model's recurrent modules, turned into refold's in place."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from refold.errors import KernelError

from . import dropin

COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: dropin.RNN,
    nn.LSTM: dropin.LSTM,
    nn.GRU: dropin.GRU,
    nn.RNNCell: dropin.RNNCell,
    nn.LSTMCell: dropin.LSTMCell,
    nn.GRUCell: dropin.GRUCell,
}
NAMES = {theirs.__name__ for theirs in COUNTERPARTS}


@dataclass(frozen=True, slots=True)
class Module:
    """What became of one module.

    name  its path in the model, "" for the model itself
    was   its class before
    note  how it will be run; where it was left alone, why
    """

    name: str
    was: str
    converted: bool
    note: str

    def __str__(self) -> str:
        done = f"converted: {self.note}" if self.converted else f"left alone: {self.note}"
        return f"{self.name or '(the model itself)'}  {self.was}  {done}"


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` did: every recurrent module that it met, in the order of model.named_modules()."""

    modules: tuple[Module, ...]

    @property
    def converted(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.modules if m.converted)

    @property
    def left(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.modules if not m.converted)

    def __str__(self) -> str:
        count = Counter(m.converted for m in self.modules)
        head = f"{count[True]} converted, {count[False]} left alone"
        return "\n".join([head, *(f"  {m}" for m in self.modules)])


def convert(model: nn.Module) -> Conversion:
    """Turn every torch.nn.RNN, LSTM, GRU and Cell of a model into refold's, in place.

    The modules stay the same objects, and so do their parameters: optimisers, hooks and whatever else refers to them
    go on. What has a class of its own (a subclass, a parametrized, scripted or quantised module) is left alone.

    Errors  KernelError when it is no torch.nn.Module
    Example
        print(rf.convert(model))
    """
    if not isinstance(model, nn.Module):
        raise KernelError(
            f"{type(model).__name__} is no torch.nn.Module, and a model is wanted.",
            "Give the model itself: rf.convert(model).",
        )
    found = []
    for name, module in list(model.named_modules()):
        was = _named(module)
        if not _recurrent(module):
            continue
        why_not = _why_not(module)
        if why_not:
            found.append(Module(name, was, False, why_not))
            continue
        # The object stays and changes its class: both classes keep the same attributes.
        module.__class__ = COUNTERPARTS[type(module)]
        found.append(Module(name, was, True, _how(module)))
    return Conversion(tuple(found))


def _recurrent(module: nn.Module) -> bool:
    """Whether it is, or stands in for, one of torch's recurrent modules, and not one of refold's already."""
    if isinstance(module, tuple(COUNTERPARTS.values())):
        return False
    kind = isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    return kind or _original(module) in NAMES


def _original(module: nn.Module) -> str:
    """The class's name, also where torch wrote another class for it."""
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name
    ours = type(module).__module__.startswith("torch.ao.")
    return type(module).__name__ if ours else ""


def _why_not(module: nn.Module) -> str:
    """Why a module is not converted, or nothing."""
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript holds its code; convert the model before it is scripted"
    if type(module).__module__.startswith("torch.ao."):
        return "it is quantised, or made to be, and refold has no quantised kernels"
    if nn.utils.parametrize.is_parametrized(module):
        return (
            "it is parametrized, which gave it a class of its own; convert first, then parametrize"
        )
    if type(module) not in COUNTERPARTS:
        return "it is a subclass, which may do more than its base; derive it from rf.nn instead"
    if "forward" in module.__dict__:
        return "its forward has been replaced"
    away = {p.device.type for p in module.parameters()} - {"cpu", "meta"}
    if away:
        return f"it is on {min(away)}, where torch's own kernels are faster than refold's reference"
    return ""


def _how(module: nn.Module) -> str:
    """How a converted module is run."""
    if isinstance(module, dropin.Layers):
        kernel = module.kernel
        return f"{kernel.backend} ({kernel.reason})"
    return "torch's own step, under refold's name"


def _named(module: nn.Module) -> str:
    kind = type(module)
    home = "torch.nn" if kind.__module__.startswith("torch.nn.modules") else kind.__module__
    return f"{home}.{kind.__qualname__}"
