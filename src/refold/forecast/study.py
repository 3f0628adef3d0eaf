"""A search that Optuna keeps: in memory, or in a file from which another process goes on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refold.errors import DataError, RefoldError

from .digest import digest
from .panel import Panel

if TYPE_CHECKING:
    import optuna

_NAME = "refold"
# Trials that run to their end before any is given up, and that are drawn by chance.
_FREE = 4


class Study:
    """Optuna's study, and what is done with it here."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self.last_error: RefoldError | None = None

    @property
    def finished(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that are over, in order."""
        return [t for t in self._study.get_trials(deepcopy=False) if t.state.is_finished()]

    def begin_with(self, params: dict[str, Any]) -> None:
        """Make this the first trial of a new study."""
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(params)

    def run(
        self, objective: Callable[[optuna.Trial], float], trials: int, seconds: float | None
    ) -> None:
        """Trials, until there are so many or the seconds are over; one that fails is passed over."""

        def kept(trial: optuna.Trial) -> float:
            try:
                return objective(trial)
            except RefoldError as error:
                self.last_error = error
                raise

        left = trials - len(self.finished)
        if left > 0:
            with _quiet():
                self._study.optimize(kept, n_trials=left, timeout=seconds, catch=(RefoldError,))


def open_study(path: Path | None, panel: Panel, about: dict[str, Any], seed: int) -> Study:
    """A new study, or the one of that file, where it is of the same series and settings.

    Errors  RefoldError where Optuna is not installed; DataError for a file that is no study, or one
    of something else.
    """
    _require()
    import optuna
    from optuna.trial import TrialState

    with _quiet():
        try:
            study = optuna.create_study(
                storage=_storage(path),
                study_name=_NAME,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_FREE),
                load_if_exists=True,
            )
        except (OSError, ValueError, KeyError) as error:
            fact = f"{path} cannot be used as a study: {getattr(error, 'strerror', None) or error}"
            raise DataError(fact, "name another file", "study") from error
        _agree(study, {**about, "series": digest(panel)}, path)
        # Of a process that was ended in the middle of a trial.
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        begun = len(study.get_trials(deepcopy=False))
        # Another seed when it is taken up again: the same one would draw the same trials.
        study.sampler = optuna.samplers.TPESampler(seed=seed + begun, n_startup_trials=_FREE)
    return Study(study)


def _require() -> None:
    if importlib.util.find_spec("optuna") is None:
        fact = "Optuna is not installed, so settings cannot be looked for"
        raise RefoldError(fact, "install it: pip install 'refold[tune]'", "tune")


def _storage(path: Path | None) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return None if path is None else JournalStorage(JournalFileBackend(str(path)))


def _agree(study: optuna.Study, about: dict[str, Any], path: Path | None) -> None:
    """Errors  DataError where the study was begun for something else."""
    before = study.user_attrs.get("about")
    if before is None:
        study.set_user_attr("about", about)
        return
    for name in about:
        if before.get(name) != about[name]:
            what = {"series": "other series", "given": "other settings"}.get(
                name, f"{name} {before.get(name)}, and not {about[name]}"
            )
            fact = f"{path} holds a study of {what}"
            raise DataError(fact, "give the same, or name another file", "study")


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells every trial on stderr; what there is to tell is told by the caller."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
