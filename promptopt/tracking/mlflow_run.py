"""A run as a run of MLflow, by the interface that any callback has."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from promptopt.errors import MissingExtraError
from promptopt.tracking.events import Begun, Stepped, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.results.result import Result
    from promptopt.tracking.events import Event

_MOST_PARAM, _MOST_TAG = 500, 5_000  # characters that every MLflow takes


class MLflow(Tracker):
    """Writes a run to MLflow: settings as parameters, what each step reported as metrics, prompt and headline as tags.

    A run that is started again goes on in its MLflow run.

    Args:
        uri: of the tracking server or database, such as `sqlite:///mlflow.db`; by default MLflow's own.
        experiment: that the run is filed under.

    Raises:
        MissingExtraError: MLflow is not installed.
    """

    def __init__(self, uri: str | None = None, *, experiment: str = "promptopt") -> None:
        super().__init__()
        try:
            from mlflow import MlflowClient  # noqa: PLC0415  seconds
        except ImportError as error:
            raise MissingExtraError("MLflow", "mlflow") from error
        self._make: Callable[[], Any] = partial(MlflowClient, tracking_uri=uri)
        self._client: Any = None
        self._experiment = experiment
        self._id = ""
        self._known = -1  # the last step that was there before

    def __str__(self) -> str:
        return "MLflow"

    def _take(self, event: Event) -> None:
        if isinstance(event, Begun):
            self._open(event)
        elif isinstance(event, Stepped):
            self._log(event)
        else:
            self._end(event.result)

    def _open(self, event: Begun) -> None:
        from mlflow.entities import Param  # noqa: PLC0415  as above

        self._client = self._make()
        found = self._client.get_experiment_by_name(self._experiment)
        home = found.experiment_id if found else self._client.create_experiment(self._experiment)
        quoted = event.name.replace("'", "''")
        before = self._client.search_runs([home], f"attributes.run_name = '{quoted}'", max_results=1)
        run = before[0] if before else self._client.create_run(home, run_name=event.name)
        self._id = run.info.run_id
        if before:
            self._client.update_run(self._id, status="RUNNING")
            self._known = max((point.step for point in self._client.get_metric_history(self._id, "calls")), default=-1)
        facts: dict[str, Any] = {"task": event.task, "seed": event.seed, "budget": event.budget}
        facts |= {"strategy": event.strategy["name"], **event.strategy["settings"]}
        facts |= {f"{role} model": json.dumps(fingerprint, default=str) for role, fingerprint in event.models.items()}
        params = [Param(name, str(value)[:_MOST_PARAM]) for name, value in facts.items()]
        self._client.log_batch(self._id, params=params)

    def _log(self, event: Stepped) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415  as above

        if event.number <= self._known:
            return
        facts = {"calls": event.used.calls, "dollars": event.used.dollars, "candidates": len(event.candidates)}
        facts |= {name: value for name, value in event.facts.items() if isinstance(value, int | float)}
        now = int(time.time() * 1000)
        metrics: list[Any] = [Metric(name, float(value), now, event.number) for name, value in facts.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def _end(self, result: Result) -> None:
        if result.test is not None:
            for name in ("seed", "chosen", "difference"):
                self._client.log_metric(self._id, f"test {name}", getattr(result.test, name).estimate, step=0)
        self._client.set_tag(self._id, "headline", result.headline)
        self._client.set_tag(self._id, "prompt", str(result.prompt)[:_MOST_TAG])
        self._client.set_terminated(self._id, "KILLED" if result.unfinished else "FINISHED")
