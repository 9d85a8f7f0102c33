"""Opik's side of the arena: method `metaprompt`. Runs in a Python that has opik-optimizer; needs no Opik server.

The library reads data sets from a server, and writes evaluations to it. Here the data set is local, and the library's own
feature flag selects its evaluation of plain items. The instruction is the system turn, which it changes by default.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

# Read when opik is imported. They turn off tracing, error reports and the search for a server.
os.environ |= {
    "OPIK_TRACK_DISABLE": "true",
    "OPIK_SENTRY_ENABLE": "false",
    "OPIK_URL_OVERRIDE": "http://127.0.0.1:9/api",
    "OPIK_OPTIMIZER_NO_BANNER": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}

import opik  # type: ignore[import-not-found]
from opik.evaluation.metrics.score_result import ScoreResult  # type: ignore[import-not-found]
from opik_optimizer import (  # type: ignore[import-not-found]
    ChatPrompt,
    MetaPromptOptimizer,
    OptimizableAgent,
    constants,
)
from opik_optimizer.core.llm_calls import StructuredOutputParsingError  # type: ignore[import-not-found]

from .side import INPUT, THREADS, Case, Gate, Item, prompt, read_case

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "prompt"


class Local(opik.Dataset):  # type: ignore[misc]
    """A data set that needs no server.

    Args:
        name: of the data set.
        items: what is in it.
    """

    name = project_name = id = None

    def __init__(self, name: str, items: Sequence[Item]) -> None:
        self.name = name
        self.rows = [{"input": item.input, "target": item.target, "id": item.id, "item": item.id} for item in items]

    def get_items(self, nb_samples: int | None = None, **_: Any) -> list[dict[str, Any]]:
        """Return the first items."""
        return [dict(row) for row in self.rows[:nb_samples]]


class Agent(OptimizableAgent):  # type: ignore[misc]
    """Asks the task model as the library's own agent does; only the field `input` is put into a prompt.

    Args:
        gate: where it is asked.
        max_tokens: of a reply.
    """

    def __init__(self, gate: Gate, max_tokens: int) -> None:
        super().__init__()
        self.gate, self.max_tokens = gate, max_tokens

    def invoke_agent(
        self,
        prompts: dict[str, Any],
        dataset_item: dict[str, Any],
        allow_tool_use: bool = False,  # noqa: ARG002, FBT001, FBT002  the library's signature
        seed: int | None = None,  # noqa: ARG002
    ) -> str:
        """Return the reply to an item."""
        messages = prompts[NAME].get_messages({"input": dataset_item["input"]})
        return self.gate.ask("task", messages, temperature=0, max_tokens=self.max_tokens)


class MetaPrompt(MetaPromptOptimizer):  # type: ignore[misc]
    """Opik's MetaPrompt optimizer; posts a prompt that the library finds better than those before it."""

    gate: Gate

    def on_trial(
        self, context: Any, prompts: dict[str, Any], score: float, prev_best_score: float | None = None
    ) -> None:
        """Take the library's hook after the evaluation of a prompt on the validation items."""
        super().on_trial(context, prompts, score, prev_best_score)
        if prev_best_score is None or score > prev_best_score:
            self.gate.best(posted(prompts[NAME]), score)


def posted(chat: Any) -> dict[str, Any]:
    """Return the prompt as the agent sends it."""
    return prompt(chat.get_messages({"input": INPUT}))


def metric_of(gate: Gate) -> Any:
    """Return the gate's metric, with a reason for the writer."""

    def reward(dataset_item: dict[str, Any], llm_output: str) -> Any:
        found = gate.reward(dataset_item["item"], llm_output)
        reason = "correct" if found.reward >= 1 else f"the correct answer is {found.target!r}"
        return ScoreResult(name="reward", value=found.reward, reason=reason)

    return reward


def run(case: Case, gate: Gate) -> None:
    """Run a method until the budget is spent."""
    constants.ENABLE_EVALUATE_ON_DICT_ITEMS = True
    chat = ChatPrompt(name=NAME, system=case.instruction, user=INPUT)
    gate.best(posted(chat))
    # The server has no structured outputs; without the field, the library reads JSON from the text.
    writer = {"api_base": f"{case.gate}/v1", "api_key": "none", "additional_drop_params": ["response_format"]}
    optimizer = MetaPrompt(model="openai/writer", model_parameters=writer, seed=case.seed, verbose=0, n_threads=THREADS)
    optimizer.gate = gate
    with gate.until_spent(), suppress(StructuredOutputParsingError):  # its run ends when the writer gives no JSON twice
        optimizer.optimize_prompt(
            prompt=chat,
            dataset=Local("train", case.train),
            validation_dataset=Local("validation", case.validation),
            metric=metric_of(gate),
            agent=Agent(gate, case.max_tokens),
            max_trials=sys.maxsize,
        )


if __name__ == "__main__":
    case = read_case(sys.stdin.read())
    run(case, Gate(case.gate))
