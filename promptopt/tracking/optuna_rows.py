"""Writes many trials into Optuna's tables in one transaction. Knows nothing of runs.

Optuna's own `add_trials` runs 17 statements for each trial, and spends its time building them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial
    from sqlalchemy.orm import Session

CHOSEN = "chosen"
"""User attribute of the trial of the chosen candidate."""

_SCHEMA = "v3.2.0.a"  # version of the tables written here: Optuna 3.2 to 5.0


def add_trials(study: Study, storage: RDBStorage, trials: Sequence[FrozenTrial], number: int) -> None:
    """Add finished trials to a study, all or none; of each its times, state, parameters, values and user attributes.

    Args:
        study: gets the trials.
        storage: holds the study.
        trials: one or more.
        number: number of the first trial: how many the study has.

    Raises:
        LookupError: the study has another number of trials.
    """
    if storage.get_current_version() != _SCHEMA:
        study.add_trials(trials)  # slower, but right for any tables
        return
    from sqlalchemy.orm import Session  # noqa: PLC0415  imported on demand

    with Session(storage.engine) as session, session.begin():
        _insert(session, storage.get_study_id_from_name(study.study_name), trials, number)


def _insert(session: Session, study: int, trials: Sequence[FrozenTrial], number: int) -> None:
    from optuna.storages._rdb import models  # noqa: PLC0415  as above
    from sqlalchemy import insert  # noqa: PLC0415

    models.StudyModel.find_or_raise_by_id(study, session, for_update=True)  # locks the study, as Optuna does
    rows = [
        models.TrialModel(
            study_id=study,
            number=place,
            state=trial.state,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
        )
        for place, trial in enumerate(trials, number)
    ]
    session.add_all(rows)
    session.flush()  # assigns `trial_id`
    before = min(rows, key=lambda row: row.trial_id).count_past_trials(session)
    if before != number:
        raise LookupError(f"it has {before} trials, not {number}: another process is recording the same run")
    numbered: list[tuple[Any, FrozenTrial]] = [(row.trial_id, trial) for row, trial in zip(rows, trials, strict=True)]
    for model, entries in (
        (models.TrialUserAttributeModel, [entry for pair in numbered for entry in _attributes(*pair)]),
        (models.TrialParamModel, [entry for pair in numbered for entry in _parameters(*pair)]),
        (models.TrialValueModel, [entry for pair in numbered for entry in _values(*pair)]),
    ):
        if entries:
            session.connection().execute(insert(model.__table__), entries)


def mark_chosen(study: Study, storage: RDBStorage, number: int, values: Sequence[float]) -> None:
    """Mark one trial as chosen: complete, with its values at the end of the run and the user attribute "chosen".

    Optuna itself never changes a finished trial. In tables of another version, none is marked.
    """
    if storage.get_current_version() != _SCHEMA:
        return
    from optuna.storages._rdb import models  # noqa: PLC0415  as above
    from optuna.trial import TrialState  # noqa: PLC0415  as above
    from sqlalchemy import delete  # noqa: PLC0415  as above
    from sqlalchemy.orm import Session  # noqa: PLC0415  as above

    attributes = models.TrialUserAttributeModel
    with Session(storage.engine) as session, session.begin():
        study_id = storage.get_study_id_from_name(study.study_name)
        rows: list[Any] = session.query(models.TrialModel).filter_by(study_id=study_id).all()
        trials = {row.number: row for row in rows}
        ids = [trial.trial_id for trial in trials.values()]
        session.execute(delete(attributes).where(attributes.trial_id.in_(ids), attributes.key == CHOSEN))
        chosen = trials[number]
        chosen.state = TrialState.COMPLETE
        session.add(attributes(trial_id=chosen.trial_id, key=CHOSEN, value_json="true"))
        stored: list[Any] = session.query(models.TrialValueModel).filter_by(trial_id=chosen.trial_id).all()
        for value in stored:
            value.value, value.value_type = value.value_to_stored_repr(values[value.objective])


def _attributes(number: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    for key, value in trial.user_attrs.items():
        yield {"trial_id": number, "key": key, "value_json": json.dumps(value)}


def _parameters(number: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    from optuna.distributions import distribution_to_json  # noqa: PLC0415  as above

    for name, value in trial.params.items():
        kind = trial.distributions[name]
        yield {
            "trial_id": number,
            "param_name": name,
            "param_value": kind.to_internal_repr(value),
            "distribution_json": distribution_to_json(kind),
        }


def _values(number: int, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    from optuna.storages._rdb.models import TrialValueModel  # noqa: PLC0415  as above

    for objective, value in enumerate(trial.values or ()):
        stored, kind = TrialValueModel.value_to_stored_repr(value)
        yield {"trial_id": number, "objective": objective, "value": stored, "value_type": kind}
