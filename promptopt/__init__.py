"""promptopt finds better prompts for language models that can be called but not changed.

    >>> from promptopt import optimize
    >>> result = optimize("task.toml", "openai:gpt-4.1-mini", budget="2 dollars")  # doctest: +SKIP
    >>> print(result)  # doctest: +SKIP

Importing the package touches no network, no torch and no provider SDK; heavy parts load when used.
"""

import typing as _typing

from promptopt import _moved as _moved  # installs the former names of modules
from promptopt._version import __version__ as __version__
from promptopt.environment import Choosing as Choosing
from promptopt.environment import Environment as Environment
from promptopt.environment import FeedbackRule as FeedbackRule
from promptopt.environment import Step as Step
from promptopt.environment import Trajectory as Trajectory
from promptopt.environment import Turn as Turn
from promptopt.errors import BudgetExhaustedError as BudgetExhaustedError
from promptopt.errors import FinalModelError as FinalModelError
from promptopt.errors import InputError as InputError
from promptopt.errors import MissingExtraError as MissingExtraError
from promptopt.errors import ModelError as ModelError
from promptopt.errors import PassingModelError as PassingModelError
from promptopt.errors import PermanentModelError as PermanentModelError
from promptopt.errors import PromptoptError as PromptoptError
from promptopt.errors import StoppedError as StoppedError
from promptopt.errors import TransientModelError as TransientModelError
from promptopt.evaluation.ledger import Budget as Budget
from promptopt.memo import Memo as Memo
from promptopt.memo import MemoStats as MemoStats
from promptopt.models import load_model as load_model
from promptopt.models.base import LabelModel as LabelModel
from promptopt.models.base import Model as Model
from promptopt.models.base import Price as Price
from promptopt.models.base import Request as Request
from promptopt.models.base import TokenModel as TokenModel
from promptopt.models.fake import FakeLabelModel as FakeLabelModel
from promptopt.models.fake import FakeModel as FakeModel
from promptopt.models.fake import FunctionModel as FunctionModel
from promptopt.optimization.api import optimize as optimize
from promptopt.optimization.diagnosis import Diagnosis as Diagnosis
from promptopt.optimization.diagnosis import diagnose as diagnose
from promptopt.optimization.estimate import Estimate as Estimate
from promptopt.optimization.estimate import estimate as estimate
from promptopt.prompt import Demonstrations as Demonstrations
from promptopt.prompt import Example as Example
from promptopt.prompt import Message as Message
from promptopt.prompt import Prompt as Prompt
from promptopt.replies import Arrival as Arrival
from promptopt.replies import Failure as Failure
from promptopt.replies import Response as Response
from promptopt.replies import Usage as Usage
from promptopt.results.pseudo_labels import pseudo_labels as pseudo_labels
from promptopt.results.pseudo_labels import write_fine_tuning as write_fine_tuning
from promptopt.results.result import Result as Result
from promptopt.rewards import Contains as Contains
from promptopt.rewards import Exact as Exact
from promptopt.rewards import Judge as Judge
from promptopt.rewards import Label as Label
from promptopt.rewards import LabelMargin as LabelMargin
from promptopt.rewards import Matches as Matches
from promptopt.rewards import Number as Number
from promptopt.rewards import Progress as Progress
from promptopt.rewards import Reward as Reward
from promptopt.rewards import TokenF1 as TokenF1
from promptopt.scores import Scores as Scores
from promptopt.search.run import Run as Run
from promptopt.strategies import HillClimb as HillClimb
from promptopt.strategies import PromptQuine as PromptQuine
from promptopt.strategies import RandomSearch as RandomSearch
from promptopt.strategies import Unsupervised as Unsupervised
from promptopt.strategies.base import Strategy as Strategy
from promptopt.task import Task as Task
from promptopt.tracking.display import Display as Display

if _typing.TYPE_CHECKING:
    from promptopt.data.task_file import load_task as load_task


def __getattr__(name: str) -> _typing.Any:
    """Load what takes a tenth of a second when it is first used."""
    if name == "load_task":
        from promptopt.data.task_file import load_task  # noqa: PLC0415  as said

        return load_task
    raise AttributeError(f"module 'promptopt' has no attribute {name!r}")
