"""promptopt as an optimizer of `mlflow.genai.optimize_prompts`. Copy it into your project, beside `mlflow_registry.py`."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlflow
from mlflow.genai.optimize.optimizers import BasePromptOptimizer
from mlflow.genai.optimize.types import PromptOptimizerOutput
from mlflow_registry import in_double_braces

from promptopt import Example, InputError, Model, Prompt, Prompts, Response, Result, Task, as_program, optimize
from promptopt.data.rows import split_examples

FAILED = "Failed to invoke the predict_fn with "
"""How MLflow begins the output of a call of `predict_fn` that raised an exception, which it would score."""


class Promptopt(BasePromptOptimizer):
    """An optimizer that searches instructions with promptopt, and tests the chosen ones on records that the search did not see.

    The scores that it returns are those of the test: mean scores of the first and of the chosen prompts on the same held-out records.
    A `predict_fn` that raises fails its record; MLflow's own optimizers score the message of the exception.

    Args:
        writer: the model that writes prompts, as in `promptopt.optimize`.
        version: change it when `predict_fn`, its model or the scorers change: the memo keeps outputs and scores under it.
        shares: of the records for training, choice and test.
        seed: of the split and the search.
        settings: further arguments of `promptopt.optimize`, such as `{"budget": "500 calls"}`.
    """

    def __init__(
        self,
        writer: Model | str,
        *,
        version: str,
        shares: Sequence[float] = (0.4, 0.3, 0.3),
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.writer, self.version, self.shares, self.seed = writer, version, shares, seed
        self.settings = dict(settings or {})
        self.result: Result | None = None

    def optimize(
        self,
        eval_fn: Callable[..., Any],
        train_data: list[dict[str, Any]],
        target_prompts: dict[str, str],
        enable_tracking: bool = True,  # noqa: FBT001, FBT002  MLflow's signature
    ) -> PromptOptimizerOutput:
        """Return the chosen prompts; `self.result` is what the run measured.

        Raises:
            InputError: there are no records or scorers, or a prompt is a chat.
        """
        if not train_data:
            raise InputError("promptopt needs records to score prompts on: give train_data and scorers")
        slots = {name: set(re.findall(r"\{\{\s*(\w+)\s*\}\}", text)) for name, text in target_prompts.items()}
        examples = [Example({"record": json.dumps(one, default=str)}, None, str(i)) for i, one in enumerate(train_data)]
        splits = split_examples(examples, self.seed, self.shares)

        def evaluate(prompts: Mapping[str, str], inputs: Mapping[str, str]) -> str:
            texts = {name: in_double_braces(text, slots[name]) for name, text in prompts.items()}
            return _scored(eval_fn(texts, [json.loads(inputs["record"])])[0])

        task = Task(
            train=splits.train,
            validation=splits.validation,
            test=splits.test,
            program=as_program(evaluate, version=self.version, threads=1),  # eval_fn exchanges prompts globally
            seed_prompts={name: Prompt(_single_braces(text, name)) for name, text in target_prompts.items()},
            reward=_score,
            name="mlflow",
        )
        settings: dict[str, Any] = {
            "settings": {"sets": 0},
            **self.settings,
        }  # a registered text has no place for demonstrations
        self.result = optimize(task, self.writer, "components", seed=self.seed, **settings)
        if enable_tracking:
            mlflow.set_tag("promptopt.headline", self.result.headline)
        test = self.result.test
        return PromptOptimizerOutput(
            optimized_prompts={
                name: in_double_braces(prompt.text, slots[name]) for name, prompt in _by_name(self.result.prompt)
            },
            initial_eval_score=test.seed.estimate if test else None,
            final_eval_score=test.chosen.estimate if test else None,
        )


def _by_name(prompts: Prompt) -> Sequence[tuple[str, Prompt]]:
    if not isinstance(prompts, Prompts):
        raise TypeError("a program's result has prompts by name")
    return prompts.components


def _single_braces(text: str, name: str) -> str:
    """Write slots as promptopt does."""
    if text.lstrip().startswith("[{"):
        raise InputError(f"the prompt {name!r} is a chat: register the text of its instruction")
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", r"{\1}", text)


def _scored(record: Any) -> str:
    """Return the output, the score and the reasons of a record as JSON.

    Raises:
        RuntimeError: `predict_fn` raised an exception.
        InputError: there is no score.
    """
    if isinstance(record.outputs, str) and record.outputs.startswith(FAILED):
        raise RuntimeError(record.outputs)
    if record.score is None:
        raise InputError("the records have no score: give scorers to mlflow.genai.optimize_prompts")
    return json.dumps({"output": record.outputs, "score": record.score, "reasons": record.rationales}, default=str)


def _score(example: Example, response: Response) -> tuple[float, str]:  # noqa: ARG001  a reward's signature
    record = json.loads(response.text)
    return float(record["score"]), "; ".join(f"{name}: {reason}" for name, reason in record["reasons"].items())
