"""GEPA's side of the arena: method `gepa`. Runs in a Python that has gepa; reads its case from standard input.

The instruction is the system turn and the item the user turn, as GEPA's default adapter has it.
"""

from __future__ import annotations

import sys
from typing import Any

import gepa  # type: ignore[import-not-found]
from gepa.adapters.default_adapter.default_adapter import (  # type: ignore[import-not-found]
    DefaultAdapter,
    EvaluationResult,
)

from .side import INPUT, Case, Gate, Item, Messages, prompt, read_case

COMPONENT = "system_prompt"


class TaskModel:
    """The task model behind the gate, in the place of `gepa.lm.LM`, whose batches need litellm.

    Args:
        gate: where it is asked.
        max_tokens: of a reply.
    """

    def __init__(self, gate: Gate, max_tokens: int) -> None:
        self.gate, self.max_tokens = gate, max_tokens

    def batch_complete(self, messages_list: list[Messages], max_workers: int) -> list[str]:  # noqa: ARG002  GEPA's
        """Return the replies to a batch."""
        return self.gate.ask_all("task", messages_list, temperature=0, max_tokens=self.max_tokens)


class Callbacks:
    """Posts what GEPA holds to be its best candidate.

    Args:
        gate: where it is posted.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_valset_evaluated(self, event: dict[str, Any]) -> None:
        """Post a candidate that is the best on all validation items."""
        if event["is_best_program"]:
            self.gate.best(posted(event["candidate"][COMPONENT]), event["average_score"])


class Quiet:
    """GEPA's logger, silent."""

    def log(self, message: str) -> None:
        """Drop the message."""


def posted(instruction: str) -> dict[str, Any]:
    """Return the prompt that GEPA's default adapter sends."""
    return prompt([{"role": "system", "content": instruction}, {"role": "user", "content": INPUT}])


def feedback(reward: float, target: str) -> str:
    """Return the words of GEPA's `ContainsAnswerEvaluator`, without its advice to include the answer word for word."""
    if reward >= 1:
        return f"The generated response is correct. The response include the correct answer '{target}'"
    return f"The generated response is incorrect. The correct answer is '{target}'."


def adapter(case: Case, gate: Gate) -> Any:
    """Return GEPA's default adapter, which asks the gate and judges by its metric."""

    def judge(data: dict[str, Any], response: str) -> Any:
        found = gate.reward(data["additional_context"]["id"], response)
        return EvaluationResult(score=found.reward, feedback=feedback(found.reward, found.target))

    made = DefaultAdapter(model=None, evaluator=judge)
    made._lm = TaskModel(gate, case.max_tokens)  # noqa: SLF001  its only way to batches
    return made


def instances(items: tuple[Item, ...]) -> list[dict[str, Any]]:
    """Return items as GEPA's default adapter takes them; the id is not shown to any model."""
    return [{"input": item.input, "additional_context": {"id": item.id}, "answer": item.target} for item in items]


def run(case: Case, gate: Gate) -> None:
    """Run GEPA until the budget is spent."""
    gate.best(posted(case.instruction))
    with gate.until_spent():
        gepa.optimize(
            seed_candidate={COMPONENT: case.instruction},
            trainset=instances(case.train),
            valset=instances(case.validation),
            adapter=adapter(case, gate),
            reflection_lm=lambda text: gate.ask("writer", as_messages(text)),
            stop_callbacks=lambda _: gate.spent().over,
            callbacks=[Callbacks(gate)],
            logger=Quiet(),
            seed=case.seed,
        )


def as_messages(text: str | Messages) -> Messages:
    """Return a reflection prompt as a conversation."""
    return [{"role": "user", "content": text}] if isinstance(text, str) else text


if __name__ == "__main__":
    case = read_case(sys.stdin.read())
    run(case, Gate(case.gate))
