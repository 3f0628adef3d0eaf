"""Where processes that were started together find each other, however often that happens.

Torch's processes leave their addresses in a store, and torchrun keeps it when it starts them again:
one may then read the address of one that is dead. So they agree on a word first, which nobody can
have left behind, and use a part of the store that has it for its name.
"""

from __future__ import annotations

import secrets
import time
from functools import cache
from typing import Any

_PAGE = "refold"
_PAUSE = 0.01  # seconds; a start takes some already


def meeting() -> tuple[Any, int, int]:
    """A store of this start alone, this process's rank in it, and the number of processes.

    Errors  RuntimeError or ValueError of torch, for an environment or an address that is wrong, or
    when somebody does not come.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    store, rank, number = _kept()
    return PrefixStore(word(store, rank, number), store), rank, number


@cache
def _kept() -> tuple[Any, int, int]:
    """The store for as long as the process lives: the first one may be serving it at a port."""
    from torch.distributed.rendezvous import rendezvous

    return next(iter(rendezvous("env://")))


def word(store: Any, rank: int, number: int) -> str:
    """A word that all processes of this start have, and none of an earlier one.

    Each of them writes a name that it has just drawn. The first process writes the word, and beside
    it all the names that it has read, again whenever one is new; who finds his own there knows that
    the word is of now. A process that is done has said so under the new word.

    Errors  RuntimeError when that takes longer than the store waits.
    """
    own, end = secrets.token_hex(8), time.monotonic() + store.timeout.total_seconds()
    others, names = range(1, number), []
    if rank > 0:
        store.set(f"{_PAGE}/{rank}", own)
    while time.monotonic() < end:
        if rank > 0:
            found, *names = store.get(_PAGE).decode().split()
            if own in names:
                store.set(f"{_PAGE}/{found}/{rank}", "")
                return found
        else:
            now = [store.get(f"{_PAGE}/{other}").decode() for other in others]
            if now != names:
                names = now
                store.set(_PAGE, " ".join([own, *names]))
            if store.check([f"{_PAGE}/{own}/{other}" for other in others]):
                return own
        time.sleep(_PAUSE)
    raise RuntimeError(f"process {rank} of {number} has waited in vain for another one")
