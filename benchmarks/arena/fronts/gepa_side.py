"""GEPA's side: `optimize` with `frontier_type="objective"`, which draws parents from the best candidates by each objective.

Runs in a Python that has gepa. All that is not about objectives is as in the arena (`peers/gepa_side.py`).
"""

from __future__ import annotations

import sys
from typing import Any

import gepa  # type: ignore[import-not-found]
from gepa.adapters.default_adapter.default_adapter import (  # type: ignore[import-not-found]
    DefaultAdapter,
    EvaluationResult,
)

from ..peers.gepa_side import COMPONENT, Quiet, feedback, instances, posted, writer_of
from ..peers.side import Case, Gate, Messages, read_case
from .points import brevity, point


class MeteredModel:
    """The task model, which keeps the tokens of the last batch's replies.

    Args:
        gate: where it is asked.
        max_tokens: of a reply.
    """

    def __init__(self, gate: Gate, max_tokens: int) -> None:
        self.gate, self.max_tokens = gate, max_tokens
        self.tokens: list[int] = []

    def batch_complete(self, messages_list: list[Messages], max_workers: int) -> list[str]:  # noqa: ARG002  GEPA's
        """Return the replies to a batch."""
        replies = self.gate.replies("task", messages_list, temperature=0, max_tokens=self.max_tokens)
        self.tokens = [reply.tokens for reply in replies]
        return [reply.text for reply in replies]


class Evaluator:
    """GEPA's evaluator: reward and brevity of each reply of a batch, in its order.

    Args:
        gate: which judges.
        model: whose replies come.
    """

    def __init__(self, gate: Gate, model: MeteredModel) -> None:
        self.gate, self.model = gate, model

    def __call__(self, data: dict[str, Any], response: str) -> Any:
        judged = self.gate.reward(data["additional_context"]["id"], response)
        objectives = {"reward": judged.reward, "brevity": brevity(self.model.tokens.pop(0))}
        return EvaluationResult(judged.reward, feedback(judged.reward, judged.target), objectives)


class Adapter(DefaultAdapter):  # type: ignore[misc]
    """GEPA's default adapter; posts each candidate that it evaluates on all validation items.

    Args:
        case: the job.
        gate: where it asks and posts.
    """

    def __init__(self, case: Case, gate: Gate) -> None:
        model = MeteredModel(gate, case.max_tokens)
        super().__init__(model=None, evaluator=Evaluator(gate, model))
        self._lm = model
        self.gate, self.validation = gate, [item.id for item in case.validation]
        self.points: list[dict[str, Any]] = []

    def evaluate(self, batch: list[Any], candidate: dict[str, str], capture_traces: bool = False) -> Any:  # noqa: FBT001, FBT002  GEPA's
        """Evaluate a candidate, and post it with its means if the batch is the validation data."""
        result = super().evaluate(batch, candidate, capture_traces)
        if [data["additional_context"]["id"] for data in batch] == self.validation:
            means = [
                sum(scores[name] for scores in result.objective_scores) / len(batch) for name in ("reward", "brevity")
            ]
            self.points.append(point(posted(candidate[COMPONENT]), *means))
            self.gate.best({"points": self.points})
        return result


def run(case: Case, gate: Gate) -> None:
    """Run GEPA until the budget is spent."""
    with gate.until_spent():
        gepa.optimize(
            seed_candidate={COMPONENT: case.instruction},
            trainset=instances(case.train),
            valset=instances(case.validation),
            adapter=Adapter(case, gate),
            reflection_lm=writer_of(gate),
            frontier_type="objective",
            stop_callbacks=lambda _: gate.spent().over,
            logger=Quiet(),
            seed=case.seed,
        )


if __name__ == "__main__":
    case = read_case(sys.stdin.read())
    run(case, Gate(case.gate))
