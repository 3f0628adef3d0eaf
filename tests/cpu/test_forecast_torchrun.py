"""Several processes that train one forecaster: the networks are those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from refold.forecast import Forecaster, Settings, from_frame
from refold.forecast.processes import is_first, started
from refold.forecast.sequences import scaled
from refold.forecast.ways import way_of

STILL = {"members": 2, "steps": 12, "hidden": 8, "dropout": 0.0, "noise": 0.0, "batch": 6}


@pytest.mark.slow
def test_two_processes_fit_what_one_fits(refold, tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(STILL))
    words = ("fit", "--example", "airpassengers", "-H", "12", "--settings", "s.json")
    path = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*several, "-m", "refold", *words, "--out", "two"],
        env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
             "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written to two") == 1, "one process tells"
    code, _, _ = refold(*words, "--out", "one")
    assert code == 0
    one, two = (Forecaster.load(tmp_path / name) for name in ("one", "two"))
    assert one.fitted and two.fitted
    for mine, theirs in zip(one.fitted.networks, two.fitted.networks, strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(one.predict()["y_hat"], two.predict()["y_hat"], rtol=1e-4)
    assert one.calibration and two.calibration
    np.testing.assert_allclose(one.calibration.scores, two.calibration.scores, atol=1e-2)


def test_without_torchrun_there_is_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert started() == 1 and is_first()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert started() == 3 and not is_first()


def test_processes_share_the_windows_of_a_step():
    panel = from_frame(pl.DataFrame({"unique_id": "a", "ds": range(60), "y": np.arange(60.0)}))
    settings = Settings(over="segments", batch=9)
    way = way_of(settings)
    course = way.course(panel, 4, settings, 0)
    past = way.past(panel, scaled(panel, 4), course)
    _, alone = way.draws(past, course, 0, 1)
    drawn, number = way.draws(past, course, 0, 2)
    assert number == 2 * alone and {len(x) for x in drawn(0).x} == {5}
