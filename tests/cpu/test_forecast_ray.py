"""Series parted among workers: the same forecasts, whatever is killed on the way."""

import os
import signal
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from refold.errors import DataError, RefoldError
from refold.forecast import Settings, backtest_panel, fit_panel, from_frame, on_panel, predict_panel
from refold.forecast import many as module
from refold.forecast.digest import digest
from refold.forecast.forecaster import mean_ahead
from refold.forecast.many import backtest_many, backtested, predict_many, predicted
from refold.forecast.spread import Spread

QUICK = Settings(members=1, steps=5, rate=1e-3, origins=10)


def table(number=9, length=60) -> pl.DataFrame:
    noise = np.random.default_rng(0).normal(size=(number, length))
    y = 50 + 5 * np.sin(np.arange(length)) + noise
    steps = np.arange(length)
    return pl.concat(
        [pl.DataFrame({"unique_id": f"s{i}", "ds": steps, "y": own}) for i, own in enumerate(y)]
    )


@pytest.fixture
def here(monkeypatch):
    """Chunks that are done in this process, one after another: without Ray."""
    monkeypatch.setattr("refold.forecast.spread._cluster", lambda workers: _Nothing())
    monkeypatch.setattr("refold.forecast.spread._as_they_come", _one_by_one)


class _Nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


def _one_by_one(ray, task, jobs):
    for k, job in jobs.items():
        yield k, task(job)


# What a chunk is


def test_parted_predictions_are_those_of_the_whole(here, tmp_path):
    panel = from_frame(table())
    fitted = fit_panel(panel.split(6)[0], 3, QUICK)
    spread = Spread(tmp_path / "parts", workers=1)
    assert spread.chunks(panel) == [(0, 3), (3, 6), (6, 9)]
    spread.begin({"work": digest(panel)})
    there = on_panel(fitted, panel)
    parted = predict_panel(there, predict_many(fitted, panel, spread))
    np.testing.assert_allclose(parted, predict_panel(there), rtol=1e-5)


def test_parted_backtests_are_those_of_the_whole(here, tmp_path):
    panel, spread = from_frame(table()), Spread(tmp_path / "parts", workers=1)
    spread.begin({"work": digest(panel)})
    whole = backtest_panel(panel, 3, QUICK, windows=2, levels=(80.0,))
    parted = backtest_panel(
        panel,
        3,
        QUICK,
        windows=2,
        levels=(80.0,),
        many=lambda fitted, panel, windows, step: backtest_many(
            fitted, panel, windows, step, spread
        ),
    )
    for one, other in zip(whole.rows, parted.rows, strict=True):
        assert (one.name, one.note) == (other.name, other.note)
        np.testing.assert_allclose(one.forecasts, other.forecasts, rtol=1e-5)
        for name, value in one.metrics.items():
            assert other.metrics[name] == pytest.approx(value, rel=1e-4)


def test_what_is_finished_is_not_done_again(here, tmp_path):
    panel = from_frame(table())
    fitted, done = fit_panel(panel, 3, QUICK), []

    def failing(job):
        done.append(job.panel.series[0].name)
        if job.panel.series[0].name == "s6" and done.count("s6") == 1:
            raise RefoldError("the power is gone")
        return predicted(job)

    spread = Spread(tmp_path / "parts", workers=1)
    spread.begin({"work": 1})
    jobs = module._jobs(fitted, panel, spread)
    with pytest.raises(RefoldError, match="the power is gone"):
        spread.run(failing, jobs)
    told = []
    found = spread.run(failing, jobs, lambda *told_: told.append(told_))
    assert done == ["s0", "s3", "s6", "s6"] and told == [(3, 3)]
    np.testing.assert_allclose(
        np.concatenate([part["model"] for part in found]), mean_ahead(fitted), rtol=1e-4, atol=1e-5
    )
    spread.end()
    assert not (tmp_path / "parts").exists()


def test_a_chunk_of_new_series_alone(here, tmp_path):
    panel = from_frame(table())
    few = from_frame(table().filter(pl.col("unique_id") < "s4"))
    fitted = fit_panel(few, 3, QUICK)
    spread = Spread(tmp_path / "parts", workers=1)
    spread.begin({})
    there = on_panel(fitted, panel)
    parted = predict_panel(there, predict_many(fitted, panel, spread))
    np.testing.assert_allclose(parted, predict_panel(there), rtol=1e-5)


def test_parts_of_other_work_are_refused(tmp_path):
    spread = Spread(tmp_path / "parts")
    spread.begin({"work": "a"})
    spread.begin({"work": "a"})
    with pytest.raises(DataError, match=r"(?s)holds parts of other work.*remove that folder"):
        spread.begin({"work": "b"})
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        Spread(tmp_path / "file" / "parts").begin({})


def test_digests_differ_by_every_value():
    panel = from_frame(table())
    other = from_frame(table().with_columns(y=pl.col("y") + 1e-9))
    assert digest(panel) == digest(from_frame(table())) != digest(other)
    assert digest(panel, 1) != digest(panel, 2)


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RefoldError, match=r"(?s)Ray is not installed.*refold\[ray\]"):
        Spread(tmp_path).run(predicted, [None])


# On two workers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of sockets and of what it will change
def test_a_worker_that_is_killed_loses_its_chunk_and_nothing_else(tmp_path):
    pytest.importorskip("ray")
    panel = from_frame(table())
    fitted, log = fit_panel(panel.split(6)[0], 3, QUICK), tmp_path / "log"
    log.mkdir()

    def killed_once(job):
        name = job.panel.series[0].name
        (log / f"{name}-{len(list(log.glob(f'{name}-*')))}").touch()
        if name == "s4" and not (log / "killed").exists():
            (log / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return backtested(job)

    spread = Spread(tmp_path / "parts", workers=2)
    spread.begin({})
    jobs = [replace(job, windows=2, step=3) for job in module._jobs(fitted, panel, spread)]
    told = []
    parts = spread.run(killed_once, jobs, lambda *told_: told.append(told_))
    assert (log / "killed").exists() and told[-1] == (len(jobs), len(jobs))
    begun = sorted(path.name for path in log.glob("s*"))
    assert begun == ["s0-0", "s2-0", "s4-0", "s4-1", "s6-0", "s8-0"], "one chunk is done twice"
    made = [module._joined(parts, k) for k in range(2)]
    whole = backtest_panel(panel, 3, QUICK, windows=2)
    assert len(made[0].ahead) == 9 and set(made[0].simple) == {
        row.name for row in whole.rows if not row.is_model
    }
    np.testing.assert_allclose(made[0].simple["Naive"], whole.rows[0].forecasts[:9])


@pytest.mark.parametrize("head", ["student", "poisson"])
def test_parted_distributions_are_those_of_the_whole(here, tmp_path, head):
    panel = from_frame(table().with_columns(y=pl.col("y").round()))
    settings = replace(QUICK, head=head)
    whole = backtest_panel(panel, 3, settings, windows=2, levels=(80.0,))
    spread = Spread(tmp_path / "parts", workers=1)
    spread.begin({})

    def made(fitted, panel, windows, step):
        return backtest_many(fitted, panel, windows, step, spread)

    parted = backtest_panel(panel, 3, settings, windows=2, levels=(80.0,), many=made)
    assert "CRPS" in parted.model.metrics
    for name, value in whole.model.metrics.items():
        assert parted.model.metrics[name] == pytest.approx(value, rel=1e-4)
    for one, other in zip(whole.windows, parted.windows, strict=True):
        np.testing.assert_allclose(one.bands[0].low, other.bands[0].low, rtol=1e-4)
        assert other.distribution is not None
