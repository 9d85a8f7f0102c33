"""GEPA's side of the arena: methods `gepa` (its `optimize`) and `gepa_anything` (its `optimize_anything`).

Runs in a Python that has gepa; reads its case from standard input. The instruction is the system turn and the item the user
turn, as GEPA's default adapter has it. `optimize_anything` shows the writer the description, which `optimize` cannot, and
asks by another message.
"""

from __future__ import annotations

import sys
from typing import Any

import gepa  # type: ignore[import-not-found]
from gepa.adapters.default_adapter.default_adapter import (  # type: ignore[import-not-found]
    DefaultAdapter,
    EvaluationResult,
)
from gepa.optimize_anything import (  # type: ignore[import-not-found]
    EngineConfig,
    GEPAConfig,
    ReflectionConfig,
    TrackingConfig,
    optimize_anything,
)

from .side import INPUT, THREADS, Case, Gate, Item, Messages, prompt, read_case

COMPONENT = "system_prompt"


class TaskModel:
    """The task model, asked through the gate. Replaces `gepa.lm.LM`, whose batches need litellm.

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
    """Posts GEPA's best candidate so far.

    Args:
        gate: where it is posted.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def on_valset_evaluated(self, event: dict[str, Any]) -> None:
        """Post a candidate that is the best on all validation items."""
        if event["is_best_program"]:
            (instruction,) = event["candidate"].values()
            self.gate.best(posted(instruction), event["average_score"])


class Quiet:
    """GEPA's logger, silent."""

    def log(self, message: str) -> None:
        """Drop the message."""


def turns(instruction: str, text: str) -> Messages:
    """Return the conversation of GEPA's default adapter."""
    return [{"role": "system", "content": instruction}, {"role": "user", "content": text}]


def posted(instruction: str) -> dict[str, Any]:
    """Return an instruction as it is posted."""
    return prompt(turns(instruction, INPUT))


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


def writer_of(gate: Gate) -> Any:
    """Return the reflection model: a function of a prompt or a conversation."""

    def ask(asked: str | Messages) -> str:
        return gate.ask("writer", [{"role": "user", "content": asked}] if isinstance(asked, str) else asked)

    return ask


def optimize(case: Case, gate: Gate) -> None:
    """Run `gepa.optimize`."""
    gepa.optimize(
        seed_candidate={COMPONENT: case.instruction},
        trainset=instances(case.train),
        valset=instances(case.validation),
        adapter=adapter(case, gate),
        reflection_lm=writer_of(gate),
        stop_callbacks=lambda _: gate.spent().over,
        callbacks=[Callbacks(gate)],
        logger=Quiet(),
        seed=case.seed,
    )


def anything(case: Case, gate: Gate) -> None:
    """Run `optimize_anything`, with the seed prompt as its artifact and the description as its objective."""

    def evaluate(candidate: str, example: Item) -> tuple[float, dict[str, Any]]:
        reply = gate.ask("task", turns(candidate, example.input), temperature=0, max_tokens=case.max_tokens)
        found = gate.reward(example.id, reply)
        said = feedback(found.reward, found.target)
        return found.reward, {"Input": example.input, "Output": reply, "Feedback": said}

    optimize_anything(
        seed_candidate=case.instruction,
        evaluator=evaluate,
        dataset=list(case.train),
        valset=list(case.validation),
        objective=case.description,
        config=GEPAConfig(
            engine=EngineConfig(seed=case.seed, max_workers=THREADS),
            reflection=ReflectionConfig(reflection_lm=writer_of(gate)),
            tracking=TrackingConfig(logger=Quiet()),
            stop_callbacks=lambda _: gate.spent().over,
            callbacks=[Callbacks(gate)],
        ),
    )


METHODS = {"gepa": optimize, "gepa_anything": anything}


def run(case: Case, gate: Gate) -> None:
    """Run a method until the budget is spent."""
    gate.best(posted(case.instruction))
    with gate.until_spent():
        METHODS[case.method](case, gate)


if __name__ == "__main__":
    case = read_case(sys.stdin.read())
    run(case, Gate(case.gate))
