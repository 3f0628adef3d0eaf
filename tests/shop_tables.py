"""Tables of shops with covariates of every kind, and cells of them spoiled."""

import datetime as dt

import numpy as np
import polars as pl

from refold.forecast import Covariates

ALL = Covariates(static=["shop"], known=["promo", "day"], historical=["warmth"])


def shops(count=3, n=90, ahead=7, effect=20.0, seed=0) -> pl.DataFrame:
    """Sales that a promotion raises; `ahead` rows behind the end have no y."""
    rng, parts = np.random.default_rng(seed), []
    for i in range(count):
        t = np.arange(n + ahead)
        promo = (rng.random(len(t)) < 0.25).astype(float)
        y = 50 + 10 * np.sin(2 * np.pi * t / 7) + effect * promo + rng.normal(size=len(t))
        parts.append(
            pl.DataFrame(
                {
                    "unique_id": [f"s{i}"] * len(t),
                    "ds": [dt.date(2024, 1, 1) + dt.timedelta(int(k)) for k in t],
                    "y": [*y[:n], *[None] * ahead],
                    "promo": promo,
                    "day": ["promo" if p else "plain" for p in promo],
                    "warmth": rng.normal(size=len(t)),
                    "shop": ["ab"[i % 2]] * len(t),
                }
            )
        )
    return pl.concat(parts)


def spoiled(frame: pl.DataFrame, column: str, row: int, value) -> pl.DataFrame:
    cells = frame[column].to_list()
    cells[row] = value
    return frame.with_columns(pl.Series(column, cells, strict=False))
