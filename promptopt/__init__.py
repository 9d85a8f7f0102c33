"""promptopt finds better prompts for language models that can be called but not changed.

    >>> from promptopt import optimize
    >>> result = optimize("task.toml", "openai:gpt-4.1-mini", budget="2 dollars")  # doctest: +SKIP
    >>> print(result)  # doctest: +SKIP

Importing the package touches no network, no torch and no provider SDK; each name is loaded when it is first used.
"""

import importlib as _importlib
import typing as _typing

from promptopt import _moved as _moved  # installs the former names of modules
from promptopt._version import __version__ as __version__

if _typing.TYPE_CHECKING:
    from promptopt.data.task_file import load_task as load_task
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
    from promptopt.mcp import mcp_tools as mcp_tools
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
    from promptopt.models.options import RequestOptions as RequestOptions
    from promptopt.optimization.api import optimize as optimize
    from promptopt.optimization.asynchronous import aoptimize as aoptimize
    from promptopt.optimization.cross_fitting import cross_fit as cross_fit
    from promptopt.optimization.diagnosis import Diagnosis as Diagnosis
    from promptopt.optimization.diagnosis import diagnose as diagnose
    from promptopt.optimization.estimate import Estimate as Estimate
    from promptopt.optimization.estimate import estimate as estimate
    from promptopt.optimization.gate import check_drift as check_drift
    from promptopt.optimization.gate import compare_prompts as compare_prompts
    from promptopt.optimization.human_claim import human_claim as human_claim
    from promptopt.optimization.human_claim import score_sheet as score_sheet
    from promptopt.optimization.judge_check import check_judge as check_judge
    from promptopt.optimization.migration import migrate as migrate
    from promptopt.program import Ask as Ask
    from promptopt.program import Program as Program
    from promptopt.program import as_program as as_program
    from promptopt.program import tool as tool
    from promptopt.prompt import Demonstrations as Demonstrations
    from promptopt.prompt import Example as Example
    from promptopt.prompt import Message as Message
    from promptopt.prompt import Prompt as Prompt
    from promptopt.prompt import Prompts as Prompts
    from promptopt.replies import Arrival as Arrival
    from promptopt.replies import Call as Call
    from promptopt.replies import Failure as Failure
    from promptopt.replies import Response as Response
    from promptopt.replies import Usage as Usage
    from promptopt.results.cross_fit import CrossFit as CrossFit
    from promptopt.results.gate import GateResult as GateResult
    from promptopt.results.human_claim import HumanClaim as HumanClaim
    from promptopt.results.judge_check import JudgeCheck as JudgeCheck
    from promptopt.results.migration import Migration as Migration
    from promptopt.results.predictor import Prediction as Prediction
    from promptopt.results.predictor import Predictor as Predictor
    from promptopt.results.pseudo_labels import pseudo_labels as pseudo_labels
    from promptopt.results.pseudo_labels import write_fine_tuning as write_fine_tuning
    from promptopt.results.result import Result as Result
    from promptopt.rewards import Contains as Contains
    from promptopt.rewards import Exact as Exact
    from promptopt.rewards import JsonFields as JsonFields
    from promptopt.rewards import Judge as Judge
    from promptopt.rewards import Label as Label
    from promptopt.rewards import LabelLikelihood as LabelLikelihood
    from promptopt.rewards import LabelMargin as LabelMargin
    from promptopt.rewards import Matches as Matches
    from promptopt.rewards import Number as Number
    from promptopt.rewards import Progress as Progress
    from promptopt.rewards import Reward as Reward
    from promptopt.rewards import TokenF1 as TokenF1
    from promptopt.scores import Scores as Scores
    from promptopt.search.run import Run as Run
    from promptopt.strategies import Components as Components
    from promptopt.strategies import HillClimb as HillClimb
    from promptopt.strategies import Joint as Joint
    from promptopt.strategies import PromptQuine as PromptQuine
    from promptopt.strategies import RandomSearch as RandomSearch
    from promptopt.strategies import Unsupervised as Unsupervised
    from promptopt.strategies.base import Strategy as Strategy
    from promptopt.task import Task as Task
    from promptopt.tools import Exchange as Exchange
    from promptopt.tools import ToolCall as ToolCall
    from promptopt.tools import ToolSchema as ToolSchema
    from promptopt.tracking.display import Display as Display

_NAMES = {  # module -> what it gives to the package; the same as above, which a test checks
    "promptopt.data.task_file": "load_task",
    "promptopt.environment": "Choosing Environment FeedbackRule Step Trajectory Turn",
    "promptopt.errors": "BudgetExhaustedError FinalModelError InputError MissingExtraError ModelError PassingModelError PermanentModelError PromptoptError StoppedError TransientModelError",
    "promptopt.evaluation.ledger": "Budget",
    "promptopt.mcp": "mcp_tools",
    "promptopt.memo": "Memo MemoStats",
    "promptopt.models": "load_model",
    "promptopt.models.base": "LabelModel Model Price Request TokenModel",
    "promptopt.models.fake": "FakeLabelModel FakeModel FunctionModel",
    "promptopt.models.options": "RequestOptions",
    "promptopt.optimization.api": "optimize",
    "promptopt.optimization.asynchronous": "aoptimize",
    "promptopt.optimization.cross_fitting": "cross_fit",
    "promptopt.optimization.diagnosis": "Diagnosis diagnose",
    "promptopt.optimization.estimate": "Estimate estimate",
    "promptopt.optimization.gate": "check_drift compare_prompts",
    "promptopt.optimization.human_claim": "human_claim score_sheet",
    "promptopt.optimization.judge_check": "check_judge",
    "promptopt.optimization.migration": "migrate",
    "promptopt.program": "Ask Program as_program tool",
    "promptopt.prompt": "Demonstrations Example Message Prompt Prompts",
    "promptopt.replies": "Arrival Call Failure Response Usage",
    "promptopt.results.cross_fit": "CrossFit",
    "promptopt.results.gate": "GateResult",
    "promptopt.results.human_claim": "HumanClaim",
    "promptopt.results.judge_check": "JudgeCheck",
    "promptopt.results.migration": "Migration",
    "promptopt.results.predictor": "Prediction Predictor",
    "promptopt.results.pseudo_labels": "pseudo_labels write_fine_tuning",
    "promptopt.results.result": "Result",
    "promptopt.rewards": "Contains Exact JsonFields Judge Label LabelLikelihood LabelMargin Matches Number Progress Reward TokenF1",
    "promptopt.scores": "Scores",
    "promptopt.search.run": "Run",
    "promptopt.strategies": "Components HillClimb Joint PromptQuine RandomSearch Unsupervised",
    "promptopt.strategies.base": "Strategy",
    "promptopt.task": "Task",
    "promptopt.tools": "Exchange ToolCall ToolSchema",
    "promptopt.tracking.display": "Display",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

if not _typing.TYPE_CHECKING:  # so that type checkers find misspelled names
    __all__ = list(_MODULE_OF)

    def __getattr__(name: str) -> _typing.Any:
        """Load a name."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'promptopt' has no attribute {name!r}")
        value = globals()[name] = getattr(_importlib.import_module(_MODULE_OF[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
