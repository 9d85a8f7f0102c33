"""Report a run while it is in progress: callbacks, an Optuna study, MLflow. Tracking never changes a run's result.

Optuna and MLflow are imported on demand.
"""

import warnings as _warnings
from typing import Any as _Any

from promptopt.tracking.events import Callback as Callback
from promptopt.tracking.events import Event as Event
from promptopt.tracking.events import EventEmitter as EventEmitter
from promptopt.tracking.events import RunFinished as RunFinished
from promptopt.tracking.events import RunStarted as RunStarted
from promptopt.tracking.events import StepFinished as StepFinished
from promptopt.tracking.events import run_started as run_started
from promptopt.tracking.mlflow_run import MLflow as MLflow
from promptopt.tracking.optuna_study import OptunaStudy as OptunaStudy
from promptopt.tracking.optuna_study import study as study

_RENAMED = {
    "Begun": "RunStarted",
    "Ended": "RunFinished",
    "Stepped": "StepFinished",
    "Teller": "EventEmitter",
    "begun": "run_started",
}


def __getattr__(name: str) -> _Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _warnings.warn(
        f"{__name__}.{name} is now {__name__}.{_RENAMED[name]}; the old name will be removed in the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return globals()[_RENAMED[name]]
