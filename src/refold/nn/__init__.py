"""Layers, wiring and initialisers: the torch.nn.Modules. `rf.nn.LSTM` and the like stand in for torch.nn's."""

from .dropin import GRU as GRU
from .dropin import LSTM as LSTM
from .dropin import RNN as RNN
from .dropin import GRUCell as GRUCell
from .dropin import LSTMCell as LSTMCell
from .dropin import RNNCell as RNNCell
