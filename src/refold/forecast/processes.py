"""Several processes that train one forecaster, started by torchrun: batches are shared, not enlarged.

The same settings give the same networks, however many processes there are, but for rounding, and for
dropout and noise, which each process draws for its own chains.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch import distributed as dist


def started() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def place() -> int:
    """Which of them this one is, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Is this the process that tells and writes?"""
    return place() == 0


def mean_of_all(error: Tensor, exists: Tensor) -> Tensor:
    """This process's part of the mean over the targets of all.

    `train.fit` sums these over processes, each times its share of the chains; processes have targets
    in another proportion than chains, since the future of some origins is not known.
    """
    chains = error.shape[1]
    told = torch.tensor([float(exists.sum()), float(chains)], dtype=torch.float64)
    dist.all_reduce(told)
    number, every = told.tolist()
    return error.sum() / max(1.0, number) * (every / chains)
