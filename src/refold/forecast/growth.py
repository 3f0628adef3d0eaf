"""Arrays that grow at their end without being copied each time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A buffer is made longer than its content by this part: so often, on the average, a value is copied
# at most five times, however many come.
_SPARE = 4


class _Buffer(np.ndarray):
    """Memory of which the first `used` values are somebody's."""

    used: int


def longer(known: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
    """known and then more, as a view of memory that has room behind it.

    Where known is itself the last view that was made of such memory, only `more` is written;
    what other views show stays as it was.

    Shapes  (n,), (k,) -> (n + k,)
    """
    length = len(known) + len(more)
    buffer = _buffer_of(known)
    if buffer is None or length > len(buffer):
        buffer = _Buffer(length + length // _SPARE + 16, known.dtype)
        buffer[: len(known)] = known
    buffer.used = length  # before it is written: another view that ends there now finds it taken
    buffer[len(known) : length] = more
    return np.ndarray((length,), known.dtype, buffer)


def _buffer_of(known: NDArray[Any]) -> _Buffer | None:
    """The buffer of which this is all that is used."""
    buffer = known.base
    if not isinstance(buffer, _Buffer) or buffer.used != len(known):
        return None
    return buffer if buffer.ctypes.data == known.ctypes.data else None
