"""The sweep as an Optuna study: one trial a cell, beside the studies of the runs. It decides nothing."""

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

    from promptopt.sweep.cells import Cell, Ran

_log = logging.getLogger(__name__)

_LOCKED_SECONDS = 30.0  # that an SQLite file may be locked by the runs


class SweepStudy:
    """Writes a sweep as an Optuna study, whose value is the test reward.

    A cell that failed is a failed trial, and one more each time that it fails; a run on a rung of a portfolio, which meets
    no test items, is a pruned one. Where the storage fails on the way, one warning says so, and the sweep goes on.

    Args:
        storage: URL, or the path of an SQLite file.
        name: of the study.
        choices: the values that each of `task`, `model`, `strategy` and `seed` takes in this sweep.

    Raises:
        InputError: the storage cannot be used.
    """

    def __init__(self, storage: str | Path, name: str, choices: dict[str, list[Any]]) -> None:
        self.name = name
        self._choices = choices
        self._url = OptunaStudy(storage).url  # refuses a URL that means nothing
        self._study: Study | None = self._opened()
        trials = self._study.get_trials(deepcopy=False)
        self._there = {trial.user_attrs["run"] for trial in trials if trial.state.name != "FAIL"}

    def close(self) -> None:
        """Let go of the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def add(self, cell: Cell, ran: Ran) -> None:
        """Record what came of a cell, once."""
        from optuna.exceptions import OptunaError  # noqa: PLC0415  a second
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

        if self._study is None or cell.name in self._there:
            return
        try:
            self._study.add_trial(_trial(cell, ran, self._choices))
        except (OptunaError, SQLAlchemyError) as error:
            self._study = None
            _log.warning("the study %r: not written any more, the sweep goes on (%s)", self.name, first_line(error))
        if not ran.reason:
            self._there.add(cell.name)

    def _opened(self) -> Study:
        """Make the tables and the study, before several runs want to."""
        import optuna  # noqa: PLC0415  as above
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

        given = {"connect_args": {"timeout": _LOCKED_SECONDS}} if self._url.startswith("sqlite") else None
        loud = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._storage = optuna.storages.RDBStorage(self._url, engine_kwargs=given)
            return optuna.create_study(
                storage=self._storage, study_name=self.name, direction="maximize", load_if_exists=True
            )
        except (optuna.exceptions.OptunaError, SQLAlchemyError) as error:
            raise InputError(
                f"the sweep's study cannot be written ({first_line(error)}): start the database, or name another --study"
            ) from error
        finally:
            optuna.logging.set_verbosity(loud)


def _trial(cell: Cell, ran: Ran, choices: dict[str, list[Any]]) -> FrozenTrial:
    from optuna.distributions import CategoricalDistribution  # noqa: PLC0415  as above
    from optuna.trial import TrialState, create_trial  # noqa: PLC0415

    params = {"task": cell.task, "model": cell.model.label, "strategy": cell.strategy.label, "seed": cell.seed}
    facts: dict[str, Any] = {"run": cell.name, "budget": str(cell.budget), **params}
    if ran.result is not None:
        facts |= {"headline": ran.result.headline, "calls": sum(spent.calls for spent in ran.result.used.values())}
    if ran.reason:
        return create_trial(state=TrialState.FAIL, user_attrs={**facts, "reason": ran.reason})
    test = ran.result.test if ran.result else None
    if test is None:
        return create_trial(state=TrialState.PRUNED, user_attrs={**facts, "rung": cell.rung})
    return create_trial(
        value=test.chosen.estimate,
        params=params,
        distributions={name: CategoricalDistribution(values) for name, values in choices.items()},
        user_attrs={**facts, "gain": test.difference.estimate},
    )
