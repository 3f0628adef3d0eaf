"""torch's own module database, which its wheel ships: every input and every error of RNN, LSTM, GRU and Cells."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import refold as rf

with warnings.catch_warnings():  # torch's test tools warn of parts that torch no longer likes
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_modules import module_db

NAMES = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
INFOS = {info.module_cls.__name__: info for info in module_db if info.module_cls.__name__ in NAMES}
# Cells are torch's own; the others are differentiated twice by the reference kernel, which says so.
TWICE = pytest.mark.filterwarnings("ignore:a gradient of a gradient:UserWarning")
DROPOUT = pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning")
# torch's own LSTM says so where it has a projection.
PROJECTION = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning")
pytestmark = [DROPOUT, PROJECTION]


def test_the_database_has_all_six():
    assert set(INFOS) == set(NAMES)


def inputs(name: str, dtype: torch.dtype, training: bool, requires_grad: bool = False, **more):
    info = INFOS[name]
    torch.manual_seed(0)
    return info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training, **more
    )


def pair(name: str, given, dtype: torch.dtype, training: bool):
    """Our module and torch's with the same parameters."""
    arguments = given.constructor_input
    made = []
    for home in (rf.nn, nn):
        torch.manual_seed(1)
        module = getattr(home, name)(*arguments.args, **arguments.kwargs, dtype=dtype)
        made.append(module.train(training))
    return made


def leaves(tree) -> list[Tensor]:
    return [t for t in tree_flatten(tree)[0] if isinstance(t, Tensor) and t.is_floating_point()]


def packings(name: str):
    return ({"with_packed_sequence": True}, {}) if not name.endswith("Cell") else ({},)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_every_input_gives_what_torch_gives(name, training, dtype):
    seen = 0
    for more in packings(name):
        for given in inputs(name, dtype, training, True, **more):
            mine, theirs = pair(name, given, dtype, training)
            arguments = given.forward_input
            results, gradients = [], []
            for module in (mine, theirs):
                torch.manual_seed(2)
                results.append(module(*arguments.args, **arguments.kwargs))
                out = leaves(results[-1])
                wanted = [
                    t
                    for t in (*leaves((arguments.args, arguments.kwargs)), *module.parameters())
                    if t.requires_grad
                ]
                total = sum((t.cos().sum() for t in out), torch.zeros((), dtype=dtype))
                gradients.append(torch.autograd.grad(total, wanted, allow_unused=True))
            near = 1e-4 if dtype == torch.float32 else 1e-10  # gradients reach 10, inputs 9
            torch.testing.assert_close(leaves(results[0]), leaves(results[1]), rtol=near, atol=near)
            torch.testing.assert_close(gradients[0], gradients[1], rtol=near, atol=near)
            seen += 1
    assert seen > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_error_has_torchs_type_and_text(name, training):
    info = INFOS[name]
    seen = 0
    assert info.module_error_inputs_func is not None
    found = info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
    )
    for given in found:
        made = given.module_error_input
        arguments = made.constructor_input
        if "construct" in str(given.error_on).lower():
            with pytest.raises(given.error_type, match=given.error_regex):
                getattr(rf.nn, name)(*arguments.args, **arguments.kwargs)
        else:
            module = getattr(rf.nn, name)(*arguments.args, **arguments.kwargs).train(training)
            forward = made.forward_input
            with pytest.raises(given.error_type, match=given.error_regex):
                module(*forward.args, **forward.kwargs)
        seen += 1
    assert seen > 0


def check_gradients(check, name: str, training: bool, every: int = 1) -> None:
    """Over the inputs of the database, or every so many of them."""
    for more in packings(name):
        for given in inputs(name, torch.float64, training, True, **more)[::every]:
            module, _ = pair(name, given, torch.float64, training)
            flat, form = tree_flatten((given.forward_input.args, given.forward_input.kwargs))
            moving = [
                i
                for i, t in enumerate(flat)
                if isinstance(t, Tensor) and t.is_floating_point() and t.requires_grad
            ]

            def run(*tensors, flat=flat, form=form, moving=moving, module=module):
                filled = list(flat)
                for i, t in zip(moving, tensors, strict=False):
                    filled[i] = t
                args, kwargs = tree_unflatten(filled, form)
                return tuple(leaves(module(*args, **kwargs)))

            # The parameters are passed as well: the check moves them where they lie.
            check(
                run,
                (*(flat[i] for i in moving), *module.parameters()),
                fast_mode=True,
                nondet_tol=0.0,
            )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradcheck(name, training):
    check_gradients(gradcheck, name, training, every=2)


@TWICE
@pytest.mark.parametrize("name", NAMES)
def test_gradgradcheck(name):
    check_gradients(gradgradcheck, name, training=False, every=7)


@TWICE
@pytest.mark.slow
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_gradients_of_every_input(name, training, check):
    check_gradients(check, name, training)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_do_not_lie_in_one_piece(name):
    def scattered(t):
        if not isinstance(t, Tensor) or t.dim() == 0 or not t.is_floating_point():
            return t
        return torch.stack([t, t + 1], -1)[..., 0]

    for given in inputs(name, torch.float64, True):
        mine, _ = pair(name, given, torch.float64, True)
        arguments = given.forward_input
        torch.manual_seed(2)
        whole = mine(*arguments.args, **arguments.kwargs)
        args, kwargs = tree_map(scattered, (arguments.args, arguments.kwargs))
        torch.manual_seed(2)
        pieces = mine(*args, **kwargs)
        torch.testing.assert_close(leaves(pieces), leaves(whole), rtol=0, atol=0)
