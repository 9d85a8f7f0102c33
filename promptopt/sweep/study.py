"""Record a sweep as an Optuna study with one trial per run, next to the studies of the runs. For display only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from promptopt.errors import InputError
from promptopt.tracking import OptunaStudy
from promptopt.tracking.events import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from optuna import Study
    from optuna.trial import FrozenTrial

    from promptopt.sweep.single_run import RunOutcome, RunSpec

_log = logging.getLogger(__name__)

_LOCK_TIMEOUT = 30.0  # seconds to wait while runs lock the SQLite file


class SweepStudy:
    """Records a sweep as an Optuna study; the value of a trial is the test reward.

    Each failure of a run is a failed trial. A run on a rung of a portfolio, which has no test, is a pruned trial. If the
    storage fails later, the sweep continues with one warning.

    Args:
        storage: URL, or the path of an SQLite file.
        name: name of the study.
        choices: values of `task`, `model`, `strategy` and `seed` in this sweep.

    Raises:
        InputError: the storage cannot be used.
    """

    def __init__(self, storage: str | Path, name: str, choices: dict[str, list[Any]]) -> None:
        self.name = name
        self._choices = choices
        self._url = OptunaStudy(storage).url  # refuses an invalid URL
        self._study: Study | None = self._open_study()
        trials = self._study.get_trials(deepcopy=False)
        self._recorded = {trial.user_attrs["run"] for trial in trials if trial.state.name != "FAIL"}

    def close(self) -> None:
        """Close the database connection."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def add(self, run_spec: RunSpec, outcome: RunOutcome) -> None:
        """Record the outcome of a run, once."""
        from optuna.exceptions import OptunaError  # noqa: PLC0415  a second
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

        if self._study is None or run_spec.name in self._recorded:
            return
        try:
            self._study.add_trial(_trial(run_spec, outcome, self._choices))
        except (OptunaError, SQLAlchemyError, ValueError) as error:  # ValueError: labels of an earlier version
            self._study = None
            _log.warning("study %r: no longer written, the sweep continues (%s)", self.name, first_line(error))
        if not outcome.reason:
            self._recorded.add(run_spec.name)

    def _open_study(self) -> Study:
        """Create the tables and the study before parallel runs need them."""
        import optuna  # noqa: PLC0415  as above
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

        engine_options = {"connect_args": {"timeout": _LOCK_TIMEOUT}} if self._url.startswith("sqlite") else None
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._storage = optuna.storages.RDBStorage(self._url, engine_kwargs=engine_options)
            return optuna.create_study(
                storage=self._storage, study_name=self.name, direction="maximize", load_if_exists=True
            )
        except (optuna.exceptions.OptunaError, SQLAlchemyError) as error:
            raise InputError(
                f"cannot write the sweep's study ({first_line(error)}): start the database, or give another --study"
            ) from error
        finally:
            optuna.logging.set_verbosity(verbosity)


def _trial(run_spec: RunSpec, outcome: RunOutcome, choices: dict[str, list[Any]]) -> FrozenTrial:
    from optuna.distributions import CategoricalDistribution  # noqa: PLC0415  as above
    from optuna.trial import TrialState, create_trial  # noqa: PLC0415

    params = {
        "task": run_spec.task,
        "model": run_spec.model.label,
        "strategy": run_spec.strategy.label,
        "seed": run_spec.seed,
    }
    attributes: dict[str, Any] = {"run": run_spec.name, "budget": str(run_spec.budget), **params}
    if outcome.result is not None:
        attributes |= {
            "headline": outcome.result.headline,
            "calls": sum(spent.calls for spent in outcome.result.used.values()),
        }
    if outcome.reason:
        return create_trial(state=TrialState.FAIL, user_attrs={**attributes, "reason": outcome.reason})
    test = outcome.result.test if outcome.result else None
    if test is None:
        return create_trial(state=TrialState.PRUNED, user_attrs={**attributes, "rung": run_spec.rung})
    return create_trial(
        value=test.chosen.estimate,
        params=params,
        distributions={name: CategoricalDistribution(values) for name, values in choices.items()},
        user_attrs={**attributes, "gain": test.difference.estimate},
    )
