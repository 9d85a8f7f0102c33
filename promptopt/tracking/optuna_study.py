"""Record a run as an Optuna study, for optuna-dashboard. Optuna is imported when a study is written."""

from __future__ import annotations

import logging
import math
import shlex
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from promptopt._version import __version__
from promptopt.errors import InputError
from promptopt.tracking.buffer import Buffer
from promptopt.tracking.events import RunStarted, StepFinished, Tracker, first_line
from promptopt.tracking.optuna_rows import add_trials, mark_chosen
from promptopt.utils.files import make_private_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from promptopt.results.result import Record, Result
    from promptopt.tracking.events import Event

FILE = "study.db"
"""File name of the study in a run's folder."""

_log = logging.getLogger(__name__)

_MOST_CANDIDATES = 10**9  # of a run: the range of the parameters
_LOCK_TIMEOUT = 10.0  # seconds to wait for a locked SQLite file


def study(tracking: bool | str, run_dir: Path | str | None) -> OptunaStudy | None:  # noqa: FBT001  as in `optimize`
    """Return the study that `optimize` should write, or None.

    Raises:
        InputError: the storage URL is invalid.
    """
    if isinstance(tracking, str):
        return OptunaStudy(tracking)
    return OptunaStudy(Path(run_dir) / FILE) if tracking and run_dir is not None else None


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite file; any characters are allowed in the path."""
    from sqlalchemy.engine import make_url  # noqa: PLC0415  loaded when used

    path = file.resolve().as_posix()
    plain = f"sqlite:///{path}"
    if make_url(plain).database == path and "{" not in path:  # Optuna would treat "{" as a template field
        return plain
    quoted = f"file:{quote(path, safe='/:')}"  # an SQLite URI inside SQLAlchemy's URL, which some versions unquote
    urls = [f"sqlite:///{text}?uri=true" for text in (quoted, quote(quoted, safe="/:"))]
    return next(url for url in urls if make_url(url).database == quoted)


class OptunaStudy(Tracker):
    """Records a run as an Optuna study: each candidate is a trial of the same number, written at the end of its step.

    Steps within a second of the last write are buffered; a later step, the end of the run and `close` write them.

    The values of a trial are the training reward (maximized) and the prompt's length in tokens (minimized). A candidate
    scored on fewer cells than an earlier one, because a race dropped it, is a pruned trial. One without any reply is a
    failed trial. Parameters are the step and the parent's number, -1 without one. At the end the chosen candidate's trial is
    complete, with its final reward, and has the user attribute "chosen". A resumed run continues its study, and other existing trials stay
    unchanged.

    Args:
        storage: URL such as `postgresql://...`, or the path of an SQLite file.

    Raises:
        InputError: the storage is unknown, or its driver is missing.
    """

    def __init__(self, storage: str | Path) -> None:
        super().__init__()
        from sqlalchemy.engine import make_url  # noqa: PLC0415  loaded when used
        from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

        self._file = storage.resolve() if isinstance(storage, Path) else None  # recreated by a repeated run
        self.url = storage if isinstance(storage, str) else sqlite_url(storage)
        try:
            url = make_url(self.url)
            url.get_dialect().import_dbapi()
        except (ArgumentError, ImportError) as error:
            raise InputError(
                f"cannot use the study {self.url!r} ({first_line(error)}): give an Optuna storage URL, such as "
                "sqlite:///study.db or postgresql://USER:PASSWORD@HOST/NAME, with its driver installed"
            ) from error
        self._display_url = url.render_as_string(hide_password=True) if isinstance(storage, str) else self.url
        self._storage: RDBStorage | None = None
        self._study: Study | None = None
        self._existing: list[FrozenTrial] = []
        self._trials: Buffer[FrozenTrial] = Buffer(self._write)
        self._written = 0
        self._cells: list[int] = []  # of each trial, as recorded
        self._next_number = 0
        self._max_cells = 0

    def __str__(self) -> str:
        return f"the study in {self._display_url}"

    def close(self) -> None:
        """Write buffered trials, and close the database connection."""
        self._attempt(self._trials.flush)
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()

    def _handle(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._open(event)
        elif isinstance(event, StepFinished):
            if not self._next_number and find_spec("optuna_dashboard"):  # once a step succeeded
                _log.info("to watch: optuna-dashboard %s", shlex.quote(self._display_url))
            self._add(event.candidates)
        else:
            self._end(event.result)

    def _open(self, event: RunStarted) -> None:
        import optuna  # noqa: PLC0415  takes a second to import

        if self._file is not None:
            make_private_folder(self._file.parent)
            self._file.touch(mode=0o600)
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self._storage = self._connect()
            self._study = optuna.create_study(
                storage=self._storage, study_name=event.name, directions=["maximize", "minimize"], load_if_exists=True
            )
        finally:
            optuna.logging.set_verbosity(verbosity)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names(["reward", "tokens"])
        for name, value in asdict(event).items():
            self._study.set_user_attr(name, value)
        self._study.set_user_attr("promptopt", __version__)
        self._existing = self._study.get_trials(deepcopy=False)
        self._written = len(self._existing)
        self._cells = [trial.user_attrs.get("cells", 0) for trial in self._existing]

    def _connect(self) -> RDBStorage:
        from optuna.storages import RDBStorage  # noqa: PLC0415  as above
        from sqlalchemy import event  # noqa: PLC0415

        if not self.url.startswith("sqlite"):
            return RDBStorage(self.url)
        storage = RDBStorage(self.url, engine_kwargs={"connect_args": {"timeout": _LOCK_TIMEOUT}})
        if self._file is not None:  # not waiting for the disk halves the time per trial

            @event.listens_for(storage.engine, "connect")
            def _disable_sync(connection: Any, record: object) -> None:  # noqa: ARG001  SQLAlchemy's signature
                connection.execute("PRAGMA synchronous = OFF")

            storage.engine.dispose()
        return storage

    def _add(self, candidates: Iterable[Record]) -> None:
        if self._study is None:
            raise RuntimeError("no RunStarted event was received")
        self._trials.add(list(self._new_trials(candidates)))

    def _new_trials(self, candidates: Iterable[Record]) -> Iterator[FrozenTrial]:
        for record in candidates:
            self._max_cells = max(self._max_cells, record.cells + record.failed)
            self._next_number = record.number + 1
            if record.number >= len(self._existing):
                self._cells.append(record.cells)
                yield self._trial(record)
            elif self._existing[record.number].user_attrs.get("prompt") != str(record.prompt):
                raise LookupError(
                    f"trial {record.number} has another prompt: the study is another run's, or calls that failed "
                    "before have replies now; delete the study, or give another storage"
                )

    def _write(self, trials: list[FrozenTrial]) -> None:
        if self._study is None or self._storage is None:
            raise RuntimeError("no RunStarted event was received")
        add_trials(self._study, self._storage, trials, self._written)
        self._written += len(trials)

    def _trial(self, record: Record) -> FrozenTrial:
        from optuna.distributions import IntDistribution  # noqa: PLC0415  as above
        from optuna.trial import TrialState, create_trial  # noqa: PLC0415  as above

        attributes: dict[str, Any] = {
            "prompt": str(record.prompt),
            "parent": record.parent,
            "step": record.step,
            "cells": record.cells,
        }
        if record.fitness != record.reward:
            attributes["fitness"] = record.fitness
        if record.failed:
            attributes["failed"] = record.failed
        kind = IntDistribution(-1, _MOST_CANDIDATES)
        shared: dict[str, Any] = {
            "params": {"step": record.step, "parent": -1 if record.parent is None else record.parent},
            "distributions": {"step": kind, "parent": kind},
            "user_attrs": attributes,
        }
        if record.reward is None:
            return create_trial(state=TrialState.FAIL, **shared)
        complete = record.cells + record.failed >= self._max_cells
        return create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            values=[record.reward, record.length],
            **shared,
        )

    def _end(self, result: Result) -> None:
        # The last step of an unfinished run is incomplete: a resumed run will record it.
        complete_steps = len(result.steps) if result.unfinished else math.inf
        self._add(
            record for record in result.history if self._next_number <= record.number and record.step < complete_steps
        )
        self._trials.flush()
        if self._study is None:  # `_add` has checked this
            return
        chosen = next((record.number for record in result.history if record.prompt == result.prompt), None)
        attributes = {
            "headline": result.headline,
            "chosen": chosen,
            "used": {role: asdict(spent) for role, spent in result.used.items()},
            "validation": {r.number: r.validation for r in result.history if r.validation is not None},
            # Candidates scored again after their step; an Optuna trial cannot be changed.
            "reward at the end": {
                record.number: record.reward
                for record, cells in zip(result.history, self._cells, strict=False)
                if cells != record.cells
            },
        }
        for name, value in attributes.items():
            self._study.set_user_attr(name, value)
        if chosen is not None and self._storage is not None and not result.unfinished:
            record = result.history[chosen]
            if record.reward is not None:
                mark_chosen(self._study, self._storage, chosen, (record.reward, record.length))
