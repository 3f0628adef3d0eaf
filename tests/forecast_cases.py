"""Small tables of series, and settings that train on them in a moment."""

import numpy as np
import polars as pl

from refold.forecast import Settings

QUICK = Settings(members=1, steps=40, origins=40)


def table(values) -> pl.DataFrame:
    """Each row of values a series."""
    values = np.atleast_2d(np.asarray(values, dtype=float))
    n = values.shape[1]
    return pl.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(len(values))], n),
            "ds": np.tile(np.arange(n), len(values)),
            "y": values.ravel(),
        }
    )


def waves(n=72) -> pl.DataFrame:
    t, random = np.arange(n), np.random.default_rng(0)
    return table([50 + 10 * np.sin(2 * np.pi * t / 6) + random.normal(size=n) for _ in range(2)])
