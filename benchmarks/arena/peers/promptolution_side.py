"""Promptolution's side of the arena: methods `capo`, `opro` and `evoprompt`. Runs in a Python that has promptolution.

Task, predictor and evaluation strategy are those that `promptolution.optimize` builds, but that rewards are the gate's: the
user turn is the prompt, a new line and the item, and the answer is the text between the markers, if the reply has them.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from promptolution.llms.base_llm import BaseLLM  # type: ignore[import-not-found]
from promptolution.optimizers.capo import CAPO  # type: ignore[import-not-found]
from promptolution.optimizers.evoprompt_ga import EvoPromptGA  # type: ignore[import-not-found]
from promptolution.optimizers.opro import OPRO  # type: ignore[import-not-found]
from promptolution.predictors import MarkerBasedPredictor  # type: ignore[import-not-found]
from promptolution.tasks.reward_tasks import RewardTask  # type: ignore[import-not-found]
from promptolution.utils.callbacks import BaseCallback  # type: ignore[import-not-found]
from promptolution.utils.prompt import Prompt  # type: ignore[import-not-found]
from promptolution.utils.prompt_creation import create_prompt_variation  # type: ignore[import-not-found]
from promptolution.utils.templates import DEFAULT_SYS_PROMPT  # type: ignore[import-not-found]

from .side import INPUT, Case, Gate, Messages, prompt, read_case

METHODS = {"capo": CAPO, "opro": OPRO, "evoprompt": EvoPromptGA}
POPULATION = {"capo": 5, "opro": 1, "evoprompt": 10}


class GateModel(BaseLLM):  # type: ignore[misc]
    """A model, asked through the gate with the same requests as promptolution's `APILLM`.

    Args:
        gate: where it is asked.
        model: "task" or "writer".
        settings: OpenAI's.
    """

    def __init__(self, gate: Gate, model: str, **settings: Any) -> None:
        super().__init__()
        self.gate, self.model, self.settings = gate, model, settings

    def _get_response(self, prompts: list[str], system_prompts: list[str]) -> list[str]:
        asked = [turns(system, user) for system, user in zip(system_prompts, prompts, strict=True)]
        return self.gate.ask_all(self.model, asked, **self.settings)


class Post(BaseCallback):  # type: ignore[misc]
    """Posts the first prompt of the population after each step.

    Args:
        gate: where it is posted.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def on_step_end(self, optimizer: Any) -> bool:
        """Post, and say whether to go on."""
        post_best(self.gate, optimizer)
        return not self.gate.spent().over


def turns(system: str, user: str) -> Messages:
    """Return a conversation."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def posted(prompt_: Any, predictor: Any) -> dict[str, Any]:
    """Return the prompt as the predictor sends it."""
    messages = turns(DEFAULT_SYS_PROMPT, f"{prompt_}\n{INPUT}")
    return prompt(messages, after=predictor.begin_marker, before=predictor.end_marker)


def post_best(gate: Gate, optimizer: Any) -> None:
    """Post the prompt that the optimizer would return first."""
    scores = list(optimizer.scores)
    gate.best(posted(optimizer.prompts[0], optimizer.predictor), float(scores[0]) if scores else None)


def task_of(case: Case, gate: Gate) -> Any:
    """Return all items as one task, evaluated by blocks of 30."""
    items = case.train + case.validation
    frame = pd.DataFrame(
        {
            "x": [item.input for item in items],
            "y": [
                item.target.lower() for item in items
            ],  # as ClassificationTask has it, because predictions are in lower case
            "item": [item.id for item in items],
        }
    )
    return RewardTask(
        frame,
        reward_function=lambda answer, item: gate.reward(item, answer).reward,
        reward_columns=["item"],
        y_column="y",
        task_description=case.description,
        eval_strategy="sequential_block",
        seed=case.seed,
    )


def first_prompts(case: Case, writer: GateModel) -> list[str]:
    """Return the seed prompt, and the library's variations of it where a method needs a population."""
    others = POPULATION[case.method] - 1
    return [case.instruction, *(create_prompt_variation([case.instruction] * others, writer) if others else [])]


def run(case: Case, gate: Gate) -> None:
    """Run a method until the budget is spent."""
    random.seed(case.seed)
    np.random.seed(case.seed)  # noqa: NPY002  what promptolution draws from
    predictor = MarkerBasedPredictor(GateModel(gate, "task", temperature=0, max_tokens=case.max_tokens))
    writer = GateModel(gate, "writer")
    gate.best(posted(Prompt(case.instruction), predictor))
    with gate.until_spent():
        optimizer = METHODS[case.method](
            predictor=predictor,
            task=task_of(case, gate),
            meta_llm=writer,
            initial_prompts=first_prompts(case, writer),
            callbacks=[Post(gate)],
        )
        with gate.until_spent():
            optimizer.optimize(n_steps=sys.maxsize)
        post_best(gate, optimizer)


if __name__ == "__main__":
    case = read_case(sys.stdin.read())
    run(case, Gate(case.gate))
