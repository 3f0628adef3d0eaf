"""The search for settings: what a trial is, what no trial sees, and a study that is taken up again."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest

from refold.errors import DataError, RefoldError
from refold.forecast import (
    Forecaster,
    Settings,
    backtest_panel,
    from_frame,
    trials_frame,
    tune_panel,
)
from refold.forecast import tuning as module

pytest.importorskip("optuna")
QUICK = Settings(members=1, steps=5, rate=1e-3, origins=10)


@pytest.fixture
def short(monkeypatch):
    """Trainings of a few steps: for what does not depend on them."""
    monkeypatch.setitem(module._NUMBERS, "steps", (3, 6))
    monkeypatch.setitem(module._NUMBERS, "hidden", (4, 16))
    monkeypatch.setattr(module, "_MEMBERS", (1, 2))


def table(number=2, length=60) -> pl.DataFrame:
    noise = np.random.default_rng(0).normal(size=(number, length))
    y = 50 + 5 * np.sin(np.arange(length)) + noise
    steps = np.arange(length)
    return pl.concat(
        [pl.DataFrame({"unique_id": f"s{i}", "ds": steps, "y": own}) for i, own in enumerate(y)]
    )


def test_the_first_trial_is_what_was_given_and_its_error_that_of_a_backtest(short):
    panel = from_frame(table())
    found = tune_panel(panel, 3, QUICK, trials=3, windows=2)
    assert [t.number for t in found.trials] == [0, 1, 2]
    assert found.first.settings == QUICK and found.first.state == "complete"
    expected = backtest_panel(panel.split(3)[0], 3, QUICK, windows=2, refit=True)
    assert found.by == "MASE"
    assert found.first.error == pytest.approx(expected.model.metrics["MASE"], rel=1e-9)
    assert found.best.error <= found.first.error
    for trial in found.trials[1:]:
        assert 3 <= (trial.settings.steps or 0) <= 6 and trial.settings.blocks == QUICK.blocks


def test_no_trial_sees_what_is_held_out(short):
    frame, place = table(), pl.int_range(pl.len()).over("unique_id")
    spoiled = frame.with_columns(y=pl.when(place >= 56).then(1e6).otherwise(pl.col("y")))
    first, second = (
        tune_panel(from_frame(f, seasons=()), 3, QUICK, trials=3, windows=2, held_out=4)
        for f in (frame, spoiled)
    )
    assert [t.error for t in first.trials] == [t.error for t in second.trials]
    assert [t.settings for t in first.trials] == [t.settings for t in second.trials]
    third = tune_panel(from_frame(spoiled, seasons=()), 3, QUICK, trials=1, windows=2, held_out=3)
    assert third.first.error > 100 * first.first.error


def test_a_study_is_taken_up_again(short, tmp_path):
    panel, file = from_frame(table()), tmp_path / "study.log"
    some = tune_panel(panel, 3, QUICK, trials=3, windows=2, study=file)
    more = tune_panel(panel, 3, QUICK, trials=5, windows=2, study=file)
    assert more.trials[:3] == some.trials and len(more.trials) == 5
    assert len({t.settings for t in more.trials}) == 5, "no trial is drawn twice"
    again = tune_panel(panel, 3, QUICK, trials=5, windows=2, study=file)
    assert again.trials == more.trials


def test_a_trial_that_was_cut_off_counts_as_failed(short, tmp_path):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    panel, file = from_frame(table()), tmp_path / "study.log"
    tune_panel(panel, 3, QUICK, trials=2, windows=2, study=file)
    storage = JournalStorage(JournalFileBackend(str(file)))
    optuna.load_study(storage=storage, study_name="refold").ask()  # and the process is killed
    found = tune_panel(panel, 3, QUICK, trials=4, windows=2, study=file)
    assert [t.state for t in found.trials][2] == "fail" and len(found.trials) == 4
    assert "1 failed" in found.told()[-1]


def test_a_study_of_something_else_is_refused(short, tmp_path):
    panel, file = from_frame(table()), tmp_path / "study.log"
    tune_panel(panel, 3, QUICK, trials=1, windows=2, study=file)
    other = from_frame(table().with_columns(y=pl.col("y") + 1))
    with pytest.raises(DataError, match="holds a study of other series"):
        tune_panel(other, 3, QUICK, trials=2, windows=2, study=file)
    with pytest.raises(DataError, match="holds a study of other settings"):
        tune_panel(panel, 3, replace(QUICK, blocks=3), trials=2, windows=2, study=file)
    with pytest.raises(DataError, match="holds a study of windows 2, and not 3"):
        tune_panel(panel, 3, QUICK, trials=2, windows=3, study=file)
    with pytest.raises(DataError, match="cannot be used as a study"):
        tune_panel(panel, 3, QUICK, trials=2, windows=2, study=tmp_path)
    (tmp_path / "text.log").write_text("no study\n")
    with pytest.raises(DataError, match="cannot be used as a study"):
        tune_panel(panel, 3, QUICK, trials=2, windows=2, study=tmp_path / "text.log")


def test_bad_trials_are_given_up_and_failed_ones_passed_over(short, monkeypatch):
    panel = from_frame(table())
    # One look at which error is defined; four whole trials; one that is worse at once; one that is not.
    errors = iter([1.0, *[1.0] * 12, 9.0, 0.5, 2.0, 2.0])
    seen = iter(range(100))

    def fit(*_):
        if next(seen) == 16:  # the first origin of the last trial
            raise RefoldError("a number is not finite")

    monkeypatch.setattr(module, "fit_panel", fit)
    monkeypatch.setattr(
        module, "predict_panel", lambda fitted: [s.values[:3] for s in panel.series]
    )
    monkeypatch.setattr(module, "_errors", lambda *_: (next(errors), 0.0))
    found = tune_panel(panel, 3, QUICK, trials=7, windows=3)
    states = ["complete"] * 4 + ["pruned", "complete", "fail"]
    assert [t.state for t in found.trials] == states
    assert [t.origins for t in found.trials] == [3, 3, 3, 3, 1, 3, 0]
    assert found.best is found.first and "None of 7 trials was better" in found.told()[0]
    assert found.told()[-1] == "Of the trials, 1 were given up before the last origin and 1 failed."


def test_where_every_trial_fails_it_says_why(short, monkeypatch):
    def fit(*_):
        raise RefoldError("the loss is inf", "lower the rate")

    monkeypatch.setattr(module, "fit_panel", fit)
    with pytest.raises(DataError, match=r"(?s)no trial came to its end.*the loss is inf.*lower"):
        tune_panel(from_frame(table()), 3, QUICK, trials=2, windows=2)


def test_no_trial_begins_after_the_seconds(short):
    found = tune_panel(from_frame(table()), 3, QUICK, trials=50, windows=1, seconds=0.01)
    assert len(found.trials) == 1


def test_the_verb(short):
    frame = table()
    model = Forecaster(horizon=3, settings=QUICK).fit(frame)
    found = model.tune(trials=2, windows=2)
    assert model.settings == found.settings and model.fitted is None
    assert isinstance(found.trials, pl.DataFrame) and found.trials.height == 2
    assert found.trials.columns == [
        "number", "state", "error", "origins", "seconds",
        "cell", "hidden", "recent", "steps", "rate", "dropout", "members",
    ]  # fmt: skip
    assert trials_frame(found.found).equals(found.trials)
    given = pd.DataFrame({c: frame[c].to_numpy() for c in ("ds", "y")} | {"unique_id": "a"})
    given = given.drop_duplicates("ds")
    made = Forecaster(horizon=3, settings=QUICK).tune(given, trials=1, windows=1)
    assert isinstance(made.trials, pd.DataFrame)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"trials": 0}, "trials is 0"),
        ({"held_out": -1}, "held_out is -1"),
        ({"held_out": 60}, "s0 has 60 points, and 60 are held out"),
        ({"seconds": 0}, "seconds is 0"),
        ({"windows": 0}, "windows is 0"),
        ({"windows": 30}, r"at most 16 windows"),
    ],
)
def test_what_is_refused(given, text, monkeypatch):
    monkeypatch.setattr(module, "fit_panel", None)
    with pytest.raises(DataError, match=text):
        tune_panel(from_frame(table()), 3, QUICK, **given)


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RefoldError, match=r"(?s)Optuna is not installed.*refold\[tune\]"):
        tune_panel(from_frame(table()), 3, QUICK, trials=1)


def test_over_segments_the_look_back_is_tried_and_everything_else_stays(short):
    given = replace(QUICK, over="segments", segment=4, error="squared")
    found = tune_panel(from_frame(table()), 3, given, trials=3, windows=2)
    assert found.first.settings == given and found.first.state == "complete"
    for trial in found.trials[1:]:
        tried = trial.settings
        assert (tried.over, tried.segment, tried.error) == ("segments", 4, "squared")
        assert tried.recent == given.recent and 6 <= (tried.look_back or 0) <= 512
    columns = trials_frame(found).columns
    assert "look_back" in columns and "recent" not in columns


def test_a_study_of_dilations_is_taken_up_again(short, tmp_path):
    given = replace(QUICK, over="steps", dilations=(1, 3), look_back=16)
    panel, path = from_frame(table()), tmp_path / "study"
    for trials in (1, 2):
        found = tune_panel(panel, 3, given, trials=trials, windows=1, study=path)
        assert len(found.trials) == trials
    with pytest.raises(DataError, match="other settings"):
        tune_panel(panel, 3, replace(given, dilations=(1, 2)), windows=1, study=path)
