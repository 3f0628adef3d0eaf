"""rf.nn among torch's machinery: torch.compile, torch.export; and `rf.convert`, which puts it into a torch model."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

import refold as rf

# What torch itself says about its own parts.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
]
LAYERS = ("RNN", "LSTM", "GRU")


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def outcome(call: Any, module: nn.Module, *given: Any) -> list[Tensor]:
    y, final = call(*given)
    results = [y, *(final if isinstance(final, tuple) else (final,))]
    total = torch.stack([r.square().sum() for r in results]).sum()
    return [*results, *torch.autograd.grad(total, list(module.parameters()))]


def same(mine: Any, theirs: Any, near: float = 1e-12) -> None:
    torch.testing.assert_close(mine, theirs, rtol=near, atol=near)


# ---------------------------------------------------------------- torch.compile and torch.export


@pytest.mark.parametrize("name", LAYERS)
def test_one_graph_holds_a_layer(name: str, fresh_compiler: None) -> None:
    layer = getattr(rf.nn, name)(4, 6, 2, bidirectional=True, batch_first=True).double()
    fast = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    h = torch.randn(4, 3, 6, dtype=torch.float64)
    for given in ((x,), (x, (h, h.sin()) if name == "LSTM" else h)):
        same(outcome(fast, layer, *given), outcome(layer, layer, *given))
    with torch.no_grad():
        same(fast(x), layer(x))


def test_one_graph_holds_what_is_beyond_torch(fresh_compiler: None) -> None:
    layer = rf.nn.LSTM(4, 6, proj_size=3, layer_norm=True, peephole=True).double()
    fast = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    lengths = torch.tensor([5, 0, 3])
    found, expected = (f(x, lengths=lengths, return_states="all")[0] for f in (fast, layer))
    same(found, expected)


def test_packed_batches_run_beside_the_graph(fresh_compiler: None) -> None:
    layer = rf.nn.GRU(4, 6).double()
    fast = torch.compile(layer, backend="aot_eager")
    x = pack_padded_sequence(torch.randn(5, 3, 4).double(), torch.tensor([5, 4, 2]))
    same(fast(x)[0].data, layer(x)[0].data)


class Tagger(nn.Module):
    """A model as many are."""

    def __init__(self, home: Any = nn):
        super().__init__()
        self.words = nn.Embedding(11, 4)
        self.lstm = home.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(12, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.lstm(self.words(words))[0])


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_model_runs(strict: bool, fresh_compiler: None) -> None:
    model = Tagger(rf.nn).eval()
    words = torch.randint(11, (3, 5))
    program = torch.export.export(model, (words,), strict=strict)
    assert any("refold.sequence" in str(node.target) for node in program.graph.nodes)
    same(program.module()(words), model(words), 1e-6)
    assert len(model.lstm.operators()) == 2


# ---------------------------------------------------------------- rf.convert


class Own(nn.LSTM):
    def forward(self, input, hx=None):  # type: ignore[override]
        return super().forward(2 * input, hx)


class Nest(nn.Module):
    def __init__(self):
        super().__init__()
        self.tagger = Tagger()
        self.stack = nn.ModuleList([nn.GRU(12, 5), nn.RNN(5, 4, nonlinearity="relu")])
        self.shared = self.stack[0]
        self.cell = nn.LSTMCell(4, 4)
        self.tied = nn.LSTM(4, 4, bidirectional=True)
        self.tied.weight_hh_l0_reverse = self.tied.weight_hh_l0

    def forward(self, words: Tensor) -> Tensor:
        y = self.tagger.lstm(self.tagger.words(words))[0].transpose(0, 1)
        y = self.stack[1](self.shared(y)[0] + self.stack[0](y)[0])[0]
        return self.tied(y)[0].sum() + self.cell(y[0])[0].sum()


def train(model: nn.Module, steps: int, convert_at: int | None) -> list[float]:
    """A few steps of Adam; the model is converted before one of them."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    words = torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(2))
    found = []
    for step in range(steps):
        if step == convert_at:
            rf.convert(model)
        optimiser.zero_grad()
        error = model(words).square()
        error.backward()
        optimiser.step()
        found.append(error.item())
    return found


def test_a_converted_model_is_the_same_model():
    torch.manual_seed(0)
    model = Nest().double()
    held = dict(model.named_parameters())
    names = dict(model.named_modules())
    words = torch.randint(11, (3, 5))
    before = model(words)
    keys = list(model.state_dict())
    record = rf.convert(model)
    assert record.converted == ("tagger.lstm", "stack.0", "stack.1", "cell", "tied")
    assert record.left == ()
    same(model(words), before)
    assert all(p is held[n] for n, p in model.named_parameters())
    assert all(m is names[n] for n, m in model.named_modules())
    assert model.shared is model.stack[0] and type(model.shared) is rf.nn.GRU
    assert type(model.stack[1]) is rf.nn.RNN and type(model.cell) is rf.nn.LSTMCell
    assert model.tied.weight_hh_l0_reverse is model.tied.weight_hh_l0
    assert list(model.state_dict()) == keys
    assert str(record).splitlines()[:2] == [
        "5 converted, 0 left alone",
        "  tagger.lstm  torch.nn.LSTM  converted: llvm (auto: float64 on the processor is compiled)",
    ]
    assert rf.convert(model).modules == ()  # nothing of torch's is left


def test_an_optimiser_goes_on():
    torch.manual_seed(0)
    runs = []
    for convert_at in (None, 0, 2):
        torch.manual_seed(0)
        runs.append(train(Nest().double(), 5, convert_at))
    assert runs[0][-1] < runs[0][0]
    assert runs[1] == pytest.approx(runs[0], rel=1e-9)
    assert runs[2] == pytest.approx(runs[0], rel=1e-9)


def test_the_model_itself_can_be_a_layer():
    layer = nn.GRU(4, 6)
    seen = []
    layer.register_forward_hook(lambda module, args, result: seen.append(type(module)))
    layer(torch.ones(2, 1, 4))
    record = rf.convert(layer)
    layer(torch.ones(2, 1, 4))
    assert seen == [nn.GRU, rf.nn.GRU]
    assert str(record.modules[0]).startswith("(the model itself)  torch.nn.GRU  converted: llvm")
    half = nn.LSTM(4, 6).bfloat16()
    assert "converted: reference (auto: the compiler knows" in str(rf.convert(half))


def test_what_is_left_alone_and_why():
    replaced, normed = nn.GRU(2, 3), parametrizations.weight_norm(nn.LSTM(2, 3), "weight_hh_l0")
    replaced.forward = lambda *given: None  # type: ignore[method-assign]
    scripted = torch.jit.script(nn.LSTM(2, 3))
    # Of the class that torch.ao.quantization puts in an LSTM's place, the name and the home are looked at.
    made = type("LSTM", (nn.Module,), {"__module__": "torch.ao.nn.quantized.dynamic.modules.rnn"})
    quantised = str(rf.convert(nn.Sequential(made())))
    assert "it is quantised, or made to be, and refold has no quantised kernels" in quantised
    away = nn.RNN(2, 3)  # there is no such device here: only where its parameters say they are
    away.parameters = lambda recurse=True: [SimpleNamespace(device=torch.device("cuda"))]  # type: ignore[method-assign, assignment]
    model = nn.ModuleDict(
        {"own": Own(2, 3), "replaced": replaced, "normed": normed, "scripted": scripted}
    )
    model["away"] = away
    record = rf.convert(model)
    assert record.converted == ()
    assert record.left == ("own", "replaced", "normed", "scripted", "away")
    text = str(record)
    for reason in (
        "Own  left alone: it is a subclass, which may do more than its base; derive it from rf.nn",
        "replaced  torch.nn.GRU  left alone: its forward has been replaced",
        "it is parametrized, which gave it a class of its own; convert first, then parametrize",
        "TorchScript holds its code; convert the model before it is scripted",
        "it is on cuda, where torch's own kernels are faster than refold's reference",
    ):
        assert reason in text


def test_what_is_no_model_is_refused():
    with pytest.raises(
        rf.KernelError, match=r"list is no torch.nn.Module, .*\nGive the model itself"
    ):
        rf.convert([nn.LSTM(2, 3)])  # type: ignore[arg-type]
