"""Record a run in MLflow, as a callback."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from promptopt.errors import MissingExtraError
from promptopt.tracking.buffer import Buffer
from promptopt.tracking.events import RunStarted, StepFinished, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptopt.results.result import Result
    from promptopt.tracking.events import Event

_MAX_PARAM, _MAX_TAG = 500, 5_000  # characters; accepted by every MLflow version


class MLflow(Tracker):
    """Records a run in MLflow: settings as parameters, numbers of each step as metrics, prompt and headline as tags.

    A resumed run continues its MLflow run. Steps within a second of the last write are buffered; the end of the run and
    `close` write them.

    Args:
        uri: URI of the tracking server or database, such as `sqlite:///mlflow.db`; by default MLflow's default.
        experiment: name of the experiment.

    Raises:
        MissingExtraError: MLflow is not installed.
    """

    def __init__(self, uri: str | None = None, *, experiment: str = "promptopt") -> None:
        super().__init__()
        try:
            from mlflow import MlflowClient  # noqa: PLC0415  takes seconds to import
        except ImportError as error:
            raise MissingExtraError("MLflow", "mlflow") from error
        self._make_client: Callable[[], Any] = partial(MlflowClient, tracking_uri=uri)
        self._client: Any = None
        self._experiment = experiment
        self._id = ""
        self._last_step = -1  # recorded before the run was resumed
        self._metrics: Buffer[Any] = Buffer(lambda metrics: self._client.log_batch(self._id, metrics=metrics))

    def __str__(self) -> str:
        return "MLflow"

    def close(self) -> None:
        """Write buffered steps."""
        self._attempt(self._metrics.flush)

    def _handle(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._open(event)
        elif isinstance(event, StepFinished):
            self._log(event)
        else:
            self._end(event.result)

    def _open(self, event: RunStarted) -> None:
        from mlflow.entities import Param  # noqa: PLC0415  as above

        self._client = self._make_client()
        experiment = self._client.get_experiment_by_name(self._experiment)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
        quoted = event.name.replace("'", "''")
        existing = self._client.search_runs([experiment_id], f"attributes.run_name = '{quoted}'", max_results=1)
        run = existing[0] if existing else self._client.create_run(experiment_id, run_name=event.name)
        self._id = run.info.run_id
        if existing:
            self._client.update_run(self._id, status="RUNNING")
            self._last_step = max(
                (metric.step for metric in self._client.get_metric_history(self._id, "calls")), default=-1
            )
        settings: dict[str, Any] = {"task": event.task, "seed": event.seed, "budget": event.budget}
        settings |= {"strategy": event.strategy["name"], **event.strategy["settings"]}
        settings |= {
            f"{role} model": json.dumps(fingerprint, default=str) for role, fingerprint in event.models.items()
        }
        params = [Param(name, str(value)[:_MAX_PARAM]) for name, value in settings.items()]
        self._client.log_batch(self._id, params=params)

    def _log(self, event: StepFinished) -> None:
        from mlflow.entities import Metric  # noqa: PLC0415  as above

        if event.number <= self._last_step:
            return
        values = {"calls": event.used.calls, "dollars": event.used.dollars, "candidates": len(event.candidates)}
        values |= {name: value for name, value in event.facts.items() if isinstance(value, int | float)}
        now = int(time.time() * 1000)
        self._metrics.add(Metric(name, float(value), now, event.number) for name, value in values.items())

    def _end(self, result: Result) -> None:
        self._metrics.flush()
        if result.test is not None:
            for name in ("seed", "chosen", "difference"):
                self._client.log_metric(self._id, f"test {name}", getattr(result.test, name).estimate, step=0)
        self._client.set_tag(self._id, "headline", result.headline)
        self._client.set_tag(self._id, "prompt", str(result.prompt)[:_MAX_TAG])
        self._client.set_terminated(self._id, "KILLED" if result.unfinished else "FINISHED")
