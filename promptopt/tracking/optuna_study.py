"""A run as an Optuna study, which optuna-dashboard shows while it goes. Optuna is imported when a study is written."""

from __future__ import annotations

import logging
import math
import shlex
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from promptopt._version import __version__
from promptopt.errors import InputError
from promptopt.tracking.events import Begun, Stepped, Tracker, first_line
from promptopt.utils.files import make_private_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from promptopt.results.result import Record, Result
    from promptopt.tracking.events import Event

FILE = "study.db"
"""Name of the study's file in the folder of a run."""

_log = logging.getLogger(__name__)

_LOCKED_SECONDS = 2.0  # that an SQLite file may be locked by somebody else; Optuna tries five times


def study(tracking: bool | str, run_dir: Path | str | None) -> OptunaStudy | None:  # noqa: FBT001  as in `optimize`
    """Return the study that `optimize` is to write, or None.

    Raises:
        InputError: the storage's URL cannot be used.
    """
    if isinstance(tracking, str):
        return OptunaStudy(tracking)
    return OptunaStudy(Path(run_dir) / FILE) if tracking and run_dir is not None else None


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite file, whatever characters are in its path."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415  loaded when used

    path = file.resolve().as_posix()
    plain = f"sqlite:///{path}"
    if make_url(plain).database == path and "{" not in path:  # which Optuna takes for a field to be filled in
        return plain
    quoted = f"file:{quote(path, safe='/:')}"  # SQLite's own URL, within SQLAlchemy's, which some versions unquote
    urls = [f"sqlite:///{text}?uri=true" for text in (quoted, quote(quoted, safe="/:"))]
    return next(url for url in urls if make_url(url).database == quoted)


class OptunaStudy(Tracker):
    """Writes a run as an Optuna study: a candidate is a trial of the same number, written at the end of its step.

    Values are the training reward (to maximise) and the tokens of the prompt (to minimise). A candidate that met fewer
    items than others before it, because a race dropped it, is a pruned trial; one without any reply has failed. A run that
    is started again goes on in its study: trials that are there stay as they are.

    Args:
        storage: URL such as `postgresql://...`, or the path of an SQLite file.

    Raises:
        InputError: no such storage is known, or its driver is missing.
    """

    def __init__(self, storage: str | Path) -> None:
        super().__init__()
        from sqlalchemy.engine import make_url  # noqa: PLC0415  loaded when used
        from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

        self._file = storage.resolve() if isinstance(storage, Path) else None  # that running again makes anew
        self.url = storage if isinstance(storage, str) else sqlite_url(storage)
        try:
            url = make_url(self.url)
            url.get_dialect().import_dbapi()
        except (ArgumentError, ImportError) as error:
            raise InputError(
                f"cannot use the study {self.url!r} ({first_line(error)}): give a storage URL of Optuna, such as "
                "sqlite:///study.db or postgresql://USER:PASSWORD@HOST/NAME, with its driver installed"
            ) from error
        self._shown = url.render_as_string(hide_password=True) if isinstance(storage, str) else self.url
        self._storage: RDBStorage | None = None
        self._study: Study | None = None
        self._there: list[FrozenTrial] = []
        self._written = 0
        self._most = 0

    def __str__(self) -> str:
        return f"the study in {self._shown}"

    def close(self) -> None:
        """Let go of the database."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()

    def _take(self, event: Event) -> None:
        if isinstance(event, Begun):
            self._open(event)
        elif isinstance(event, Stepped):
            if self._study is not None and not self._written:  # not where the first call fails
                name = self._study.study_name
                _log.info("optuna-dashboard %s shows the run while it goes (study %r)", shlex.quote(self._shown), name)
            self._add(event.candidates)
        else:
            self._end(event.result)

    def _open(self, event: Begun) -> None:
        import optuna  # noqa: PLC0415  a second

        if self._file is not None:
            make_private_folder(self._file.parent)
            self._file.touch(mode=0o600)
        loud = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._storage = self._connected()
            self._study = optuna.create_study(
                storage=self._storage, study_name=event.name, directions=["maximize", "minimize"], load_if_exists=True
            )
        finally:
            optuna.logging.set_verbosity(loud)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names(["reward", "tokens"])
        for name, value in asdict(event).items():
            self._study.set_user_attr(name, value)
        self._study.set_user_attr("promptopt", __version__)
        self._there = self._study.get_trials(deepcopy=False)

    def _connected(self) -> RDBStorage:
        from optuna.storages import RDBStorage  # noqa: PLC0415  as above
        from sqlalchemy import event  # noqa: PLC0415

        if not self.url.startswith("sqlite"):
            return RDBStorage(self.url)
        storage = RDBStorage(self.url, engine_kwargs={"connect_args": {"timeout": _LOCKED_SECONDS}})
        if self._file is not None:  # not to wait for the disk halves the time of a trial

            @event.listens_for(storage.engine, "connect")
            def _quick(connection: Any, record: object) -> None:  # noqa: ARG001  SQLAlchemy's signature
                connection.execute("PRAGMA synchronous = OFF")

            storage.engine.dispose()
        return storage

    def _add(self, candidates: Iterable[Record]) -> None:
        if self._study is None:
            raise RuntimeError("it was never told that the run began")
        new = []
        for record in candidates:
            self._most = max(self._most, record.cells + record.failed)
            if record.number >= len(self._there):
                new.append(self._trial(record))
            elif self._there[record.number].user_attrs.get("prompt") != str(record.prompt):
                raise LookupError(f"trial {record.number} is of another run: delete the study, or name another storage")
            self._written = record.number + 1
        self._study.add_trials(new)

    def _trial(self, record: Record) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial  # noqa: PLC0415  as above

        facts: dict[str, Any] = {
            "prompt": str(record.prompt),
            "parent": record.parent,
            "step": record.step,
            "cells": record.cells,
        }
        if record.fitness != record.reward:
            facts["fitness"] = record.fitness
        if record.failed:
            facts["failed"] = record.failed
        if record.reward is None:
            return create_trial(state=TrialState.FAIL, user_attrs=facts)
        whole = record.cells + record.failed >= self._most
        return create_trial(
            state=TrialState.COMPLETE if whole else TrialState.PRUNED,
            values=[record.reward, record.length],
            user_attrs=facts,
        )

    def _end(self, result: Result) -> None:
        # What an unfinished run measured in its last step is not whole: the run goes on from there another time.
        steps = len(result.steps) if result.unfinished else math.inf
        self._add(record for record in result.history if self._written <= record.number and record.step < steps)
        if self._study is None:  # `_add` has looked
            return
        trials = self._study.get_trials(deepcopy=False)
        chosen = next((record.number for record in result.history if record.prompt == result.prompt), None)
        facts = {
            "headline": result.headline,
            "chosen": chosen,
            "used": {role: asdict(spent) for role, spent in result.used.items()},
            "validation": {r.number: r.validation for r in result.history if r.validation is not None},
            # Of candidates that were measured further after their step; a trial cannot be changed.
            "reward at the end": {
                record.number: record.reward
                for record, trial in zip(result.history, trials, strict=False)
                if trial.user_attrs.get("cells") != record.cells
            },
        }
        for name, value in facts.items():
            self._study.set_user_attr(name, value)
