"""Tells others of a run while it goes: callbacks, an Optuna study, MLflow. Decides nothing: a run is the same without.

Optuna and MLflow are imported when they are used.
"""

from promptopt.tracking.events import Begun as Begun
from promptopt.tracking.events import Callback as Callback
from promptopt.tracking.events import Ended as Ended
from promptopt.tracking.events import Event as Event
from promptopt.tracking.events import Stepped as Stepped
from promptopt.tracking.events import Teller as Teller
from promptopt.tracking.events import begun as begun
from promptopt.tracking.mlflow_run import MLflow as MLflow
from promptopt.tracking.optuna_study import OptunaStudy as OptunaStudy
from promptopt.tracking.optuna_study import study as study
