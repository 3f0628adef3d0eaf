"""The node tests of the package onnx for RNN, GRU and LSTM, all 18 of them, on every backend."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx.backend.test.case.node import collect_testcases

import refold as rf

NAMES = (
    *(f"simple_rnn_{name}" for name in ("defaults", "with_initial_bias", "batchwise")),
    *("rnn_seq_length", "simple_rnn_reverse", "simple_rnn_bidirectional"),
    *(
        f"gru_{name}"
        for name in (
            *("defaults", "with_initial_bias", "seq_length"),
            *("batchwise", "reverse", "bidirectional"),
        )
    ),
    *(
        f"lstm_{name}"
        for name in (
            *("defaults", "with_initial_bias", "with_peepholes"),
            *("batchwise", "reverse", "bidirectional"),
        )
    ),
)


@pytest.fixture(scope="module")
def cases():
    with warnings.catch_warnings():
        # The package works out the cases of all operators; some divide by zero or overflow in NumPy, as they should.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="onnx")
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="numpy")
        found = collect_testcases(None)
    recurrent = {"RNN", "GRU", "LSTM"}
    return {
        case.name.removeprefix("test_"): case
        for case in found
        if isinstance(case.model, onnx.ModelProto)
        and recurrent & {node.op_type for node in case.model.graph.node}
    }


def test_these_are_all(cases):
    assert len(NAMES) == 18
    assert set(cases) == set(NAMES)


@pytest.mark.parametrize("backend", ["reference", "derived", "llvm"])
@pytest.mark.parametrize("name", NAMES)
def test_node(name, backend, cases):
    case = cases[name]
    node = rf.from_onnx(case.model, backend=backend)
    assert case.data_sets
    for inputs, outputs in case.data_sets:
        found = node(*(torch.from_numpy(np.array(a)) for a in inputs))
        assert len(found) == len(outputs)
        for mine, theirs in zip(found, outputs, strict=True):
            # The runner of the package allows rtol=1e-3.
            np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-7)
