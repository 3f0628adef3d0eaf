"""A model in a folder: another process gives the same bits, and a damaged one says what is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

import refold as rf
from refold.errors import CheckpointError, DataError
from refold.forecast import Forecaster, Settings
from refold.train.checkpoints.file import read, write

QUICK = Settings(members=2, steps=5, rate=1e-3, origins=20)


def table(lengths=(60, 45)) -> pl.DataFrame:
    parts = []
    for i, n in enumerate(lengths):
        stamps = pd.date_range("2020-01-31", periods=n, freq="ME").to_numpy()
        y = 50 + 10 * np.sin(np.arange(n)) + np.random.default_rng(i).normal(size=n)
        stamps = stamps.astype("datetime64[us]")
        parts.append(pl.DataFrame({"unique_id": [f"s{i}"] * n, "ds": stamps, "y": y}))
    return pl.concat(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model"
    Forecaster("lstm", horizon=3, settings=QUICK).fit(table()).calibrate().save(path)
    return path


def changed(folder: Path, to: Path, change) -> Path:
    """A copy whose document `change` has changed, with a right checksum."""
    shutil.copytree(folder, to)
    tensors, document = read(to / "model.safetensors")
    change(tensors, document)
    write(to / "model.safetensors", tensors, document)
    return to


def test_another_process_gives_the_same_bits(folder, tmp_path):
    code = (
        "import sys, refold as rf\n"
        "model = rf.Forecaster.load(sys.argv[1])\n"
        "model.predict(level=[80, 95]).write_parquet(sys.argv[2])\n"
    )
    target = str(tmp_path / "there.parquet")
    subprocess.run([sys.executable, "-c", code, str(folder), target], check=True)
    here = Forecaster.load(folder).predict(level=[80, 95])
    assert pl.read_parquet(target).equals(here)
    again = Forecaster("lstm", horizon=3, settings=QUICK).fit(table())
    assert again.predict(level=[80, 95]).equals(here)


def test_everything_comes_back(folder):
    first = Forecaster("lstm", horizon=3, settings=QUICK).fit(table()).calibrate()
    found = Forecaster.load(folder)
    assert (found.horizon, found.settings) == (3, first.settings)
    assert first.fitted is not None and found.fitted is not None
    mine, theirs = first.fitted.panel, found.fitted.panel
    assert (mine.frequency, mine.seasons, mine.clock, mine.notes) == (
        theirs.frequency, theirs.seasons, theirs.clock, theirs.notes,
    )  # fmt: skip
    for one, other in zip(mine.series, theirs.series, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.stamps, other.stamps)
        np.testing.assert_array_equal(one.values, other.values)
    assert found.backtest(windows=1).frame.equals(first.backtest(windows=1).frame)


def test_what_was_saved_can_be_saved_again(folder, tmp_path):
    Forecaster.load(folder).save(tmp_path / "again")
    for name in ("model.safetensors", "about.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_people_can_read_about_it(folder):
    about = json.loads((folder / "about.json").read_text())
    assert about["horizon"] == 3 and about["settings"]["cell"] == "lstm"
    assert about["series"]["names"] == "2 series"
    (folder / "about.json").unlink()
    assert Forecaster.load(folder).horizon == 3  # and nothing depends on it


FREQUENCIES = ["MS", "ME", "QS", "YE", "W-TUE", "D", "B", "h", "30min"]


@pytest.mark.parametrize("freq", FREQUENCIES)
def test_stamps_of_every_spacing(freq, tmp_path):
    stamps = pd.date_range("2020-01-31", periods=40, freq=freq)
    frame = pd.DataFrame({"ds": stamps, "y": np.arange(40) % 5 + 1.0})
    model = Forecaster(horizon=2, settings=QUICK).fit(frame)
    model.save(tmp_path / "m")
    found = rf.Forecaster.load(tmp_path / "m")
    assert model.fitted is not None and found.fitted is not None
    mine, theirs = (fitted.panel.series[0].stamps for fitted in (model.fitted, found.fitted))
    np.testing.assert_array_equal(mine, theirs)
    pd.testing.assert_frame_equal(model.predict(), found.predict())


@pytest.mark.parametrize("zone", ["Europe/Berlin", "UTC"])
def test_kinds_and_types_of_frames(zone, tmp_path):
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 1, 20), eager=True)
    numbered = pl.DataFrame({"unique_id": [7] * 20, "ds": days, "y": np.arange(20.0)})
    hours = pd.date_range("2024-03-30", periods=60, freq="h", tz=zone)
    zoned = pd.DataFrame({"ds": hours, "y": np.arange(60) % 24 + 1.0})
    steps = pl.DataFrame({"ds": np.arange(30), "y": np.arange(30.0) - 9})
    for i, frame in enumerate((numbered, zoned, steps)):
        model = Forecaster(horizon=2, settings=QUICK).fit(frame)
        model.save(tmp_path / f"m{i}")
        first, second = model.predict(), Forecaster.load(tmp_path / f"m{i}").predict()
        assert type(first) is type(frame) is type(second)
        assert first.equals(second)
        assert list(first.dtypes) == list(second.dtypes)


def test_a_library_that_is_not_there(tmp_path, monkeypatch):
    frame = pd.DataFrame({"ds": range(30), "y": np.arange(30) % 6 + 1.0})
    Forecaster(horizon=2, settings=QUICK).fit(frame).save(tmp_path / "m")
    model = Forecaster.load(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DataError, match=r"(?s)a frame of pandas, which is not installed.*install"):
        model.predict()


def test_offsets_without_a_name(tmp_path):
    hours = pd.date_range("2024-01-01", periods=30, freq="h", tz="+05:30")
    frame = pd.DataFrame({"ds": hours, "y": np.arange(30) % 6 + 1.0})
    model = Forecaster(horizon=2, settings=QUICK).fit(frame)
    model.save(tmp_path / "m")
    pd.testing.assert_frame_equal(model.predict(), Forecaster.load(tmp_path / "m").predict())


def test_a_cell_of_ones_own_needs_no_file(tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import refold as rf\n\n"
        "@rf.cell\n"
        "def slow(x=rf.Input('m'), h=rf.State('k'), *, W=rf.Weight('k m'), tau=rf.Scalar(5.0)):\n"
        "    return h + (rf.tanh(W @ x) - h) / tau\n"
    )
    model = Forecaster(rf.cells.find(f"{source}:slow"), horizon=3, settings=QUICK).fit(table())
    model.save(tmp_path / "m")
    source.unlink()
    found = Forecaster.load(tmp_path / "m")
    assert found.settings.cell == model.settings.cell and found.settings.cell_name == "slow"
    assert found.predict().equals(model.predict())
    assert json.loads((tmp_path / "m/about.json").read_text())["settings"]["cell"] == "slow"


# What is refused


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        Forecaster.load(path)
    return str(error.value)


def test_what_is_not_there(tmp_path):
    assert refusal(tmp_path / "none") == (
        f"{tmp_path / 'none'}\nthere is no such folder\n"
        "name a folder that `refold fit` or Forecaster.save wrote"
    )
    assert "there is no model.safetensors here" in refusal(tmp_path)


@pytest.mark.parametrize("at", [3, 100, 5000, -1])
def test_one_changed_byte(folder, tmp_path, at):
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m/model.safetensors"
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    text = refusal(tmp_path / "m")
    assert "damaged" in text or "it is" in text


def test_a_file_that_is_cut_or_of_another_program(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "m")
    path = tmp_path / "m/model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert "the checkpoint is damaged: it is cut after" in refusal(tmp_path / "m")
    path.write_text("hello")
    assert "it is a text file" in refusal(tmp_path / "m")


def test_a_checkpoint_of_a_training(tmp_path):
    write(tmp_path / "model.safetensors", {}, {"step": 3})
    assert "it is a checkpoint, but not of a forecaster" in refusal(tmp_path)


def test_a_later_version(folder, tmp_path):
    later = changed(folder, tmp_path / "m", lambda t, d: d.update(format=2, refold="9.1"))
    assert f"the model has format 2, of refold 9.1; this is refold {rf.__version__}" in refusal(
        later
    )
    assert "install refold 9.1 or later" in refusal(later)


def test_a_setting_that_is_not_known(folder, tmp_path):
    other = changed(folder, tmp_path / "m", lambda t, d: d["settings"].update(magic=1))
    assert "the model has a Settings with magic, which this refold does not know" in refusal(other)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, d: d.pop("panel"),
        lambda t, d: d["settings"].update(record="Popen"),
        lambda t, d: d["settings"].update(cell="no such cell"),
        lambda t, d: d["settings"].update(cell={"cell": {"name": "x"}}),
        lambda t, d: d["frame"].update(types={"ds": ["system"]}),
        lambda t, d: d["model"].update(transform="exec"),
        lambda t, d: t.pop("panel/values"),
        lambda t, d: d["panel"]["names"].append("one more"),
    ],
)
def test_content_that_is_not_a_models(folder, tmp_path, change):
    text = refusal(changed(folder, tmp_path / "m", change))
    assert "the checksum is right, but the content is not a model's" in text
    assert "save the model again" in text


def test_weights_of_other_sizes(folder, tmp_path):
    other = changed(folder, tmp_path / "m", lambda t, d: d["model"]["courses"][0].update(hidden=7))
    assert "in the checkpoint" in refusal(other)


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(DataError, match=r"(?s)Forecaster.save.*has not been fitted"):
        Forecaster(horizon=3).save(tmp_path / "m")
    model = Forecaster(horizon=3, settings=QUICK).fit(table())
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/m"):
        with pytest.raises(CheckpointError, match="the model cannot be written"):
            model.save(tmp_path / place)


def test_what_cannot_be_written_leaves_the_old_model(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "m")
    before = (tmp_path / "m/model.safetensors").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        Forecaster(horizon=3, settings=QUICK).fit(table()).save(tmp_path / "m")
    assert (tmp_path / "m/model.safetensors").read_bytes() == before
