"""Promptolution's side: CAPO on a `MultiObjectiveTask`. CAPO takes one number only, so promptolution averages reward and brevity.

Runs in a Python that has promptolution. All that is not about objectives is as in the arena (`peers/promptolution_side.py`).
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
from promptolution.optimizers.capo import CAPO  # type: ignore[import-not-found]
from promptolution.predictors import MarkerBasedPredictor  # type: ignore[import-not-found]
from promptolution.tasks.multi_objective_task import MultiObjectiveTask  # type: ignore[import-not-found]
from promptolution.tasks.reward_tasks import RewardTask  # type: ignore[import-not-found]
from promptolution.utils.callbacks import BaseCallback  # type: ignore[import-not-found]

from ..peers.promptolution_side import GateModel, first_prompts, posted, task_of, turns
from ..peers.side import Case, Gate, read_case
from .points import brevity, point


class MeteredModel(GateModel):
    """The task model, which keeps the tokens of the last batch's replies. `GateModel` has the arguments."""

    tokens: tuple[int, ...] = ()

    def _get_response(self, prompts: list[str], system_prompts: list[str]) -> list[str]:
        asked = [turns(system, user) for system, user in zip(system_prompts, prompts, strict=True)]
        replies = self.gate.replies(self.model, asked, **self.settings)
        self.tokens = tuple(reply.tokens for reply in replies)
        return [reply.text for reply in replies]


class Brevity(RewardTask):  # type: ignore[misc]
    """The second objective, on the items of the first: `MultiObjectiveTask` judges each batch of replies right after it came.

    Args:
        task: the first objective.
        model: the task model.
    """

    def __init__(self, task: Any, model: MeteredModel) -> None:
        super().__init__(
            task.df,
            reward_function=lambda _: 0.0,
            y_column="y",
            eval_strategy=task.eval_strategy,
            seed=task.seed,
        )
        self.model = model

    def _evaluate(self, xs: list[str], ys: list[str], preds: list[str]) -> Any:  # noqa: ARG002  promptolution's
        return np.array([brevity(tokens) for tokens in self.model.tokens])


class Post(BaseCallback):  # type: ignore[misc]
    """Posts the population after each step.

    Args:
        gate: where it is posted.
    """

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def on_step_end(self, optimizer: Any) -> bool:
        """Post, and say whether to go on."""
        post_population(self.gate, optimizer)
        return not self.gate.spent().over


def post_population(gate: Gate, optimizer: Any) -> None:
    """Post the prompts of the population with the means of both objectives over the items that they were evaluated on."""
    prompts, task = optimizer.prompts, optimizer.task
    means = [part._collect_results_from_cache(prompts, task.xs, task.ys)[1] for part in task.tasks]  # noqa: SLF001
    points = [
        point(posted(prompt, optimizer.predictor), *map(float, own))
        for prompt, *own in zip(prompts, *means, strict=True)
    ]
    gate.best({"points": points})


def run(case: Case, gate: Gate) -> None:
    """Run CAPO until the budget is spent."""
    random.seed(case.seed)
    np.random.seed(case.seed)  # noqa: NPY002  what promptolution draws from
    model = MeteredModel(gate, "task", temperature=0, max_tokens=case.max_tokens)
    writer = GateModel(gate, "writer")
    first = task_of(case, gate)
    with gate.until_spent():
        optimizer = CAPO(
            predictor=MarkerBasedPredictor(model),
            task=MultiObjectiveTask([first, Brevity(first, model)]),
            meta_llm=writer,
            initial_prompts=first_prompts(case, writer),
            callbacks=[Post(gate)],
        )
        with gate.until_spent():
            optimizer.optimize(n_steps=sys.maxsize)
        post_population(gate, optimizer)


if __name__ == "__main__":
    case = read_case(sys.stdin.read())
    run(case, Gate(case.gate))
